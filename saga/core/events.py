"""The events of a run's log, and tokens. An event is what was decided or what arrived; it knows nothing of storage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class Direction(StrEnum):
    """Which function of a step a token is for."""

    ACTION = "action"
    COMPENSATION = "compensation"
    PROBE = "probe"


class EventKind(StrEnum):
    """What an event says. The first group arrives from outside (and is the inbox's kind too), the second is decided."""

    # Arrivals: each is one row of the inbox, or a timer that fell due.
    RUN_STARTED = "RunStarted"
    STEP_SUCCEEDED = "StepSucceeded"
    STEP_FAILED = "StepFailed"  # Abort: the author asserts that nothing landed
    STEP_ROLLED_BACK = "StepRolledBack"  # a transactional step raised: nothing landed, retry by policy
    STEP_POSTPONED = "StepPostponed"  # RetryLater
    STEP_UNKNOWN = "StepUnknown"  # any other exception, a time limit, an interrupted commit
    STEP_LOST = "StepLost"  # the claim's lease ran out
    STEP_NEVER_STARTED = "StepNeverStarted"  # fenced before any worker claimed it
    STEP_NOT_RUN = "StepNotRun"  # the worker's code could not decode the input
    STEP_REFUSED = "StepRefused"  # landed, but its result cannot be stored
    OUTCOME_LATE = "OutcomeLate"  # a fenced worker tells what it knows
    TIMER_FIRED = "TimerFired"
    CANCEL_REQUESTED = "CancelRequested"
    TERMINATE_REQUESTED = "TerminateRequested"
    RETRY_REQUESTED = "RetryRequested"  # an operator, or a coordinator with another build
    RESOLVED = "Resolved"  # an operator's evidence stands for an outcome
    SIGNAL_RECEIVED = "SignalReceived"

    # Asked for by the saga function: replay compares these with what the code asks for now.
    ACTION_SCHEDULED = "ActionScheduled"
    PIVOT_PASSED = "PivotPassed"
    STEP_DISCARDED = "StepDiscarded"  # a loser of `first`: fenced, or undone when it ends
    SIGNAL_AWAITED = "SignalAwaited"
    TIMER_STARTED = "TimerStarted"
    WAIT_DROPPED = "WaitDropped"  # a loser of `first` that was a wait or a timer
    UPDATE_ANSWERED = "UpdateAnswered"
    STATE_SET = "StateSet"
    ATTRIBUTES_SET = "AttributesSet"
    SAVEPOINT_SET = "SavepointSet"
    ROLLBACK_ASKED = "RollbackAsked"  # what was started since the save-point is undone
    RUN_COMPLETED = "RunCompleted"
    RUN_FAILED = "RunFailed"  # Abort or StepFailed left the function

    # Decided by the engine's policy.
    ATTEMPT_SCHEDULED = "AttemptScheduled"  # another attempt of an action
    PROBE_SCHEDULED = "ProbeScheduled"
    COMPENSATION_SCHEDULED = "CompensationScheduled"
    RETRY_SET = "RetrySet"  # a timer before the next attempt
    STEP_GAVE_UP = "StepGaveUp"
    CANCEL_REFUSED = "CancelRefused"  # after the pivot, or while already undoing
    RUN_COMPENSATING = "RunCompensating"
    RUN_COMPENSATED = "RunCompensated"
    RUN_TERMINATED = "RunTerminated"
    RUN_STALLED = "RunStalled"


#: How an attempt ends.
OUTCOMES = frozenset(
    {
        EventKind.STEP_SUCCEEDED,
        EventKind.STEP_FAILED,
        EventKind.STEP_ROLLED_BACK,
        EventKind.STEP_POSTPONED,
        EventKind.STEP_UNKNOWN,
        EventKind.STEP_LOST,
        EventKind.STEP_NEVER_STARTED,
        EventKind.STEP_NOT_RUN,
        EventKind.STEP_REFUSED,
    }
)

#: Kinds that come from outside the run.
ARRIVALS = OUTCOMES | frozenset(
    {
        EventKind.RUN_STARTED,
        EventKind.OUTCOME_LATE,
        EventKind.TIMER_FIRED,
        EventKind.CANCEL_REQUESTED,
        EventKind.TERMINATE_REQUESTED,
        EventKind.RETRY_REQUESTED,
        EventKind.RESOLVED,
        EventKind.SIGNAL_RECEIVED,
    }
)

#: Kinds that the saga function asks for, in its own order.
ASKED = frozenset(
    {
        EventKind.ACTION_SCHEDULED,
        EventKind.PIVOT_PASSED,
        EventKind.STEP_DISCARDED,
        EventKind.SIGNAL_AWAITED,
        EventKind.TIMER_STARTED,
        EventKind.WAIT_DROPPED,
        EventKind.UPDATE_ANSWERED,
        EventKind.STATE_SET,
        EventKind.ATTRIBUTES_SET,
        EventKind.SAVEPOINT_SET,
        EventKind.ROLLBACK_ASKED,
        EventKind.RUN_COMPLETED,
        EventKind.RUN_FAILED,
    }
)

#: Kinds after which nothing follows in a log.
TERMINAL = frozenset({EventKind.RUN_COMPLETED, EventKind.RUN_COMPENSATED, EventKind.RUN_TERMINATED})


#: The claimant of what may have been claimed by somebody whom a crash of Postgres forgot.
NOBODY = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a run's log.

    `key` is an occurrence (`payments.charge_card#1`, `signal:paid#1`), a timer's name or a signal's id, by kind.
    `payload` is JSON text or None. `at` is database time, timezone-aware.
    """

    seq: int
    kind: EventKind
    at: datetime
    token: UUID | None = None
    attempt: int | None = None
    claimant: UUID | None = None
    key: str | None = None
    payload: str | None = None


def token_of(run: UUID, occurrence: str, direction: Direction, *, again: int = 0) -> UUID:
    """Derive the token of one (run, occurrence, direction): 128 bits of SHA-256, the same after any rewind."""
    text = f"{occurrence}\x1f{direction}{again or ''}".encode()
    return UUID(bytes=hashlib.sha256(run.bytes + text).digest()[:16])


def chain_digest(previous: bytes, event: Event) -> bytes:
    """Return the hash of an event's stored bytes chained to the one before it; 32 bytes."""
    parts = (
        str(event.seq),
        event.kind.value,
        str(event.token or ""),
        str(event.attempt or ""),
        str(event.claimant or ""),
        event.key or "",
        event.payload or "",
        str(round(event.at.timestamp() * 1_000_000)),
    )
    return hashlib.sha256(previous + "\x1f".join(parts).encode()).digest()


@dataclass(frozen=True, slots=True)
class Parent:
    """Who started a run from a saga: the run to answer, and the attempt that the answer is for."""

    run: UUID
    saga: str
    key: str
    token: UUID
    attempt: int


def start_payload(
    version: int,
    timeout_seconds: float | None,
    given: str,
    *,
    parent: Parent | None = None,
    undoes: UUID | None = None,
    after: Sequence[tuple[UUID, str]] = (),
) -> str:
    """Return the payload of a start: the version asked for, the run's timeout, and last its input (JSON text).

    A child's names its `parent`; that of the undo of a run names that run, and in `after`, by id and key, whatever must
    have ended before it begins: that run, and earlier attempts at undoing it.
    """
    more = ""
    if parent is not None:
        value = {"run": str(parent.run), "saga": parent.saga, "key": parent.key}
        more += f'"parent":{json.dumps({**value, "token": str(parent.token), "attempt": parent.attempt})},'
    if undoes is not None:
        more += f'"undoes":"{undoes}",'
        if after:
            more += f'"after":{json.dumps([[str(run), key] for run, key in after])},'
    return f'{{"version":{version},"timeout":{json.dumps(timeout_seconds)},{more}"input":{given}}}'


def parent_of(start: dict[str, Any]) -> Parent | None:
    """Read the parent out of a start's payload."""
    value = start.get("parent")
    if value is None:
        return None
    return Parent(UUID(value["run"]), value["saga"], value["key"], UUID(value["token"]), value["attempt"])


def taken_back(start: dict[str, Any]) -> tuple[tuple[UUID, str], ...]:
    """Read out of a start's payload whose logs a run goes on from: the run it undoes, then earlier attempts at that.

    Each with its key, which is empty where it is not told. Empty for a run that undoes none.
    """
    if not start.get("undoes"):
        return ()
    return tuple((UUID(run), key) for run, key in start.get("after") or [(start["undoes"], "")])


def split_task_name(task: str) -> tuple[str, Direction]:
    """Return the step's name and the direction of a Celery task's name."""
    if task.endswith(".compensate"):
        return task.removesuffix(".compensate"), Direction.COMPENSATION
    if task.endswith(".probe"):
        return task.removesuffix(".probe"), Direction.PROBE
    return task, Direction.ACTION
