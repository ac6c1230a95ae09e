"""One run in memory: its folded state and its saga function. It is fed one arrival at a time, live and in replay alike.

It decides and records; who stores the decision, and whether that succeeded, it must not know: in doubt it is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from saga.core.context import main_of
from saga.core.definition import SagaDefinition
from saga.core.effects import Effect
from saga.core.errors import Abort, DecodeFailed, LimitReached, ReplayMismatch, SignalTimeout, StepFailed, describe
from saga.core.events import ARRIVALS, ASKED, Event, EventKind
from saga.core.fold import apply
from saga.core.lifecycle import Cause, StallReason, Status
from saga.core.policy import reconcile, start_undo
from saga.core.program import Codec, Evicted, Payload, Program
from saga.core.remains import remains_of
from saga.core.state import State

#: Events that one run may have; at the limit it stalls. Continue-as-new is the way to more.
EVENTS_MAX = 25_000


class Blocked(BaseException):
    """Thrown into a saga function that does not come to rest in time: it blocks or loops."""


class _Suspend(BaseException):
    """Carries why the saga function cannot go on; no `except Exception` of the function's own may catch it."""

    def __init__(self, reason: StallReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Input:
    """What is fed to a run: an arrival or a fired timer, before it has a place in the log. `at` is database time."""

    kind: EventKind
    at: datetime
    token: UUID | None = None
    attempt: int | None = None
    claimant: UUID | None = None
    key: str | None = None
    payload: str | None = None

    def placed(self, seq: int, at: datetime) -> Event:
        """Return it as the log's entry of this number and time."""
        return Event(seq, self.kind, at, self.token, self.attempt, self.claimant, self.key, self.payload)


@dataclass(slots=True)
class Decision:
    """What the feeds since the last `take` decided, to be stored together or not at all."""

    events: list[Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


class Execution:
    """A run in memory. `broken` says that the function cannot go on: store the decision, then drop the execution."""

    def __init__(
        self,
        run: UUID,
        key: str,
        definition: SagaDefinition | None,
        codec: Codec,
        *,
        fold_only: bool = False,
        undoes: tuple[UUID, Iterable[Event]] | None = None,
    ) -> None:
        self.run = run
        self.key = key
        self.codec = codec
        self.broken: StallReason | None = None
        self.decision = Decision()
        self._definition = definition
        self.fold_only = fold_only  #: never run the function: enough to cancel or terminate what cannot be replayed
        self._undoes = None if undoes is None else (undoes[0], tuple(undoes[1]))
        #: Its log has turned round, or it undoes another run, whose log is given: what is left to do needs no function.
        self._goes_back = undoes is not None
        self.state = self._new_state()
        self._halt: _Suspend | None = None
        self._message = ""
        self._program: Program | None = None
        self._recorded: tuple[Event, ...] = ()
        self._cursor = 0
        self._now: datetime | None = None
        self._arrived_at: datetime | None = None
        self._seq = 0

    @property
    def now(self) -> datetime:
        """The time of the arrival that is being fed."""
        assert self._arrived_at is not None
        return self._arrived_at

    @property
    def decided_at(self) -> datetime:
        """The time of this turn, which may be long after the arrival; only where nothing is replayed."""
        return self._now or self.now

    @property
    def replaying(self) -> bool:
        """Whether what the function asks for is compared with the log instead of appended to it."""
        return self._cursor < len(self._recorded)

    # -- feeding ---------------------------------------------------------------------------------------------------

    def feed(self, given: Input, now: datetime) -> None:
        """Append one arrival, let the run come to rest, and add what follows to the decision. `now` is database time.

        A function that raises, blocks, or asks for something else than its log says, stalls the run: then of this feed
        only the arrival stays.
        """
        events, effects = len(self.decision.events), len(self.decision.effects)
        seq = self._seq
        try:
            self._append(given, self._not_before(given.at))
            effects = len(self.decision.effects)  # what the arrival itself asks for stands, like the arrival
            self._come_to_rest(self._not_before(now))
            state = self.state
            forward = state.ended is None and not state.undoing and state.suspended is None
            if self._seq > EVENTS_MAX and forward:
                raise _Suspend(StallReason.LIMIT_REACHED, f"its log has more than {EVENTS_MAX} events")
        except _Suspend as suspend:
            del self.decision.events[events:]
            del self.decision.effects[effects:]
            self._seq = seq
            self._stall(given, suspend, now)

    def replay(self, events: Iterable[Event]) -> None:
        """Fold a log and bring the function to where it stood. Raises nothing: a run that cannot go on is `broken`."""
        self._recorded = tuple(events)
        self._goes_back = self._goes_back or any(event.kind is EventKind.RUN_COMPENSATING for event in self._recorded)
        try:
            while self._cursor < len(self._recorded):
                event = self._recorded[self._cursor]
                if event.kind in ASKED and not self._folds:
                    before = self._cursor
                    self._advance()
                    if self._cursor == before:
                        raise _Suspend(
                            StallReason.REPLAY_MISMATCH,
                            f"the log has {event.kind} {event.key or ''} at {event.seq}; "
                            "this code does not ask for it there",
                        )
                    continue
                if event.kind in ARRIVALS:
                    if event.kind is not EventKind.RUN_STARTED:
                        self._advance()
                    self._arrived_at = event.at
                    self._begin(event)
                self._cursor += 1
                apply(self.state, event)
            self._advance()
        except _Suspend as suspend:
            self.broken = suspend.reason
            self._message = suspend.message
        self._cursor = len(self._recorded)
        self.state.effects.clear()
        self._seq = self._recorded[-1].seq if self._recorded else 0

    def stall_broken(self, given: Input, now: datetime) -> None:
        """Record that a replay broke on the way to this arrival, which waits in the log."""
        assert self.broken is not None
        self._refold(given)
        self._stall(given, _Suspend(self.broken, self._message), now)

    def stopped(self) -> bool:
        """Whether nothing more can be fed: the function cannot go on, or the run has ended."""
        return self.broken is not None or self.state.ended is not None

    def suspend(self, given: Input, now: datetime, reason: StallReason, message: str) -> None:
        """Stall the run for a reason that its coordinator found; the arrival waits in the log."""
        self._refold(given)
        self._stall(given, _Suspend(reason, message), now)

    def take(self) -> Decision:
        """Hand over what was decided since the last call."""
        taken, self.decision = self.decision, Decision()
        return taken

    def drop(self) -> bool:
        """Let go of the function. False: it survived, and whoever holds it must keep it referenced."""
        if self._program is not None and not self._program.kill():
            return False
        self._program = None  # they refer to each other: without this, only the garbage collector would free them
        return True

    # -- inside ----------------------------------------------------------------------------------------------------

    def _refold(self, given: Input) -> None:
        """Take over what an arrival asks for that no function will see: it is folded like any other."""
        state = self._new_state()
        for event in self._recorded:
            apply(state, event)
        state.effects.clear()
        at = given.at if state.at is None else max(given.at, state.at)
        apply(state, given.placed(state.seq + 1, at))
        self.decision.effects.extend(state.effects)

    def _new_state(self) -> State:
        return State(self.run) if self._undoes is None else remains_of(*self._undoes)

    def _not_before(self, at: datetime) -> datetime:
        return at if self.state.at is None else max(at, self.state.at)

    def _append(self, given: Input, at: datetime) -> None:
        event = given.placed(self._seq + 1, at)
        self._arrived_at = at
        self._begin(event)
        self._record(event)

    def _record(self, event: Event) -> None:
        self._seq = event.seq
        self.decision.events.append(event)
        apply(self.state, event)
        if self.state.effects:
            self.decision.effects.extend(self.state.effects)
            self.state.effects.clear()

    def _begin(self, event: Event) -> None:
        if event.kind is not EventKind.RUN_STARTED or self._definition is None or self._undoes is not None:
            return
        definition = self._definition
        self._program = Program(
            definition, self, main_of(lambda: self.codec.decode_input(definition, self.state.input))
        )

    def emit(
        self,
        kind: EventKind,
        *,
        token: UUID | None = None,
        attempt: int | None = None,
        key: str | None = None,
        payload: str | None = None,
    ) -> None:
        """Append what policy decided."""
        assert self._now is not None
        self._record(Event(self._seq + 1, kind, self._now, token, attempt, None, key, payload))

    def ask(
        self, kind: EventKind, *, key: str | None, token: UUID | None, payload: Payload, names: tuple[str, ...] = ()
    ) -> Event:
        """Append what the function asks for; in a replay compare it with the log and return what stands there."""
        if not self._recorded or self._cursor >= len(self._recorded):
            text = payload() if callable(payload) else payload
            if self._now is None:
                raise self._halted(f"this code asks for {kind} {key or ''} after the end of its log")
            attempt = 1 if kind is EventKind.ACTION_SCHEDULED else None
            event = Event(self._seq + 1, kind, self._now, token, attempt, None, key, text)
            self._record(event)
            return event
        recorded = self._recorded[self._cursor]
        if recorded.kind is not kind or not _same_key(recorded.key, key, names):
            if callable(payload):
                payload()  # what was refused then is not in the log, and is refused again
            raise self._halted(
                f"the log has {recorded.kind} {recorded.key or ''} at {recorded.seq}; "
                f"this code asks for {kind} {key or ''}"
            )
        self._cursor += 1
        apply(self.state, recorded)
        return recorded

    def _halted(self, message: str) -> _Suspend:
        """Stop the function for good: whatever it catches, its next call on ctx raises again."""
        self._halt = _Suspend(StallReason.REPLAY_MISMATCH, message)
        if self._program is not None:
            self._program.dead = True
        return self._halt

    def _come_to_rest(self, now: datetime) -> None:
        self._now = now
        try:
            while True:
                before = self._seq
                reconcile(self.state, self.emit, now)
                self._advance()
                if self.state.failure is not None and not self.state.undoing and self.state.ended is None:
                    start_undo(self.emit, Cause.FAILED)
                if self._seq == before:
                    break
        finally:
            self._now = None
        if self._program is not None and (self.state.undoing or self.state.ended is not None):
            self._program.kill()

    @property
    def _folds(self) -> bool:
        return self.fold_only or self._goes_back

    def _advance(self) -> None:
        state, program = self.state, self._program
        if self._folds or state.undoing or state.suspended is not None or state.ended is not None:
            return
        if program is None:
            raise _Suspend(
                StallReason.NO_DEFINITION,
                "no saga of this name and version is defined in this coordinator's application",
            )
        if not program.wakeable:
            return
        program.advance()
        if self._halt is not None:
            raise self._halt
        if program.bug is not None:
            raise _suspension_for(program.bug)

    def _stall(self, given: Input, suspend: _Suspend, now: datetime) -> None:
        """Record the stall. An operator's retry goes before it, any other arrival after it, where it waits."""
        self.broken = suspend.reason
        payload = json.dumps({"reason": suspend.reason, "message": suspend.message[:2_000]})
        at = self._not_before(now)
        arrival = Event(
            0,
            given.kind,
            self._not_before(given.at),
            given.token,
            given.attempt,
            given.claimant,
            given.key,
            given.payload,
        )
        stall = Event(0, EventKind.RUN_STALLED, at, payload=payload)
        first = given.kind in (EventKind.RETRY_REQUESTED, EventKind.RUN_STARTED)
        for event in (arrival, stall) if first else (stall, arrival):
            self._seq += 1
            self.decision.events.append(
                Event(self._seq, event.kind, at, event.token, event.attempt, event.claimant, event.key, event.payload)
            )

    @property
    def status(self) -> Status:
        """The status that the run's row shows."""
        return Status.STALLED if self.broken is not None else self.state.status

    @property
    def stall_reason(self) -> StallReason | None:
        """Why the run is stalled, if it is."""
        return self.broken or self.state.stall_reason


def _same_key(recorded: str | None, asked: str | None, names: tuple[str, ...]) -> bool:
    if recorded == asked:
        return True
    if recorded is None or asked is None:
        return False
    return recorded.rpartition("#")[0] in names and recorded.rpartition("#")[2] == asked.rpartition("#")[2]


def _suspension_for(bug: BaseException) -> _Suspend:
    said: dict[str, Any] = describe(bug)
    message = f"{said['type']}: {said['message']}"
    match bug:
        case _Suspend():
            return bug
        case Abort() | StepFailed() | SignalTimeout():
            return _Suspend(StallReason.FAILED_AFTER_PIVOT, message)
        case DecodeFailed():
            return _Suspend(StallReason.NOT_DECODED, message)
        case LimitReached():
            return _Suspend(StallReason.LIMIT_REACHED, message)
        case ReplayMismatch():
            return _Suspend(StallReason.REPLAY_MISMATCH, message)
        case Blocked():
            return _Suspend(StallReason.SAGA_BUG, "the saga function blocked or looped; it must not do I/O: " + message)
        case Evicted():
            return _Suspend(StallReason.SAGA_BUG, "the saga function raised what only the framework raises")
        case _:
            return _Suspend(StallReason.SAGA_BUG, message)
