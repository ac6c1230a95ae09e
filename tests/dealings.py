"""Holds what runs have with each other, and with those who send them signals, against each other: by their logs.

Children and their parents (I1, I2, I27), signals (I22), semantic locks (I28). It must not know how a run was driven.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from saga.core.effects import StartChild
from saga.core.events import TERMINAL, Event, EventKind, parent_of
from saga.core.fold import apply
from saga.core.lifecycle import ENDED, Status
from saga.core.outcome import unwrap
from saga.core.pinned import ChildLink, LockLink
from saga.core.remains import remains_of
from saga.core.state import State
from saga.core.tracks import StepState

if TYPE_CHECKING:
    from tests.audit import Run

_ANSWERS = frozenset({EventKind.STEP_SUCCEEDED, EventKind.STEP_FAILED, EventKind.STEP_UNKNOWN})
_NEVER = datetime.max.replace(tzinfo=UTC)


class Found(Protocol):
    """Takes note of an invariant that does not hold."""

    def __call__(self, invariant: str, where: str, what: str) -> None: ...


@dataclass(slots=True)
class Asked:
    """A child, or the undo of one, that a run asked for, and what it was answered."""

    effect: StartChild
    answers: list[Event]

    @property
    def address(self) -> str:
        return f"{self.effect.saga}/{self.effect.key}"


@dataclass(slots=True)
class Dealing:
    """A run with its folded state, and all the children that it asked for."""

    run: Run
    state: State
    asked: list[Asked] = field(default_factory=list)

    @property
    def status(self) -> Status:
        return Status(self.run.row["status"])


class Dealings:
    """The dealings of all runs."""

    def __init__(self, runs: Sequence[Run], found: Found) -> None:
        self._found = found
        self._dealings = {run.row["id"]: dealing for run in runs if (dealing := _dealing_of(run)) is not None}
        self._of_address = {dealing.run.address: dealing for dealing in self._dealings.values()}

    def addresses(self) -> set[str]:
        """Return the addresses of all runs that runs asked for and were not refused."""
        return {asked.address for _, asked in self._all() if asked.effect.run in self._dealings}

    def check(
        self, *, sent: Mapping[str, Iterable[str]] | None, reported: Iterable[tuple[UUID | None, str | None]]
    ) -> None:
        """Check everything. `sent` are the ids of the signals that each address was sent, `reported` the unread."""
        self._parents()
        for dealing, asked in self._all():
            self._answered(dealing, asked)
        for dealing in self._dealings.values():
            self._children(dealing)
        self._locks()
        if sent is not None:
            self._signals(sent, Counter(reported))

    def _all(self) -> Iterable[tuple[Dealing, Asked]]:
        for dealing in self._dealings.values():
            for asked in dealing.asked:
                yield dealing, asked

    # -- children --------------------------------------------------------------------------------------------------

    def _parents(self) -> None:
        """Every child was asked for by the run that it names."""
        asked = {
            (dealing.run.row["id"], one.effect.token, one.effect.attempt): one.effect.run
            for dealing, one in self._all()
        }
        for dealing in self._dealings.values():
            parent = parent_of(json.loads(dealing.run.events[0].payload or "{}"))
            if parent is None:
                continue
            if asked.get((parent.run, parent.token, parent.attempt)) != dealing.run.row["id"]:
                self._found("I2", dealing.run.address, f"{parent.saga}/{parent.key} did not ask for it")

    def _answered(self, dealing: Dealing, asked: Asked) -> None:
        """A child is there, or was refused; its end was told once, and as it was."""
        where, effect = asked.address, asked.effect
        parent, child = dealing.run.address, self._dealings.get(effect.run)
        told = asked.answers[0].kind if asked.answers else None
        if len(asked.answers) > 1:
            self._found("I27", where, f"{parent} was answered {len(asked.answers)} times")
        if child is None:
            if told not in (EventKind.STEP_FAILED, None) or (told is None and dealing.status is not Status.TERMINATED):
                self._found("I1", where, f"{parent} asked for it; it is not there, and was answered by {told}")
            return
        wanted = _answer_to(child.status, undo=effect.undoes is not None)
        if wanted is None and told is not None:
            self._found("I27", where, f"it is {child.status}, and {parent} was told {told}")
        elif wanted is not None and told is None and dealing.status not in ENDED:
            self._found("I27", where, f"it is {child.status}, and {parent} has not heard of that")
        elif wanted is not None and told not in (wanted, None):
            self._found("I27", where, f"it is {child.status}, and {parent} was told {told}")
        if told is EventKind.STEP_SUCCEEDED and effect.undoes is None:
            result = unwrap(asked.answers[0].payload)
            if result != child.run.row["result"]:
                self._found("I27", where, f"it returned {child.run.row['result']}, and {parent} got {result}")

    def _children(self, dealing: Dealing) -> None:
        """A run's end agrees with its children's: what it wanted stands, what it did not want is undone."""
        if dealing.status not in ENDED:
            return
        for step in dealing.state.steps.values():
            if not isinstance(step.link, ChildLink) or step.abandoned:
                continue
            children = [a.effect.run for a in dealing.asked if a.effect.token == step.action.token]
            child = self._dealings.get(children[-1]) if children else None
            if child is None:
                continue
            if child.status not in ENDED:
                self._found("I27", child.run.address, f"it is {child.status}, and {dealing.run.address} has ended")
                continue
            if dealing.status is Status.TERMINATED:
                continue
            wanted = dealing.status is Status.COMPLETED and step.succeeded and not step.discarded
            stands = child.status is not Status.COMPENSATED and not self._undone(dealing, step, child)
            if wanted and child.status is not Status.COMPLETED:
                self._found("I27", child.run.address, f"{dealing.run.address} counts on it, and it is {child.status}")
            if not wanted and stands:
                self._found("I27", child.run.address, f"{dealing.run.address} does not want it, and it stands")

    def _undone(self, dealing: Dealing, step: StepState, child: Dealing) -> bool:
        undos = [one.effect.run for one in dealing.asked if one.effect.undoes == child.run.row["id"]]
        resolved = any(event.key == step.occurrence for event in dealing.run.of_kind(EventKind.RESOLVED))
        return resolved or any(
            undo in self._dealings and self._dealings[undo].status is Status.COMPENSATED for undo in undos
        )

    # -- locks -----------------------------------------------------------------------------------------------------

    def _locks(self) -> None:
        """A name has one holder at a time, from its answer to the end of its run, in database time."""
        held: dict[str, list[tuple[datetime, datetime, str]]] = defaultdict(list)
        for dealing in self._dealings.values():
            tokens = {
                step.action.token: step.link.name
                for step in dealing.state.steps.values()
                if isinstance(step.link, LockLink) and dealing.state.run == dealing.run.row["id"]
            }
            ended = next((event.at for event in dealing.run.events if event.kind in TERMINAL), _NEVER)
            began: dict[str, datetime] = {}
            for event in dealing.run.of_kind(EventKind.STEP_SUCCEEDED):
                if event.token in tokens:
                    began.setdefault(tokens[event.token], event.at)
            for name, at in began.items():
                held[name].append((at, ended, dealing.run.address))
        for name, times in held.items():
            times.sort()
            for (_, end, holder), (at, _, following) in pairwise(times):
                if at < end:
                    self._found("I28", name, f"{following} got it at {at}, {holder} had it until {end}")

    # -- signals ---------------------------------------------------------------------------------------------------

    def _signals(self, sent: Mapping[str, Iterable[str]], reported: Counter[tuple[UUID | None, str | None]]) -> None:
        """Every signal that was sent is in the log once, and read once or reported; or it is reported only."""
        for address, ids in sent.items():
            dealing = self._of_address.get(address)
            if dealing is None:
                self._found("I22", address, f"{len(set(ids))} signals were sent to it, and it is not there")
                continue
            for id in set(ids):
                self._signal(dealing, id, reported[dealing.run.row["id"], id])
        for dealing in self._dealings.values():
            known = set(sent.get(dealing.run.address, ()))
            for event in dealing.run.of_kind(EventKind.SIGNAL_RECEIVED):
                if event.key not in known:
                    self._found("I2", dealing.run.address, f"nobody sent the signal {event.key}")

    def _signal(self, dealing: Dealing, id: str, reported: int) -> None:
        where, state = dealing.run.address, dealing.state
        recorded = [event for event in dealing.run.of_kind(EventKind.SIGNAL_RECEIVED) if event.key == id]
        waits = [wait for wait in state.waits.values() if wait.letter is not None and not wait.dropped]
        read = sum(1 for wait in waits if wait.letter is not None and wait.letter.id == id)
        unread = any(letter.id == id for letters in state.mailbox.unread.values() for letter in letters)
        if not recorded and not reported:
            self._found("I22", where, f"the signal {id} was accepted and lost")
        if len(recorded) > 1:
            self._found("I22", where, f"the signal {id} is {len(recorded)} times in the log")
        if read > 1:
            self._found("I22", where, f"the signal {id} was read {read} times")
        if recorded and dealing.status in ENDED and reported != (1 if unread else 0):
            self._found(
                "I22", where, f"the signal {id} was {'not ' if unread else ''}read, and reported {reported} times"
            )


def _answer_to(status: Status, *, undo: bool) -> EventKind | None:
    """Return what a parent is told of a child that ended so, or None while it has not."""
    match status:
        case Status.COMPLETED:
            return EventKind.STEP_SUCCEEDED
        case Status.COMPENSATED:
            return EventKind.STEP_SUCCEEDED if undo else EventKind.STEP_FAILED
        case Status.TERMINATED:
            return EventKind.STEP_FAILED if undo else EventKind.STEP_UNKNOWN
        case _:
            return None


def _dealing_of(run: Run) -> Dealing | None:
    """Fold a run, keeping what it asked for; None where its log does not fold, which is found elsewhere."""
    state = State(run.row["id"])
    try:
        if run.undoes:
            state = remains_of(run.undoes[0].row["id"], (event for undone in run.undoes for event in undone.events))
        for event in run.events:
            apply(state, event)
    except Exception:
        return None
    dealing = Dealing(run, state)
    for effect in state.effects:
        if isinstance(effect, StartChild):
            key = (effect.token, effect.attempt)
            told = [event for event in run.events if (event.token, event.attempt) == key and event.kind in _ANSWERS]
            dealing.asked.append(Asked(effect, told))
    return dealing if run.events else None
