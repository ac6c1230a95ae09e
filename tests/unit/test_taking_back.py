"""The undo of a child that has ended: a run of its own, that goes on where the child and earlier attempts stood."""

from __future__ import annotations

from saga import Cause, Context, StallReason, Status
from saga.core.definition import SagaDefinition
from saga.core.events import EventKind
from tests.unit.driven import define
from tests.unit.families import FINAL, JOURNEY, LEG, TOLERANT, TOUR, Family, begin, calling, doing, undos, wander
from tests.unit.steps import book, charge, look, ship, stock

# -- a terminated child ------------------------------------------------------------------------------------------------


def test_what_a_terminated_child_left_is_undone_by_a_run_of_its_own_before_its_parent_is_told(family: Family) -> None:
    turned = begin(family(LEG, TOLERANT), TOLERANT)
    child, parent = turned.run_of(LEG, "tolerant/7#1"), turned.run_of(TOLERANT, "7")
    turned.succeed(child, "stock")
    turned.terminate(LEG, "tolerant/7#1")
    undo = turned.run_of(LEG, "tolerant/7#1~undo")
    assert (turned.status(child), turned.status(parent)) == (Status.TERMINATED, Status.RUNNING)

    turned.wait(100)
    turned.rest()
    turned.succeed(undo, "charge.compensate", "stock.compensate")

    assert turned.status(undo) is Status.COMPENSATED
    assert turned.cause(undo) is Cause.PARENT_UNDONE
    assert turned.result(parent) == "child:leg#1: the child run ended terminated: terminated"


def test_what_was_in_flight_at_a_termination_is_not_undone_before_its_worker_must_have_ended(family: Family) -> None:
    turned = begin(family(LEG, TOLERANT), TOLERANT)
    child = turned.run_of(LEG, "tolerant/7#1")
    turned.succeed(child, "stock")
    turned.terminate(LEG, "tolerant/7#1")
    undo = turned.run_of(LEG, "tolerant/7#1~undo")

    # An attempt has 60 s, then 5 s to be stopped in, then 5 s to tell of it.
    turned.wait(60)
    turned.rest()
    assert turned.in_flight(undo) == []
    turned.wait(10)
    turned.rest()

    assert turned.in_flight(undo) == ["charge.compensate"]
    assert turned.given(undo, "charge.compensate")["known"] is False
    turned.succeed(undo, "charge.compensate")
    assert turned.given(undo, "stock.compensate")["known"] is True
    turned.succeed(undo, "stock.compensate")


def test_a_step_without_a_time_limit_that_was_in_flight_is_undone_at_once(family: Family) -> None:
    child_saga = doing(wander, "wandering")
    saga = calling(child_saga)
    turned = begin(family(child_saga, saga), saga)

    turned.terminate(child_saga, "tested/7#1")

    undo = turned.run_of(child_saga, "tested/7#1~undo")
    assert turned.in_flight(undo) == ["wander.compensate"]
    turned.succeed(undo, "wander.compensate")
    assert turned.status(turned.run_of(saga, "7")) is Status.COMPENSATED


def test_a_step_that_cannot_be_undone_and_was_in_flight_holds_no_undo_up_for_ever(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        return ctx.run(look, ctx.run(stock, n))

    child_saga = SagaDefinition(function, name="looking")
    saga = calling(child_saga)
    turned = begin(family(child_saga, saga), saga)
    turned.succeed(turned.run_of(child_saga, "tested/7#1"), "stock")

    turned.terminate(child_saga, "tested/7#1")
    turned.wait(100)
    turned.rest()

    undo = turned.run_of(child_saga, "tested/7#1~undo")
    turned.succeed(undo, "stock.compensate")
    assert turned.status(undo) is Status.COMPENSATED


def test_a_step_that_surely_did_nothing_is_not_undone_after_a_termination(family: Family) -> None:
    child_saga = doing(book, "booking")
    saga = calling(child_saga)
    turned = begin(family(child_saga, saga), saga)
    child = turned.run_of(child_saga, "tested/7#1")
    turned.end(child, "book", EventKind.STEP_ROLLED_BACK, {"type": "E", "message": "rolled back"})
    turned.rest()

    turned.terminate(child_saga, "tested/7#1")

    assert undos(turned, child_saga, "tested/7#1~undo") == []
    assert turned.status(turned.run_of(saga, "7")) is Status.COMPENSATED


def test_a_run_that_was_terminated_while_it_went_back_is_taken_back_from_there(family: Family) -> None:
    turned = begin(family(LEG, TOLERANT), TOLERANT)
    child = turned.run_of(LEG, "tolerant/7#1")
    turned.succeed(child, "stock")
    turned.fail(child, "charge")
    assert turned.in_flight(child) == ["stock.compensate"]

    turned.terminate(LEG, "tolerant/7#1")
    undo = turned.run_of(LEG, "tolerant/7#1~undo")
    assert turned.in_flight(undo) == []  # its first attempt may still be at work
    turned.wait(100)
    turned.rest()

    assert turned.attempt(undo, "stock.compensate") == 2
    turned.succeed(undo, "stock.compensate")
    assert turned.status(turned.run_of(TOLERANT, "7")) is Status.COMPLETED


def test_a_run_that_was_stuck_when_it_was_terminated_is_taken_back(family: Family) -> None:
    turned = begin(family(LEG, TOLERANT), TOLERANT)
    child = turned.run_of(LEG, "tolerant/7#1")
    turned.succeed(child, "stock")
    turned.fail(child, "charge")
    turned.fail(child, "stock.compensate")

    turned.terminate(LEG, "tolerant/7#1")
    undo = turned.run_of(LEG, "tolerant/7#1~undo")

    assert turned.attempt(undo, "stock.compensate") == 2
    turned.succeed(undo, "stock.compensate")
    assert turned.status(turned.run_of(TOLERANT, "7")) is Status.COMPLETED


def test_a_lock_that_a_terminated_child_held_or_waited_for_holds_no_undo_up(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.lock("held")
        ctx.run(stock, n)
        ctx.lock("wanted")
        return n

    child_saga = SagaDefinition(function, name="locking")

    def hold(ctx: Context, n: int) -> int:
        ctx.lock("wanted")
        return ctx.run(look, n)

    holding = SagaDefinition(hold, name="holding")
    saga = calling(child_saga)
    turned = begin(family(child_saga, saga, holding), holding)
    begin(turned, saga)
    turned.succeed(turned.run_of(child_saga, "tested/7#1"), "stock")

    turned.terminate(child_saga, "tested/7#1")
    turned.succeed(turned.run_of(child_saga, "tested/7#1~undo"), "stock.compensate")

    assert turned.status(turned.run_of(saga, "7")) is Status.COMPENSATED
    assert (turned.holder("held"), turned.holder("wanted")) == (None, turned.run_of(holding, "7"))
    turned.succeed(turned.run_of(holding, "7"), "look")


def test_a_terminated_child_of_a_parent_past_its_pivot_is_started_again_by_a_retry(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.pivot()
        return int(ctx.child(LEG, n))

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    parent = turned.run_of(saga, "7")
    turned.terminate(LEG, "tested/7#1")
    assert turned.reason(parent) is StallReason.FAILED_AFTER_PIVOT

    turned.retry(saga, "7")
    turned.succeed(turned.run_of(LEG, "tested/7#1~2"), "stock", "charge", value=4)

    assert (turned.status(parent), turned.result(parent)) == (Status.COMPLETED, 4)


# -- undo --------------------------------------------------------------------------------------------------------------


def test_children_and_steps_are_undone_in_the_reverse_order_of_their_start(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(book, n)
        ctx.child(LEG, n, id="a")
        ctx.run(ship, n)
        ctx.child(LEG, n, id="b")
        return ctx.run(look, n)

    saga = define(function)
    turned = begin(family(LEG, saga), saga)
    parent = turned.run_of(saga, "7")
    turned.succeed(parent, "book")
    turned.succeed(turned.run_of(LEG, "a"), "stock", "charge")
    turned.succeed(parent, "ship")
    turned.succeed(turned.run_of(LEG, "b"), "stock", "charge")
    turned.fail(parent, "look")

    assert (turned.in_flight(parent), turned.keys(LEG)) == ([], ["a", "b", "b~undo"])
    turned.succeed(turned.run_of(LEG, "b~undo"), "charge.compensate", "stock.compensate")
    assert (turned.in_flight(parent), turned.keys(LEG)) == (["ship.compensate"], ["a", "b", "b~undo"])
    turned.succeed(parent, "ship.compensate")
    assert turned.in_flight(parent) == []
    turned.succeed(turned.run_of(LEG, "a~undo"), "charge.compensate", "stock.compensate")
    turned.succeed(parent, "book.compensate")

    assert turned.status(parent) is Status.COMPENSATED
    assert undos(turned, saga, "7") == ["child:leg#2", "ship", "child:leg", "book"]


def test_a_completed_child_that_has_a_completed_child_is_taken_back_with_it(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY, TOUR), TOUR)
    top = turned.run_of(TOUR, "7")
    turned.succeed(top, "book")
    middle, low = turned.run_of(JOURNEY, "tour/7#1"), turned.run_of(LEG, "journey/tour/7#1#1")
    turned.succeed(low, "stock", "charge")
    turned.end(middle, "ship")
    turned.ask(EventKind.CANCEL_REQUESTED, "tour", "7")  # it races the end of the child, and loses
    turned.rest()
    assert (turned.status(middle), turned.status(low)) == (Status.COMPLETED, Status.COMPLETED)

    undo = turned.run_of(JOURNEY, "tour/7#1~undo")
    assert turned.in_flight(undo) == ["ship.compensate"]
    turned.succeed(undo, "ship.compensate")
    turned.succeed(turned.run_of(LEG, "journey/tour/7#1#1~undo"), "charge.compensate", "stock.compensate")
    assert turned.in_flight(top) == ["book.compensate"]
    turned.succeed(top, "book.compensate")

    assert turned.status(top) is Status.COMPENSATED
    assert undos(turned, JOURNEY, "tour/7#1~undo") == ["ship", "child:leg"]


def test_the_undo_of_a_child_ends_at_once_where_nothing_stands(family: Family) -> None:
    looking = doing(look, "looking")

    def function(ctx: Context, n: int) -> int:
        ctx.child(looking, n)
        return ctx.run(charge, n)

    saga = define(function)
    turned = begin(family(looking, saga), saga)
    turned.succeed(turned.run_of(looking, "tested/7#1"), "look")
    turned.fail(turned.run_of(saga, "7"), "charge")

    assert turned.status(turned.run_of(looking, "tested/7#1~undo")) is Status.COMPENSATED
    assert turned.status(turned.run_of(saga, "7")) is Status.COMPENSATED


def test_the_undo_of_a_child_needs_no_code(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), JOURNEY)
    turned.succeed(turned.run_of(LEG, "journey/7#1"), "stock", "charge")
    turned.deploy(JOURNEY)

    turned.cancel(JOURNEY, "7")
    turned.succeed(turned.run_of(LEG, "journey/7#1~undo"), "charge.compensate", "stock.compensate")

    assert turned.status(turned.run_of(JOURNEY, "7")) is Status.COMPENSATED
    turned.deploy(JOURNEY, LEG)


def test_an_undo_that_an_operator_ended_stalls_the_parent_and_a_retry_goes_on_where_it_stood(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), JOURNEY)
    parent = turned.run_of(JOURNEY, "7")
    turned.succeed(turned.run_of(LEG, "journey/7#1"), "stock", "charge")
    turned.fail(parent, "ship")
    first = turned.run_of(LEG, "journey/7#1~undo")
    turned.succeed(first, "charge.compensate")
    turned.fail(first, "stock.compensate")
    assert turned.reason(first) is StallReason.COMPENSATION_GAVE_UP

    turned.terminate(LEG, "journey/7#1~undo")
    assert turned.reason(parent) is StallReason.COMPENSATION_GAVE_UP
    turned.retry(JOURNEY, "7")
    second = turned.run_of(LEG, "journey/7#1~undo~2")

    assert turned.in_flight(second) == ["stock.compensate"]  # what is undone is not undone again
    assert turned.attempt(second, "stock.compensate") == 2
    turned.succeed(second, "stock.compensate")
    assert (turned.status(second), turned.status(parent)) == (Status.COMPENSATED, Status.COMPENSATED)


def test_what_one_undo_has_waited_for_the_next_does_not_wait_for_again(family: Family) -> None:
    turned = begin(family(LEG, TOLERANT), TOLERANT)
    turned.succeed(turned.run_of(LEG, "tolerant/7#1"), "stock")
    turned.terminate(LEG, "tolerant/7#1")
    turned.wait(100)
    turned.rest()
    first = turned.run_of(LEG, "tolerant/7#1~undo")
    turned.succeed(first, "charge.compensate")
    turned.fail(first, "stock.compensate")
    turned.terminate(LEG, "tolerant/7#1~undo")

    turned.retry(TOLERANT, "7")

    second = turned.run_of(LEG, "tolerant/7#1~undo~2")
    assert turned.in_flight(second) == ["stock.compensate"]
    turned.succeed(second, "stock.compensate")
    assert turned.status(turned.run_of(TOLERANT, "7")) is Status.COMPLETED


def test_what_an_operator_resolved_in_one_undo_stays_resolved_in_the_next(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), JOURNEY)
    turned.succeed(turned.run_of(LEG, "journey/7#1"), "stock", "charge")
    turned.fail(turned.run_of(JOURNEY, "7"), "ship")
    turned.fail(turned.run_of(LEG, "journey/7#1~undo"), "charge.compensate")
    turned.resolve(LEG, "journey/7#1~undo", "steps.charge#1")
    turned.terminate(LEG, "journey/7#1~undo")
    turned.retry(JOURNEY, "7")
    turned.wait(100)
    turned.rest()

    second = turned.run_of(LEG, "journey/7#1~undo~2")
    assert turned.in_flight(second) == ["stock.compensate"]
    turned.succeed(second, "stock.compensate")
    assert turned.status(turned.run_of(JOURNEY, "7")) is Status.COMPENSATED


def test_an_operators_evidence_stands_for_the_undo_of_a_child(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), JOURNEY)
    parent = turned.run_of(JOURNEY, "7")
    turned.succeed(turned.run_of(LEG, "journey/7#1"), "stock", "charge")
    turned.fail(parent, "ship")
    turned.terminate(LEG, "journey/7#1~undo")

    turned.resolve(JOURNEY, "7", "child:leg#1")

    assert turned.status(parent) is Status.COMPENSATED


def test_an_undo_whose_key_is_taken_stalls_and_a_retry_takes_another(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY), LEG, "journey/7#1~undo")
    turned.succeed(turned.run_of(LEG, "journey/7#1~undo"), "stock", "charge")
    begin(turned, JOURNEY)
    parent = turned.run_of(JOURNEY, "7")
    turned.succeed(turned.run_of(LEG, "journey/7#1"), "stock", "charge")
    turned.fail(parent, "ship")
    assert turned.reason(parent) is StallReason.COMPENSATION_GAVE_UP

    turned.retry(JOURNEY, "7")
    turned.succeed(turned.run_of(LEG, "journey/7#1~undo~2"), "charge.compensate", "stock.compensate")

    assert turned.status(parent) is Status.COMPENSATED


def test_a_child_past_its_pivot_is_not_undone_whatever_an_operator_retries(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(book, n)
        ctx.child(FINAL, n)
        return ctx.run(charge, n)

    saga = define(function)
    turned = begin(family(FINAL, saga), saga)
    parent = turned.run_of(saga, "7")
    turned.succeed(parent, "book")
    turned.succeed(turned.run_of(FINAL, "tested/7#1"), "stock", "look")
    turned.fail(parent, "charge")
    assert turned.reason(parent) is StallReason.COMPENSATION_GAVE_UP
    turned.retry(saga, "7")
    assert turned.reason(parent) is StallReason.COMPENSATION_GAVE_UP
    assert turned.in_flight(parent) == []  # older steps wait for it

    turned.resolve(saga, "7", "child:final#1")
    turned.succeed(parent, "book.compensate")

    assert turned.status(parent) is Status.COMPENSATED
    assert turned.keys(FINAL) == ["tested/7#1"]


def test_a_termination_reaches_a_grandchild_and_what_it_left_is_undone_after_it_has_ended(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY, TOUR), TOUR)
    top = turned.run_of(TOUR, "7")
    turned.succeed(top, "book")
    low = turned.run_of(LEG, "journey/tour/7#1#1")
    turned.succeed(low, "stock")
    told = turned.ask(EventKind.TERMINATE_REQUESTED, "journey", "tour/7#1")
    turned.hold(low)  # nobody takes turns on the grandchild meanwhile
    turned.rest()

    assert told not in turned.inbox
    assert turned.status(low) is Status.RUNNING
    assert turned.keys(JOURNEY) == ["tour/7#1", "tour/7#1~undo"]
    assert turned.keys(LEG) == ["journey/tour/7#1#1"]  # its undo waits for its end

    turned.let_go(low)
    turned.rest()
    assert turned.status(low) is Status.TERMINATED
    turned.wait(100)
    turned.rest()
    turned.succeed(turned.run_of(LEG, "journey/tour/7#1#1~undo"), "charge.compensate", "stock.compensate")
    turned.succeed(top, "book.compensate")

    assert turned.status(top) is Status.COMPENSATED


def test_a_grandchild_that_never_began_leaves_nothing_to_undo(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY, TOUR), LEG, "journey/tour/7#1#1")
    turned.start(TOUR, "7")
    turned.rest()
    top = turned.run_of(TOUR, "7")
    turned.end(top, "book")
    turned.turn()  # the child is started
    turned.turn()  # the grandchild is asked for
    turned.ask(EventKind.TERMINATE_REQUESTED, "journey", "tour/7#1")
    turned.turn()  # its start is refused, for its key is taken, while its parent ends
    turned.rest()

    turned.succeed(top, "book.compensate")

    assert turned.status(top) is Status.COMPENSATED
    assert turned.status(turned.run_of(JOURNEY, "tour/7#1~undo")) is Status.COMPENSATED
    turned.succeed(turned.run_of(LEG, "journey/tour/7#1#1"), "stock", "charge")
    assert turned.incidents == []


def test_a_grandchild_past_its_pivot_that_was_terminated_is_left_to_an_operator(family: Family) -> None:
    middle_saga = calling(FINAL, "middle")
    saga = calling(middle_saga)
    turned = begin(family(FINAL, middle_saga, saga), saga)
    turned.succeed(turned.run_of(FINAL, "middle/tested/7#1#1"), "stock")

    turned.terminate(middle_saga, "tested/7#1")

    undo = turned.run_of(middle_saga, "tested/7#1~undo")
    turned.retry(middle_saga, "tested/7#1~undo")
    assert turned.reason(undo) is StallReason.COMPENSATION_GAVE_UP
    assert turned.keys(FINAL) == ["middle/tested/7#1#1"]
    assert undos(turned, middle_saga, "tested/7#1~undo") == ["child:final"]  # it was asked for once
    turned.resolve(middle_saga, "tested/7#1~undo", "child:final#1")
    assert turned.status(undo) is Status.COMPENSATED
    assert turned.status(turned.run_of(saga, "7")) is Status.COMPENSATED


def test_one_run_at_a_time_takes_a_child_back(family: Family) -> None:
    turned = begin(family(LEG, JOURNEY, TOUR), TOUR)
    top = turned.run_of(TOUR, "7")
    turned.succeed(top, "book")
    turned.succeed(turned.run_of(LEG, "journey/tour/7#1#1"), "stock", "charge")
    middle = turned.run_of(JOURNEY, "tour/7#1")
    turned.fail(middle, "ship")
    first = turned.run_of(LEG, "journey/tour/7#1#1~undo")
    turned.succeed(first, "charge.compensate")
    turned.hold(first)

    # The child is ended while it is being undone itself, with the grandchild's undo under way.
    turned.terminate(JOURNEY, "tour/7#1")
    assert turned.keys(LEG) == ["journey/tour/7#1#1", "journey/tour/7#1#1~undo"]
    turned.let_go(first)
    turned.rest()
    assert turned.status(first) is Status.TERMINATED
    turned.wait(100)
    turned.rest()

    second = turned.run_of(LEG, "journey/tour/7#1#1~undo~2")
    assert turned.in_flight(second) == ["stock.compensate"]
    turned.succeed(second, "stock.compensate")
    turned.succeed(top, "book.compensate")
    assert turned.status(top) is Status.COMPENSATED
