"""A deploy that rolls, or is taken back: coordinators that do not know all that newer ones have written and are sent.

What a coordinator does not know is taken from it here, since nothing newer than this code is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import saga.engine.registry
import saga.engine.store.logs
import saga.engine.store.turning
from saga.cli.embedded import Database
from saga.core.events import EventKind
from saga.core.lifecycle import StallReason, Status
from tests.integration.application import trip
from tests.simulation.world import World

pytestmark = [pytest.mark.chaos, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def world(database: Database, broker_url: str, tmp_path: Path) -> Iterator[World]:
    """A world without any process yet; no invariant falls in it."""
    made = World(database, broker_url, tmp_path / "world")
    yield made
    try:
        found = made.audit()
        assert not found, "\n".join(map(str, found)) + "\n" + made.told()
    finally:
        made.close()


def ignorance_of(unknown: EventKind) -> Callable[[], None]:
    """Plant code that does not know a kind of event."""

    def plant() -> None:
        known = [kind for kind in EventKind if kind is not unknown]

        def kind_of(text: str) -> EventKind:
            if text == unknown:
                raise ValueError(f"{text!r} is not a valid EventKind")
            return EventKind(text)

        for module, name, older in (
            (saga.engine.store.logs, "EventKind", kind_of),
            (saga.engine.store.turning, "_KINDS", [kind.value for kind in known]),
            (saga.engine.registry, "EventKind", known),
        ):
            setattr(module, name, older)

    return plant


def replace_by(world: World, new: str, *, plant: Callable[[], None] = lambda: None) -> None:
    """Kill the coordinator that there is, and start one of other code."""
    for name in [name for name in world.children if name.startswith("c")]:
        world.remove(name)
    world.plant = plant
    world.coordinator(new)
    world.until_ready()


def test_a_run_that_newer_code_has_written_stalls_alone_and_goes_on_with_that_code(world: World) -> None:
    world.coordinator("c-new")
    world.worker("w1")
    world.worker("w2")
    world.until_ready()
    ahead = world.start(trip, "ahead", book="gate:ahead")
    world.reached("ahead")

    replace_by(world, "c-old", plant=ignorance_of(EventKind.PIVOT_PASSED))
    world.open("ahead")
    world.until(lambda: ahead.status() is Status.STALLED, "it stalls")
    behind = [world.start(trip, f"behind-{number}", confirm="abort") for number in range(3)]
    world.until(lambda: all(map(world.ended, behind)), "the others go on")
    found = ahead._line.find()
    assert found is not None
    assert found.row.reason == StallReason.REPLAY_MISMATCH
    assert "newer code has written it" in (found.failure or "")
    assert world.count("SELECT count(*) FROM saga.inbox WHERE run = %s", found.row.id) > 0
    replace_by(world, "c-old", plant=ignorance_of(EventKind.PIVOT_PASSED))
    after = world.start(trip, "after")
    world.until(lambda: world.ended(after), "the next of the older code leaves it alone, too")
    assert [event.kind for event in ahead.history()].count(EventKind.RUN_STALLED) == 1

    replace_by(world, "c-new")

    world.until(lambda: ahead.status() is Status.COMPLETED, "newer code goes on with it")


def test_what_newer_code_has_sent_waits_for_that_code(world: World) -> None:
    world.plant = ignorance_of(EventKind.CANCEL_REQUESTED)
    world.coordinator("c-old")
    world.plant = lambda: None
    world.worker("w1")
    world.until_ready()
    cancelled = world.start(trip, "cancelled", reserve="gate:cancelled")
    world.reached("cancelled")

    cancelled.cancel()
    world.until(lambda: "left to a coordinator" in world.said("c-old"), "it is seen, and left")
    assert world.count("SELECT count(*) FROM saga.inbox WHERE kind = 'CancelRequested'") == 1
    replace_by(world, "c-new")
    world.until(lambda: world.count("SELECT count(*) FROM saga.inbox") == 0, "newer code takes it")
    world.open("cancelled")

    world.until(lambda: cancelled.status() is Status.COMPENSATED, "it is undone")
