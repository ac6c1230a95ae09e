"""What clients and operators ask of a run: cancel, terminate, retry and resolve, in each state that it can be in."""

from __future__ import annotations

import pytest

from saga import Cause, Context, StallReason, Status, StepFailed
from saga.core.events import EventKind
from saga.core.policy import LOST_MAX, NOT_RUN_MAX
from tests.unit.driven import Driven, define
from tests.unit.steps import charge, look, ship, stock


def two(ctx: Context, n: int) -> int:
    ctx.run(stock, n)
    return ctx.run(charge, n)


def in_flight() -> Driven:
    return Driven(define(two)).succeed("stock")


def waiting() -> Driven:
    return in_flight().unknown("charge")


def compensating() -> Driven:
    return in_flight().abort("charge")


def stalled_undo() -> Driven:
    return compensating().abort("stock.compensate")


def poisoned() -> Driven:
    run = in_flight()
    for _ in range(LOST_MAX):
        run.lose("charge")
    return run


def not_decoded() -> Driven:
    run = in_flight()
    for _ in range(NOT_RUN_MAX - 1):
        run.not_run("charge").fire()
    return run.not_run("charge")


def buggy() -> Driven:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        raise ValueError("a bug")

    return Driven(define(function)).succeed("stock")


# -- cancel --------------------------------------------------------------------------------------------------------


def test_cancel_takes_back_what_nobody_claimed_and_undoes_the_rest() -> None:
    run = in_flight().cancel()
    assert run.fenced == ["charge"]

    run.never_start("charge").undo("stock")

    assert (run.status, run.state.cause) == (Status.COMPENSATED, Cause.CANCELLED)
    assert EventKind.CANCEL_REFUSED not in run.kinds()


def test_cancel_awaits_a_claimed_attempt_and_undoes_what_it_did() -> None:
    run = in_flight().cancel().succeed("charge", 9)
    assert list(run.open) == ["charge.compensate"]

    assert run.undo("charge").undo("stock").status is Status.COMPENSATED


def test_cancel_while_a_retry_waits_forgets_the_timer() -> None:
    run = waiting().cancel()

    assert run.timers == {}
    assert list(run.open) == ["charge.compensate"]


def test_cancel_while_undoing_is_refused_and_the_cause_stays() -> None:
    run = compensating().cancel()

    assert "undone already" in (run.last(EventKind.CANCEL_REFUSED).payload or "")
    assert (run.status, run.state.cause) == (Status.COMPENSATING, Cause.FAILED)


def test_cancel_twice_undoes_once() -> None:
    run = in_flight().cancel().cancel().never_start("charge").undo("stock")

    assert run.status is Status.COMPENSATED
    assert run.count(EventKind.RUN_COMPENSATING) == 1


@pytest.mark.parametrize("stalled", [poisoned, not_decoded])
def test_cancel_of_a_run_with_a_stuck_step_undoes_it(stalled: object) -> None:
    run = stalled()  # type: ignore[operator]
    assert run.status is Status.STALLED

    run.cancel()
    if "charge.compensate" in run.open:
        run.undo("charge")

    assert run.undo("stock").status is Status.COMPENSATED


def test_an_input_that_was_never_decoded_is_not_undone_by_a_cancel_either() -> None:
    assert list(not_decoded().cancel().open) == ["stock.compensate"]


def test_a_poisoned_step_may_have_landed_and_is_undone_by_a_cancel() -> None:
    assert list(poisoned().cancel().open) == ["charge.compensate"]


def test_cancel_of_a_run_with_a_bug_in_its_function_undoes_it_without_the_function() -> None:
    run = buggy()
    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.SAGA_BUG)

    run.reload(fold_only=True).cancel()

    assert run.undo("stock").status is Status.COMPENSATED


# -- terminate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [in_flight, waiting, compensating, stalled_undo, poisoned, not_decoded])
def test_terminate_ends_the_run_where_it_stands_and_undoes_nothing(state: object) -> None:
    run = state()  # type: ignore[operator]
    in_the_air = list(run.open)

    run.terminate()

    assert run.status is Status.TERMINATED
    assert run.log[-1].kind is EventKind.RUN_TERMINATED
    assert run.killed == in_the_air
    assert run.timers == {}


def test_terminate_ends_a_run_with_a_bug_too() -> None:
    assert buggy().reload(fold_only=True).terminate().status is Status.TERMINATED


# -- retry ---------------------------------------------------------------------------------------------------------


def test_retry_gives_a_stuck_compensation_its_attempts_again() -> None:
    run = stalled_undo().retry()
    assert run.status is Status.COMPENSATING

    run.unknown("stock.compensate").fire()

    assert run.undo("stock").status is Status.COMPENSATED


def test_retry_may_name_one_of_several_stuck_steps() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.gather(ctx.start(stock, n), ctx.start(charge, n))
        return ctx.run(look, n)

    run = Driven(define(function)).succeed("stock").succeed("charge").abort("look")
    run.abort("stock.compensate").abort("charge.compensate")
    run.retry("steps.charge#1")

    assert list(run.open) == ["charge.compensate"]
    assert run.status is Status.STALLED
    assert run.undo("charge").retry().undo("stock").status is Status.COMPENSATED


def test_retry_of_a_poisoned_step_asks_it_again() -> None:
    run = poisoned().retry()
    assert run.open["charge"].attempt == LOST_MAX + 1

    assert run.succeed("charge").status is Status.COMPLETED


def test_retry_of_an_undecoded_step_asks_it_again() -> None:
    assert not_decoded().retry().succeed("charge").status is Status.COMPLETED


def test_retry_of_a_poisoned_probe_probes_again() -> None:
    def function(ctx: Context, n: int) -> int:
        return ctx.run(ship, n)

    run = Driven(define(function)).lose("ship")
    for _ in range(LOST_MAX):
        run.lose("ship.probe")

    assert run.retry().find("ship").status is Status.COMPLETED


def test_retry_of_a_run_that_does_not_stand_changes_nothing() -> None:
    run = in_flight().retry()

    assert run.dispatched == ["stock", "charge"]
    assert run.status is Status.RUNNING


# -- resolve -------------------------------------------------------------------------------------------------------


def test_resolving_a_stuck_compensation_counts_as_undone() -> None:
    run = stalled_undo().resolve("steps.stock#1")

    assert run.status is Status.COMPENSATED
    assert run.open == {}


def test_resolving_a_stuck_action_gives_the_function_its_result() -> None:
    run = poisoned().resolve("steps.charge#1", 77)

    assert (run.status, run.state.result) == (Status.COMPLETED, "77")


def test_resolving_the_undo_of_an_unknown_step_lets_the_fallback_go_on() -> None:
    def function(ctx: Context, n: int) -> int:
        try:
            return ctx.run(stock, n)
        except StepFailed:
            return ctx.run(charge, n)

    run = Driven(define(function)).refuse("stock").abort("stock.compensate").resolve("steps.stock#1")

    assert list(run.open) == ["charge"]


def test_resolving_something_that_is_not_stuck_changes_nothing() -> None:
    run = in_flight().resolve("steps.charge#1", 5)

    assert list(run.open) == ["charge"]
    assert run.status is Status.RUNNING


def test_an_operators_act_waits_in_the_log_like_any_event() -> None:
    run = stalled_undo().resolve("steps.stock#1")

    assert run.last(EventKind.RESOLVED).payload == '{"evidence":"looked","result":null}'
