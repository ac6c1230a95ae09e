"""Undo: when a run turns round, in which order it goes back, and what it waits for first."""

from __future__ import annotations

from saga import Abort, Cause, Context, StallReason, Status, StepFailed
from saga.core.events import EventKind
from tests.unit.driven import Driven, define
from tests.unit.steps import book, charge, hurry, look, ship, stock


def three(ctx: Context, n: int) -> int:
    ctx.run(stock, n)
    ctx.run(charge, n)
    ctx.run(ship, n)
    return ctx.run(look, n)


def beside(ctx: Context, n: int) -> int:
    """Stock first, then charge and ship side by side, then look."""
    ctx.run(stock, n)
    ctx.gather(ctx.start(charge, n), ctx.start(ship, n))
    return ctx.run(look, n)


def test_what_stands_is_undone_in_the_reverse_order_of_start() -> None:
    run = Driven(define(three)).succeed("stock").succeed("charge").succeed("ship").abort("look")

    for name in ("ship", "charge", "stock"):
        assert list(run.open) == [f"{name}.compensate"]
        run.undo(name)
    assert run.status is Status.COMPENSATED
    assert run.state.cause is Cause.FAILED
    assert run.statuses == [Status.RUNNING, Status.COMPENSATING, Status.COMPENSATED]


def test_an_older_step_waits_while_a_newer_undo_is_asked_again() -> None:
    run = Driven(define(three)).succeed("stock").succeed("charge").succeed("ship").abort("look")

    run.unknown("ship.compensate").fire()

    assert list(run.open) == ["ship.compensate"]


def test_branches_that_ran_side_by_side_are_undone_side_by_side() -> None:
    run = Driven(define(beside)).succeed("stock").succeed("ship").succeed("charge").abort("look")

    assert set(run.open) == {"charge.compensate", "ship.compensate"}
    run.undo("charge")
    assert list(run.open) == ["ship.compensate"]
    run.undo("ship")
    assert list(run.open) == ["stock.compensate"]


def test_steps_that_overlapped_only_in_part_keep_the_order_that_there_was() -> None:
    def function(ctx: Context, n: int) -> int:
        early = ctx.start(stock, n)
        ctx.run(charge, n)
        ctx.run(ship, n)
        early.result()
        return ctx.run(look, n)

    run = Driven(define(function)).succeed("charge").succeed("ship").succeed("stock").abort("look")

    assert set(run.open) == {"ship.compensate", "stock.compensate"}
    run.undo("stock")
    assert list(run.open) == ["ship.compensate"]
    run.undo("ship")
    assert list(run.open) == ["charge.compensate"]


def test_siblings_in_flight_are_fenced_and_awaited_before_anything_is_undone() -> None:
    run = Driven(define(beside)).succeed("stock").abort("charge")

    assert run.status is Status.COMPENSATING
    assert run.fenced == ["ship"]
    assert list(run.open) == ["ship"]


def test_a_sibling_that_lands_after_the_turn_is_undone_too() -> None:
    run = Driven(define(beside)).succeed("stock").abort("charge").succeed("ship", 9)

    assert run.input_of("ship.compensate")["result"] == 9
    run.undo("ship")
    assert run.undo("stock").status is Status.COMPENSATED


def test_a_sibling_that_was_taken_back_unclaimed_is_not_undone() -> None:
    run = Driven(define(beside)).succeed("stock").abort("charge").never_start("ship")

    assert list(run.open) == ["stock.compensate"]


def test_a_sibling_whose_end_is_unknown_is_neither_asked_again_nor_probed_but_undone() -> None:
    run = Driven(define(beside)).succeed("stock").abort("charge").lose("ship")

    assert run.input_of("ship.compensate")["known"] is False


def test_a_sibling_that_waits_for_its_next_attempt_gets_none() -> None:
    run = Driven(define(beside)).succeed("stock").unknown("ship").abort("charge")

    assert run.timers == {}
    assert list(run.open) == ["ship.compensate"]


def test_a_sibling_that_is_being_probed_is_awaited() -> None:
    run = Driven(define(beside)).succeed("stock").lose("ship").abort("charge")
    assert run.fenced == ["ship.probe"]

    run.find("ship", 4)

    assert run.input_of("ship.compensate")["result"] == 4


def test_a_failed_step_leaves_its_siblings_alone_until_the_function_ends() -> None:
    def function(ctx: Context, n: int) -> int:
        sibling = ctx.start(ship, n)
        try:
            return ctx.run(charge, n)
        except StepFailed:
            return sibling.result()

    run = Driven(define(function)).abort("charge").succeed("ship", 5)

    assert (run.status, run.state.result) == (Status.COMPLETED, "5")
    assert run.fenced == []


def test_abort_in_the_saga_function_undoes_what_stands() -> None:
    def function(ctx: Context, n: int) -> int:
        if ctx.run(stock, n) > 3:
            raise Abort("too many")
        return n

    run = Driven(define(function)).succeed("stock", 4)

    assert "too many" in (run.state.failure or "")
    assert run.undo("stock").status is Status.COMPENSATED


def test_a_fallback_starts_only_when_the_unknown_step_is_undone() -> None:
    def function(ctx: Context, n: int) -> int:
        try:
            return ctx.run(stock, n)
        except StepFailed:
            return ctx.run(charge, n)

    run = Driven(define(function)).refuse("stock")
    assert list(run.open) == ["stock.compensate"]

    run.undo("stock").succeed("charge", 8)

    assert (run.status, run.state.result) == (Status.COMPLETED, "8")


def test_what_was_undone_for_a_fallback_is_not_undone_again() -> None:
    def function(ctx: Context, n: int) -> int:
        try:
            ctx.run(stock, n)
        except StepFailed:
            ctx.run(charge, n)
        return ctx.run(look, n)

    run = Driven(define(function)).refuse("stock").undo("stock").succeed("charge").abort("look").undo("charge")

    assert run.status is Status.COMPENSATED
    assert run.dispatched.count("stock.compensate") == 1


def test_a_compensation_that_gives_up_stalls_the_run_while_the_others_go_on() -> None:
    run = Driven(define(beside)).succeed("stock").succeed("ship").succeed("charge").abort("look")

    run.abort("ship.compensate")
    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.COMPENSATION_GAVE_UP)
    run.undo("charge")

    assert run.open == {}  # stock came before ship: it is undone after it
    run.resolve("steps.ship#1")
    assert run.undo("stock").status is Status.COMPENSATED


def test_a_run_that_did_nothing_is_compensated_at_once() -> None:
    def function(ctx: Context, n: int) -> int:
        raise Abort("no")

    run = Driven(define(function))

    assert run.kinds() == [
        EventKind.RUN_STARTED,
        EventKind.RUN_FAILED,
        EventKind.RUN_COMPENSATING,
        EventKind.RUN_COMPENSATED,
    ]


def test_steps_without_a_compensation_stand_and_hold_nobody_up() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        ctx.run(look, n)
        return ctx.run(charge, n)

    run = Driven(define(function)).succeed("stock").succeed("look").abort("charge")

    assert list(run.open) == ["stock.compensate"]


def test_the_runs_timeout_undoes_it_and_says_so() -> None:
    run = Driven(define(three, timeout=60)).succeed("stock").fire("timeout").never_start("charge")

    assert run.state.cause is Cause.TIMED_OUT
    assert run.undo("stock").status is Status.COMPENSATED


def test_the_timeout_is_forgotten_when_the_run_turns_round_or_passes_its_pivot() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        ctx.pivot()
        return ctx.run(look, n)

    forward = Driven(define(function, timeout=60)).succeed("stock")
    back = Driven(define(three, timeout=60)).succeed("stock").abort("charge")

    assert forward.timers == back.timers == {}


def test_a_deadline_behind_the_turn_changes_nothing() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.start(hurry, n)
        return ctx.run(charge, n)

    run = Driven(define(function)).abort("charge").fire("deadline:steps.hurry#1").lose("hurry").undo("hurry")

    assert run.status is Status.COMPENSATED


def test_two_occurrences_of_a_step_are_two_steps() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, 1)
        ctx.run(stock, 2)
        return ctx.run(look, n)

    run = Driven(define(function)).succeed("stock", 10).succeed("stock#2", 20).abort("look")

    assert run.input_of("stock#2.compensate")["result"] == 20
    run.undo("stock#2")
    assert run.input_of("stock.compensate")["result"] == 10


def test_a_transactional_step_that_was_lost_left_nothing_and_is_not_undone() -> None:
    def function(ctx: Context, n: int) -> int:
        return ctx.run(book, n)

    run = Driven(define(function)).lose("book").abort("book")

    assert run.status is Status.COMPENSATED
    assert "book.compensate" not in run.dispatched


def test_another_step_that_was_lost_is_undone_without_a_result() -> None:
    def function(ctx: Context, n: int) -> int:
        return ctx.run(stock, n)

    run = Driven(define(function)).lose("stock").abort("stock")

    assert list(run.open) == ["stock.compensate"]
