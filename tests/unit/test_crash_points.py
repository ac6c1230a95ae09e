"""`every_crash_point`: fakes that honour tokens hold at each kill, and each way of not doing so is found and named."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from saga import Abort, Context, Retry, SagaError, Status, current, saga, step
from saga.core.errors import ReplayMismatch
from saga.engine.crashpoints import Point
from saga.testing import Played, every_crash_point, play
from tests.unit.steps import PLAIN

pytestmark = pytest.mark.usefixtures("own_declarations")


@step(retry=PLAIN)
def reserve(order: str) -> str:
    raise NotImplementedError


@reserve.compensate(retry=PLAIN)
def release(reservation: str | None, order: str) -> None:
    raise NotImplementedError


@step(retry=PLAIN)
def pay(order: str) -> str:
    raise NotImplementedError


@pay.compensate(retry=PLAIN)
def refund(payment: str | None, order: str) -> None:
    raise NotImplementedError


@step(retry=Retry(attempts=1), transactional=True)
def book(order: str) -> str:
    raise NotImplementedError


@step(retry=PLAIN)
def send(order: str, payment: str) -> None:
    raise NotImplementedError


@saga("bought")
def bought(ctx: Context, order: str) -> str:
    _, payment = ctx.gather(ctx.start(reserve, order), ctx.start(pay, order))
    ctx.run(book, order)
    ctx.pivot()
    ctx.run(send, order, payment)
    return payment


@dataclass(slots=True)
class Outside:
    """Services: each key has one effect, and a key of an effect that was undone has none any more."""

    effects: dict[str, str] = field(default_factory=dict)  #: what stands, by the action's key
    undone: set[str] = field(default_factory=set)
    calls: list[tuple[str, str]] = field(default_factory=list)

    def forget(self) -> None:
        self.effects.clear()
        self.undone.clear()
        self.calls.clear()

    def does(self, what: str) -> Callable[..., Any]:
        def do(*_: Any) -> str:
            self.calls.append((what, current.token))
            self.effects[current.token] = what
            return f"{what} by {current.token}"

        return do

    def undoes(self, result: str | None, *_: Any) -> None:
        self.calls.append(("undo", current.token))
        self.effects.pop(current.action_token, None)
        self.undone.add(current.action_token)

    @property
    def fakes(self) -> dict[Any, Any]:
        done: dict[Any, Any] = {one: self.does(one.name) for one in (reserve, pay, book)}
        sends = self.does(send.name)
        return {**done, send: lambda *_: sends() and None, release: self.undoes, refund: self.undoes}

    def all_or_nothing(self, played: Played) -> None:
        standing = sorted(self.effects.values())
        if played.status is Status.COMPLETED:
            every = ["book", "pay", "reserve", "send"]
            assert standing == [f"test_crash_points.{name}" for name in every]
        else:
            assert played.status is Status.COMPENSATED
            assert [name for name in standing if not name.endswith("book")] == []


def test_fakes_that_honour_tokens_hold_at_every_crash_point() -> None:
    outside = Outside()
    ends: list[tuple[Status, str | None]] = []

    def invariant(played: Played) -> None:
        ends.append((played.status, played.cause))
        outside.all_or_nothing(played)

    tried = every_crash_point(bought, "7", invariant=invariant, before=outside.forget, replace=outside.fakes)

    assert tried == len(ends) - 1 > 80
    assert {status for status, _ in ends} == {Status.COMPLETED, Status.COMPENSATED}


def test_every_boundary_is_tried_and_each_step_is_killed_before_and_after_its_effect_and_its_undo() -> None:
    seen: list[str] = []

    def never(played: Played) -> None:
        seen.append("")

    outside = Outside()
    with pytest.raises(SagaError) as raised:
        play(bought, "7", replace=outside.fakes, crash_at="nowhere")
    every_crash_point(bought, "7", invariant=never, replace=outside.fakes)

    passed = [line.strip() for line in str(raised.value).splitlines()[1:]]
    assert {name.split()[0] for name in passed} == {
        point for point in Point if point not in (Point.TURN_TAKEN, Point.SHARDS_ACQUIRED)
    }
    assert "worker.ran test_crash_points.pay#1" in passed
    assert "turn.committed StepSucceeded test_crash_points.send#1" in passed
    assert "worker.ran test_crash_points.book#1" not in passed, "it is rolled back with its worker"
    assert len(set(passed)) == len(passed)


@pytest.mark.parametrize(
    "point", [Point.TURN_DECIDED, Point.TURN_COMMITTED, Point.TURN_PUBLISHED, Point.WORKER_RECORDED]
)
def test_messages_that_are_lost_or_doubled_change_nothing(point: Point) -> None:
    fakes = Outside().fakes
    unharmed = play(bought, "7", replace=fakes)
    with pytest.raises(SagaError) as raised:
        play(bought, "7", replace=fakes, crash_at="nowhere")
    names = [name for line in str(raised.value).splitlines() if (name := line.strip()).startswith(point)]

    assert len(names) >= 4
    for name in names:
        assert play(bought, "7", replace=fakes, crash_at=name).effects == unharmed.effects


def test_an_action_that_ignores_its_token_is_found() -> None:
    charges: list[str] = []

    def paid_once(played: Played) -> None:
        assert len(charges) == 1, f"{len(charges)} charges"

    def careless(order: str) -> str:
        charges.append(order)
        return "paid"

    replace = {**Outside().fakes, pay: careless}
    with pytest.raises(AssertionError) as raised:
        every_crash_point(bought, "7", invariant=paid_once, before=charges.clear, replace=replace)

    told = str(raised.value)
    assert "2 charges" in told
    assert "the worker dies after the effect, before it is recorded (test_crash_points.pay#1)" in told
    assert "Play it alone: play(bought, …, crash_at='worker.ran test_crash_points.pay#1')" in told


def test_a_crash_point_that_was_named_can_be_played_alone() -> None:
    outside = Outside()

    played = play(bought, "7", replace=outside.fakes, crash_at="worker.ran test_crash_points.pay#1")

    paid = [token for what, token in outside.calls if what.endswith(".pay")]
    assert played.effects.count("test_crash_points.pay") == 2
    assert len(paid) == 2
    assert len(set(paid)) == 1, "the next attempt has the same token"
    assert played.elapsed.total_seconds() == 70, "the dead worker's lease is waited for"


def test_an_undo_that_cannot_do_without_the_result_is_found() -> None:
    outside = Outside()

    def refunds(payment: str | None, order: str) -> None:
        assert payment is not None
        outside.undoes(payment)

    def never_stuck(played: Played) -> None:
        assert played.status is not Status.STALLED, f"{played.stall_reason}: {played.reason}"

    with pytest.raises(AssertionError) as raised:
        every_crash_point(bought, "7", invariant=never_stuck, replace={**outside.fakes, refund: refunds})

    told = str(raised.value)
    assert "compensation_gave_up" in told
    name = "worker.claimed test_crash_points.pay#1"
    assert f"play(bought, …, crash_at='{name}', cancel_at='{name}')" in told


def test_an_undo_that_ignores_its_token_is_found_in_mid_undo() -> None:
    outside = Outside()
    refunds: list[str] = []

    def at_most_one_refund(played: Played) -> None:
        assert len(refunds) <= 1

    with pytest.raises(AssertionError) as raised:
        every_crash_point(
            bought,
            "7",
            invariant=at_most_one_refund,
            before=refunds.clear,
            replace={**outside.fakes, refund: lambda payment, order: refunds.append(order)},
        )

    told = str(raised.value)
    assert "the worker dies after the effect, before it is recorded (test_crash_points.pay.compensate#1)" in told
    assert "in a run that is cancelled before" in told


def test_the_undo_of_a_run_that_fails_is_killed_too() -> None:
    outside = Outside()
    attempts: list[int] = []

    def undone(played: Played) -> None:
        assert played.status is Status.COMPENSATED
        assert outside.effects == {}
        attempts.append(played.effects.count("test_crash_points.pay.compensate"))

    every_crash_point(
        bought, "7", invariant=undone, before=outside.forget, replace={**outside.fakes, book: Abort("full")}
    )

    assert max(attempts) == 2


def test_an_invariant_that_never_holds_is_told_without_a_crash() -> None:
    def never(played: Played) -> None:
        raise AssertionError("no")

    with pytest.raises(AssertionError, match=r"with no crash at all: no\nPlay it alone: play\(bought, …\)"):
        every_crash_point(bought, "7", invariant=never, replace=Outside().fakes)


def test_a_function_that_is_not_deterministic_is_found() -> None:
    turn = itertools.count()

    @saga("fickle")
    def fickle(ctx: Context, order: str) -> str:
        if next(turn) % 2:
            return ctx.run(reserve, order)
        return ctx.run(pay, order)

    with pytest.raises(ReplayMismatch, match="must be deterministic") as raised:
        every_crash_point(fickle, "7", invariant=lambda _: None, replace=Outside().fakes)

    assert "crash_at='turn.committed RunStarted'" in raised.value.__notes__[0]


def test_a_fake_without_a_memory_for_plays_sees_tokens_of_its_own_in_each() -> None:
    outside = Outside()

    play(bought, "7", replace=outside.fakes)
    play(bought, "7", replace=outside.fakes)

    assert len({token for _, token in outside.calls}) == 8
