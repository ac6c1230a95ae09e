"""Plays of what waits: signals that are scripted, weeks of timers, children, locks; and all of it killed everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from saga import (
    Abort,
    Cause,
    ChildFailed,
    Context,
    LockTaken,
    Signal,
    SignalTimeout,
    Status,
    Update,
    UpdateRefused,
    ValueRefused,
    current,
    saga,
)
from saga.core.errors import UnknownSignal
from saga.testing import Played, every_crash_point, play, record, replay, send
from tests.unit.steps import charge, look, mail, refund, ship, stock, unstock

pytestmark = pytest.mark.usefixtures("own_declarations")

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Approved:
    by: str
    kind: str = "approved"


@dataclass(frozen=True)
class Signed:
    page: int


decision = Signal("decision", Approved)
signed = Signal("signed", Signed)
limit: Update[int, str] = Update("limit", int, str)


@saga("lending", signals=[decision, signed, limit])
def lending(ctx: Context, n: int) -> str:
    ctx.run(stock, n)
    ctx.set_state("waits for a decision")
    approved = ctx.wait_signal(decision, timeout=30 * DAY)
    page = reminders = 0
    while not page:
        ctx.set_state({"reminders": reminders})
        try:
            page = ctx.wait_signal(signed, timeout=5 * DAY).page
        except SignalTimeout:
            ctx.run(mail, n)
            reminders += 1
    ctx.run(charge, n)
    return f"{approved.by}, page {page}, {reminders} reminders"


@saga("limits", signals=[limit])
def limits(ctx: Context, n: int) -> int:
    for _ in range(2):
        request = ctx.wait_signal(limit)
        if request.value > 10:
            request.refuse("too much")
        else:
            request.answer(f"{request.value} it is")
    return n


@saga("part")
def part(ctx: Context, n: int) -> int:
    return ctx.run(charge, n)


@saga("whole")
def whole(ctx: Context, n: int) -> int:
    ctx.lock(f"shelf {n}")
    ctx.run(stock, n)
    first, second = ctx.gather(ctx.start_child(part, n), ctx.start_child(part, n + 1))
    ctx.run(look, n)
    return first + second


@saga("keen")
def keen(ctx: Context, n: int) -> str:
    try:
        ctx.lock("shelf", wait=False)
    except LockTaken as error:
        return error.reason
    return "mine"


@saga("jealous")
def jealous(ctx: Context, n: int) -> str:
    ctx.lock("shelf")
    return ctx.child(keen, n)


def test_weeks_of_waiting_take_milliseconds() -> None:
    signals = [send(decision, Approved("Ada"), at=30 * DAY), send(signed, Signed(7), at=47 * DAY)]
    ended = play(lending, 3, signals=signals)

    assert ended.result == "Ada, page 7, 3 reminders"
    assert ended.elapsed == 47 * DAY
    assert ended.state == {"reminders": 3}


def test_a_lease_runs_from_the_moment_of_the_claim() -> None:
    signals = [send(decision, Approved("Ada"), at=DAY), send(signed, Signed(7), at=2 * DAY)]

    ended = play(lending, 3, signals=signals, crash_at="worker.ran steps.charge#1")

    assert ended.elapsed == 2 * DAY + timedelta(seconds=70)


def test_a_play_starts_when_it_is_told() -> None:
    new_year = datetime(2030, 1, 1, tzinfo=UTC)

    ended = play(lending, 3, signals=[send(decision, Approved("Ada"), at=60), send(signed, Signed(1))], now=new_year)

    assert (ended.started_at, ended.ended_at) == (new_year, new_year + timedelta(seconds=60))
    with pytest.raises(ValueRefused, match="no time zone"):
        play(lending, 3, now=datetime(2030, 1, 1))  # noqa: DTZ001 - that is what is refused


def test_a_signal_without_a_time_comes_when_the_run_waits_for_it() -> None:
    ended = play(lending, 3, signals=[send(signed, Signed(7)), send(decision, Approved("Ada"))])

    assert ended.result == "Ada, page 7, 0 reminders"
    assert ended.elapsed == timedelta()


def test_a_signal_that_comes_early_is_kept() -> None:
    ended = play(lending, 3, signals=[send(signed, Signed(7), at=0), send(decision, Approved("Ada"), at=DAY)])

    assert ended.result == "Ada, page 7, 0 reminders"
    assert ended.elapsed == DAY


def test_a_signal_that_does_not_come_in_time_undoes_the_run() -> None:
    ended = play(lending, 3, signals=[send(decision, Approved("Ada"), at=31 * DAY)])

    assert (ended.status, ended.cause, ended.elapsed) == (Status.COMPENSATED, Cause.FAILED, 30 * DAY)
    assert ended.effects[-1] == "steps.stock.compensate"
    assert "decision" in ended.reason


def test_a_run_that_nobody_tells_anything_is_left_waiting() -> None:
    ended = play(limits, 3)

    assert (ended.status, ended.result) == (Status.RUNNING, None)


def test_a_run_may_be_cancelled_in_the_middle_of_a_wait() -> None:
    ended = play(lending, 3, signals=[send(decision, Approved("Ada"), at=DAY)], cancel_after=12 * DAY)

    assert (ended.status, ended.cause, ended.elapsed) == (Status.COMPENSATED, Cause.CANCELLED, 12 * DAY)
    assert ended.effects.count("steps.mail") == 2


def test_updates_are_answered_in_a_play() -> None:
    ended = play(limits, 3, signals=[send(limit, 7), send(limit, 11, at=60)])

    said, refused = ended.answers
    assert said == "7 it is"
    assert isinstance(refused, UpdateRefused)
    assert str(refused) == "too much"


def test_a_signal_that_the_saga_does_not_declare_is_refused() -> None:
    with pytest.raises(UnknownSignal, match=r"limits declares no signal 'decision' \(it declares: limit\)"):
        play(limits, 3, signals=[send(decision, Approved("Ada"))])
    with pytest.raises(ValueRefused):
        play(limits, 3, signals=[send(limit, "seven")])  # type: ignore[misc]


def test_children_run_too_and_are_undone_with_their_parent() -> None:
    ended = play(whole, 3)
    undone = play(whole, 3, replace={look: Abort("dark")})

    assert ended.result == 70
    assert ended.effects.count("steps.charge") == 2
    assert undone.status is Status.COMPENSATED
    assert undone.effects[-3:] == ("steps.charge.compensate", "steps.charge.compensate", "steps.stock.compensate")


def test_a_child_that_fails_is_told_to_its_parent() -> None:
    @saga("forgiving")
    def forgiving(ctx: Context, n: int) -> str:
        try:
            ctx.child(part, n)
        except ChildFailed as error:
            return error.reason
        return "fine"

    assert "declined" in play(forgiving, 3, replace={charge: Abort("declined")}).result


def test_a_child_with_the_key_of_another_run_is_refused() -> None:
    @saga("twins")
    def twins(ctx: Context, n: int) -> int:
        return sum(ctx.gather(*(ctx.start_child(part, n, id="the same") for _ in range(2))))

    ended = play(twins, 3)

    assert ended.status is Status.COMPENSATED
    assert "is another run" in ended.reason


def test_a_lock_is_held_against_the_other_runs_of_a_play() -> None:
    assert play(keen, 3).result == "mine"
    assert play(jealous, 3).result == "it is held by another run"


@dataclass(slots=True)
class Till:
    """What the steps did and was not undone, by token. What was undone once is not done again."""

    standing: dict[str, str] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)

    def forget(self) -> None:
        self.standing.clear()
        self.undone.clear()

    def take(self, n: int) -> int:
        if current.token in self.undone:
            raise Abort("it was undone")
        self.standing[current.token] = current.run
        return n

    def give_back(self, result: int | None, n: int) -> None:
        self.standing.pop(current.action_token, None)
        self.undone.add(current.action_token)

    @property
    def fakes(self) -> dict[Any, Any]:
        return {stock: self.take, charge: self.take, unstock: self.give_back, refund: self.give_back}


def test_a_run_with_signals_and_timers_holds_at_every_crash_point() -> None:
    till = Till()

    def all_or_nothing(played: Played) -> None:
        assert played.status in (Status.COMPLETED, Status.COMPENSATED)
        assert len(till.standing) == (2 if played.status is Status.COMPLETED else 0)

    signals = [send(decision, Approved("Ada"), at=DAY), send(signed, Signed(7), at=9 * DAY)]
    tried = every_crash_point(
        lending, 3, invariant=all_or_nothing, before=till.forget, replace=till.fakes, signals=signals
    )

    assert tried > 60


def test_a_run_with_children_and_locks_holds_at_every_crash_point() -> None:
    till = Till()

    def all_or_nothing(played: Played) -> None:
        assert played.status in (Status.COMPLETED, Status.COMPENSATED)
        assert len(till.standing) == (3 if played.status is Status.COMPLETED else 0)

    tried = every_crash_point(whole, 3, invariant=all_or_nothing, before=till.forget, replace=till.fakes)

    assert tried > 100
    alone = play(whole, 3, replace=till.fakes, crash_at="worker.ran steps.charge#1 of part/whole/play#1")
    assert alone.effects.count("steps.charge") == 3


def test_histories_with_signals_timers_and_children_are_followed() -> None:
    signals = [send(decision, Approved("Ada"), at=DAY), send(signed, Signed(7), at=9 * DAY)]

    replay(lending, record(play(lending, 3, signals=signals)))
    replay(lending, record(play(lending, 3, signals=signals, cancel_after=7 * DAY)))
    replay(whole, record(play(whole, 3)))
    replay(whole, record(play(whole, 3, replace={ship: 1, look: Abort("dark")})))
