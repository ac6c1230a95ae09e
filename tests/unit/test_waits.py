"""Signals, timers and what is drawn: what a run waits for beside steps, and what of it a replay brings back."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from saga import (
    Context,
    DefinitionError,
    Signal,
    SignalTimeout,
    StallReason,
    Status,
    StepFailed,
    Update,
    ValueRefused,
)
from saga.core.effects import Report
from saga.core.events import EventKind
from saga.core.lifecycle import Cause
from tests.unit.driven import Driven, define
from tests.unit.steps import charge, look, ship, stock

answer = Signal("answer", str)
paid = Signal("paid", int)
move: Update[str, int] = Update("move", str, int)


# -- signals -------------------------------------------------------------------------------------------------------


def test_a_signal_settles_the_wait_for_it() -> None:
    def function(ctx: Context, n: int) -> str:
        return ctx.wait_signal(answer)

    run = Driven(define(function, signals=[answer]))

    assert run.status is Status.RUNNING
    assert run.signal("answer", "yes").state.result == '"yes"'


def test_an_early_signal_is_kept_for_the_wait() -> None:
    def function(ctx: Context, n: int) -> list[str]:
        ctx.run(stock, n)
        return [ctx.wait_signal(answer), ctx.wait_signal(answer)]

    run = Driven(define(function, signals=[answer])).signal("answer", "first").signal("answer", "second")

    assert run.succeed("stock").state.result == '["first","second"]'


def test_waits_are_served_in_the_order_in_which_they_began() -> None:
    def function(ctx: Context, n: int) -> list[str]:
        one, two = ctx.wait(answer), ctx.wait(answer)
        return [two.result(), one.result()]

    run = Driven(define(function, signals=[answer])).signal("answer", "first").signal("answer", "second")

    assert run.state.result == '["second","first"]'


def test_a_repeated_id_is_dropped() -> None:
    def function(ctx: Context, n: int) -> list[int]:
        return [ctx.wait_signal(paid), ctx.wait_signal(paid)]

    run = Driven(define(function, signals=[paid])).signal("paid", 1, id="a").signal("paid", 2, id="a")

    assert run.status is Status.RUNNING
    assert run.signal("paid", 3, id="b").state.result == "[1,3]"


def test_the_loser_of_first_leaves_its_signal_for_the_next_wait() -> None:
    def function(ctx: Context, n: int) -> list[str]:
        early = ctx.wait(paid)
        ctx.run(stock, n)  # meanwhile the signal arrives: both are there
        winner = ctx.first(ctx.wait(answer), early)
        return ["early" if winner is early else "answer", ctx.wait_signal(answer)]

    run = Driven(define(function, signals=[answer, paid])).signal("paid", 1).signal("answer", "kept").succeed("stock")

    assert run.state.result == '["early","kept"]'


def test_a_dropped_wait_takes_no_signal_any_more() -> None:
    def function(ctx: Context, n: int) -> str:
        ctx.first(ctx.wait(answer), ctx.timer(30))
        return ctx.wait_signal(answer)

    run = Driven(define(function, signals=[answer])).fire()

    assert run.count(EventKind.WAIT_DROPPED) == 1
    assert run.signal("answer", "late").state.result == '"late"'


def test_the_loser_of_first_hands_its_signal_to_a_wait_that_has_begun() -> None:
    def function(ctx: Context, n: int) -> list[str]:
        early, loser, heir = ctx.wait(paid), ctx.wait(answer), ctx.wait(answer)
        ctx.run(stock, n)  # meanwhile both signals arrive, and `loser` has "one"
        ctx.first(early, loser)
        return [heir.result(), ctx.wait_signal(answer)]

    run = Driven(define(function, signals=[answer, paid])).signal("paid", 1).signal("answer", "one").succeed("stock")

    assert run.signal("answer", "two").state.result == '["one","two"]'
    assert run.told == []


def test_what_lost_a_first_cannot_be_waited_for_again() -> None:
    def function(ctx: Context, n: int) -> str:
        wait = ctx.wait(answer)
        ctx.first(wait, ctx.timer(30))
        return wait.result()

    run = Driven(define(function, signals=[answer])).fire()

    assert run.stall_reason is StallReason.SAGA_BUG
    assert "begin to wait again" in str(run.log[-2].payload) + str(run.log[-1].payload)


def test_a_signal_that_the_saga_does_not_declare_cannot_be_waited_for() -> None:
    def function(ctx: Context, n: int) -> str:
        return ctx.wait_signal(answer)

    run = Driven(define(function))

    assert run.stall_reason is StallReason.SAGA_BUG


def test_signals_that_nobody_read_are_reported_at_the_end() -> None:
    def function(ctx: Context, n: int) -> int:
        return ctx.run(stock, n)

    run = Driven(define(function, signals=[paid])).signal("paid", 7, id="x").succeed("stock")

    assert run.status is Status.COMPLETED
    assert [effect for effect in run.told if isinstance(effect, Report)] == [
        Report("SignalReceived", '{"signal":"paid","id":"x","value":7}')
    ]


def test_a_signal_for_a_run_that_is_undone_is_kept_and_reported() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        return ctx.wait_signal(paid)

    run = Driven(define(function, signals=[paid])).succeed("stock").cancel().signal("paid", 7)

    assert run.undo("stock").status is Status.COMPENSATED
    assert [type(effect) for effect in run.told] == [Report]


def test_a_signal_reaches_a_stalled_run_and_waits_in_its_log() -> None:
    broken = True

    def function(ctx: Context, n: int) -> int:
        if broken:
            raise ValueError("a bug")
        return ctx.wait_signal(paid)

    run = Driven(define(function, signals=[paid]))
    assert run.stall_reason is StallReason.SAGA_BUG
    run.reload(fold_only=True).signal("paid", 7)

    broken = False
    run.reload(fold_only=False)
    run.retry()

    assert (run.status, run.state.result) == (Status.COMPLETED, "7")


def test_a_signal_timeout_is_raised_and_undoes_the_run() -> None:
    def function(ctx: Context, n: int) -> str:
        ctx.run(stock, n)
        return ctx.wait_signal(answer, timeout=timedelta(days=5))

    run = Driven(define(function, signals=[answer])).succeed("stock")

    assert run.timers["timer:timer#1"] == run.now + timedelta(days=5)
    run.fire()
    assert run.status is Status.COMPENSATING
    assert run.state.cause is Cause.FAILED
    assert "did not come in 432000 s" in str(run.state.failure)
    assert run.undo("stock").status is Status.COMPENSATED


def test_a_caught_timeout_lets_the_saga_wait_again() -> None:
    def function(ctx: Context, n: int) -> list[str]:
        for reminder in range(2):
            try:
                return [str(reminder), ctx.wait_signal(answer, timeout=10)]
            except SignalTimeout:
                ctx.run(look, reminder)
        return ["none"]

    run = Driven(define(function, signals=[answer])).fire().succeed("look").signal("answer", "signed")

    assert run.state.result == '["1","signed"]'
    assert run.timers == {}


def test_after_the_pivot_an_uncaught_timeout_stalls() -> None:
    def function(ctx: Context, n: int) -> str:
        ctx.pivot()
        return ctx.wait_signal(answer, timeout=10)

    run = Driven(define(function, signals=[answer])).fire()

    assert run.stall_reason is StallReason.FAILED_AFTER_PIVOT


def test_first_of_waits_and_timers_is_allowed_after_the_pivot_and_of_steps_is_not() -> None:
    def function(ctx: Context, n: int) -> str:
        ctx.pivot()
        with suppress(DefinitionError):
            ctx.first(ctx.start(look, n), ctx.timer(1))
        return "timer" if ctx.first(ctx.wait(answer), waits := ctx.timer(10)) is waits else "answer"

    run = Driven(define(function, signals=[answer])).succeed("look").fire("timer:timer#2")

    assert run.state.result == '"timer"'


def test_a_value_that_does_not_fit_its_type_stalls_the_run() -> None:
    def function(ctx: Context, n: int) -> int:
        return ctx.wait_signal(paid)

    run = Driven(define(function, signals=[paid])).signal("paid", "no number")

    assert run.stall_reason is StallReason.NOT_DECODED


def test_two_signals_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match="share a name"):
        define(lambda ctx, n: None, signals=[answer, Signal("answer", int)])


# -- time ----------------------------------------------------------------------------------------------------------


def test_a_sleep_ends_when_its_timer_fires() -> None:
    def function(ctx: Context, n: int) -> str:
        before = ctx.now()
        ctx.sleep(timedelta(days=30))
        return str(ctx.now() - before)

    run = Driven(define(function))

    assert run.timers == {"timer:timer#1": run.now + timedelta(days=30)}
    assert run.fire().status is Status.COMPLETED


def test_a_time_that_has_passed_is_due_at_once() -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.sleep(ctx.now() - timedelta(days=1))

    run = Driven(define(function))

    assert run.timers["timer:timer#1"] < run.now
    assert run.fire().status is Status.COMPLETED


def test_a_timer_can_be_due_at_a_time() -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.sleep(datetime(2027, 1, 1, tzinfo=UTC))

    assert list(Driven(define(function)).timers.values()) == [datetime(2027, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize("until", [-1, 11 * 365 * 86_400, datetime(2027, 1, 1), datetime.max.replace(tzinfo=UTC)])  # noqa: DTZ001
def test_a_timer_that_cannot_be_is_a_bug_of_the_saga(until: float | datetime) -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.sleep(until)

    assert Driven(define(function)).stall_reason is StallReason.SAGA_BUG


def test_timers_go_with_the_run() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.timer(60)
        return ctx.run(stock, n)

    assert Driven(define(function)).cancel().timers == {}
    assert Driven(define(function)).succeed("stock").timers == {}
    assert Driven(define(function)).terminate().timers == {}


def test_numbers_and_uuids_are_the_same_in_every_replay() -> None:
    drawn: list[tuple[float, float, str]] = []

    def function(ctx: Context, n: int) -> int:
        drawn.append((ctx.random(), ctx.random(), str(ctx.uuid())))
        return ctx.run(stock, n)

    Driven(define(function)).succeed("stock")

    assert len(drawn) > 2
    assert len(set(drawn)) == 1
    first, second, uuid = drawn[0]
    assert 0 <= first < 1
    assert 0 <= second < 1
    assert first != second
    assert uuid[14] == "4"


# -- many at once --------------------------------------------------------------------------------------------------


def test_gather_collects_failures_instead_of_raising() -> None:
    def function(ctx: Context, n: int) -> list[str]:
        answers = ctx.gather(ctx.start(stock, n), ctx.start(look, n), ctx.start(charge, n), collect=True)
        return [a.reason if isinstance(a, StepFailed) else str(a) for a in answers]

    run = Driven(define(function)).succeed("stock", 5).abort("look", "no").succeed("charge", 6)

    assert run.state.result == '["5","no","6"]'


def test_map_keeps_so_many_going_and_returns_the_results_in_order() -> None:
    def function(ctx: Context, n: int) -> list[int]:
        return ctx.map(look, range(5), concurrency=2)

    run = Driven(define(function))
    assert list(run.open) == ["look", "look#2"]
    run.succeed("look#2", 1)
    assert list(run.open) == ["look", "look#3"]
    for number, name in enumerate(("look", "look#3", "look#4", "look#5")):
        run.succeed(name, 10 + number)

    assert run.state.result == "[10,1,11,12,13]"


def test_map_starts_nothing_more_after_a_failure() -> None:
    def function(ctx: Context, n: int) -> list[int]:
        return ctx.map(stock, range(5), concurrency=2)

    run = Driven(define(function)).abort("stock").succeed("stock#2")

    assert run.status is Status.COMPENSATING
    assert run.dispatched == ["stock", "stock#2", "stock#2.compensate"]


def test_map_collects() -> None:
    def function(ctx: Context, n: int) -> int:
        answers = ctx.map(look, range(4), concurrency=3, collect=True)
        return sum(isinstance(answer, StepFailed) for answer in answers)

    run = Driven(define(function)).abort("look").abort("look#2").succeed("look#3").succeed("look#4")

    assert run.state.result == "2"


def test_map_over_nothing_is_empty() -> None:
    def function(ctx: Context, n: int) -> list[int]:
        return ctx.map(look, [])

    assert Driven(define(function)).state.result == "[]"


# -- updates and what is shown -------------------------------------------------------------------------------------


def test_an_update_is_answered_by_its_id() -> None:
    def function(ctx: Context, n: int) -> str:
        request = ctx.wait_signal(move)
        request.answer(len(request.value))
        return request.value

    run = Driven(define(function, signals=[move])).signal("move", "Berlin", id="u1")

    answered = run.last(EventKind.UPDATE_ANSWERED)
    assert (answered.key, answered.payload) == ("u1", '{"answer":6}')
    assert run.state.result == '"Berlin"'


def test_an_update_is_refused_with_a_reason() -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.wait_signal(move).refuse("too late")

    run = Driven(define(function, signals=[move])).signal("move", "Berlin", id="u1")

    assert json.loads(run.last(EventKind.UPDATE_ANSWERED).payload or "") == {"refused": "too late"}


def test_an_update_is_answered_or_refused_once() -> None:
    def function(ctx: Context, n: int) -> None:
        request = ctx.wait_signal(move)
        request.answer(1)
        request.refuse("after all not")

    run = Driven(define(function, signals=[move])).signal("move", "Berlin", id="u1")

    assert run.stall_reason is StallReason.SAGA_BUG
    assert "was answered or refused before" in str(run.log[-2].payload) + str(run.log[-1].payload)


def test_an_answer_that_does_not_fit_may_be_caught_and_refused_instead() -> None:
    def function(ctx: Context, n: int) -> int:
        request = ctx.wait_signal(move)
        try:
            request.answer("no number")  # type: ignore[arg-type]
        except ValueRefused:
            request.refuse("no answer")
        return ctx.run(stock, n)

    run = Driven(define(function, signals=[move])).signal("move", "Berlin", id="u1").succeed("stock")

    assert run.status is Status.COMPLETED
    assert json.loads(run.last(EventKind.UPDATE_ANSWERED).payload or "") == {"refused": "no answer"}


def test_state_and_attributes_are_what_was_set_last() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.set_attributes(city="Berlin", total=3)
        ctx.set_state({"at": "stock"})
        ctx.run(stock, n)
        ctx.set_attributes(total=4)
        ctx.set_state({"at": "charge"})
        return ctx.run(charge, n)

    run = Driven(define(function))
    assert run.state.shown == '{"at":"stock"}'
    run.succeed("stock")

    assert run.state.shown == '{"at":"charge"}'
    assert run.state.attributes == {"city": "Berlin", "total": 4}


def test_too_large_a_state_stalls_the_run() -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.set_state("x" * 70_000)

    run = Driven(define(function))

    assert run.stall_reason is StallReason.SAGA_BUG
    assert "the limit is 65536" in str(run.log[-1].payload)


# -- save-points ---------------------------------------------------------------------------------------------------


def test_a_rollback_undoes_in_reverse_what_was_started_since_and_goes_on() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        savepoint = ctx.savepoint()
        try:
            ctx.run(charge, n)
            ctx.run(ship, n)
            ctx.run(look, n)
        except StepFailed:
            ctx.rollback(savepoint)
        return ctx.run(charge, 2)

    run = Driven(define(function)).succeed("stock").succeed("charge").succeed("ship").abort("look")

    assert list(run.open) == ["ship.compensate"]
    run.undo("ship")
    assert list(run.open) == ["charge.compensate"]
    run.undo("charge")
    assert list(run.open) == ["charge#2"]
    assert run.succeed("charge#2", 9).state.result == "9"
    assert run.statuses == [Status.RUNNING, Status.COMPLETED]


def test_a_rolled_back_step_is_not_undone_again_with_the_run() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        savepoint = ctx.savepoint()
        ctx.run(charge, n)
        ctx.rollback(savepoint)
        return ctx.run(look, n)

    run = Driven(define(function)).succeed("stock").succeed("charge").undo("charge").abort("look")

    assert run.undo("stock").status is Status.COMPENSATED
    assert run.dispatched == ["stock", "charge", "charge.compensate", "look", "stock.compensate"]


def test_a_rollback_awaits_what_is_in_flight() -> None:
    def function(ctx: Context, n: int) -> int:
        savepoint = ctx.savepoint()
        ctx.start(charge, n)
        ctx.rollback(savepoint)
        return 1

    run = Driven(define(function))
    assert run.fenced == ["charge"]
    run.succeed("charge").undo("charge")

    assert run.statuses == [Status.RUNNING, Status.COMPLETED]


def test_a_rollback_after_the_pivot_is_a_bug_of_the_saga() -> None:
    def function(ctx: Context, n: int) -> None:
        savepoint = ctx.savepoint()
        ctx.pivot()
        ctx.rollback(savepoint)

    assert Driven(define(function)).stall_reason is StallReason.SAGA_BUG
