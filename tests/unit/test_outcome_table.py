"""The table of how an attempt ends (design, section 3), row by row, for action, probe and compensation."""

from __future__ import annotations

import pytest

from saga import Context, StallReason, Status, StepFailed
from saga.core.events import NOBODY, EventKind
from saga.core.policy import FORGOTTEN_MAX, LOST_MAX, NOT_RUN_MAX
from tests.unit.driven import Driven, define
from tests.unit.steps import book, charge, hurry, look, mail, ship, stock

THREE = 3  # attempts that the steps' policies allow


def one_stock(ctx: Context, n: int) -> int:
    return ctx.run(stock, n)


def one_ship(ctx: Context, n: int) -> int:
    return ctx.run(ship, n)


def one_mail(ctx: Context, n: int) -> None:
    ctx.run(mail, n)


def one_book(ctx: Context, n: int) -> int:
    return ctx.run(book, n)


def one_hurry(ctx: Context, n: int) -> int:
    return ctx.run(hurry, n)


def caught(ctx: Context, n: int) -> str:
    try:
        return str(ctx.run(stock, n))
    except StepFailed as failed:
        return failed.reason


# -- action --------------------------------------------------------------------------------------------------------


def test_a_return_is_success_and_its_value_is_the_result() -> None:
    run = Driven(define(one_stock)).succeed("stock", 42)

    assert run.status is Status.COMPLETED
    assert run.state.result == "42"
    assert run.dispatched == ["stock"]


def test_abort_is_not_retried_and_this_step_is_not_undone() -> None:
    run = Driven(define(one_stock)).abort("stock", "declined")

    assert run.status is Status.COMPENSATED
    assert run.dispatched == ["stock"]


def test_a_rolled_back_transaction_is_retried_by_policy_and_never_undone() -> None:
    run = Driven(define(one_book))

    for delay in (10, 20):
        run.roll_back("book")
        assert run.wait_seconds("action:steps.book#1") == delay
        run.fire()
    run.roll_back("book")

    assert run.status is Status.COMPENSATED
    assert run.dispatched == ["book"] * THREE


def test_retry_later_keeps_the_token_and_uses_up_no_attempt() -> None:
    run = Driven(define(one_stock))
    token = run.open["stock"].token

    for number in range(1, 8):
        run.postpone("stock", 30)
        assert run.wait_seconds("action:steps.stock#1") == 30
        run.fire()
        assert run.open["stock"].attempt == number + 1
        assert run.open["stock"].token == token
    run.unknown("stock").fire().unknown("stock").fire().succeed("stock")

    assert run.status is Status.COMPLETED


def test_retry_later_counts_against_the_deadline() -> None:
    run = Driven(define(one_hurry)).postpone("hurry", 40).fire("action:steps.hurry#1").postpone("hurry", 40)

    assert run.status is Status.COMPENSATED
    assert run.timers == {}


def test_any_other_exception_is_unknown_and_asked_again_by_policy() -> None:
    run = Driven(define(one_stock))

    for delay in (10, 20):
        run.unknown("stock")
        assert run.wait_seconds("action:steps.stock#1") == delay
        run.fire()

    assert run.open["stock"].attempt == THREE


def test_what_stays_unknown_is_undone_without_a_result() -> None:
    run = Driven(define(one_stock)).unknown("stock").fire().unknown("stock").fire().unknown("stock")

    assert run.input_of("stock.compensate") == {
        "action": str(run.state.steps["steps.stock#1"].action.token),
        "input": {"n": 1},
        "known": False,
        "result": None,
    }
    assert run.undo("stock").status is Status.COMPENSATED


def test_unknown_is_sticky_a_later_abort_speaks_for_its_own_attempt_only() -> None:
    run = Driven(define(one_stock)).unknown("stock").fire().abort("stock", "already paid")

    assert run.input_of("stock.compensate")["known"] is False
    assert run.undo("stock").status is Status.COMPENSATED


def test_unknown_is_sticky_through_a_rolled_back_attempt_and_one_that_never_started() -> None:
    run = Driven(define(one_hurry)).unknown("hurry").fire("action:steps.hurry#1")
    run.roll_back("hurry").fire("action:steps.hurry#1").fire("deadline:steps.hurry#1").never_start("hurry")

    assert list(run.open) == ["hurry.compensate"]


def test_success_resolves_what_was_unknown() -> None:
    run = Driven(define(one_stock)).unknown("stock").fire().succeed("stock", 7)

    assert run.status is Status.COMPLETED
    assert run.dispatched == ["stock", "stock"]


def test_a_lost_attempt_is_asked_again_at_once_under_the_same_token() -> None:
    run = Driven(define(one_stock))
    token = run.open["stock"].token
    run.lose("stock")

    assert (run.open["stock"].token, run.open["stock"].attempt) == (token, 2)


def test_a_step_that_loses_every_worker_is_poison_and_stalls() -> None:
    run = Driven(define(one_stock))
    for _ in range(LOST_MAX):
        run.lose("stock")

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.POISON_STEP)
    assert run.open == {}
    assert run.dispatched == ["stock"] * LOST_MAX


def test_what_a_crash_of_postgres_may_have_forgotten_is_asked_again_and_is_no_poison() -> None:
    run = Driven(define(one_stock))
    for _ in range(LOST_MAX + 1):
        run.lose("stock", claimant=NOBODY)

    assert run.status is Status.RUNNING
    assert run.open["stock"].attempt == LOST_MAX + 2
    run.abort("stock")
    assert "stock.compensate" in run.dispatched  # it was perhaps claimed, so it may have landed


def test_a_step_that_may_be_what_crashes_postgres_stalls() -> None:
    run = Driven(define(one_stock))
    for _ in range(FORGOTTEN_MAX):
        run.lose("stock", claimant=NOBODY)

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.POISON_STEP)
    assert run.dispatched == ["stock"] * FORGOTTEN_MAX


def test_an_input_that_no_worker_can_decode_backs_off_then_stalls_and_is_never_undone() -> None:
    run = Driven(define(one_stock))
    waits = []
    for _ in range(NOT_RUN_MAX - 1):
        run.not_run("stock")
        waits.append(run.wait_seconds("action:steps.stock#1"))
        run.fire()
    run.not_run("stock")

    assert waits == [10, 20, 40, 60, 60, 60, 60, 60, 60]
    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.NOT_DECODED)
    assert set(run.dispatched) == {"stock"}


def test_a_refused_result_has_landed_and_is_undone_without_it() -> None:
    run = Driven(define(one_stock)).refuse("stock")

    assert run.input_of("stock.compensate")["known"] is False
    assert run.dispatched == ["stock", "stock.compensate"]
    assert run.undo("stock").status is Status.COMPENSATED


def test_the_deadline_takes_back_what_no_worker_claimed() -> None:
    run = Driven(define(one_hurry)).fire("deadline:steps.hurry#1")

    assert run.fenced == ["hurry"]
    assert run.never_start("hurry").status is Status.COMPENSATED
    assert run.dispatched == ["hurry"]


def test_the_deadline_awaits_what_a_worker_has_claimed() -> None:
    run = Driven(define(one_hurry)).fire("deadline:steps.hurry#1").succeed("hurry", 3)

    assert run.status is Status.COMPLETED


def test_the_deadline_ends_the_wait_before_another_attempt() -> None:
    run = Driven(define(one_hurry)).unknown("hurry").fire("deadline:steps.hurry#1")

    assert list(run.open) == ["hurry.compensate"]


def test_no_attempt_is_planned_behind_the_deadline() -> None:
    run = Driven(define(one_hurry))
    run.now = run.now.replace(minute=0, second=55)
    run.unknown("hurry")

    assert list(run.open) == ["hurry.compensate"]


def test_a_step_without_a_compensation_fails_as_soon_as_it_gives_up() -> None:
    def function(ctx: Context, n: int) -> int:
        return ctx.run(look, n)

    run = Driven(define(function)).unknown("look").fire().unknown("look").fire().unknown("look")

    assert run.status is Status.COMPENSATED
    assert run.dispatched == ["look"] * THREE


def test_step_failed_is_raised_only_once_the_unknown_step_is_undone() -> None:
    run = Driven(define(caught)).unknown("stock", "no answer").fire().unknown("stock").fire().unknown("stock", "gone")
    assert run.status is Status.RUNNING

    run.undo("stock")

    assert (run.status, run.state.result) == (Status.COMPLETED, '"gone"')


def test_step_failed_tells_what_the_action_said_not_what_its_undo_said() -> None:
    run = Driven(define(caught)).refuse("stock")
    run.unknown("stock.compensate", "refund service is down").fire().undo("stock")

    assert run.state.result == '"too large"'


def test_step_failed_tells_why_when_the_action_said_nothing() -> None:
    def function(ctx: Context, n: int) -> str:
        try:
            return str(ctx.run(hurry, n))
        except StepFailed as failed:
            return failed.reason

    run = Driven(define(function)).fire("deadline:steps.hurry#1").never_start("hurry")

    assert run.state.result == '"no worker claimed it before its deadline"'


def test_an_unknown_step_whose_undo_gives_up_stalls_and_the_fallback_never_runs() -> None:
    def function(ctx: Context, n: int) -> int:
        try:
            return ctx.run(stock, n)
        except StepFailed:
            return ctx.run(charge, n)

    run = Driven(define(function)).refuse("stock").abort("stock.compensate", "the shop is gone")

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.COMPENSATION_GAVE_UP)
    assert "charge" not in run.dispatched


# -- probe ---------------------------------------------------------------------------------------------------------


def test_a_probe_comes_before_another_attempt_and_waits_as_long() -> None:
    run = Driven(define(one_ship)).unknown("ship")

    assert run.wait_seconds("probe:steps.ship#1") == 10
    run.fire()
    assert list(run.open) == ["ship.probe"]
    assert run.input_of("ship.probe")["input"] == {"n": 1}


def test_a_lost_action_is_probed_at_once() -> None:
    assert list(Driven(define(one_ship)).lose("ship").open) == ["ship.probe"]


def test_a_probe_that_finds_is_the_result() -> None:
    run = Driven(define(one_ship)).lose("ship").find("ship", 99)

    assert (run.status, run.state.result) == (Status.COMPLETED, "99")
    assert run.dispatched == ["ship", "ship.probe"]


def test_a_probe_that_finds_nothing_permits_a_retry_and_never_cancels_the_undo() -> None:
    run = Driven(define(one_ship)).lose("ship").find_nothing("ship")
    assert list(run.open) == ["ship"]

    run.abort("ship")

    assert run.input_of("ship.compensate")["known"] is False


def test_at_the_end_of_the_attempts_it_is_probed_once_more_before_the_undo() -> None:
    run = Driven(define(one_ship))
    for _ in range(THREE):
        run.unknown("ship").fire().find_nothing("ship")

    assert run.dispatched == [*["ship", "ship.probe"] * THREE, "ship.compensate"]


def test_a_probe_that_finds_at_the_end_of_the_attempts_makes_it_a_success() -> None:
    run = Driven(define(one_ship))
    for _ in range(THREE - 1):
        run.unknown("ship").fire().find_nothing("ship")
    run.unknown("ship").fire().find("ship", 5)

    assert run.status is Status.COMPLETED


def test_the_probe_of_a_step_that_returns_nothing_finds_or_not() -> None:
    found = Driven(define(one_mail)).lose("mail").end("mail.probe", EventKind.STEP_SUCCEEDED, [None])
    assert found.status is Status.COMPLETED

    missing = Driven(define(one_mail)).lose("mail").find_nothing("mail")
    assert list(missing.open) == ["mail"]


def test_a_probe_is_asked_again_by_policy_and_when_it_gives_up_the_step_is_undone() -> None:
    run = Driven(define(one_ship)).lose("ship")
    for _ in range(THREE - 1):
        run.unknown("ship.probe").fire()
    run.unknown("ship.probe")

    assert run.dispatched == ["ship", *["ship.probe"] * THREE, "ship.compensate"]


def test_a_probe_may_ask_for_time() -> None:
    run = Driven(define(one_ship)).lose("ship").postpone("ship.probe", 7)

    assert run.wait_seconds("probe:steps.ship#1") == 7
    assert list(run.fire().open) == ["ship.probe"]


def test_a_lost_probe_is_asked_again_and_poison_after_many() -> None:
    run = Driven(define(one_ship)).lose("ship")
    for _ in range(LOST_MAX):
        run.lose("ship.probe")

    assert run.stall_reason is StallReason.POISON_STEP


def test_a_probe_that_cannot_decode_its_input_backs_off_then_stalls() -> None:
    run = Driven(define(one_ship)).lose("ship")
    for _ in range(NOT_RUN_MAX - 1):
        run.not_run("ship.probe").fire()
    run.not_run("ship.probe")

    assert run.stall_reason is StallReason.NOT_DECODED
    assert "ship.compensate" not in run.dispatched


# -- compensation --------------------------------------------------------------------------------------------------


def undone(ctx: Context, n: int) -> int:
    ctx.run(stock, n)
    return ctx.run(look, n)


def undoing() -> Driven:
    return Driven(define(undone)).succeed("stock", 2).abort("look")


def test_a_compensation_gets_the_result_and_the_inputs() -> None:
    run = undoing()

    given = run.input_of("stock.compensate")
    assert (given["input"], given["known"], given["result"]) == ({"n": 1}, True, 2)


@pytest.mark.parametrize("kind", [EventKind.STEP_UNKNOWN, EventKind.STEP_ROLLED_BACK])
def test_a_compensation_that_raises_is_asked_again_and_stalls_when_its_attempts_are_used_up(kind: EventKind) -> None:
    run = undoing().end("stock.compensate", kind, {"type": "E", "message": "one"})
    assert run.wait_seconds("compensation:steps.stock#1") == 10
    run.fire().end("stock.compensate", kind, {"type": "E", "message": "two"})

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.COMPENSATION_GAVE_UP)
    assert '"two"' in (run.last(EventKind.RUN_STALLED).payload or "")


def test_abort_in_a_compensation_stalls_at_once() -> None:
    run = undoing().abort("stock.compensate", "I refuse")

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.COMPENSATION_GAVE_UP)
    assert "I refuse" in (run.last(EventKind.RUN_STALLED).payload or "")


def test_retry_later_in_a_compensation_waits_and_uses_up_no_attempt() -> None:
    run = undoing()
    for _ in range(5):
        run.postpone("stock.compensate", 3)
        assert run.wait_seconds("compensation:steps.stock#1") == 3
        run.fire()

    assert run.undo("stock").status is Status.COMPENSATED


def test_a_lost_compensation_is_asked_again_at_once_and_poison_after_many() -> None:
    run = undoing()
    for _ in range(LOST_MAX - 1):
        run.lose("stock.compensate")
    assert list(run.open) == ["stock.compensate"]

    assert run.lose("stock.compensate").stall_reason is StallReason.POISON_STEP


def test_a_compensation_that_cannot_decode_its_input_backs_off_then_stalls() -> None:
    run = undoing()
    for _ in range(NOT_RUN_MAX - 1):
        run.not_run("stock.compensate").fire()

    assert run.not_run("stock.compensate").stall_reason is StallReason.NOT_DECODED


def test_a_compensation_without_a_policy_of_its_own_gives_up_after_72_hours() -> None:
    run = Driven(define(one_hurry), replays=False).refuse("hurry")
    attempts = 0
    while run.status is not Status.STALLED:
        attempts += 1
        run.postpone("hurry.compensate", 3_500)
        if run.timers:
            run.fire()

    assert run.stall_reason is StallReason.COMPENSATION_GAVE_UP
    assert attempts == 72 * 3_600 // 3_500 + 1
