"""Replay, eviction, limits, and saga functions that misbehave: the log says what happened, and only the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from saga import Abort, Context, StallReason, Status, StepFailed, ValueRefused, step
from saga.core import execution as execution_module
from saga.core import inside, program
from saga.core.effects import CancelTimer, SetTimer
from saga.core.events import EventKind, start_payload
from saga.core.execution import Decision, Execution
from tests.unit.driven import BEGAN, CODEC, RUN, Driven, define
from tests.unit.steps import charge, look, ship, stock

pytestmark = pytest.mark.usefixtures("own_declarations")


def two(ctx: Context, n: int) -> int:
    ctx.run(stock, n)
    return ctx.run(charge, n)


def other(ctx: Context, n: int) -> int:
    ctx.run(look, n)
    return ctx.run(charge, n)


# -- eviction ------------------------------------------------------------------------------------------------------


def with_finally(ctx: Context, n: int) -> int:
    try:
        return ctx.run(stock, n)
    finally:
        ctx.run(charge, n)


def with_pass_in_a_loop(ctx: Context, n: int) -> int:
    for _ in range(5):
        with suppress(BaseException):
            ctx.run(stock, n)
    return n


def with_another_verb(ctx: Context, n: int) -> int:
    try:
        return ctx.run(stock, n)
    except BaseException:
        ctx.gather(ctx.start(look, n))
        ctx.pivot()
        raise


def with_return_in_finally(ctx: Context, n: int) -> int:
    try:
        return ctx.run(stock, n)
    finally:
        return n  # noqa: B012, SIM107


def with_a_race_in_finally(ctx: Context, n: int) -> int:
    pending = ctx.start(stock, n)
    try:
        return pending.result()
    finally:
        ctx.first(pending, ctx.start(look, n))


@pytest.mark.parametrize(
    "function", [with_finally, with_pass_in_a_loop, with_another_verb, with_return_in_finally, with_a_race_in_finally]
)
def test_eviction_of_a_suspended_run_records_nothing(function: Callable[[Context, int], int]) -> None:
    run = Driven(define(function))
    log = list(run.log)

    assert run.execution.drop()

    assert run.execution.take() == Decision()
    assert run.log == log
    run.execution = run.replayed()
    assert list(run.open) == ["stock"]


def test_a_function_that_was_never_begun_or_has_ended_is_dropped_too() -> None:
    assert Execution(RUN, "order-7", define(two), CODEC).drop()
    assert Driven(define(two)).succeed("stock").succeed("charge").execution.drop()


def test_a_run_that_turns_round_lets_its_function_go_and_records_nothing_of_its_last_words() -> None:
    run = Driven(define(with_finally)).cancel().never_start("stock")

    assert run.status is Status.COMPENSATED
    assert run.dispatched == ["stock"]


def test_after_an_eviction_no_thread_counts_as_inside_a_saga_function() -> None:
    Driven(define(with_finally)).execution.drop()

    assert not inside.saga_function()


def test_a_dead_ctx_raises_at_every_call() -> None:
    kept: list[Context] = []

    def function(ctx: Context, n: int) -> int:
        kept.append(ctx)
        return ctx.run(stock, n)

    run = Driven(define(function), replays=False)
    run.execution.drop()

    uses: tuple[Callable[[], object], ...] = (
        lambda: kept[0].run(stock, 1),
        lambda: kept[0].now(),
        lambda: kept[0].pivot(),
        lambda: kept[0].gather(),
    )
    for use in uses:
        with pytest.raises(program.Evicted):
            use()


def test_ctx_outside_its_function_says_so() -> None:
    kept: list[Context] = []

    def function(ctx: Context, n: int) -> int:
        kept.append(ctx)
        return ctx.run(stock, n)

    run = Driven(define(function), replays=False)

    with pytest.raises(Exception, match="pass values, not ctx"):
        kept[0].run(stock, 1)
    assert run.execution.take() == Decision()


# -- replay --------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_its_log_as_if_it_had_stayed_in_memory() -> None:
    stayed = Driven(define(two)).succeed("stock", 5).succeed("charge", 6)

    evicted = Driven(define(two)).reload().succeed("stock", 5).reload().succeed("charge", 6)

    assert evicted.log == stayed.log
    assert evicted.decisions == stayed.decisions


def test_other_code_stalls_the_run_and_the_right_code_brings_it_back() -> None:
    run = Driven(define(two)).succeed("stock")
    run.reload(define(other))
    assert run.execution.broken is StallReason.REPLAY_MISMATCH
    run.execution.stall_broken(_success_of(run, "charge", 9), run.now)
    run._store(run.execution.take())
    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.REPLAY_MISMATCH)
    message = run.last(EventKind.RUN_STALLED).payload or ""
    assert "steps.stock#1" in message
    assert "steps.look#1" in message

    run.open.pop("charge")
    run.reload(define(two)).retry()

    assert (run.status, run.state.result) == (Status.COMPLETED, "9")


def test_other_code_that_is_retried_stalls_again() -> None:
    run = Driven(define(two)).succeed("stock").reload(define(other))
    run.execution.stall_broken(_success_of(run, "charge", 9), run.now)
    run._store(run.execution.take())

    run.reload(define(other))
    assert run.execution.broken is not None or run.retry().stall_reason is StallReason.REPLAY_MISMATCH


@pytest.mark.parametrize("again", [False, True], ids=["then another step", "then the same step"])
def test_an_input_that_was_refused_and_caught_is_refused_again_in_every_replay(again: bool) -> None:
    def function(ctx: Context, n: int) -> int:
        try:
            ctx.run(stock, "no number")  # type: ignore[call-overload]
        except ValueRefused:
            ctx.run(stock if again else look, n)
        return ctx.run(charge, n)

    run = Driven(define(function))
    name = "stock#2" if again else "look"
    assert list(run.open) == [name]
    run.succeed(name).succeed("charge", 8)

    assert run.state.result == "8"


def test_an_input_that_was_refused_at_the_end_of_the_log_is_refused_again() -> None:
    def function(ctx: Context, n: int) -> int:
        pending = ctx.start(stock, n)
        with suppress(ValueRefused):
            ctx.run(charge, "no number")  # type: ignore[call-overload]
        return pending.result()

    assert Driven(define(function)).succeed("stock", 5).state.result == "5"


def test_code_that_asks_for_less_or_for_more_than_its_log_is_a_mismatch() -> None:
    def less(ctx: Context, n: int) -> int:
        return n

    def more(ctx: Context, n: int) -> int:
        ctx.start(look, n)
        return two(ctx, n)

    def behind_the_end(ctx: Context, n: int) -> int:
        ctx.start(stock, n)
        ctx.start(charge, n)
        return n

    for function in (less, more, behind_the_end):
        run = Driven(define(two))
        run.reload(define(function))

        assert run.execution.broken is StallReason.REPLAY_MISMATCH, function


def test_code_that_catches_everything_cannot_talk_its_way_past_a_mismatch() -> None:
    def stubborn(ctx: Context, n: int) -> int:
        for _ in range(3):
            with suppress(BaseException):
                ctx.run(look, n)
        return n

    run = Driven(define(two)).reload(define(stubborn))

    assert run.execution.broken is StallReason.REPLAY_MISMATCH


def test_a_renamed_step_with_its_old_name_as_an_alias_replays() -> None:
    @step(name="steps.reserve", aliases=("steps.stock",))
    def reserve(n: int) -> int:
        return n

    def renamed(ctx: Context, n: int) -> int:
        ctx.run(reserve, n)
        return ctx.run(charge, n)

    run = Driven(define(two)).reload(define(renamed)).succeed("stock", 5)
    assert list(run.open) == ["charge"]

    run.reload().succeed("charge", 6)
    assert run.status is Status.COMPLETED


def test_policies_are_pinned_when_the_step_is_scheduled() -> None:
    def slower(ctx: Context, n: int) -> int:
        return ctx.run(stock.with_options(timeout=7, deadline=99), n)

    run = Driven(define(slower))

    assert run.task("stock").limit_seconds == 12
    assert run.timers.keys() == {"deadline:steps.stock#1"}
    assert stock.policy.timeout_seconds == 60


# -- runs whose code cannot be replayed ----------------------------------------------------------------------------


def test_a_run_whose_code_cannot_be_replayed_is_cancelled_from_its_log_alone() -> None:
    run = Driven(define(two)).succeed("stock", 5)

    run.reload(define(other), fold_only=True).cancel()

    assert run.execution.broken is None
    assert run.status is Status.COMPENSATING
    assert run.never_start("charge").undo("stock").status is Status.COMPENSATED


def test_a_run_that_goes_back_needs_neither_the_right_code_nor_any() -> None:
    for definition in (define(other), None):
        run = Driven(define(two)).succeed("stock").abort("charge")

        run.definition = definition
        run.execution = run.replayed()

        assert run.execution.broken is None
        assert run.undo("stock").status is Status.COMPENSATED


def test_a_run_without_a_definition_stalls_and_goes_on_when_there_is_one() -> None:
    run = Driven(None)
    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.NO_DEFINITION)

    run.reload(define(two)).retry().succeed("stock").succeed("charge")

    assert run.status is Status.COMPLETED


def test_the_timers_of_an_arrival_that_stalls_its_run_are_set_all_the_same() -> None:
    """Else the log tells of a timer that the table has not, and the turn that cancels it can never be stored."""
    started = execution_module.Input(EventKind.RUN_STARTED, BEGAN, payload=start_payload(1, 60.0, "1"))
    fed = Execution(RUN, "k", None, CODEC)
    fed.feed(started, BEGAN)
    suspended = Execution(RUN, "k", None, CODEC)
    suspended.suspend(started, BEGAN, StallReason.SAGA_BUG, "it killed its coordinator")

    for execution in (fed, suspended):
        decision = execution.take()
        assert [event.kind for event in decision.events] == [EventKind.RUN_STARTED, EventKind.RUN_STALLED]
        assert decision.effects == [SetTimer("timeout", BEGAN + timedelta(seconds=60))]


def test_an_arrival_that_a_broken_replay_leaves_in_the_log_still_cancels_its_timer() -> None:
    @step(name="steps.timely", deadline=60)
    def timely(n: int) -> int:
        return n

    def function(ctx: Context, n: int) -> int:
        return ctx.run(timely, n)

    run = Driven(define(function))
    success = _success_of(run, "timely", 1)
    broken = Execution(RUN, "k", define(other), CODEC)
    broken.replay(run.log)
    assert broken.broken is StallReason.REPLAY_MISMATCH

    broken.stall_broken(success, run.now)

    assert broken.take().effects == [CancelTimer("deadline:steps.timely#1")]


def test_a_run_without_a_definition_can_be_cancelled() -> None:
    run = Driven(None)
    run.execution = run.replayed(fold_only=True)

    assert run.cancel().status is Status.COMPENSATED


# -- bugs in the saga function -------------------------------------------------------------------------------------


def test_a_bug_stalls_the_run_and_the_turn_that_met_it_leaves_nothing_behind() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        ctx.start(charge, n)
        raise ValueError("boom")

    run = Driven(define(function)).succeed("stock")

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.SAGA_BUG)
    assert run.open == {}
    assert run.kinds()[-2:] == [EventKind.RUN_STALLED, EventKind.STEP_SUCCEEDED]
    assert "ValueError: boom" in (run.last(EventKind.RUN_STALLED).payload or "")


def test_a_mended_function_goes_on_after_a_retry() -> None:
    def broken(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        raise ValueError("boom")

    run = Driven(define(broken)).succeed("stock", 5).reload().retry()
    assert run.stall_reason is StallReason.SAGA_BUG

    run.reload(define(two)).retry().succeed("charge")

    assert run.status is Status.COMPLETED


def test_what_arrives_while_the_function_stands_is_acted_upon_after_the_retry() -> None:
    def broken(ctx: Context, n: int) -> int:
        a, _ = ctx.start(stock, n), ctx.start(ship, n)
        a.result()
        raise ValueError("boom")

    def mended(ctx: Context, n: int) -> int:
        a, b = ctx.start(stock, n), ctx.start(ship, n)
        return a.result() + b.result()

    run = Driven(define(broken)).succeed("stock")
    run.reload().lose("ship")
    assert run.open == {}

    run.reload(define(mended)).retry()

    assert list(run.open) == ["ship.probe"]
    assert run.find("ship").status is Status.COMPLETED


def test_an_input_that_does_not_fit_this_code_stalls_the_run() -> None:
    run = Driven(define(two), given="seven")

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.NOT_DECODED)


def test_a_result_that_cannot_be_stored_is_a_bug_of_the_saga() -> None:
    def function(ctx: Context, n: int) -> str:
        return n  # type: ignore[return-value]

    assert Driven(define(function)).stall_reason is StallReason.SAGA_BUG


def test_raising_the_frameworks_own_exceptions_is_a_bug_too() -> None:
    def function(ctx: Context, n: int) -> int:
        raise execution_module.Blocked

    run = Driven(define(function))

    assert run.stall_reason is StallReason.SAGA_BUG
    assert "must not do I/O" in (run.last(EventKind.RUN_STALLED).payload or "")


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_function_that_raises_more_than_an_exception_stalls_only_its_own_run(error: type[BaseException]) -> None:
    def function(ctx: Context, n: int) -> int:
        raise error

    assert Driven(define(function)).stall_reason is StallReason.SAGA_BUG


def test_a_step_called_directly_inside_a_saga_function_is_a_bug_with_its_fix() -> None:
    def function(ctx: Context, n: int) -> int:
        return stock(n)

    assert "write ctx.run(stock, …)" in json.loads(Driven(define(function)).log[-1].payload or "")["message"]


def test_something_that_is_no_step_is_refused() -> None:
    def function(ctx: Context, n: int) -> int:
        return int(ctx.run(len, "x"))  # type: ignore[call-overload]

    assert "decorated with @step" in (Driven(define(function)).log[-1].payload or "")


def test_an_argument_that_does_not_fit_stalls_before_anything_is_sent() -> None:
    def function(ctx: Context, n: int) -> int:
        return int(ctx.run(stock, "one"))  # type: ignore[call-overload]

    run = Driven(define(function))

    assert run.stall_reason is StallReason.SAGA_BUG
    assert run.dispatched == []


# -- limits --------------------------------------------------------------------------------------------------------


def test_a_function_that_asks_for_too_much_in_one_turn_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "ASKS_PER_TURN_MAX", 20)

    def function(ctx: Context, n: int) -> int:
        while True:
            ctx.start(look, n)

    run = Driven(define(function))

    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.LIMIT_REACHED)
    assert run.dispatched == []


def test_the_limit_of_a_turn_cannot_be_caught_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "ASKS_PER_TURN_MAX", 20)

    def function(ctx: Context, n: int) -> int:
        for _ in range(30):
            with suppress(Exception):
                ctx.start(look, n)
        return n

    assert Driven(define(function)).stall_reason is StallReason.LIMIT_REACHED


def test_a_run_whose_log_grows_too_long_stalls_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_module, "EVENTS_MAX", 10)

    def function(ctx: Context, n: int) -> int:
        while True:
            ctx.run(look, n)

    run = Driven(define(function))
    names = ["look", "look#2", "look#3", "look#4", "look#5"]
    for name in names:
        if name in run.open:
            run.succeed(name)
    assert (run.status, run.stall_reason) == (Status.STALLED, StallReason.LIMIT_REACHED)

    run.reload().feed(EventKind.TIMER_FIRED, key="nothing")
    assert run.count(EventKind.RUN_STALLED) == 1
    assert run.reload(fold_only=True).cancel().status is Status.COMPENSATED


def test_a_run_that_goes_back_may_outgrow_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_module, "EVENTS_MAX", 6)
    run = Driven(define(two)).succeed("stock").abort("charge")

    run.unknown("stock.compensate").fire().undo("stock")

    assert run.status is Status.COMPENSATED


def test_an_input_larger_than_its_limit_is_refused_before_anything_is_sent() -> None:
    @step(name="steps.wide")
    def wide(text: str) -> str:
        return text

    def function(ctx: Context, n: int) -> str:
        return ctx.run(wide, "x" * 1_048_600)

    run = Driven(define(function))

    assert run.stall_reason is StallReason.SAGA_BUG
    assert "the limit is 1048576" in (run.log[-1].payload or "")


def test_catching_step_failed_around_a_loop_of_providers() -> None:
    def function(ctx: Context, n: int) -> int:
        for number in range(3):
            try:
                return ctx.run(charge, number)
            except StepFailed:
                continue
        raise Abort("nobody would")

    run = Driven(define(function)).abort("charge").abort("charge#2").abort("charge#3")

    assert run.status is Status.COMPENSATED
    assert "nobody would" in (run.state.failure or "")


def _success_of(run: Driven, name: str, value: int) -> execution_module.Input:
    task = run.open[name]
    return execution_module.Input(
        EventKind.STEP_SUCCEEDED, run.now, task.token, task.attempt, run.claimant(), payload=f'{{"value":{value}}}'
    )
