"""A run's log as a timeline of attempts and happenings, folded from events and open tasks. Pure: no clock, no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from saga.core.events import Direction, Event, EventKind, token_of
from saga.core.outcome import unwrap
from saga.engine.store.reading import OpenTask

#: What an outcome is called in a timeline.
OUTCOMES = {
    EventKind.STEP_SUCCEEDED: "succeeded",
    EventKind.STEP_FAILED: "failed",
    EventKind.STEP_ROLLED_BACK: "rolled back",
    EventKind.STEP_POSTPONED: "postponed",
    EventKind.STEP_UNKNOWN: "unknown",
    EventKind.STEP_LOST: "lost",
    EventKind.STEP_NEVER_STARTED: "never started",
    EventKind.STEP_NOT_RUN: "not run",
    EventKind.STEP_REFUSED: "result refused",
}

#: Outcomes whose value describes an error, not a result.
_WITH_ERROR = frozenset(
    {
        EventKind.STEP_FAILED,
        EventKind.STEP_ROLLED_BACK,
        EventKind.STEP_UNKNOWN,
        EventKind.STEP_NOT_RUN,
        EventKind.STEP_REFUSED,
    }
)

_SCHEDULED = frozenset(
    {
        EventKind.ACTION_SCHEDULED,
        EventKind.ATTEMPT_SCHEDULED,
        EventKind.PROBE_SCHEDULED,
        EventKind.COMPENSATION_SCHEDULED,
    }
)

_HAPPENINGS = {
    EventKind.RUN_STARTED: "started",
    EventKind.PIVOT_PASSED: "pivot passed",
    EventKind.SIGNAL_RECEIVED: "signal arrived",
    EventKind.SIGNAL_AWAITED: "waits for a signal",
    EventKind.TIMER_STARTED: "timer started",
    EventKind.WAIT_DROPPED: "waits no more: it lost a `first`",
    EventKind.UPDATE_ANSWERED: "update answered",
    EventKind.STATE_SET: "state shown",
    EventKind.ATTRIBUTES_SET: "attributes set",
    EventKind.SAVEPOINT_SET: "save-point",
    EventKind.ROLLBACK_ASKED: "goes back to a save-point",
    EventKind.STEP_DISCARDED: "discarded: it lost a `first`",
    EventKind.STEP_GAVE_UP: "gave up",
    EventKind.RETRY_SET: "waits for a retry",
    EventKind.TIMER_FIRED: "timer fired",
    EventKind.OUTCOME_LATE: "a fenced worker told its outcome late",
    EventKind.CANCEL_REQUESTED: "cancel asked for",
    EventKind.CANCEL_REFUSED: "cancel refused",
    EventKind.TERMINATE_REQUESTED: "terminate asked for",
    EventKind.RETRY_REQUESTED: "retry asked for",
    EventKind.RESOLVED: "resolved by an operator",
    EventKind.RUN_FAILED: "the saga function failed",
    EventKind.RUN_COMPENSATING: "undo begins",
    EventKind.RUN_STALLED: "stalled",
    EventKind.RUN_COMPLETED: "completed",
    EventKind.RUN_COMPENSATED: "compensated",
    EventKind.RUN_TERMINATED: "terminated",
}

#: Happenings whose key is no occurrence: a timer's name, or the id of a signal.
_OF_NO_STEP = frozenset({EventKind.TIMER_FIRED, EventKind.SIGNAL_RECEIVED, EventKind.UPDATE_ANSWERED})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a step's action, compensation or probe; what is not known (yet) is None. Seconds."""

    seq: int
    at: datetime  #: when it was scheduled
    step: str  #: the occurrence
    direction: Direction
    number: int
    token: UUID | None
    state: str = "queued"  #: queued, running, or how it ended
    queue: str | None = None
    queued_seconds: float | None = None
    ran_seconds: float | None = None
    worker: str | None = None
    error: str | None = None
    value: str | None = None  #: JSON text: a payload
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """Anything else that the log says. `detail` is what it says about it, without payloads."""

    seq: int
    at: datetime
    what: str
    step: str | None = None
    detail: str | None = None


Entry = Attempt | Happening


def timeline(
    run: UUID,
    events: Sequence[Event],
    tasks: Iterable[OpenTask],
    now: datetime,
    open_states: Mapping[str, str] | None = None,
) -> list[Entry]:
    """Fold a log into its attempts and happenings, in the order in which they began.

    `open_states` says what an attempt without an answer is called, by occurrence, where no worker runs it.
    """
    open_states = open_states or {}
    entries: dict[int, Entry] = {}
    places: dict[tuple[UUID, int], int] = {}
    for event in events:
        if event.kind in _SCHEDULED and event.key is not None and event.token is not None:
            number = event.attempt or 1
            direction = _direction(run, event)
            state = open_states.get(event.key, "queued")
            entries[event.seq] = Attempt(event.seq, event.at, event.key, direction, number, event.token, state)
            places[event.token, number] = event.seq
        elif event.kind in OUTCOMES:
            seq = places.get((event.token, event.attempt)) if event.token and event.attempt else None
            begun = entries.get(seq) if seq is not None else None
            if isinstance(begun, Attempt) and begun.ended_at is None:
                entries[begun.seq] = _ended(begun, event)
            else:
                entries[event.seq] = Happening(event.seq, event.at, f"{OUTCOMES[event.kind]}, of no attempt in flight")
        else:
            entries[event.seq] = _happening(event)
    for task in tasks:
        seq = places.get((task.token, task.attempt))
        begun = entries.get(seq) if seq is not None else None
        if isinstance(begun, Attempt) and begun.ended_at is None:
            entries[begun.seq] = _open(begun, task, now)
    return [entries[seq] for seq in sorted(entries)]


def _direction(run: UUID, event: Event) -> Direction:
    if event.kind is EventKind.PROBE_SCHEDULED:
        return Direction.PROBE
    if event.kind is EventKind.COMPENSATION_SCHEDULED:
        return Direction.COMPENSATION
    if event.key is not None and event.token == token_of(run, event.key, Direction.COMPENSATION):
        return Direction.COMPENSATION
    return Direction.ACTION


def _ended(begun: Attempt, event: Event) -> Attempt:
    told: dict[str, Any] = _object(event.payload)
    value = unwrap(event.payload)
    ran = told.get("ran_seconds")
    whole = (event.at - begun.at).total_seconds()
    return replace(
        begun,
        state=OUTCOMES[event.kind],
        ended_at=event.at,
        ran_seconds=ran,
        queued_seconds=None if ran is None else max(whole - ran, 0.0),
        worker=told.get("worker"),
        error=_said(value) if event.kind in _WITH_ERROR else None,
        value=value,
    )


def _open(begun: Attempt, task: OpenTask, now: datetime) -> Attempt:
    until = task.claimed_at or now
    return replace(
        begun,
        state="queued" if task.claimed_at is None else "running",
        queue=task.queue,
        queued_seconds=max((until - task.created_at).total_seconds(), 0.0),
        ran_seconds=None if task.claimed_at is None else max((now - task.claimed_at).total_seconds(), 0.0),
    )


def _happening(event: Event) -> Happening:
    told = _object(event.payload)
    kind = event.kind
    detail: str | None = None
    if kind is EventKind.RUN_STALLED:
        detail = f"{told.get('reason')}: {told.get('message') or 'no message'}"
    elif kind is EventKind.RETRY_SET:
        detail = f"attempt {event.attempt} in {told.get('after_seconds')} s"
    elif kind is EventKind.RUN_COMPENSATING:
        detail = told.get("cause")
    elif kind in (EventKind.STEP_GAVE_UP, EventKind.CANCEL_REFUSED):
        detail = told.get("reason")
    elif kind is EventKind.RESOLVED:
        detail = f"evidence: {told.get('evidence')}"
    elif kind is EventKind.RUN_FAILED:
        detail = _said(event.payload)
    elif kind is EventKind.OUTCOME_LATE:
        detail = told.get("kind")
    elif kind is EventKind.TIMER_FIRED:
        detail = event.key
    elif kind is EventKind.TIMER_STARTED:
        detail = f"due at {told.get('due_at')}"
    elif kind in (EventKind.SIGNAL_RECEIVED, EventKind.SIGNAL_AWAITED):
        detail = told.get("signal")
    elif kind is EventKind.UPDATE_ANSWERED and "refused" in told:
        detail = f"refused: {told['refused']}"
    step = None if kind in _OF_NO_STEP else event.key
    return Happening(event.seq, event.at, _HAPPENINGS.get(kind, kind.value), step, detail)


def _said(value: str | None) -> str | None:
    error = _object(value)
    if not error:
        return None
    return f"{error.get('type', 'error')}: {error.get('message', '')}".rstrip(": ")


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
