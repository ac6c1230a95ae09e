"""Children and locks on real parts: what passes along between runs, and who waits for whom."""

from __future__ import annotations

from typing import Any

import pytest

from saga import Handle, RunFailed, StallReason, Status
from saga.core.events import EventKind
from tests.integration.fleet import Fleet
from tests.integration.waiting import (
    answer,
    asking,
    exclusive,
    expedition,
    journey,
    leg,
    parting,
    regretful,
    tolerant,
    trying,
)


def child_of(fleet: Fleet, handle: Handle[Any], saga: Any, number: int = 1, tail: str = "") -> Handle[Any]:
    """Return the handle of a child that got its key from its parent."""
    child: Handle[Any] = fleet.handle(saga, f"{handle.address}#{number}{tail}")
    fleet.accepted.add(child.address)
    return child


def until_told_late(fleet: Fleet, handle: Handle[Any]) -> None:
    """Wait for the late word of the worker whose attempt was ended with its run."""
    late = "SELECT count(*) FROM saga.incident WHERE kind = 'OutcomeLate' AND run = %s"
    fleet.until(lambda: fleet.count(late, handle._line.need().row.id), "its worker has told what it knows")


def test_a_child_has_a_run_of_its_own_whose_result_the_parent_gets(audited: Fleet) -> None:
    handle = audited.start(journey, "plain")
    child = child_of(audited, handle, leg)

    audited.ends(handle, Status.COMPLETED)

    assert child.status() is Status.COMPLETED
    assert handle.result() == child.result()


def test_a_failed_child_undoes_its_parent(audited: Fleet) -> None:
    handle = audited.start(journey, "failing", charge="abort")
    child = child_of(audited, handle, leg)

    audited.ends(handle, Status.COMPENSATED)

    assert child.status() is Status.COMPENSATED
    with pytest.raises(RunFailed, match="charge is not to be had"):
        handle.result()


def test_a_parent_may_catch_what_its_child_says(audited: Fleet) -> None:
    handle = audited.start(tolerant, "caught", charge="abort")
    child_of(audited, handle, leg)

    audited.ends(handle, Status.COMPLETED)

    assert "charge is not to be had" in handle.result()


def test_a_completed_child_is_undone_by_its_parents_undo_in_a_run_of_its_own(audited: Fleet) -> None:
    handle = audited.start(journey, "undone", confirm="abort")
    child = child_of(audited, handle, leg)
    undo = child_of(audited, handle, leg, tail="~undo")

    audited.ends(handle, Status.COMPENSATED)

    assert (child.status(), undo.status()) == (Status.COMPLETED, Status.COMPENSATED)
    assert [audited.undone(child, "charge"), audited.undone(child, "reserve")] == [0, 0]
    assert [audited.undone(undo, "charge"), audited.undone(undo, "reserve")] == [1, 1]


def test_a_child_past_its_pivot_leaves_its_parents_undo_to_an_operator(audited: Fleet) -> None:
    handle = audited.start(journey, "pivoted", confirm="abort", pivot="yes")
    child_of(audited, handle, leg)

    audited.stalls_as(handle, StallReason.COMPENSATION_GAVE_UP)
    handle.resolve("child:leg", evidence="the traveller keeps the seat")

    del audited.stalls[handle.address]
    audited.resolved.add(handle.address)
    audited.until(lambda: audited.status(handle) is Status.COMPENSATED, "it goes on")


def test_a_cancel_reaches_the_child_first(audited: Fleet) -> None:
    handle = audited.start(journey, "cancelled", charge="gate:cancelled-child")
    child = child_of(audited, handle, leg)
    audited.reached("cancelled-child")
    audited.cancel(handle)
    audited.until(lambda: audited.status(child) is Status.COMPENSATING, "the child is told")
    audited.open("cancelled-child")

    history = audited.ends(handle, Status.COMPENSATED)

    assert child.status() is Status.COMPENSATED
    assert EventKind.RUN_COMPENSATING in [event.kind for event in history]


def test_a_terminated_parent_terminates_its_child(audited: Fleet) -> None:
    handle = audited.start(journey, "terminated", charge="gate:terminated-child")
    child = child_of(audited, handle, leg)
    audited.reached("terminated-child")

    handle.terminate()

    audited.ends(handle, Status.TERMINATED)
    audited.ends(child, Status.TERMINATED)
    audited.open("terminated-child")
    until_told_late(audited, child)


def test_what_a_terminated_child_left_is_undone_before_its_parent_is_told(audited: Fleet) -> None:
    handle = audited.start(tolerant, "ended", charge="gate:ended-child")
    child, undo = child_of(audited, handle, leg), child_of(audited, handle, leg, tail="~undo")
    audited.reached("ended-child")

    child.terminate()
    audited.until(lambda: audited.status(child) is Status.TERMINATED, "it is terminated")
    audited.open("ended-child")  # its worker comes back after that
    until_told_late(audited, child)

    audited.ends(handle, Status.COMPLETED)
    assert "the child run ended terminated" in handle.result()
    assert undo.status() is Status.COMPENSATED
    assert [audited.undone(undo, "charge"), audited.undone(undo, "reserve")] == [1, 1]


def test_the_child_of_a_completed_child_is_undone_with_it(audited: Fleet) -> None:
    handle = audited.start(expedition, "far", expedition="abort")
    middle, undo = child_of(audited, handle, journey), child_of(audited, handle, journey, tail="~undo")
    low, low_undo = child_of(audited, middle, leg), child_of(audited, middle, leg, tail="~undo")

    audited.ends(handle, Status.COMPENSATED)

    assert [run.status() for run in (middle, low)] == [Status.COMPLETED, Status.COMPLETED]
    assert [run.status() for run in (undo, low_undo)] == [Status.COMPENSATED, Status.COMPENSATED]
    assert [audited.undone(undo, "confirm"), audited.undone(low_undo, "reserve")] == [1, 1]


def test_an_undo_that_an_operator_ended_is_taken_up_again_where_it_stood(audited: Fleet) -> None:
    handle = audited.start(journey, "again", confirm="abort", undo_reserve="gate:again")
    child_of(audited, handle, leg)
    first, second = (child_of(audited, handle, leg, tail=tail) for tail in ("~undo", "~undo~2"))
    audited.reached("again")

    first.terminate()
    audited.until(lambda: audited.status(handle) is Status.STALLED, "its parent stands before an operator")
    audited.open("again")
    until_told_late(audited, first)
    handle.retry("child:leg")

    audited.until(lambda: audited.status(handle) is Status.COMPENSATED, "it goes on")
    assert (first.status(), second.status()) == (Status.TERMINATED, Status.COMPENSATED)
    assert [audited.undone(first, "charge"), audited.undone(second, "charge")] == [1, 0]


def test_a_run_goes_back_to_its_save_point_and_on(audited: Fleet) -> None:
    handle = audited.start(regretful, "regretful", confirm="abort")
    child_of(audited, handle, leg)
    undo = child_of(audited, handle, leg, tail="~undo")

    history = audited.ends(handle, Status.COMPLETED)

    assert undo.status() is Status.COMPENSATED
    assert [audited.undone(handle, "notify"), audited.undone(handle, "reserve")] == [1, 0]
    assert [event.kind for event in history].count(EventKind.ROLLBACK_ASKED) == 1


def test_what_becomes_of_a_child_at_its_parents_end_is_the_parents_choice(audited: Fleet) -> None:
    handle = audited.start(parting, "parting")
    cancelled, abandoned = (audited.handle(asking, f"parting-{what}") for what in ("cancelled", "abandoned"))
    audited.accepted |= {cancelled.address, abandoned.address}

    audited.ends(handle, Status.COMPLETED)

    assert cancelled.status() is Status.COMPENSATED
    assert abandoned.status() is Status.RUNNING
    abandoned.send(answer, "still here")
    audited.ends(abandoned, Status.COMPLETED)


def test_a_child_whose_key_is_taken_fails(audited: Fleet) -> None:
    first = audited.start(leg, "tolerant/taken#1")
    audited.ends(first, Status.COMPLETED)

    handle = audited.start(tolerant, "taken")

    audited.ends(handle, Status.COMPLETED)
    assert handle.result() == "leg/tolerant/taken#1 is another run"


def test_children_survive_the_death_of_everybody(audited: Fleet) -> None:
    handles = [audited.start(journey, f"deaths-{n}", confirm="abort" if n % 2 else "") for n in range(6)]
    for handle in handles:
        child_of(audited, handle, leg)
        child_of(audited, handle, leg, tail="~undo") if int(handle.key[-1]) % 2 else None
    for _ in range(2):
        audited.kill(*audited.nodes.values())
        audited.tend()

    for n, handle in enumerate(handles):
        audited.ends(handle, Status.COMPENSATED if n % 2 else Status.COMPLETED, seconds=40)


# -- locks ---------------------------------------------------------------------------------------------------------


def test_a_lock_keeps_others_out_until_its_run_has_ended(audited: Fleet) -> None:
    first = audited.start(exclusive, "one", lock="order:1")
    audited.until(lambda: audited.applied(first, "reserve"), "the first has it")
    second = audited.start(exclusive, "two", lock="order:1")
    audited.until(lambda: audited.count("SELECT count(*) FROM saga.lock WHERE name = 'order:1'") == 2, "two in line")
    assert audited.applied(second, "reserve") == 0

    first.send(answer, "done")
    audited.ends(first, Status.COMPLETED)
    audited.until(lambda: audited.applied(second, "reserve"), "the second has it")
    second.send(answer, "done")

    audited.ends(second, Status.COMPLETED)
    assert audited.count("SELECT count(*) FROM saga.lock WHERE name = 'order:1'") == 0


def test_a_lock_that_is_taken_fails_at_once_where_that_is_wanted(audited: Fleet) -> None:
    first = audited.start(exclusive, "holder", lock="order:2")
    audited.until(lambda: audited.applied(first, "reserve"), "the first has it")

    second = audited.start(exclusive, "hasty", lock="order:2", wait="no")

    audited.ends(second, Status.COMPENSATED)
    with pytest.raises(RunFailed, match="it is held by exclusive/holder"):
        second.result()
    first.send(answer, "done")
    audited.ends(first, Status.COMPLETED)


def test_a_lock_that_does_not_come_free_in_time_fails_and_the_line_goes_on(audited: Fleet) -> None:
    first = audited.start(exclusive, "long", lock="order:3")
    audited.until(lambda: audited.applied(first, "reserve"), "the first has it")

    second = audited.start(trying, "short", lock="order:3")

    audited.ends(second, Status.COMPLETED)
    assert second.result() == "it did not come in time"
    first.send(answer, "done")
    audited.ends(first, Status.COMPLETED)
    third = audited.start(trying, "after", lock="order:3")
    audited.ends(third, Status.COMPLETED)
    assert third.result() == "had it"


def test_a_lock_is_kept_over_the_death_of_everybody_and_released_by_an_undo(audited: Fleet) -> None:
    first = audited.start(exclusive, "kept", lock="order:4")
    audited.until(lambda: audited.applied(first, "reserve"), "the first has it")
    audited.kill(*audited.nodes.values())
    audited.tend()
    second = audited.start(exclusive, "next", lock="order:4")

    audited.cancel(first)

    audited.ends(first, Status.COMPENSATED)
    audited.until(lambda: audited.applied(second, "reserve"), "the second has it")
    second.send(answer, "done")
    audited.ends(second, Status.COMPLETED)
