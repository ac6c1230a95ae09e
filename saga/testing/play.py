"""Play a saga in memory, in milliseconds, with no server: the real engine's core, the real steps or stand-ins for them.

It knows no database and no broker. Time does not pass by itself: the clock jumps to whatever is due next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy

from saga.core.definition import SagaDefinition
from saga.core.errors import SagaError, UnknownSignal, UpdateRefused, ValueRefused
from saga.core.events import Event, EventKind
from saga.core.execution import Input
from saga.core.lifecycle import Cause, StallReason, Status
from saga.core.outcome import json_after
from saga.core.signals import Update, signal_payload
from saga.engine.codec import JsonCodec
from saga.testing.cast import Cast, Replacements
from saga.testing.mishaps import Mishaps
from saga.testing.script import Sent
from saga.testing.stage import Stage

#: The time at which a play starts unless it is told another.
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Played:
    """How a play ended. `effects` is what ran, in order: `payments.charge`, `payments.charge.compensate`, …"""

    status: Status  #: `running`: it waits for a signal that nobody sends
    cause: Cause | None
    stall_reason: StallReason | None
    reason: str  #: what was raised where it failed or stalled; empty where it completed
    result: Any
    state: Any  #: what `ctx.set_state` showed last, as plain JSON
    answers: tuple[Any, ...]  #: to updates, in the order of answering; a refusal is an UpdateRefused
    events: tuple[Event, ...] = field(repr=False)
    effects: tuple[str, ...]
    started_at: datetime
    ended_at: datetime  #: by the fake clock: when it ended, or moved last
    address: str
    run: UUID

    @property
    def elapsed(self) -> timedelta:
        """How long it took by the fake clock."""
        return self.ended_at - self.started_at


def play(
    saga: SagaDefinition,
    given: Any,
    *,
    replace: Replacements | None = None,
    signals: Sequence[Sent] = (),
    connection: sqlalchemy.Connection | None = None,
    now: datetime = START,
    cancel_after: int | timedelta | None = None,
    cancel_at: str | None = None,
    crash_at: str | None = None,
) -> Played:
    """Run a saga to its end, or until only an operator or a signal could help, and return what happened.

    `replace` maps a step, a compensation or a probe to what stands for it: an exception is raised, a callable is called
    with the same arguments, anything else is returned. `signals` are what is sent to the run, see `send`. On
    `connection` transactional steps play, each attempt in a savepoint that is rolled back unless it succeeds; the
    transaction around them stays the caller's. Time does not pass: timers, retries and leases jump the clock, which
    starts at `now`. `cancel_after` cancels the run after a time, or after so many attempts have ended. `crash_at` and
    `cancel_at` are names of boundaries, as `every_crash_point` tells them: the process that is there dies or freezes,
    or the run is cancelled.

    A saga function that blocks or loops is cut off after five seconds, as a coordinator does with `saga_turn_seconds`
    unless it is set, and the play ends stalled with `saga_bug`; so is one in which a debugger waits. That takes
    SIGALRM, and so the main thread: in any other one such a play hangs.

    Raises:
        DefinitionError: the saga or a step cannot work.
        ValueRefused: the input or a signal's value does not fit, `now` has no time zone, or `connection` is not one of
            SQLAlchemy's.
        UnknownSignal: the saga does not declare a signal that is sent.
        ReplayMismatch: after a crash the saga function asked for something else than before.
        SagaError: the run made no end after ARRIVALS_MAX arrivals, never came to a boundary that was named, or a
            transactional step wanted a connection and there is none.
    """
    mishaps = Mishaps(crash_at, cancel_at)
    played = act(
        saga,
        given,
        mishaps,
        codec=JsonCodec(),
        replace=replace,
        signals=signals,
        connection=connection,
        now=now,
        cancel_after=cancel_after,
    )
    for name in (crash_at, cancel_at):
        if name is not None and name not in mishaps.passed:
            passed = "\n  ".join(mishaps.passed)
            raise SagaError(f"this play of {saga.name} never comes to {name!r}; it comes by:\n  {passed}")
    return played


def act(
    saga: SagaDefinition,
    given: Any,
    mishaps: Mishaps,
    *,
    codec: JsonCodec,
    replace: Replacements | None,
    signals: Sequence[Sent],
    connection: sqlalchemy.Connection | None,
    now: datetime,
    cancel_after: int | timedelta | None = None,
) -> Played:
    """Play once; `mishaps` then tells which boundaries it came by. Raises as `play` does."""
    if now.tzinfo is None:
        raise ValueRefused(f"now={now!r} has no time zone: write datetime(…, tzinfo=UTC)")
    cast = Cast(codec, replace or {}, connection)
    run = UUID(bytes=hashlib.sha256(f"play of {saga.name}".encode()).digest()[:16])
    text = codec.encode_saga_input(saga, given)
    letters = {f"play-{number}": sent for number, sent in enumerate(signals, 1)}
    waiting = {id: sent for id, sent in letters.items() if sent.at is None}

    def awaited(name: str) -> None:
        for id, sent in waiting.items():
            if sent.signal.name == name:
                del waiting[id]
                stage.arrive(_arrival(saga, id, sent, stage.now, codec))
                return

    stage = Stage(saga, "play", text, run=run, codec=codec, cast=cast, now=now, mishaps=mishaps, awaited=awaited)
    for id, sent in letters.items():
        arrival = _arrival(saga, id, sent, now + (sent.at or timedelta()), codec)
        if sent.at is not None:
            stage.arrive(arrival)
    if isinstance(cancel_after, timedelta):
        stage.arrive(Input(EventKind.CANCEL_REQUESTED, now + cancel_after))
        cancel_after = None
    try:
        while stage.move():
            if cancel_after is not None and stage.inbox_empty and len(cast.ran) >= cancel_after:
                cancel_after = None
                stage.arrive(Input(EventKind.CANCEL_REQUESTED, stage.now))
    finally:
        stage.leave()
    main = stage.main
    execution, state = main.execution, main.execution.state
    result = codec.decode_output(saga, state.result) if state.ended is Status.COMPLETED and state.result else None
    return Played(
        status=execution.status,
        cause=state.cause,
        stall_reason=execution.stall_reason,
        reason=_reason(main.log, execution.status),
        result=result,
        state=None if state.shown is None else json.loads(state.shown),
        answers=tuple(_answers(main.log, letters, codec)),
        events=tuple(main.log),
        effects=tuple(cast.ran),
        started_at=now,
        ended_at=main.log[-1].at,
        address=main.address,
        run=run,
    )


def _arrival(saga: SagaDefinition, id: str, sent: Sent, at: datetime, codec: JsonCodec) -> Input:
    if sent.signal not in saga.signals:
        known = ", ".join(signal.name for signal in saga.signals) or "none"
        raise UnknownSignal(
            f"saga {saga.name} declares no signal {sent.signal.name!r} (it declares: {known}): "
            "write it into @saga(…, signals=[…])"
        )
    payload = signal_payload(sent.signal.name, codec.encode_signal(sent.signal, sent.value))
    return Input(EventKind.SIGNAL_RECEIVED, at, key=id, payload=payload)


def _answers(log: list[Event], letters: dict[str, Sent], codec: JsonCodec) -> list[Any]:
    answers: list[Any] = []
    for event in log:
        if event.kind is not EventKind.UPDATE_ANSWERED or event.key is None:
            continue
        refused = json.loads(event.payload or "{}").get("refused")
        update = letters[event.key].signal
        assert isinstance(update, Update)
        text = json_after(event.payload or "", "answer")
        answers.append(UpdateRefused(refused) if refused is not None else codec.decode_answer(update, text))
    return answers


def _reason(log: list[Event], status: Status) -> str:
    """Return what the last stall, or the failure that turned the run round, says."""
    kind = {Status.STALLED: EventKind.RUN_STALLED, Status.COMPENSATED: EventKind.RUN_FAILED}.get(status)
    said = [event.payload for event in log if event.kind is kind]
    return str(json.loads(said[-1] or "{}").get("message", "")) if said else ""
