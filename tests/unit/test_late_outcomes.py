"""Late outcomes: a fenced worker is the only witness of its effect, whatever the run has done meanwhile."""

from __future__ import annotations

import pytest

from saga import Context, Status, StepFailed
from saga.core.effects import RunTask
from saga.core.events import EventKind
from tests.unit.driven import Driven, define
from tests.unit.steps import charge, look, ship, stock


def one(ctx: Context, n: int) -> int:
    return ctx.run(stock, n)


def fallback(ctx: Context, n: int) -> int:
    try:
        return ctx.run(stock, n)
    except StepFailed:
        return ctx.run(charge, n)


def lost(run: Driven, name: str = "stock") -> RunTask:
    task = run.task(name)
    run.lose(name)
    return task


def test_a_late_success_settles_the_step_and_takes_the_next_attempt_back() -> None:
    run = Driven(define(one))
    task = lost(run)

    run.tell_late(task, 42)
    assert run.fenced == ["stock"]
    assert run.status is Status.RUNNING  # the second attempt may be at work: it is awaited

    run.never_start("stock")
    assert (run.status, run.state.result) == (Status.COMPLETED, "42")


def test_the_first_answer_stays_when_the_next_attempt_succeeds_too() -> None:
    def function(ctx: Context, n: int) -> list[int]:
        pending = ctx.start(stock, n)
        first = pending.result()
        ctx.run(look, n)
        return [first, pending.result()]

    run = Driven(define(function))
    run.tell_late(lost(run), 42).succeed("stock", 43).succeed("look")

    assert run.state.result == "[42,42]"


def test_a_late_success_while_a_retry_waits_forgets_the_timer() -> None:
    run = Driven(define(one))
    task = lost(run)
    run.unknown("stock")

    run.tell_late(task, 42)

    assert run.timers == {}
    assert run.status is Status.COMPLETED


def test_a_late_success_while_it_is_probed_settles_it() -> None:
    def function(ctx: Context, n: int) -> int:
        return ctx.run(ship, n)

    run = Driven(define(function))
    run.tell_late(lost(run, "ship"), 5).find_nothing("ship")

    assert (run.status, run.state.result) == (Status.COMPLETED, "5")


def test_a_late_success_frees_a_step_that_stood_as_poison() -> None:
    run = Driven(define(one))
    task = lost(run)
    for _ in range(4):
        run.lose("stock")
    assert run.status is Status.STALLED

    assert run.tell_late(task, 3).status is Status.COMPLETED


def test_a_late_success_during_the_undo_without_it_makes_the_undo_run_again_with_it() -> None:
    run = Driven(define(fallback))
    task = lost(run)
    run.refuse("stock")
    assert run.input_of("stock.compensate")["known"] is False

    run.tell_late(task, 42).undo("stock")

    assert run.input_of("stock.compensate")["result"] == 42
    assert run.status is Status.RUNNING
    assert run.undo("stock").succeed("charge").status is Status.COMPLETED


def test_a_late_success_before_the_next_attempt_of_the_undo_is_told_to_it() -> None:
    run = Driven(define(fallback))
    task = lost(run)
    run.refuse("stock").unknown("stock.compensate").tell_late(task, 42).fire()

    assert run.input_of("stock.compensate")["result"] == 42
    run.undo("stock").succeed("charge")
    assert run.status is Status.COMPLETED
    assert run.dispatched.count("stock.compensate") == 2


def test_a_late_success_after_the_undo_is_undone_again_and_the_run_waits_for_that() -> None:
    run = Driven(define(fallback))
    task = lost(run)
    run.refuse("stock")
    first = run.open["stock.compensate"].token
    run.undo("stock").tell_late(task, 42)
    assert run.input_of("stock.compensate")["result"] == 42
    assert run.open["stock.compensate"].token != first  # who remembers the first would only repeat its answer

    run.succeed("charge", 8)
    assert run.status is Status.RUNNING

    assert run.undo("stock").status is Status.COMPLETED


def test_a_run_does_not_complete_while_such_an_undo_waits_for_its_next_attempt() -> None:
    run = Driven(define(fallback))
    task = lost(run)
    run.refuse("stock").undo("stock").tell_late(task, 42).unknown("stock.compensate").succeed("charge", 8)

    assert run.status is Status.RUNNING
    assert run.fire().undo("stock").status is Status.COMPLETED


def test_a_run_does_not_complete_while_such_an_undo_stands_before_an_operator() -> None:
    run = Driven(define(fallback))
    task = lost(run)
    run.refuse("stock").undo("stock").tell_late(task, 42).abort("stock.compensate").succeed("charge", 8)

    assert run.status is Status.STALLED
    assert run.resolve("steps.stock#1").status is Status.COMPLETED


def test_a_late_success_while_the_run_goes_back_is_undone_with_its_result() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.gather(ctx.start(stock, n), ctx.start(charge, n))
        return n

    run = Driven(define(function))
    task = lost(run)
    run.abort("charge").tell_late(task, 42).never_start("stock")

    assert run.input_of("stock.compensate")["result"] == 42


def test_a_late_success_after_the_undo_of_a_run_that_goes_back_is_undone_again() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(charge, n)
        return ctx.run(stock, n)

    run = Driven(define(function)).succeed("charge")
    task = lost(run)
    run.refuse("stock").undo("stock")
    assert list(run.open) == ["charge.compensate"]

    run.tell_late(task, 42)
    assert set(run.open) == {"charge.compensate", "stock.compensate"}
    run.undo("charge")
    assert run.status is Status.COMPENSATING
    assert run.undo("stock").status is Status.COMPENSATED


def test_a_late_success_of_a_step_that_succeeded_and_was_undone_is_undone_once_more() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        return ctx.gather(ctx.start(charge, n), ctx.start(look, n))[0]

    run = Driven(define(function)).succeed("stock")
    task = lost(run, "charge")
    run.succeed("charge", 5).abort("look").undo("charge")
    assert list(run.open) == ["stock.compensate"]

    run.tell_late(task, 5)

    assert set(run.open) == {"stock.compensate", "charge.compensate"}
    run.undo("stock")
    assert run.undo("charge").status is Status.COMPENSATED


@pytest.mark.parametrize("kind", [EventKind.STEP_UNKNOWN, EventKind.STEP_REFUSED])
def test_what_may_have_landed_after_its_undo_is_undone_once_more(kind: EventKind) -> None:
    run = Driven(define(fallback))
    task = lost(run)
    run.refuse("stock").undo("stock").tell_late(task, {"type": "E", "message": "x"}, kind=kind)

    assert run.input_of("stock.compensate")["known"] is False
    assert run.undo("stock").succeed("charge").status is Status.COMPLETED


def test_late_failures_and_late_unknowns_change_nothing_while_the_step_is_open() -> None:
    for kind in (EventKind.STEP_FAILED, EventKind.STEP_UNKNOWN, EventKind.STEP_REFUSED, EventKind.STEP_POSTPONED):
        run = Driven(define(one))
        task = lost(run)
        run.tell_late(task, {"type": "E", "message": "x"}, kind=kind)

        assert list(run.open) == ["stock"]
        assert run.succeed("stock").status is Status.COMPLETED


def test_a_late_success_of_a_settled_step_changes_nothing() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        return ctx.run(look, n)

    run = Driven(define(function))
    task = lost(run)
    run.succeed("stock", 1).tell_late(task, 2)

    assert run.state.steps["steps.stock#1"].result == "1"
    assert list(run.open) == ["look"]


def test_the_log_remembers_who_spoke_so_that_nobody_is_heard_twice() -> None:
    run = Driven(define(one))
    task = lost(run)
    run.tell_late(task, 42)

    assert run.last(EventKind.OUTCOME_LATE).claimant in run.state.claimants


def test_an_outcome_of_another_attempt_than_the_one_in_flight_is_only_written_down() -> None:
    run = Driven(define(one))
    run.lose("stock")
    second = run.open["stock"]

    run.feed(EventKind.STEP_SUCCEEDED, token=second.token, attempt=1, payload='{"value":9}', claimant=run.claimant())

    assert list(run.open) == ["stock"]
    assert run.status is Status.RUNNING


def test_a_timer_that_was_cancelled_while_it_fired_changes_nothing() -> None:
    run = Driven(define(one)).unknown("stock").fire().succeed("stock").log
    assert run[-1].kind is EventKind.RUN_COMPLETED

    other = Driven(define(fallback)).unknown("stock")
    other.fire()
    other.feed(EventKind.TIMER_FIRED, key="action:steps.stock#1")
    assert list(other.open) == ["stock"]
