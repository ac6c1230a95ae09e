"""`every_crash_point`: fakes that honour tokens hold at each kill, and each way of not doing so is found and named."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from saga import Abort, Context, Retry, SagaError, Status, current, saga, step
from saga.core.errors import ReplayMismatch
from saga.core.events import EventKind
from saga.engine.crashpoints import Point
from saga.testing import Played, every_crash_point, play
from saga.testing.mishaps import Frozen
from tests.unit import steps
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


@saga("paid")
def paid(ctx: Context, order: str) -> str:
    ctx.run(reserve, order)
    return ctx.run(pay, order)


@dataclass(slots=True)
class Outside:
    """Services: each key has one effect, and a key of an effect that was undone has none any more, however late."""

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
            if current.token in self.undone:
                raise Abort("it was undone")
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

    @property
    def forgetful(self) -> dict[Any, Any]:
        """Services that honour a key, and forget it with what was undone."""

        def undoes(*_: Any) -> None:
            self.undoes(None)
            self.undone.clear()

        return {**self.fakes, release: undoes, refund: undoes}

    def nothing_or_both(self, played: Played) -> None:
        assert len(self.effects) == (2 if played.status is Status.COMPLETED else 0)

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

    assert tried == len(ends) - 1 > 90
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
        *(point for point in Point if point not in (Point.TURN_TAKEN, Point.SHARDS_ACQUIRED)),
        *Frozen,
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


# -- workers that freeze -------------------------------------------------------------------------------------------

PAY = "test_crash_points.pay#1"
LATE_PAY = f"worker.overtaken {PAY}"
LAST_PAY = f"worker.outlived {PAY}"


def short(calls: list[tuple[str, str]]) -> list[str]:
    return [what.removeprefix("test_crash_points.") for what, _ in calls]


@pytest.mark.parametrize(("name", "behind"), [(LATE_PAY, ["book", "send"]), (LAST_PAY, [])])
def test_a_worker_that_freezes_acts_again_after_the_next_attempt(name: str, behind: list[str]) -> None:
    outside = Outside()

    played = play(bought, "7", replace=outside.fakes, crash_at=name)

    first, second = [token for what, token in outside.calls if what.endswith(".pay")]
    assert first == second
    assert short(outside.calls)[-1 - len(behind) :] == ["pay", *behind]
    assert played.status is Status.COMPLETED
    late = [event for event in played.events if event.kind is EventKind.OUTCOME_LATE]
    assert len(late) == len(behind[:1]), "after its end a run is told nothing"


def test_a_worker_that_freezes_in_a_run_that_is_cancelled_acts_after_the_undo_which_is_asked_for_once_more() -> None:
    outside = Outside()

    played = play(paid, "7", replace=outside.forgetful, crash_at=LATE_PAY, cancel_at=LATE_PAY)

    assert short(outside.calls) == ["reserve", "undo", "pay", "undo", "undo"]
    keys = [token for what, token in outside.calls if what == "undo"]
    assert len(set(keys)) == 3, "the second undo has a key of its own"
    assert (played.status, outside.effects) == (Status.COMPENSATED, {})


def test_a_worker_that_freezes_until_the_end_of_a_cancelled_run_acts_and_nobody_undoes_it() -> None:
    outside = Outside()

    played = play(paid, "7", replace=outside.forgetful, crash_at=LAST_PAY, cancel_at=LAST_PAY)

    assert short(outside.calls) == ["reserve", "undo", "undo", "pay"]
    assert played.effects[-1] == "test_crash_points.pay"
    assert list(outside.effects.values()) == ["test_crash_points.pay"]


def test_a_service_that_forgets_what_was_undone_is_found() -> None:
    outside = Outside()

    with pytest.raises(AssertionError) as raised:
        every_crash_point(
            paid, "7", invariant=outside.nothing_or_both, before=outside.forget, replace=outside.forgetful
        )

    told = str(raised.value)
    assert "the worker freezes before the effect, and acts late, after the next attempt or after its undo" in told
    assert "in a run that is cancelled there" in told
    name = "worker.overtaken test_crash_points.reserve#1"
    assert f"play(paid, …, crash_at='{name}', cancel_at='{name}')" in told


def test_a_service_that_remembers_what_was_undone_is_not() -> None:
    outside = Outside()

    tried = every_crash_point(
        paid, "7", invariant=outside.nothing_or_both, before=outside.forget, replace=outside.fakes
    )

    assert tried > 60


def test_an_effect_that_is_safe_from_all_but_a_frozen_worker_is_found() -> None:
    outside = Outside()
    charges: list[str] = []

    def remembers_attempts(order: str) -> str:
        if charges[-1:] != [current.token]:  # it forgets a key when another comes
            charges.append(current.token)
        return "paid"

    def books(order: str) -> str:
        charges.append(current.token)
        return "booked"

    def one_each(played: Played) -> None:
        assert len(charges) == len(set(charges))

    with pytest.raises(AssertionError, match=r"after the end of the run \(test_crash_points.pay#1\)"):
        every_crash_point(
            bought,
            "7",
            invariant=one_each,
            before=charges.clear,
            replace={**outside.fakes, pay: remembers_attempts, book: books},
        )


@pytest.mark.parametrize(("until", "late"), [(Frozen.OVERTAKEN, 1), (Frozen.OUTLIVED, 2)])
def test_a_compensation_that_freezes_acts_after_its_next_attempt_too(until: Frozen, late: int) -> None:
    outside = Outside()
    frozen = f"{until} test_crash_points.pay.compensate#1"

    played = play(paid, "7", replace=outside.fakes, crash_at=frozen, cancel_at=f"worker.claimed {PAY}")

    undos = [token for what, token in outside.calls if what == "undo"]
    assert [number for number, token in enumerate(undos) if token == undos[0]] == [0, late]
    assert len(undos) == 3
    assert (played.status, outside.effects) == (Status.COMPENSATED, {})


def test_neither_a_probe_nor_a_transactional_step_freezes_for_it_would_leave_nothing() -> None:
    @saga("shipped")
    def shipped(ctx: Context, n: int) -> int:
        return ctx.run(steps.ship, ctx.run(steps.book, n))

    with pytest.raises(SagaError) as raised:
        play(shipped, 7, crash_at="worker.claimed steps.ship#1", cancel_at="nowhere")

    passed = [tuple(line.split(maxsplit=1)) for line in str(raised.value).splitlines()[1:]]
    assert ("worker.claimed", "steps.ship.probe#1") in passed
    frozen = {what for point, what in passed if point in tuple(Frozen)}
    assert frozen == {"steps.ship#1 attempt 2"}


def test_a_frozen_step_that_beats_hears_then_that_it_was_fenced() -> None:
    heard: list[tuple[int, bool]] = []

    def beats(order: str) -> str:
        current.heartbeat()
        heard.append((current.attempt, current.fenced))
        return "paid"

    play(bought, "7", replace={**Outside().fakes, pay: beats}, crash_at=LATE_PAY)

    assert heard == [(2, False), (1, True)]


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
