"""`saga.testing.play`, and the effects-stack test: actions push, compensations pop, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga import (
    Abort,
    Cause,
    Context,
    DefinitionError,
    Retry,
    RetryLater,
    SagaError,
    StallReason,
    Status,
    StepFailed,
    ValueRefused,
    current,
    saga,
    sequence,
    step,
)
from saga.core.events import EventKind
from saga.core.lifecycle import ENDED
from saga.testing import play
from tests.unit.steps import charge, find_shipment, look, mail, ship, stock, unstock

pytestmark = pytest.mark.usefixtures("own_declarations")


@saga("played")
def played(ctx: Context, n: int) -> int:
    reserved = ctx.run(stock, n)
    paid = ctx.run(charge, reserved)
    ctx.gather(ctx.start(ship, n), ctx.start(mail, n))
    return paid


def test_a_play_runs_the_real_steps() -> None:
    ended = play(played, 3)

    assert (ended.status, ended.result) == (Status.COMPLETED, 40)
    assert ended.effects == ("steps.stock", "steps.charge", "steps.ship", "steps.mail")


def test_a_stand_in_may_raise_return_or_be_called() -> None:
    asked: list[Any] = []

    def ask(n: int) -> int:
        asked.append(n)
        return 8

    failed = play(played, 3, replace={charge: Abort("declined")})
    returned = play(played, 3, replace={charge: 7})
    called = play(played, 3, replace={charge: ask})

    assert (failed.status, failed.cause) == (Status.COMPENSATED, Cause.FAILED)
    assert failed.effects == ("steps.stock", "steps.charge", "steps.stock.compensate")
    assert (returned.result, called.result, asked) == (7, 8, [4])


def test_a_stand_in_for_a_compensation_or_a_probe() -> None:
    stalled = play(played, 3, replace={charge: Abort("no"), unstock: ValueError("down")})
    found = play(played, 3, replace={ship: TimeoutError, find_shipment: 300})

    assert (stalled.status, stalled.stall_reason) == (Status.STALLED, StallReason.COMPENSATION_GAVE_UP)
    assert found.status is Status.COMPLETED
    assert found.effects.count("steps.ship") == 1


def test_what_is_no_step_cannot_be_replaced() -> None:
    targets: list[Any] = [played, len, stock.function]
    for target in targets:
        with pytest.raises(DefinitionError, match=r"replace has .*: expected a step"):
            play(played, 3, replace={target: 1})


def test_time_does_not_pass() -> None:
    ended = play(played, 3, replace={mail: TimeoutError("no answer")})

    assert ended.status is Status.COMPENSATED
    assert ended.effects.count("steps.mail") == 3
    assert ended.effects.count("steps.mail.compensate") == 1


def test_a_play_may_be_cancelled_after_any_number_of_attempts() -> None:
    for number in range(5):
        ended = play(played, 3, cancel_after=number)
        expected = Status.COMPENSATED if number < 4 else Status.COMPLETED
        assert ended.status is expected, number


def test_a_play_without_an_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("saga.testing.stage"), "ARRIVALS_MAX", 100)

    with pytest.raises(SagaError, match="no end after 100 arrivals"):
        play(played, 3, replace={look: 1, stock: RetryLater(after=0)})


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueRefused):
        play(played, "three")


def test_a_step_knows_its_attempt_in_a_play() -> None:
    seen: list[tuple[str, str, int]] = []

    def note(*_: Any) -> int:
        seen.append((current.token, current.action_token, current.attempt))
        raise Abort("no") if len(seen) == 2 else TimeoutError

    def note_undo(*_: Any) -> None:
        seen.append((current.token, current.action_token, current.attempt))

    play(played, 3, replace={stock: note, unstock: note_undo})

    (first, own, _), (second, _, attempt), (undo, action, _) = seen
    assert first == second == own == action != undo
    assert attempt == 2


# -- sequences -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    n: int


@dataclass(frozen=True)
class Paid:
    n: int


@dataclass(frozen=True)
class Sent:
    n: int
    paid: int


@step
def pay(order: Order) -> Paid:
    return Paid(order.n * 2)


@step
def send(paid: Paid, order: Order) -> Sent:
    return Sent(order.n, paid.n)


@step
def thank(order: Order) -> None: ...


def test_a_sequence_runs_its_steps_in_order_and_returns_the_last_result() -> None:
    assert play(sequence("listed", Order, pay, thank, send), Order(4)).result == Sent(4, 8)


def test_a_sequence_that_ends_in_a_step_without_a_result_returns_none() -> None:
    ended = play(sequence("listed", Order, pay, thank), Order(4))

    assert (ended.status, ended.result) == (Status.COMPLETED, None)


# -- the effects stack ---------------------------------------------------------------------------------------------


class EffectsStack:
    """What took effect, newest last. An undo of anything but the newest effect raises, as does a second one."""

    def __init__(self) -> None:
        self.standing: list[str] = []

    def push(self, effect: str) -> None:
        if effect in self.standing:
            raise AssertionError(f"{effect} took effect twice")
        self.standing.append(effect)

    def pop(self, effect: str) -> None:
        if not self.standing or self.standing[-1] != effect:
            raise AssertionError(f"{effect} is undone out of order: {self.standing}")
        self.standing.pop()


NAMES = ("one", "two", "three", "four")
stack = EffectsStack()


def _make(name: str) -> Any:
    def action(n: int) -> str:
        stack.push(name)
        return name

    def compensation(result: str | None, n: int) -> None:
        stack.pop(name)

    made = step(name=f"stack.{name}", retry=Retry(attempts=2))(action)
    made.compensate(retry=Retry(attempts=2))(compensation)
    return made


STACKED = [_make(name) for name in NAMES]


@saga("stacked")
def stacked(ctx: Context, n: int) -> str:
    for made in STACKED[:-1]:
        ctx.run(made, n)
    try:
        ctx.run(STACKED[-1], n)
    except StepFailed:
        ctx.run(look, n)
    return "done"


def _after_the_effect(made: Any) -> Callable[..., Any]:
    """Act, and lose the reply."""

    def act(n: int) -> str:
        if stack.standing[-1:] != [made.name.removeprefix("stack.")]:
            made.function(n)
        raise TimeoutError

    return act


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(
    how=st.lists(st.sampled_from(["well", "abort", "reply lost"]), min_size=4, max_size=4),
    cancel_after=st.none() | st.integers(min_value=0, max_value=8),
)
def test_compensations_pop_what_actions_pushed_newest_first(how: list[str], cancel_after: int | None) -> None:
    stack.standing.clear()
    stand_ins: dict[Any, Any] = {}
    for made, end in zip(STACKED, how, strict=True):
        if end == "abort":
            stand_ins[made] = Abort("no")
        elif end == "reply lost":
            stand_ins[made] = _after_the_effect(made)

    ended = play(stacked, 1, replace=stand_ins, cancel_after=cancel_after)

    assert ended.status in ENDED
    assert ended.events[-1].kind in (EventKind.RUN_COMPLETED, EventKind.RUN_COMPENSATED)
    if ended.status is Status.COMPENSATED:
        assert stack.standing == []
    else:
        assert stack.standing == [name for name, end in zip(NAMES, how, strict=True) if end == "well"]
