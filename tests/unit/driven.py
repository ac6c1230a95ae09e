"""A run driven by hand: outcomes, timers and operators' acts are fed to the core one by one, by a clock of its own.

Before and after each the log is replayed: it must give the same run, and decide alike. It knows no database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from saga.core.definition import SagaDefinition
from saga.core.effects import (
    CancelTimer,
    Fence,
    Kill,
    ReleaseLocks,
    Report,
    RequestLock,
    RunTask,
    SetTimer,
    StartChild,
    TellChild,
    WithdrawLock,
)
from saga.core.events import TERMINAL, Event, EventKind, start_payload
from saga.core.execution import Decision, Execution, Input
from saga.core.fold import apply
from saga.core.lifecycle import TRANSITIONS, StallReason, Status
from saga.core.outcome import wrap
from saga.core.remains import remains_of
from saga.core.signals import Signal, signal_payload
from saga.core.state import State
from saga.core.tracks import Track
from saga.engine.codec import JsonCodec

RUN = UUID("018f0000-0000-7000-8000-000000000001")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
CODEC = JsonCodec()


class Driven:
    """One run. Attempts in flight are named `charge`, `charge.probe`, `charge.compensate`, then `charge#2`."""

    def __init__(
        self,
        definition: SagaDefinition | None,
        given: Any = 1,
        *,
        start: bool = True,
        replays: bool = True,
        version: int = 1,
        timeout: float | None = None,
        undoes: Sequence[Event] = (),
    ) -> None:
        self.definition = definition
        self.now = undoes[-1].at if undoes else BEGAN
        self.undoes = tuple(undoes)  #: the log of the run that this one takes back
        self.log: list[Event] = []
        self.decisions: list[Decision] = []
        self.open: dict[str, RunTask | StartChild | RequestLock] = {}
        self.told: list[TellChild | ReleaseLocks | Report] = []
        self.dispatched: list[str] = []  #: every attempt, in order
        self.fenced: list[str] = []  #: fences asked for while an attempt was in flight
        self.killed: list[str] = []
        self.timers: dict[str, datetime] = {}
        self.statuses: list[Status] = []
        self.replays = replays
        self.fold = remains_of(RUN, undoes) if undoes else State(RUN)  #: the stored log, folded by itself
        self._numbers = len(self.undoes)
        self.execution = self._bring_up(fold_only=False)
        if start:
            if definition is not None:
                timeout = definition.timeout_seconds
            undone = RUN if undoes else None
            payload = start_payload(version, timeout, json.dumps(given), undoes=undone)
            self.feed(EventKind.RUN_STARTED, payload=payload)

    # -- what arrives ----------------------------------------------------------------------------------------------

    def feed(
        self,
        kind: EventKind,
        *,
        token: UUID | None = None,
        attempt: int | None = None,
        key: str | None = None,
        payload: str | None = None,
        claimant: UUID | None = None,
    ) -> Driven:
        """Feed one arrival, a second after the one before."""
        self.now += timedelta(seconds=1)
        given = Input(kind, self.now, token, attempt, claimant, key, payload)
        twin = self.replayed(fold_only=self.execution.fold_only) if self.replays and self.log else None
        self.execution.feed(given, self.now)
        decision = self.execution.take()
        if twin is not None:
            twin.feed(given, self.now)
            assert twin.take() == decision, "the run decides otherwise when it comes from its log"
            assert twin.drop()
        self._store(decision)
        if self.replays and self.log:
            self._check_replay()
        return self

    def end(self, name: str, kind: EventKind, value: Any = None, *, claimant: UUID | None = None) -> Driven:
        """Answer an attempt that is in flight."""
        task = self.open.pop(name)
        payload = None
        if kind is not EventKind.STEP_LOST and kind is not EventKind.STEP_NEVER_STARTED:
            payload = wrap(json.dumps(value), worker="w/1", ran_seconds=0.1)
            claimant = claimant or self.claimant()
        return self.feed(kind, token=task.token, attempt=task.attempt, payload=payload, claimant=claimant)

    def answer(self, name: str, kind: EventKind, value: Any = None, *, pivoted: bool = False) -> Driven:
        """Answer for a child or a lock that is asked for."""
        asked = self.open.pop(name)
        payload = f'{{"pivoted":{json.dumps(pivoted)},"value":{json.dumps(value)}}}'
        return self.feed(kind, token=asked.token, attempt=asked.attempt, payload=payload)

    def succeed(self, name: str, value: Any = 1) -> Driven:
        return self.end(name, EventKind.STEP_SUCCEEDED, value)

    def find(self, name: str, value: Any = 1) -> Driven:
        """Let a probe find a result."""
        return self.end(f"{name}.probe", EventKind.STEP_SUCCEEDED, [value])

    def find_nothing(self, name: str) -> Driven:
        return self.end(f"{name}.probe", EventKind.STEP_SUCCEEDED, None)

    def undo(self, name: str) -> Driven:
        """Let a compensation succeed."""
        return self.end(f"{name}.compensate", EventKind.STEP_SUCCEEDED, None)

    def abort(self, name: str, message: str = "no") -> Driven:
        return self.end(name, EventKind.STEP_FAILED, {"type": "saga.core.errors.Abort", "message": message})

    def unknown(self, name: str, message: str = "timed out") -> Driven:
        return self.end(name, EventKind.STEP_UNKNOWN, {"type": "TimeoutError", "message": message})

    def roll_back(self, name: str) -> Driven:
        return self.end(name, EventKind.STEP_ROLLED_BACK, {"type": "ValueError", "message": "rolled back"})

    def refuse(self, name: str) -> Driven:
        return self.end(name, EventKind.STEP_REFUSED, {"type": "ValueRefused", "message": "too large"})

    def not_run(self, name: str) -> Driven:
        return self.end(name, EventKind.STEP_NOT_RUN, {"type": "DecodeFailed", "message": "does not fit"})

    def postpone(self, name: str, seconds: float = 5) -> Driven:
        return self.end(name, EventKind.STEP_POSTPONED, seconds)

    def lose(self, name: str, *, claimant: UUID | None = None) -> Driven:
        return self.end(name, EventKind.STEP_LOST, claimant=claimant)

    def never_start(self, name: str) -> Driven:
        return self.end(name, EventKind.STEP_NEVER_STARTED)

    def tell_late(self, task: RunTask, value: Any = 1, *, kind: EventKind = EventKind.STEP_SUCCEEDED) -> Driven:
        """Let a fenced worker tell how its attempt ended."""
        payload = wrap(json.dumps(value), worker="w/2", ran_seconds=99)
        told = f'{{"kind": {json.dumps(kind)}, "payload": {payload}}}'
        return self.feed(
            EventKind.OUTCOME_LATE, token=task.token, attempt=task.attempt, payload=told, claimant=self.claimant()
        )

    def fire(self, name: str | None = None) -> Driven:
        """Let a timer fall due: the named one, or the next."""
        name = name or min(self.timers, key=lambda timer: (self.timers[timer], timer))
        self.now = max(self.now, self.timers.pop(name))
        return self.feed(EventKind.TIMER_FIRED, key=name)

    def signal(self, name: str, value: Any = None, *, id: str | None = None) -> Driven:
        payload = signal_payload(name, json.dumps(value))
        return self.feed(EventKind.SIGNAL_RECEIVED, key=id or str(self.claimant()), payload=payload)

    def cancel(self) -> Driven:
        return self.feed(EventKind.CANCEL_REQUESTED)

    def terminate(self) -> Driven:
        return self.feed(EventKind.TERMINATE_REQUESTED)

    def retry(self, key: str | None = None) -> Driven:
        return self.feed(EventKind.RETRY_REQUESTED, key=key)

    def resolve(self, key: str, result: Any = None) -> Driven:
        payload = f'{{"evidence":"looked","result":{json.dumps(result)}}}'
        return self.feed(EventKind.RESOLVED, key=key, payload=payload)

    def claimant(self) -> UUID:
        self._numbers += 1
        return uuid5(RUN, str(self._numbers))

    # -- what is seen ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.execution.state

    @property
    def status(self) -> Status:
        return self.execution.status

    @property
    def stall_reason(self) -> StallReason | None:
        return self.execution.stall_reason

    def kinds(self, *without: EventKind) -> list[EventKind]:
        return [event.kind for event in self.log if event.kind not in without]

    def last(self, kind: EventKind) -> Event:
        return next(event for event in reversed(self.log) if event.kind is kind)

    def count(self, kind: EventKind) -> int:
        return self.kinds().count(kind)

    def task(self, name: str) -> RunTask:
        """Return an attempt that a worker runs."""
        task = self.open[name]
        assert isinstance(task, RunTask)
        return task

    def input_of(self, name: str) -> Any:
        task = self.open[name]
        assert not isinstance(task, RequestLock)
        return json.loads(task.input)

    def wait_seconds(self, name: str) -> float:
        return (self.timers[name] - self.now).total_seconds()

    # -- memory ----------------------------------------------------------------------------------------------------

    def reload(self, definition: SagaDefinition | None = None, *, fold_only: bool = False) -> Driven:
        """Evict the run and bring it back from its log, with other code if that is given; `fold_only` runs none."""
        assert self.execution.drop()
        self.definition = definition or self.definition
        self.execution = self.replayed(fold_only=fold_only)
        return self

    def replayed(self, *, fold_only: bool = False) -> Execution:
        """Return the run as its log gives it."""
        execution = self._bring_up(fold_only=fold_only)
        execution.replay(self.log)
        assert execution.take() == Decision(), "a replay decided something"
        return execution

    def _bring_up(self, *, fold_only: bool) -> Execution:
        undoes = (RUN, self.undoes) if self.undoes else None
        return Execution(RUN, "order-7", self.definition, CODEC, fold_only=fold_only, undoes=undoes)

    def _check_replay(self) -> None:
        if self.execution.broken is not None:
            return
        execution = self.replayed(fold_only=self.execution.fold_only)
        assert execution.broken is None, execution._message
        assert snapshot(execution) == snapshot(self.execution)
        assert execution.drop()

    def _store(self, decision: Decision) -> None:
        self.decisions.append(decision)
        fold = self.fold
        before: Status | None = fold.status if self.log else None
        for event in decision.events:
            assert event.seq == len(self.log) + 1, "the log has a gap"
            assert not self.log or self.log[-1].kind not in TERMINAL, "an event follows the terminal one"
            self.log.append(event)
            apply(fold, event)
            if fold.status is not before:
                assert (before, fold.status) in TRANSITIONS, f"{before} -> {fold.status} is not in TRANSITIONS"
                self.statuses.append(fold.status)
            before = fold.status
        assert before is self.execution.status, "the folded log and the run's row differ"
        for effect in decision.effects:
            match effect:
                case RunTask():
                    name = self.name_of(effect.token)
                    assert name not in self.open, f"{name} is in flight twice"
                    self.open[name] = effect
                    self.dispatched.append(name)
                case SetTimer(name, due_at):
                    self.timers[name] = due_at
                case CancelTimer(name):
                    del self.timers[name]
                case Fence(token) | WithdrawLock(token):
                    self.fenced.append(self.name_of(token))
                case Kill(token):
                    self.killed.append(self.name_of(token))
                case StartChild() | RequestLock():
                    name = self.name_of(effect.token)
                    assert name not in self.open, f"{name} is in flight twice"
                    self.open[name] = effect
                    self.dispatched.append(name)
                case TellChild() | ReleaseLocks() | Report():
                    self.told.append(effect)

    def name_of(self, token: UUID) -> str:
        """Return the short name of a token's step and direction."""
        step, track = self.state.tokens[token]
        name, _, number = step.occurrence.rpartition("#")
        short = name.rpartition(".")[2] + ("" if number == "1" else f"#{number}")
        return short + track.task[len(name) :]


def snapshot(execution: Execution) -> dict[str, Any]:
    """Return all that a run is, comparable: what a replay must bring back."""
    state = execution.state
    plain = {
        name: value
        for name, value in vars(state).items()
        if name not in ("steps", "tokens", "dirty", "unfinished", "standing", "effects", "stuck")
    }
    return {
        **plain,
        "steps": {key: _values(step) for key, step in state.steps.items()},
        "unfinished": sorted(state.unfinished),
        "standing": sorted(state.standing),
        "stuck": dict(state.stuck),
        "status": execution.status,
        "stall_reason": execution.stall_reason,
    }


def _values(item: Any) -> dict[str, Any]:
    found = {field.name: getattr(item, field.name) for field in fields(item)}
    return {
        name: _values(value) if isinstance(value, Track) else value for name, value in found.items() if name != "tracks"
    }


def define(
    function: Callable[..., Any], *, timeout: float | None = None, signals: Sequence[Signal[Any]] = ()
) -> SagaDefinition:
    """Declare a saga for one test, without registering it."""
    return SagaDefinition(function, name="tested", timeout_seconds=timeout, signals=signals)
