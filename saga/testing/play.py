"""Play a saga in memory, in milliseconds, with no server: the real engine's core, the real steps or stand-ins for them.

It knows no database and no broker. Nothing is killed here; what survives a kill is tested by the integration suite.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from saga.core.current import Attempt, attempt_now
from saga.core.definition import AnyStep, SagaDefinition
from saga.core.effects import CancelTimer, Effect, Fence, Kill, RunTask, SetTimer
from saga.core.errors import SagaError
from saga.core.events import Direction, Event, EventKind, split_task_name, start_payload
from saga.core.execution import Execution, Input
from saga.core.lifecycle import Cause, StallReason, Status
from saga.core.outcome import wrap
from saga.engine.codec import JsonCodec
from saga.engine.outcomes import function_of, run_attempt
from saga.engine.registry import step_named

Replacement = Any  #: a value to return, an exception to raise, or a callable to call instead

#: Arrivals after which a play is taken for an endless loop.
ARRIVALS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Played:
    """How a play ended. `effects` is what ran, in order: `payments.charge`, `payments.charge.compensate`, …"""

    status: Status
    cause: Cause | None
    stall_reason: StallReason | None
    result: Any
    events: tuple[Event, ...]
    effects: tuple[str, ...]


def play(
    saga: SagaDefinition,
    given: Any,
    *,
    replace: Mapping[AnyStep | Callable[..., Any], Replacement] | None = None,
    cancel_after: int | None = None,
) -> Played:
    """Run a saga to its end or stall, and return what happened.

    `replace` maps a step, a compensation or a probe to what stands for it: an exception is raised, a callable is called
    with the same arguments, anything else is returned. `cancel_after` cancels the run after so many attempts have
    ended. Time does not pass: retries and deadlines jump the clock.

    Raises:
        DefinitionError: the saga or a step cannot work.
        ValueRefused: the input does not fit.
        SagaError: the run made no end after ARRIVALS_MAX arrivals.
    """
    codec = JsonCodec()
    table = _Table(codec, {_function(target): stand_in for target, stand_in in (replace or {}).items()})
    world = _World(now=datetime(2026, 1, 1, tzinfo=UTC))
    execution = Execution(uuid4(), "play", saga, codec)
    events: list[Event] = []
    text = codec.encode_saga_input(saga, given)
    arrivals = deque(
        [Input(EventKind.RUN_STARTED, world.now, payload=start_payload(saga.version, saga.timeout_seconds, text))]
    )
    for _ in range(ARRIVALS_MAX):
        execution.feed(arrivals.popleft(), world.now)
        decision = execution.take()
        events.extend(decision.events)
        arrivals.extend(arrival for effect in decision.effects if (arrival := world.carry_out(effect)))
        if execution.status not in (Status.RUNNING, Status.COMPENSATING):
            break
        if cancel_after is not None and len(table.ran) == cancel_after:
            cancel_after = None
            arrivals.append(Input(EventKind.CANCEL_REQUESTED, world.now))
        if not arrivals and world.tasks:
            arrivals.append(table.run(world.tasks.popleft(), f"{saga.name}/play", world.now))
        if not arrivals and (fired := world.next_timer()):
            arrivals.append(fired)
        if not arrivals:
            break
    else:
        raise SagaError(f"saga {saga.name} came to no end after {ARRIVALS_MAX} arrivals: it retries or loops for ever")
    execution.drop()
    state = execution.state
    result = codec.decode_output(saga, state.result) if state.ended is Status.COMPLETED and state.result else None
    return Played(execution.status, state.cause, execution.stall_reason, result, tuple(events), tuple(table.ran))


class _World:
    """What stands for broker and timers: attempts in order of dispatch, and a clock that jumps."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.tasks: deque[RunTask] = deque()
        self.timers: dict[str, datetime] = {}

    def carry_out(self, effect: Effect) -> Input | None:
        """Do what a turn asks; a fenced attempt answers at once."""
        match effect:
            case RunTask():
                self.tasks.append(effect)
            case SetTimer(name, due_at):
                self.timers[name] = due_at
            case CancelTimer(name):
                self.timers.pop(name, None)
            case Fence(token) | Kill(token):
                for task in self.tasks:
                    if task.token == token:
                        self.tasks.remove(task)
                        return Input(EventKind.STEP_NEVER_STARTED, self.now, token, task.attempt)
        return None

    def next_timer(self) -> Input | None:
        """Jump to the timer that is due first."""
        if not self.timers:
            return None
        name = min(self.timers, key=lambda name: self.timers[name])
        self.now = max(self.now, self.timers.pop(name))
        return Input(EventKind.TIMER_FIRED, self.now, key=name)


class _Table:
    """The steps of a play, with their stand-ins, and the list of what ran."""

    def __init__(self, codec: JsonCodec, stand_ins: dict[Callable[..., Any], Replacement]) -> None:
        self.codec = codec
        self.stand_ins = stand_ins
        self.ran: list[str] = []

    def run(self, task: RunTask, run: str, now: datetime) -> Input:
        """Run one attempt and return its outcome."""
        name, direction = split_task_name(task.name)
        step = step_named(name)
        declared = function_of(step, direction)
        function = declared
        if declared in self.stand_ins:
            function = _stand_in(self.stand_ins[declared])
        self.ran.append(task.name)
        action = task.token if direction is Direction.ACTION else UUID(json.loads(task.input)["action"])
        token = action if direction is Direction.PROBE else task.token
        with attempt(token=token, action_token=action, number=task.attempt, run=run, step=name):
            ended = run_attempt(step, direction, task.input, self.codec, function=function)
        payload = wrap(ended.value, worker="play", ran_seconds=0.0)
        return Input(ended.kind, now, task.token, task.attempt, uuid4(), payload=payload)


@contextmanager
def attempt(
    *,
    token: UUID | None = None,
    action_token: UUID | None = None,
    number: int = 1,
    run: str = "test/1",
    step: str = "test",
    connection: Any = None,
) -> Iterator[Attempt]:
    """Stand in for a worker in a unit test: `saga.current` answers inside the block."""
    token = token or uuid4()
    running = Attempt(token, action_token or token, number, run, step, connection)
    reset = attempt_now.set(running)
    try:
        yield running
    finally:
        attempt_now.reset(reset)


def _function(target: AnyStep | Callable[..., Any]) -> Callable[..., Any]:
    return target.function if isinstance(target, AnyStep) else target


def _stand_in(replacement: Replacement) -> Callable[..., Any]:
    if isinstance(replacement, BaseException) or (
        isinstance(replacement, type) and issubclass(replacement, BaseException)
    ):

        def fail(*_: Any) -> Any:
            raise replacement

        return fail
    return replacement if callable(replacement) else lambda *_: replacement
