"""Semantic locks: who holds a name, who stands in line, and what lets go of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from saga import Context, LockTaken, StallReason, Status
from saga.core.definition import SagaDefinition
from saga.core.effects import ReleaseLocks, RequestLock
from saga.core.events import EventKind
from tests.unit.driven import Driven, define
from tests.unit.families import LEG, Family, begin, calling
from tests.unit.steps import charge, look, stock


def locked(ctx: Context, n: int) -> int:
    """Two steps under a lock."""
    ctx.lock("order:1")
    ctx.run(stock, n)
    return ctx.run(charge, n)


def hasty(ctx: Context, n: int) -> str:
    """Asks once."""
    try:
        ctx.lock("order:1", wait=False)
    except LockTaken as taken:
        return taken.reason
    return "had it"


def patient(ctx: Context, n: int) -> str:
    """Waits for a minute, twice."""
    said = ""
    for _ in range(2):
        try:
            ctx.lock("order:1", timeout=timedelta(minutes=1))
        except LockTaken as taken:
            said = taken.reason
        else:
            ctx.run(look, n)
            return "had it"
    return said


LOCKED = SagaDefinition(locked, name="locked")
HASTY = SagaDefinition(hasty, name="hasty")
PATIENT = SagaDefinition(patient, name="patient")


# -- the line ----------------------------------------------------------------------------------------------------------


def test_a_lock_goes_to_runs_in_the_order_in_which_they_asked(family: Family) -> None:
    turned = family(LOCKED)
    for key in "abc":
        begin(turned, LOCKED, key)
    a, b, c = (turned.run_of(LOCKED, key) for key in "abc")

    for holder, waiting in ((a, [b, c]), (b, [c]), (c, [])):
        assert turned.holder("order:1") == holder
        assert [turned.in_flight(run) for run in waiting] == [[]] * len(waiting)
        turned.succeed(holder, "stock", "charge")

    assert [turned.status(run) for run in (a, b, c)] == [Status.COMPLETED] * 3
    assert turned.holder("order:1") is None


def test_runs_that_ask_in_one_batch_get_one_lock_one_after_the_other(family: Family) -> None:
    turned = family(LOCKED)
    runs = [turned.start(LOCKED, key) for key in "ab"]
    turned.rest()

    assert [turned.in_flight(run) for run in runs] == [["stock"], []]
    turned.succeed(runs[0], "stock", "charge")
    turned.succeed(runs[1], "stock", "charge")


def test_a_lock_is_held_until_the_undo_is_over(family: Family) -> None:
    turned = begin(begin(family(LOCKED), LOCKED, "a"), LOCKED, "b")
    a, b = turned.run_of(LOCKED, "a"), turned.run_of(LOCKED, "b")
    turned.succeed(a, "stock")
    turned.fail(a, "charge")
    assert turned.holder("order:1") == a

    turned.succeed(a, "stock.compensate")

    assert (turned.status(a), turned.holder("order:1")) == (Status.COMPENSATED, b)
    turned.terminate(LOCKED, "b")


def test_a_stalled_run_keeps_its_lock(family: Family) -> None:
    turned = begin(begin(family(LOCKED), LOCKED, "a"), LOCKED, "b")
    a = turned.run_of(LOCKED, "a")
    turned.succeed(a, "stock")
    turned.fail(a, "charge")
    turned.fail(a, "stock.compensate")

    assert turned.status(a) is Status.STALLED
    assert turned.holder("order:1") == a
    turned.resolve(LOCKED, "a", "steps.stock#1")
    assert turned.holder("order:1") == turned.run_of(LOCKED, "b")
    turned.terminate(LOCKED, "b")


def test_a_terminated_run_lets_go(family: Family) -> None:
    turned = begin(begin(family(LOCKED), LOCKED, "a"), LOCKED, "b")

    turned.terminate(LOCKED, "a")

    assert turned.holder("order:1") == turned.run_of(LOCKED, "b")
    turned.terminate(LOCKED, "b")
    assert turned.places == []
    assert turned.incidents == []


def test_a_run_that_has_the_lock_gets_it_again(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.lock("order:1")
        ctx.lock("order:1", wait=False)
        ctx.lock("order:1", timeout=5)
        return ctx.run(look, n)

    saga = define(function)
    turned = begin(begin(family(saga, HASTY), saga), HASTY)

    assert turned.in_flight(turned.run_of(saga, "7")) == ["look"]
    assert turned.result(turned.run_of(HASTY, "7")) == "it is held by tested/7"
    turned.succeed(turned.run_of(saga, "7"), "look")


def test_a_child_does_not_have_the_locks_of_its_parent(family: Family) -> None:
    def function(ctx: Context, n: int) -> str:
        ctx.lock("order:1")
        return str(ctx.child(HASTY, n))

    saga = define(function)
    turned = begin(family(saga, HASTY), saga)

    assert turned.result(turned.run_of(saga, "7")) == "it is held by tested/7"


# -- not to be had -----------------------------------------------------------------------------------------------------


def test_a_run_that_asks_once_is_told_who_has_it(family: Family) -> None:
    turned = begin(begin(family(LOCKED, HASTY), HASTY, "before"), LOCKED)
    begin(turned, HASTY, "after")

    assert turned.result(turned.run_of(HASTY, "before")) == "had it"
    assert turned.result(turned.run_of(HASTY, "after")) == "it is held by locked/7"
    turned.terminate(LOCKED, "7")


def test_a_lock_that_is_not_free_in_time_fails_and_its_place_in_line_is_gone(family: Family) -> None:
    turned = begin(begin(family(LOCKED, PATIENT), LOCKED), PATIENT)
    waiting = turned.run_of(PATIENT, "7")
    turned.wait(60)
    turned.rest()
    assert turned.status(waiting) is Status.RUNNING  # it asks a second time
    assert [place.attempt for place in turned.places if place.run == waiting] == [1]
    turned.wait(60)
    turned.rest()

    assert turned.result(waiting) == "it did not come in time"
    assert [place.run for place in turned.places] == [turned.run_of(LOCKED, "7")]
    turned.terminate(LOCKED, "7")


def test_a_lock_that_comes_free_at_the_second_asking_is_had(family: Family) -> None:
    turned = begin(begin(family(LOCKED, PATIENT), LOCKED), PATIENT)
    turned.wait(60)
    turned.rest()
    turned.terminate(LOCKED, "7")

    assert turned.in_flight(turned.run_of(PATIENT, "7")) == ["look"]
    turned.succeed(turned.run_of(PATIENT, "7"), "look")
    assert turned.result(turned.run_of(PATIENT, "7")) == "had it"
    assert turned.timers == {}


def test_a_lock_that_is_granted_as_its_time_runs_out_is_had(family: Family) -> None:
    turned = begin(begin(family(LOCKED, PATIENT), LOCKED), PATIENT)
    waiting = turned.run_of(PATIENT, "7")
    turned.hold(waiting)
    turned.terminate(LOCKED, "7")
    assert turned.holder("order:1") == waiting
    turned.inbox, answers = [a for a in turned.inbox if a.run != waiting], [a for a in turned.inbox if a.run == waiting]
    turned.let_go(waiting)
    turned.wait(60)
    turned.turn()  # the time runs out before the answer is seen
    turned.inbox += answers
    turned.rest()

    assert turned.in_flight(waiting) == ["look"]
    turned.succeed(waiting, "look")


def test_a_cancel_reaches_a_run_in_line(family: Family) -> None:
    turned = begin(begin(begin(family(LOCKED), LOCKED, "a"), LOCKED, "b"), LOCKED, "c")

    turned.cancel(LOCKED, "b")

    assert turned.status(turned.run_of(LOCKED, "b")) is Status.COMPENSATED
    turned.terminate(LOCKED, "a")
    assert turned.holder("order:1") == turned.run_of(LOCKED, "c")
    turned.terminate(LOCKED, "c")


@pytest.mark.parametrize("act", [EventKind.CANCEL_REQUESTED, EventKind.TERMINATE_REQUESTED])
def test_a_run_that_ends_in_the_turn_in_which_it_asks_leaves_no_place_behind(family: Family, act: EventKind) -> None:
    turned = begin(family(LOCKED), LOCKED, "a")
    b = turned.start(LOCKED, "b")
    turned.ask(act, "locked", "b")
    turned.rest()

    assert turned.rows[b].ended_at is not None
    assert [place.run for place in turned.places] == [turned.run_of(LOCKED, "a")]
    turned.terminate(LOCKED, "a")


def test_two_runs_that_wait_for_each_other_are_parted_by_their_timeouts(family: Family) -> None:
    def crossing(ctx: Context, n: int) -> int:
        first, second = ("a", "b") if ctx.key == "one" else ("b", "a")
        ctx.lock(first)
        ctx.run(stock, n)
        ctx.lock(second, timeout=30 if ctx.key == "one" else 60)
        return ctx.run(look, n)

    saga = define(crossing)
    turned = begin(begin(family(saga), saga, "one"), saga, "two")
    one, two = turned.run_of(saga, "one"), turned.run_of(saga, "two")
    turned.succeed(one, "stock")
    turned.succeed(two, "stock")
    assert (turned.in_flight(one), turned.in_flight(two)) == ([], [])

    turned.wait(31)
    turned.rest()
    assert turned.status(one) is Status.COMPENSATING
    turned.succeed(one, "stock.compensate")
    turned.succeed(two, "look")

    assert (turned.status(one), turned.status(two)) == (Status.COMPENSATED, Status.COMPLETED)
    assert turned.places == []


def test_a_lock_after_the_pivot_may_fail_like_any_other() -> None:
    def function(ctx: Context, n: int) -> str:
        ctx.pivot()
        try:
            ctx.lock("order:1", timeout=5)
        except LockTaken:
            return "another way"
        return "had it"

    run = Driven(define(function)).fire("deadline:lock:order:1#1").never_start("lock:order:1")

    assert (run.status, run.state.result) == (Status.COMPLETED, '"another way"')


def test_a_lock_after_the_pivot_that_nobody_catches_stalls_the_run() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.pivot()
        ctx.lock("order:1", wait=False)
        return n

    run = Driven(define(function)).abort("lock:order:1", "it is held by another")

    assert run.stall_reason is StallReason.FAILED_AFTER_PIVOT
    assert "it is held by another" in str(run.log[-2].payload)


def test_a_rollback_keeps_the_locks(family: Family) -> None:
    def function(ctx: Context, n: int) -> int:
        savepoint = ctx.savepoint()
        ctx.lock("order:1")
        ctx.run(stock, n)
        ctx.rollback(savepoint)
        return ctx.run(look, n)

    saga = define(function)
    turned = begin(family(saga), saga)
    run = turned.run_of(saga, "7")
    turned.succeed(run, "stock", "stock.compensate")

    assert turned.holder("order:1") == run
    turned.succeed(run, "look")
    assert turned.places == []


def test_the_undo_of_a_child_asks_for_none_of_its_locks(family: Family) -> None:
    saga = calling(LOCKED)
    parent = SagaDefinition(_then_failing(saga), name="failing")
    turned = begin(family(LOCKED, saga, parent), parent)
    turned.succeed(turned.run_of(LOCKED, "tested/failing/7#1#1"), "stock", "charge")
    turned.fail(turned.run_of(parent, "7"), "look")

    assert turned.places == []
    undo = turned.run_of(LOCKED, "tested/failing/7#1#1~undo")
    turned.succeed(undo, "charge.compensate", "stock.compensate")
    assert turned.status(turned.run_of(parent, "7")) is Status.COMPENSATED


def _then_failing(child: SagaDefinition) -> Callable[[Context, int], int]:
    def function(ctx: Context, n: int) -> int:
        ctx.child(child, n)
        return ctx.run(look, n)

    return function


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_locks_are_let_go_of_at_every_end() -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.lock("order:1")
        return ctx.run(stock, n)

    def held() -> Driven:
        return Driven(define(function)).succeed("lock:order:1", None)

    for run in (held().succeed("stock"), held().abort("stock"), held().terminate()):
        assert run.told == [ReleaseLocks()]
    assert Driven(define(function)).terminate().told == [ReleaseLocks()]


def test_a_run_without_locks_lets_go_of_none() -> None:
    assert Driven(LEG).terminate().told == []


def test_a_lock_is_asked_for_by_name_with_its_time() -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.lock("order:1", timeout=30)

    run = Driven(define(function))

    asked = run.open["lock:order:1"]
    assert isinstance(asked, RequestLock)
    assert (asked.name, asked.wait) == ("order:1", True)
    assert run.wait_seconds("deadline:lock:order:1#1") == 30


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), timedelta(days=400)])
def test_a_timeout_that_cannot_be_is_a_bug_of_the_saga(timeout: float | timedelta) -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.lock("order:1", timeout=timeout)

    run = Driven(define(function))

    assert run.stall_reason is StallReason.SAGA_BUG
    assert "wait=False asks once" in str(run.log[-1].payload)


@pytest.mark.parametrize("name", ["", "x" * 181, "line\nbreak"])
def test_a_name_that_cannot_be_is_a_bug_of_the_saga(name: str) -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.lock(name)

    assert Driven(define(function)).stall_reason is StallReason.SAGA_BUG


def test_another_lock_at_its_place_is_a_mismatch() -> None:
    def function(ctx: Context, n: int) -> None:
        ctx.lock("order:1")

    def changed(ctx: Context, n: int) -> None:
        ctx.lock("order:2")

    assert Driven(define(function)).reload(define(changed)).stall_reason is StallReason.REPLAY_MISMATCH
