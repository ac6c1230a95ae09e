"""What a run waits for beside its tasks, folded from its log: signals, children, locks. Pure: whoever calls reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from saga.core.effects import StartChild
from saga.core.events import Event, EventKind
from saga.core.pinned import LockLink
from saga.core.state import State
from saga.core.tracks import Phase
from saga.engine.store.reading import LockPlace

_SCHEDULED = frozenset({EventKind.ACTION_SCHEDULED, EventKind.ATTEMPT_SCHEDULED, EventKind.COMPENSATION_SCHEDULED})


@dataclass(frozen=True, slots=True)
class SignalWait:
    """A signal that the run waits for."""

    signal: str
    occurrence: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """A signal that has arrived. `state` is unread, read, answered or refused; the last two are of updates."""

    signal: str
    id: str | None
    at: datetime
    state: str
    refused: str | None = None  #: why, of an update
    value: Any = None


@dataclass(frozen=True, slots=True)
class Child:
    """A child run. `status` is its own, or `accepted` where no turn has made it, or `refused` where none will."""

    step: str
    run: UUID
    address: str
    undo: bool  #: it is the run that undoes the child
    since: datetime
    open: bool  #: this run has no answer of it yet
    status: str = "accepted"
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """A semantic lock that the run holds or waits for."""

    name: str
    held: bool
    holder: str | None
    ahead: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Mark:
    """A save-point."""

    name: str
    seq: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Waits:
    """What a log says of waiting, and of what was waited for."""

    signals: tuple[SignalWait, ...] = ()
    letters: tuple[Letter, ...] = ()
    children: tuple[Child, ...] = ()
    locks: tuple[Lock, ...] = ()
    savepoints: tuple[Mark, ...] = ()

    def standing(self, found: Mapping[UUID, tuple[str, str | None]]) -> Waits:
        """Return the same with where the children stand, as the database has it."""
        return replace(self, children=tuple(_child_as_found(child, found.get(child.run)) for child in self.children))


def waits_of(state: State, events: Sequence[Event], places: Iterable[LockPlace] = ()) -> Waits:
    """Read what a run waits for out of its folded log; `state` has kept its effects."""
    began = {event.key: event.at for event in events if event.kind is EventKind.SIGNAL_AWAITED}
    asked = {step.link.name: step.scheduled_at for step in state.steps.values() if isinstance(step.link, LockLink)}
    open_waits = [wait for waits in state.mailbox.open.values() for wait in waits]
    return Waits(
        signals=()
        if state.ended is not None
        else tuple(
            SignalWait(wait.signal or "", wait.occurrence, began[wait.occurrence])
            for wait in open_waits
            if wait.occurrence in began
        ),
        letters=tuple(_letters(state, events)),
        children=tuple(_children(state, events)),
        locks=tuple(Lock(place.name, place.held, place.holder, place.ahead, asked.get(place.name)) for place in places),
        savepoints=tuple(
            Mark(event.key, event.seq, event.at)
            for event in events
            if event.kind is EventKind.SAVEPOINT_SET and event.key is not None
        ),
    )


def _letters(state: State, events: Sequence[Event]) -> Iterable[Letter]:
    unread = {letter.seq for letters in state.mailbox.unread.values() for letter in letters}
    answers = {
        event.key: json.loads(event.payload or "{}") for event in events if event.kind is EventKind.UPDATE_ANSWERED
    }
    for event in events:
        if event.kind is not EventKind.SIGNAL_RECEIVED:
            continue
        told = json.loads(event.payload or "{}")
        answer = answers.get(event.key)
        refused = None if answer is None else answer.get("refused")
        said = "unread" if event.seq in unread else "read"
        if answer is not None:
            said = "answered" if refused is None else "refused"
        yield Letter(told["signal"], event.key, event.at, said, refused, told.get("value"))


def _children(state: State, events: Sequence[Event]) -> Iterable[Child]:
    scheduled = {(event.token, event.attempt or 1): event.at for event in events if event.kind in _SCHEDULED}
    for effect in state.effects:
        if not isinstance(effect, StartChild):
            continue
        step, track = state.tokens[effect.token]
        waits = track.phase is Phase.IN_FLIGHT and track.attempt == effect.attempt and state.ended is None
        since = scheduled.get((effect.token, effect.attempt), step.scheduled_at)
        address = f"{effect.saga}/{effect.key}"
        yield Child(step.occurrence, effect.run, address, effect.undoes is not None, since, waits)


def _child_as_found(child: Child, found: tuple[str, str | None] | None) -> Child:
    if found is not None:
        return replace(child, status=found[0], reason=found[1])
    return child if child.open else replace(child, status="refused")
