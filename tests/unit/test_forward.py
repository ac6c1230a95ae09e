"""The verbs that go forward: gather, first, pivot, and what a run waits for before it completes."""

from __future__ import annotations

import pytest

from saga import Abort, Context, StallReason, Status, StepFailed
from saga.core.events import EventKind
from tests.unit.driven import Driven, define
from tests.unit.steps import charge, look, mail, ship, stock

# -- gather --------------------------------------------------------------------------------------------------------


def test_gather_returns_the_results_in_its_own_order() -> None:
    def function(ctx: Context, n: int) -> list[int]:
        return list(ctx.gather(ctx.start(stock, n), ctx.start(charge, n), ctx.start(look, n)))

    run = Driven(define(function)).succeed("look", 3).succeed("stock", 1).succeed("charge", 2)

    assert (run.status, run.state.result) == (Status.COMPLETED, "[1,2,3]")


def test_gather_raises_the_first_failure_at_once() -> None:
    def function(ctx: Context, n: int) -> str:
        slow = ctx.start(ship, n)
        try:
            ctx.gather(slow, ctx.start(look, n))
        except StepFailed as failed:
            return failed.reason
        return "none"

    run = Driven(define(function)).abort("look", "nothing there")

    assert run.status is Status.RUNNING  # ship is not settled: a run awaits what it started
    assert run.succeed("ship").state.result == '"nothing there"'


def test_gather_of_nothing_is_empty() -> None:
    def function(ctx: Context, n: int) -> int:
        return len(ctx.gather())

    assert Driven(define(function)).state.result == "0"


def test_a_gather_wakes_the_function_once_however_many_it_waits_for() -> None:
    woken = []

    def function(ctx: Context, n: int) -> int:
        pendings = [ctx.start(look, i) for i in range(50)]
        total = sum(ctx.gather(*pendings))
        woken.append(total)
        return total

    run = Driven(define(function), replays=False)
    for number in range(50):
        run.succeed("look" if number == 0 else f"look#{number + 1}", 1)

    assert (run.status, woken) == (Status.COMPLETED, [50])


# -- first ---------------------------------------------------------------------------------------------------------


def race(ctx: Context, n: int) -> str:
    a, b = ctx.start(stock, n), ctx.start(charge, n)
    winner = ctx.first(a, b)
    return f"{'a' if winner is a else 'b'}{winner.result()}"


def test_first_returns_the_winner_and_the_unclaimed_loser_is_taken_back() -> None:
    run = Driven(define(race)).succeed("charge", 7)
    assert run.fenced == ["stock"]
    assert run.status is Status.RUNNING

    run.never_start("stock")

    assert (run.status, run.state.result) == (Status.COMPLETED, '"b7"')
    assert run.dispatched == ["stock", "charge"]


def test_a_loser_that_lands_after_all_is_undone_and_the_run_waits_for_that() -> None:
    run = Driven(define(race)).succeed("charge", 7).succeed("stock", 3)
    assert run.input_of("stock.compensate")["result"] == 3
    assert run.status is Status.RUNNING

    assert run.undo("stock").status is Status.COMPLETED


def test_a_loser_whose_end_is_unknown_is_undone() -> None:
    run = Driven(define(race)).succeed("charge", 7).lose("stock")

    assert run.input_of("stock.compensate")["known"] is False
    assert run.undo("stock").status is Status.COMPLETED


def test_a_loser_whose_undo_gives_up_stalls_the_run_until_it_is_resolved() -> None:
    run = Driven(define(race)).succeed("charge").succeed("stock").abort("stock.compensate")
    assert run.stall_reason is StallReason.COMPENSATION_GAVE_UP

    assert run.resolve("steps.stock#1").status is Status.COMPLETED


def test_a_loser_whose_undo_waits_for_its_next_attempt_holds_the_run_up() -> None:
    run = Driven(define(race)).succeed("charge").succeed("stock").unknown("stock.compensate")

    assert run.status is Status.RUNNING
    assert run.fire().undo("stock").status is Status.COMPLETED


def test_a_loser_that_stood_before_an_operator_is_given_up_when_another_wins() -> None:
    run = Driven(define(race))
    for _ in range(5):
        run.lose("stock")
    assert run.stall_reason is StallReason.POISON_STEP

    run.succeed("charge")

    assert run.undo("stock").status is Status.COMPLETED


def test_the_failure_of_a_contender_is_no_news_while_another_may_win() -> None:
    run = Driven(define(race)).abort("stock").succeed("charge", 2)

    assert (run.status, run.state.result) == (Status.COMPLETED, '"b2"')


def test_when_all_fail_the_last_failure_is_raised() -> None:
    def function(ctx: Context, n: int) -> str:
        try:
            ctx.first(ctx.start(stock, n), ctx.start(charge, n))
        except StepFailed as failed:
            return failed.reason
        return "won"

    run = Driven(define(function)).abort("stock", "one").abort("charge", "two")

    assert run.state.result == '"two"'


def test_when_the_run_is_undone_the_winner_is_undone_and_the_loser_not_twice() -> None:
    def function(ctx: Context, n: int) -> int:
        race(ctx, n)
        return ctx.run(look, n)

    run = Driven(define(function)).succeed("charge").succeed("stock").undo("stock").abort("look").undo("charge")

    assert run.status is Status.COMPENSATED
    assert run.dispatched.count("stock.compensate") == 1


def test_the_result_of_a_loser_is_a_failure_also_in_a_gather_and_in_another_race() -> None:
    def function(ctx: Context, n: int) -> str:
        a, b, c = ctx.start(stock, n), ctx.start(charge, n), ctx.start(look, n)
        ctx.first(a, b)
        told = []
        for ask in (b.result, lambda: ctx.gather(a, b)):
            try:
                ask()
            except StepFailed as failed:
                told.append(failed.reason)
        winner = ctx.first(b, c)
        return f"{told} {winner is c}"

    run = Driven(define(function)).succeed("stock").succeed("charge").undo("charge").succeed("look")

    taken_back = "it lost a `first` and was taken back"
    assert run.state.result == f"\"['{taken_back}', '{taken_back}'] True\""
    assert run.dispatched.count("charge.compensate") == 1


def test_first_after_the_pivot_is_refused_with_its_reason() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.pivot()
        return ctx.first(ctx.start(stock, n)).result()

    run = Driven(define(function))

    assert run.stall_reason is StallReason.SAGA_BUG
    assert "race before the pivot" in (run.last(EventKind.RUN_STALLED).payload or "")


def test_first_of_nothing_is_refused() -> None:
    def function(ctx: Context, n: int) -> int:
        return int(ctx.first().result())

    assert "at least one pending" in (Driven(define(function)).last(EventKind.RUN_STALLED).payload or "")


# -- pivot ---------------------------------------------------------------------------------------------------------


def with_pivot(ctx: Context, n: int) -> int:
    ctx.run(stock, n)
    ctx.pivot()
    return ctx.run(charge, n)


def past_pivot() -> Driven:
    return Driven(define(with_pivot)).succeed("stock")


def test_after_the_pivot_a_step_is_asked_again_by_policy() -> None:
    run = past_pivot().unknown("charge").fire().roll_back("charge").fire().succeed("charge", 4)

    assert (run.status, run.state.result) == (Status.COMPLETED, "4")


@pytest.mark.parametrize("how", ["abort", "refuse"])
def test_after_the_pivot_a_failure_stalls_and_nothing_is_undone(how: str) -> None:
    run = past_pivot()
    getattr(run, how)("charge")

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.FAILED_AFTER_PIVOT)
    assert run.open == {}


def test_after_the_pivot_a_step_whose_attempts_are_used_up_stalls() -> None:
    run = past_pivot().unknown("charge").fire().unknown("charge").fire().unknown("charge")

    assert run.stall_reason is StallReason.FAILED_AFTER_PIVOT


def test_a_stalled_step_after_the_pivot_is_asked_again_with_its_whole_budget() -> None:
    run = past_pivot().abort("charge").retry()
    assert run.status is Status.RUNNING
    run.unknown("charge").fire().unknown("charge").fire()

    assert run.succeed("charge").status is Status.COMPLETED


def test_after_the_pivot_an_unknown_step_is_probed_when_an_operator_retries_it() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.pivot()
        return ctx.run(ship, n)

    run = Driven(define(function)).lose("ship").find_nothing("ship").abort("ship")
    assert run.stall_reason is StallReason.FAILED_AFTER_PIVOT

    run.retry()
    assert list(run.open) == ["ship.probe"]
    assert run.find("ship").status is Status.COMPLETED


def test_an_operators_retry_gives_the_probe_its_attempts_again_too() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.pivot()
        return ctx.run(ship, n)

    run = Driven(define(function)).lose("ship")
    run.unknown("ship.probe").fire().unknown("ship.probe").fire().unknown("ship.probe")
    assert run.stall_reason is StallReason.FAILED_AFTER_PIVOT

    run.retry().unknown("ship.probe")

    assert run.status is Status.RUNNING
    assert "probe:steps.ship#1" in run.timers


def test_the_pivot_waits_for_what_was_started_before_it() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.start(stock, n)
        ctx.pivot()
        return ctx.run(charge, n)

    run = Driven(define(function))
    assert EventKind.PIVOT_PASSED not in run.kinds()

    assert EventKind.PIVOT_PASSED in run.succeed("stock").kinds()


def test_the_pivot_raises_what_failed_unseen_and_the_run_goes_back() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.start(stock, n)
        ctx.run(look, n)
        ctx.pivot()
        return ctx.run(charge, n)

    run = Driven(define(function)).abort("stock").succeed("look")

    assert run.status is Status.COMPENSATED
    assert EventKind.PIVOT_PASSED not in run.kinds()


def test_a_second_pivot_is_refused() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.pivot()
        ctx.pivot()
        return n

    assert "called twice" in (Driven(define(function)).last(EventKind.RUN_STALLED).payload or "")


def test_abort_leaving_the_function_after_the_pivot_stalls() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        ctx.pivot()
        raise Abort("too late")

    run = Driven(define(function)).succeed("stock")

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.FAILED_AFTER_PIVOT)
    assert run.open == {}


def test_cancel_after_the_pivot_is_refused_and_the_log_says_why() -> None:
    run = past_pivot().cancel()

    assert run.status is Status.RUNNING
    assert "past its pivot" in (run.last(EventKind.CANCEL_REFUSED).payload or "")
    assert run.succeed("charge").status is Status.COMPLETED


# -- the end -------------------------------------------------------------------------------------------------------


def test_a_run_completes_only_when_all_it_started_is_settled() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.start(mail, n)
        return n

    run = Driven(define(function))
    assert run.status is Status.RUNNING

    assert run.succeed("mail", None).status is Status.COMPLETED


def test_a_failure_that_nobody_looked_at_undoes_the_run() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.start(mail, n)
        ctx.run(stock, n)
        return n

    run = Driven(define(function)).succeed("stock").abort("mail")

    assert list(run.open) == ["stock.compensate"]


def test_a_failure_that_was_seen_may_be_ignored() -> None:
    def function(ctx: Context, n: int) -> int:
        pending = ctx.start(mail, n)
        try:
            pending.result()
        except StepFailed:
            return -1
        return n

    run = Driven(define(function)).abort("mail")

    assert (run.status, run.state.result) == (Status.COMPLETED, "-1")


def test_settled_tells_without_waiting() -> None:
    def function(ctx: Context, n: int) -> str:
        pending = ctx.start(stock, n)
        before = pending.settled
        pending.result()
        return f"{before} {pending.settled} {pending!r}"

    assert Driven(define(function)).succeed("stock").state.result == '"False True <pending steps.stock#1>"'


def test_now_is_the_time_of_what_the_function_was_woken_for() -> None:
    seen = []

    def function(ctx: Context, n: int) -> str:
        seen.append(ctx.now())
        ctx.run(stock, n)
        seen.append(ctx.now())
        return ctx.key

    run = Driven(define(function), replays=False).succeed("stock")

    assert seen == [run.log[0].at, run.log[2].at]
    assert run.state.result == '"order-7"'
