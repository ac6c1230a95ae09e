"""Saga functions that block, loop, kill their process, cling to memory or changed under their runs; small caches."""

from __future__ import annotations

import pytest

from saga.core.events import EventKind
from saga.core.lifecycle import StallReason, Status
from tests.integration.application import BUILD_VARIABLE, blocking, clinging, tidy, trip
from tests.integration.deployed_new import changed, novel
from tests.integration.fleet import Fleet, kinds

pytestmark = [pytest.mark.chaos]


@pytest.fixture
def small(bare_fleet: Fleet) -> Fleet:
    """One coordinator that keeps one run in memory, and one worker."""
    bare_fleet.coordinator("c1", SAGA_TEST_CACHE="1")
    bare_fleet.worker("w1")
    bare_fleet.until_ready()
    return bare_fleet


def test_a_cache_of_one_run_is_enough(small: Fleet) -> None:
    handles = [small.start(trip, f"cache-{number}") for number in range(12)]
    undone = [small.start(trip, f"cache-undo-{number}", confirm="abort") for number in range(4)]

    for handle in handles:
        small.ends(handle, Status.COMPLETED)
    for handle in undone:
        small.ends(handle, Status.COMPENSATED)
    assert "survived its eviction" not in small.nodes["c1"].said()


def test_an_evicted_function_with_a_finally_starts_nothing(small: Fleet) -> None:
    handles = [small.start(tidy, f"tidy-{number}", confirm=f"gate:tidy-{number}") for number in range(2)]
    for number in range(2):
        small.reached(f"tidy-{number}")
    # The cache holds one of them: the other one was thrown out at its wait, and ran its finally.
    for handle in handles:
        assert [e.key for e in handle.history() if e.kind is EventKind.ACTION_SCHEDULED] == [
            "application.reserve#1",
            "application.confirm#1",
        ]

    for number in range(2):
        small.open(f"tidy-{number}")

    for handle in handles:
        small.ends(handle, Status.COMPLETED)
        assert small.attempts(handle, "notify") == [1]


def test_a_function_that_blocks_while_it_is_evicted_holds_up_nobody(small: Fleet) -> None:
    clingy = [small.start(clinging, f"clinging-{number}", confirm=f"gate:cling-{number}") for number in range(2)]
    for number in range(2):
        small.reached(f"cling-{number}")

    others = [small.start(trip, f"beside-clinging-{number}") for number in range(3)]
    for handle in others:
        small.ends(handle, Status.COMPLETED)
    for number in range(2):
        small.open(f"cling-{number}")
    for handle in clingy:
        small.ends(handle, Status.COMPLETED)
    assert small.nodes["c1"].exits == []


@pytest.mark.parametrize("how", ["sleep", "loop"])
def test_a_saga_function_that_does_not_come_to_rest_is_cut_off_and_stalls_alone(audited: Fleet, how: str) -> None:
    others = [audited.start(trip, f"beside-{how}-{number}") for number in range(3)]
    handle = audited.start(blocking, how, function=how)

    history = audited.stalls_as(handle, StallReason.SAGA_BUG)

    assert "had not come to rest" in (history[-1].payload or "") + (history[-2].payload or "")
    for other in others:
        audited.ends(other, Status.COMPLETED)
    assert audited.nodes["c1"].exits + audited.nodes["c2"].exits == []


def test_a_stalled_run_goes_on_after_its_function_is_mended(audited: Fleet) -> None:
    handle = audited.start(blocking, "mended", function="sleep_once")
    audited.stalls_as(handle, StallReason.SAGA_BUG)

    (audited.folder / "mended").touch()
    handle.retry()

    del audited.stalls[handle.address]
    audited.until(lambda: audited.status(handle) is Status.COMPLETED, "it goes on")


def test_a_poison_run_does_not_kill_heir_after_heir(bare_fleet: Fleet) -> None:
    fleet = bare_fleet
    coordinators = [fleet.coordinator("c1"), fleet.coordinator("c2")]
    fleet.worker("w1")
    fleet.until_ready()
    poison = fleet.start(blocking, "poison", function="exit")
    others = [fleet.start(trip, f"beside-poison-{number}") for number in range(3)]

    fleet.stalls_as(poison, StallReason.SAGA_BUG, seconds=60)

    for other in others:
        fleet.ends(other, Status.COMPLETED)
    deaths = [code for node in coordinators for code in node.exits if code == 7]
    assert 1 <= len(deaths) <= 5


def test_a_run_that_kills_its_coordinator_when_a_timer_fires_is_stalled_too(bare_fleet: Fleet) -> None:
    fleet = bare_fleet
    coordinators = [fleet.coordinator("c1"), fleet.coordinator("c2")]
    fleet.worker("w1")
    fleet.until_ready()
    poison = fleet.start(blocking, "poison-timer", function="exit_in_replay", reserve="later:1.5")
    fleet.until(lambda: fleet.count("SELECT count(*) FROM saga.timer") == 1, "its retry waits")
    (fleet.folder / "poisoned").touch()
    fleet.kill(*coordinators)

    fleet.stalls_as(poison, StallReason.SAGA_BUG, seconds=50)

    assert len([code for node in coordinators for code in node.exits if code == 7]) <= 4


def test_f27_a_new_build_retries_what_the_old_one_could_not_run(bare_fleet: Fleet) -> None:
    fleet = bare_fleet
    old = fleet.coordinator("old", **{BUILD_VARIABLE: "old"})
    fleet.worker("w1")
    fleet.until_ready()
    unknown = fleet.start(novel, "unknown")
    fleet.stalls_as(unknown, StallReason.NO_DEFINITION)
    mismatched = fleet.start(changed, "mismatched", confirm="gate:changed")
    fleet.reached("changed")

    fleet.coordinator("new", **{BUILD_VARIABLE: "new"})
    fleet.stop(old)
    fleet.until(lambda: fleet.status(unknown) is Status.COMPLETED, "the new build runs it")
    del fleet.stalls[unknown.address]
    fleet.open("changed")
    fleet.stalls_as(mismatched, StallReason.REPLAY_MISMATCH)

    again = fleet.coordinator("rolled-back", **{BUILD_VARIABLE: "old"})
    fleet.stop(fleet.nodes["new"])
    fleet.until(lambda: fleet.status(mismatched) is Status.COMPLETED, "the code that fits runs it")
    del fleet.stalls[mismatched.address]
    assert again.lives
    assert kinds(mismatched.history()).count(EventKind.RETRY_REQUESTED) == 1
