"""Children: how each end of a child reaches its parent, and what passes down to it."""

from __future__ import annotations

import json

import pytest

from saga import ChildFailed, Context, StallReason, Status, StepFailed, ValueRefused
from saga.core.definition import SagaDefinition
from saga.core.effects import StartChild, TellChild
from saga.core.events import EventKind
from saga.engine.stuck import fold, result_of
from tests.unit.driven import Driven, define
from tests.unit.families import FINAL, JOURNEY, LEG, TOLERANT, Family, begin, calling, leg, undos
from tests.unit.steps import book, look, ship, stock

# -- how a child ends --------------------------------------------------------------------------------------------------


def test_a_completed_child_gives_its_result(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), JOURNEY)
    child = turned.run_of(LEG, "journey/7#1")

    turned.succeed(child, "stock", value=2)
    turned.succeed(child, "charge", value=20)
    parent = turned.run_of(JOURNEY, "7")
    assert (turned.status(child), turned.in_flight(parent)) == (Status.COMPLETED, ["ship"])

    turned.succeed(parent, "ship", value=3)
    assert turned.status(parent) is Status.COMPLETED
    assert turned.incidents == []


def test_a_failed_child_is_undone_before_its_parent_is_told(family: Family) -> None:
    turned = begin(family(LEG, TOLERANT), TOLERANT)
    child, parent = turned.run_of(LEG, "tolerant/7#1"), turned.run_of(TOLERANT, "7")

    turned.succeed(child, "stock")
    turned.fail(child, "charge")
    assert (turned.in_flight(child), turned.status(parent)) == (["stock.compensate"], Status.RUNNING)

    turned.succeed(child, "stock.compensate")
    assert turned.status(child) is Status.COMPENSATED
    assert turned.result(parent) == "child:leg#1: the child run ended compensated: steps.charge#1 failed: no charge"
    assert undos(turned, TOLERANT, "7") == []


def test_a_failed_child_that_nobody_expects_undoes_its_parent(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(book, n)
        return int(ctx.child(LEG, n))

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    parent = turned.run_of(saga, "7")
    turned.succeed(parent, "book")
    turned.fail(turned.run_of(LEG, "tested/7#1"), "stock")

    assert turned.in_flight(parent) == ["book.compensate"]
    turned.succeed(parent, "book.compensate")
    assert turned.status(parent) is Status.COMPENSATED


def test_a_child_that_times_out_fails(family: Family) -> None:
    hasty = SagaDefinition(leg, name="hasty", timeout_seconds=60)

    def function(ctx: Context, n: int) -> str:
        try:
            return str(ctx.child(hasty, n))
        except ChildFailed as failed:
            return failed.reason

    saga = define(function)
    turned = begin(family(hasty, saga), saga)
    child = turned.run_of(hasty, "tested/7#1")
    turned.wait(60)
    turned.rest()

    assert turned.status(child) is Status.COMPENSATED
    assert turned.result(turned.run_of(saga, "7")) == "the child run ended compensated: timed_out"


def test_the_key_of_a_child_may_be_chosen_and_one_that_is_taken_fails(family: Family) -> None:
    def function(ctx: Context, n: int) -> list[str]:
        said = []
        for id in ("mine", "taken"):
            try:
                said.append(str(ctx.child(LEG, n, id=id)))
            except ChildFailed as failed:
                said.append(failed.reason)
        return said

    saga = define(function)
    turned = family(LEG, saga)
    begin(turned, LEG, "taken")
    begin(turned, saga)
    turned.succeed(turned.run_of(LEG, "mine"), "stock", "charge", value=5)

    assert turned.result(turned.run_of(saga, "7")) == ["5", "leg/taken is another run"]
    assert turned.status(turned.run_of(LEG, "taken")) is Status.RUNNING
    turned.succeed(turned.run_of(LEG, "taken"), "stock", "charge")
    assert turned.incidents == []


def test_a_parent_waits_for_a_child_that_is_stalled_and_an_operator_lets_it_go_on(family: Family) -> None:
    turned = begin(family(LEG, TOLERANT), TOLERANT)
    child, parent = turned.run_of(LEG, "tolerant/7#1"), turned.run_of(TOLERANT, "7")
    turned.succeed(child, "stock")
    turned.fail(child, "charge")
    turned.fail(child, "stock.compensate")
    assert (turned.reason(child), turned.status(parent)) == (StallReason.COMPENSATION_GAVE_UP, Status.RUNNING)

    turned.retry(LEG, "tolerant/7#1")
    turned.succeed(child, "stock.compensate")

    assert (turned.status(child), turned.status(parent)) == (Status.COMPENSATED, Status.COMPLETED)


def test_a_child_whose_saga_nobody_defines_stalls_until_somebody_does(family: Family) -> None:
    turned = begin(family(TOLERANT), TOLERANT)
    child = turned.run_of(LEG, "tolerant/7#1")
    assert turned.reason(child) is StallReason.NO_DEFINITION

    turned.deploy(TOLERANT, LEG)
    turned.retry(LEG, "tolerant/7#1")
    turned.succeed(child, "stock", "charge")

    assert turned.status(turned.run_of(TOLERANT, "7")) is Status.COMPLETED


def test_an_answer_that_comes_again_changes_nothing(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), JOURNEY)
    child, parent = turned.run_of(LEG, "journey/7#1"), turned.run_of(JOURNEY, "7")
    turned.succeed(child, "stock")
    turned.end(child, "charge")
    turned.turn()
    answer = next(arrival for arrival in turned.inbox if arrival.run == parent)
    turned.rest()

    turned.repeat(answer)
    turned.rest()

    assert turned.in_flight(parent) == ["ship"]
    turned.succeed(parent, "ship")


# -- cancel ------------------------------------------------------------------------------------------------------------


def test_a_cancel_reaches_the_child_and_its_parent_waits_for_it(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), JOURNEY)
    child, parent = turned.run_of(LEG, "journey/7#1"), turned.run_of(JOURNEY, "7")
    turned.succeed(child, "stock")
    turned.claim(child, "charge")

    turned.cancel(JOURNEY, "7")
    assert (turned.status(child), turned.status(parent)) == (Status.COMPENSATING, Status.COMPENSATING)
    turned.succeed(child, "charge", "charge.compensate", "stock.compensate")

    assert (turned.status(child), turned.status(parent)) == (Status.COMPENSATED, Status.COMPENSATED)
    assert turned.keys(LEG) == ["journey/7#1"]


def test_a_cancel_that_comes_after_the_childs_end_is_no_incident(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), JOURNEY)
    child, parent = turned.run_of(LEG, "journey/7#1"), turned.run_of(JOURNEY, "7")
    turned.succeed(child, "stock")
    turned.end(child, "charge")
    turned.ask(EventKind.CANCEL_REQUESTED, "journey", "7")
    turned.rest()

    turned.succeed(turned.run_of(LEG, "journey/7#1~undo"), "charge.compensate", "stock.compensate")

    assert (turned.status(child), turned.status(parent)) == (Status.COMPLETED, Status.COMPENSATED)
    assert turned.incidents == []


def test_a_cancel_of_a_child_whose_start_was_refused_is_not_left_in_the_inbox(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), LEG, "journey/7#1")
    turned.start(JOURNEY, "7")
    turned.turn()
    turned.ask(EventKind.CANCEL_REQUESTED, "journey", "7")

    turned.rest()

    assert turned.status(turned.run_of(JOURNEY, "7")) is Status.COMPENSATED
    assert turned.inbox == []
    assert turned.incidents == []
    turned.succeed(turned.run_of(LEG, "journey/7#1"), "stock", "charge")


def test_a_child_that_an_operator_cancels_fails(family: Family) -> None:
    turned = begin(family(LEG, TOLERANT), TOLERANT)

    turned.cancel(LEG, "tolerant/7#1")

    said = "child:leg#1: the child run ended compensated: cancelled"
    assert turned.result(turned.run_of(TOLERANT, "7")) == said


def test_a_child_that_is_cancelled_past_its_pivot_goes_on_and_is_left_to_an_operator(family: Family) -> None:
    saga = calling(FINAL)
    turned = begin(family(FINAL, saga), saga)
    turned.succeed(turned.run_of(FINAL, "tested/7#1"), "stock")

    turned.cancel(saga, "7")
    turned.succeed(turned.run_of(FINAL, "tested/7#1"), "look")

    assert turned.reason(turned.run_of(saga, "7")) is StallReason.COMPENSATION_GAVE_UP
    turned.resolve(saga, "7", "child:final#1")
    assert turned.status(turned.run_of(saga, "7")) is Status.COMPENSATED


# -- several -----------------------------------------------------------------------------------------------------------


def test_gather_gives_the_results_of_children_in_order(family: Family) -> None:
    def function(ctx: Context, n: int) -> list[int]:
        return list(ctx.gather(*[ctx.start_child(LEG, item) for item in range(3)]))

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    for number in (2, 3, 1):
        turned.succeed(turned.run_of(LEG, f"tested/7#{number}"), "stock")
        turned.succeed(turned.run_of(LEG, f"tested/7#{number}"), "charge", value=number * 10)

    assert turned.result(turned.run_of(saga, "7")) == [10, 20, 30]


def test_one_failure_in_a_gather_cancels_the_others_with_the_run(family: Family) -> None:
    def function(ctx: Context, n: int) -> list[int]:
        return list(ctx.gather(*[ctx.start_child(LEG, item) for item in range(3)]))

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    one, two, three = (turned.run_of(LEG, f"tested/7#{number}") for number in (1, 2, 3))
    turned.succeed(one, "stock", "charge")
    turned.fail(two, "stock")
    assert turned.status(three) is Status.COMPENSATED  # nobody had claimed its step

    turned.succeed(turned.run_of(LEG, "tested/7#1~undo"), "charge.compensate", "stock.compensate")

    assert turned.status(turned.run_of(saga, "7")) is Status.COMPENSATED


def test_gather_collects_what_children_say(family: Family) -> None:
    def function(ctx: Context, n: int) -> list[str]:
        children = [ctx.start_child(LEG, item) for item in range(2)]
        return [type(answer).__name__ for answer in ctx.gather(*children, collect=True)]

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    turned.fail(turned.run_of(LEG, "tested/7#1"), "stock")
    turned.succeed(turned.run_of(LEG, "tested/7#2"), "stock", "charge")

    assert turned.result(turned.run_of(saga, "7")) == ["ChildFailed", "int"]


def test_a_child_that_loses_a_race_is_cancelled_or_undone_when_it_lands_all_the_same(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        children = [ctx.start_child(LEG, n, id=id) for id in "abc"]
        return int(ctx.first(*children).result())

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    a, b, c = (turned.run_of(LEG, key) for key in "abc")
    turned.succeed(a, "stock")
    turned.succeed(b, "stock")
    turned.claim(c, "stock")
    turned.end(a, "charge", value=1)
    turned.end(b, "charge", value=2)  # it lands in the same moment
    turned.rest()
    parent = turned.run_of(saga, "7")
    assert turned.status(parent) is Status.RUNNING  # it waits for its losers

    turned.succeed(turned.run_of(LEG, "b~undo"), "charge.compensate", "stock.compensate")
    turned.succeed(c, "stock", "stock.compensate")

    assert (turned.status(parent), turned.result(parent)) == (Status.COMPLETED, 1)
    assert [turned.status(run) for run in (a, b, c)] == [Status.COMPLETED, Status.COMPLETED, Status.COMPENSATED]


def test_a_race_against_time_cancels_the_child(family: Family) -> None:
    def function(ctx: Context, n: int) -> str:
        child = ctx.start_child(LEG, n)
        return "child" if ctx.first(child, ctx.timer(30)) is child else "time"

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    turned.wait(30)
    turned.rest()

    assert turned.status(turned.run_of(LEG, "tested/7#1")) is Status.COMPENSATED
    assert turned.result(turned.run_of(saga, "7")) == "time"


def test_children_after_a_save_point_are_undone_in_turn_with_the_steps(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.child(LEG, n, id="kept")
        savepoint = ctx.savepoint()
        ctx.run(ship, n)
        ctx.child(LEG, n, id="done")
        ctx.start_child(LEG, n, id="begun")
        ctx.run(book, n)
        ctx.rollback(savepoint)
        return ctx.run(look, n)

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    parent = turned.run_of(saga, "7")
    turned.succeed(turned.run_of(LEG, "kept"), "stock", "charge")
    turned.succeed(parent, "ship")
    turned.succeed(turned.run_of(LEG, "done"), "stock", "charge")
    turned.succeed(parent, "book")

    assert turned.status(turned.run_of(LEG, "begun")) is Status.COMPENSATED
    assert turned.keys(LEG) == ["kept", "done", "begun"]
    turned.succeed(parent, "book.compensate")
    assert turned.in_flight(parent) == []
    turned.succeed(turned.run_of(LEG, "done~undo"), "charge.compensate", "stock.compensate")
    turned.succeed(parent, "ship.compensate", "look")

    assert turned.status(parent) is Status.COMPLETED
    assert turned.status(turned.run_of(LEG, "kept")) is Status.COMPLETED


# -- close=, and the ends of parents -----------------------------------------------------------------------------------


def leaving(close: str, *, pivot: bool = False) -> SagaDefinition:
    """Return a saga that starts a child, and ends after a step."""

    def function(ctx: Context, n: int) -> int:
        ctx.start_child(LEG, n, close=close)  # type: ignore[arg-type]
        if pivot:
            ctx.pivot()
        return ctx.run(look, n)

    return define(function)


def test_close_wait_waits_for_the_child(family: Family) -> None:
    saga = leaving("wait")
    turned = begin(family(LEG, saga), saga)
    parent = turned.run_of(saga, "7")
    turned.succeed(parent, "look")
    assert turned.status(parent) is Status.RUNNING

    turned.succeed(turned.run_of(LEG, "tested/7#1"), "stock", "charge")

    assert turned.status(parent) is Status.COMPLETED


def test_close_wait_fails_with_the_child(family: Family) -> None:
    saga = leaving("wait")
    turned = begin(family(LEG, saga), saga)
    turned.succeed(turned.run_of(saga, "7"), "look")

    turned.fail(turned.run_of(LEG, "tested/7#1"), "stock")

    assert turned.status(turned.run_of(saga, "7")) is Status.COMPENSATED


def test_close_cancel_cancels_the_child_and_waits_until_it_is_undone(family: Family) -> None:
    saga = leaving("cancel")
    turned = begin(family(LEG, saga), saga)
    child, parent = turned.run_of(LEG, "tested/7#1"), turned.run_of(saga, "7")
    turned.succeed(child, "stock")
    turned.succeed(parent, "look")
    assert (turned.status(child), turned.status(parent)) == (Status.COMPENSATING, Status.RUNNING)

    turned.succeed(child, "stock.compensate")

    assert (turned.status(child), turned.status(parent)) == (Status.COMPENSATED, Status.COMPLETED)


def test_close_cancel_asks_nothing_of_a_child_that_failed_or_completed_before(family: Family) -> None:
    saga = leaving("cancel")
    turned = begin(family(LEG, saga), saga, "failed")
    begin(turned, saga, "completed")
    turned.fail(turned.run_of(LEG, "tested/failed#1"), "stock")
    turned.succeed(turned.run_of(LEG, "tested/completed#1"), "stock", "charge")

    for key in ("failed", "completed"):
        turned.succeed(turned.run_of(saga, key), "look")
        assert turned.status(turned.run_of(saga, key)) is Status.COMPLETED

    assert turned.status(turned.run_of(LEG, "tested/completed#1")) is Status.COMPLETED


def test_close_abandon_leaves_the_child_alone_and_its_end_is_no_incident(family: Family) -> None:
    saga = leaving("abandon")
    turned = begin(family(LEG, saga), saga)
    turned.succeed(turned.run_of(saga, "7"), "look")
    assert turned.status(turned.run_of(saga, "7")) is Status.COMPLETED

    turned.succeed(turned.run_of(LEG, "tested/7#1"), "stock", "charge")

    assert turned.status(turned.run_of(LEG, "tested/7#1")) is Status.COMPLETED
    assert turned.incidents == []


@pytest.mark.parametrize("act", ["cancel", "fail", "terminate"])
def test_an_abandoned_child_outlives_its_parents_undo_and_termination(family: Family, act: str) -> None:
    saga = leaving("abandon")
    turned = begin(family(LEG, saga), saga)
    parent = turned.run_of(saga, "7")
    if act == "fail":
        turned.fail(parent, "look")
    else:
        getattr(turned, act)(saga, "7")
    assert turned.status(parent) in (Status.COMPENSATED, Status.TERMINATED)

    turned.succeed(turned.run_of(LEG, "tested/7#1"), "stock", "charge")

    assert turned.status(turned.run_of(LEG, "tested/7#1")) is Status.COMPLETED
    assert turned.keys(LEG) == ["tested/7#1"]
    assert turned.incidents == []


def test_the_result_of_an_abandoned_child_can_be_waited_for(family: Family) -> None:
    def function(ctx: Context, n: int) -> str:
        child = ctx.start_child(LEG, n, close="abandon")
        try:
            return str(child.result())
        except ChildFailed:
            return "failed"

    saga = define(function)
    turned = begin(family(LEG, saga), saga, "good")
    begin(turned, saga, "bad")
    turned.succeed(turned.run_of(LEG, "tested/good#1"), "stock", "charge", value=6)
    turned.fail(turned.run_of(LEG, "tested/bad#1"), "stock")

    assert turned.result(turned.run_of(saga, "good")) == "6"
    assert turned.result(turned.run_of(saga, "bad")) == "failed"


@pytest.mark.parametrize("close", ["wait", "cancel"])
def test_the_undo_of_a_parent_cancels_its_children(family: Family, close: str) -> None:
    saga = leaving(close)
    turned = begin(family(LEG, saga), saga)
    child = turned.run_of(LEG, "tested/7#1")
    turned.succeed(child, "stock")
    turned.fail(turned.run_of(saga, "7"), "look")
    assert turned.status(child) is Status.COMPENSATING

    turned.succeed(child, "stock.compensate")

    assert turned.status(turned.run_of(saga, "7")) is Status.COMPENSATED


@pytest.mark.parametrize("close", ["wait", "cancel"])
def test_a_terminated_parent_terminates_its_children(family: Family, close: str) -> None:
    saga = leaving(close)
    turned = begin(family(LEG, saga), saga)

    turned.terminate(saga, "7")

    assert turned.status(turned.run_of(LEG, "tested/7#1")) is Status.TERMINATED
    assert turned.incidents == []


@pytest.mark.parametrize("close", ["wait", "cancel"])
def test_the_pivot_waits_for_children(family: Family, close: str) -> None:
    saga = leaving(close, pivot=True)
    turned = begin(family(LEG, saga), saga)
    parent = turned.run_of(saga, "7")
    assert turned.in_flight(parent) == []

    turned.succeed(turned.run_of(LEG, "tested/7#1"), "stock", "charge")

    assert turned.in_flight(parent) == ["look"]
    turned.succeed(parent, "look")


def test_the_pivot_waits_for_no_abandoned_child_and_its_failure_stalls_nobody(family: Family) -> None:
    saga = leaving("abandon", pivot=True)
    turned = begin(family(LEG, saga), saga)
    parent = turned.run_of(saga, "7")
    assert turned.in_flight(parent) == ["look"]

    turned.fail(turned.run_of(LEG, "tested/7#1"), "stock")

    assert turned.status(parent) is Status.RUNNING
    turned.succeed(parent, "look")
    assert turned.status(parent) is Status.COMPLETED


def test_a_child_that_fails_after_its_parents_pivot_stalls_it_and_a_retry_starts_another(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        ctx.pivot()
        return int(ctx.child(LEG, n))

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    parent = turned.run_of(saga, "7")
    turned.succeed(parent, "stock")
    turned.fail(turned.run_of(LEG, "tested/7#1"), "stock")
    assert turned.reason(parent) is StallReason.FAILED_AFTER_PIVOT

    turned.retry(saga, "7")
    turned.succeed(turned.run_of(LEG, "tested/7#1~2"), "stock", "charge", value=8)

    assert (turned.status(parent), turned.result(parent)) == (Status.COMPLETED, 8)


def test_a_child_after_the_pivot_may_be_cancelled_at_the_end(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.pivot()
        ctx.start_child(LEG, n, close="cancel")
        return ctx.run(look, n)

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    child = turned.run_of(LEG, "tested/7#1")
    turned.succeed(child, "stock")
    turned.succeed(turned.run_of(saga, "7"), "look")
    turned.succeed(child, "stock.compensate")

    assert turned.status(turned.run_of(saga, "7")) is Status.COMPLETED


def test_what_an_operator_says_a_child_gave_must_fit_its_saga(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.pivot()
        return int(ctx.child(LEG, n))

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    turned.fail(turned.run_of(LEG, "tested/7#1"), "stock")
    log = [event for event, _ in turned.logs[turned.run_of(saga, "7")]]
    state = fold(turned.run_of(saga, "7"), log, lambda of: [])

    assert result_of(state, turned.definitions, "child:leg#1", "42") == "42"
    with pytest.raises(ValueRefused, match="does not fit step child:leg#1"):
        result_of(state, turned.definitions, "child:leg#1", '"no number"')
    with pytest.raises(ValueRefused, match="the saga goes on with its result"):
        result_of(state, turned.definitions, "child:leg#1", None)


def test_an_operator_may_say_what_a_child_after_the_pivot_gave(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.pivot()
        return int(ctx.child(LEG, n))

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    turned.fail(turned.run_of(LEG, "tested/7#1"), "stock")

    turned.resolve(saga, "7", "child:leg#1", 42)

    assert turned.result(turned.run_of(saga, "7")) == 42


# -- what a parent says ------------------------------------------------------------------------------------------------


def test_a_child_is_asked_for_once_and_told_once() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.first(ctx.start_child(LEG, n), ctx.timer(10))
        return ctx.run(look, n)

    run = Driven(define(function)).fire().cancel()

    assert [type(effect) for effect in run.told] == [TellChild]
    asked = run.open["child:leg"]
    assert isinstance(asked, StartChild)
    assert (asked.saga, asked.key, asked.undoes) == ("leg", "tested/order-7#1", None)


def test_a_key_that_would_be_too_long_is_shortened() -> None:
    def deep(ctx: Context, n: int) -> int:
        return int(ctx.child(LEG, n))

    saga = SagaDefinition(deep, name="n" * 180)
    asked = Driven(saga).open["child:leg"]

    assert isinstance(asked, StartChild)
    assert len(asked.key) < 180
    assert asked.key.endswith("#1")


def test_an_input_that_does_not_fit_is_refused_and_may_be_caught() -> None:
    def function(ctx: Context, n: int) -> str:
        try:
            ctx.child(LEG, "no number")
        except Exception as refused:
            ctx.run(look, n)
            return type(refused).__name__
        return "accepted"

    assert json.loads(Driven(define(function)).succeed("look").state.result or "") == "ValueRefused"


def test_what_is_no_saga_and_no_policy_is_refused() -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.start_child(leg, n)  # type: ignore[arg-type]

    def careless(ctx: Context, n: int) -> None:
        ctx.start_child(LEG, n, close="later")  # type: ignore[arg-type]

    for wrong, said in ((function, "decorated with @saga"), (careless, "expected one of 'wait', 'cancel', 'abandon'")):
        run = Driven(define(wrong))
        assert run.stall_reason is StallReason.SAGA_BUG
        assert said in str(run.log[-1].payload)


def test_a_child_of_another_saga_at_its_place_is_a_mismatch() -> None:
    def function(ctx: Context, n: int) -> int:
        return int(ctx.child(LEG, n))

    def changed(ctx: Context, n: int) -> int:
        return int(ctx.child(JOURNEY, n))

    run = Driven(define(function)).reload(define(changed))

    assert run.stall_reason is StallReason.REPLAY_MISMATCH


def test_a_discarded_child_that_failed_tells_why(family: Family) -> None:
    def function(ctx: Context, n: int) -> str:
        child = ctx.start_child(LEG, n)
        ctx.first(child, ctx.timer(10))
        try:
            return str(child.result())
        except StepFailed as failed:
            return failed.reason

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    turned.wait(10)
    turned.rest()

    assert turned.result(turned.run_of(saga, "7")) == "it lost a `first` and was taken back"
