"""A coordinator wakes for timers that another one has set: it knows by heart what falls due soon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from saga import Context, Status, saga
from saga.cli.embedded import Database
from saga.core.events import EventKind
from saga.engine import coordinator, upkeep
from saga.engine.coordinator import Coordinator
from tests.contract.world import in_thread
from tests.integration.application import Order
from tests.simulation.world import World

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]

#: Long enough for one coordinator to hand over to another, short enough to lie within its look ahead.
DOZE_SECONDS = 4.0


@saga("doze")
def doze(ctx: Context, order: Order) -> None:
    """Sleep a little."""
    ctx.sleep(DOZE_SECONDS)


@saga("bygone")
def bygone(ctx: Context, order: Order) -> None:
    """Sleep until a time that has passed, and as long as can be."""
    ctx.sleep(datetime.min.replace(tzinfo=UTC))


@pytest.fixture
def world(database: Database, broker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world without any process."""
    monkeypatch.setattr(upkeep, "PASS_SECONDS", 0.1)
    made = World(database, broker_url, tmp_path / "world", sagas={("doze", 1): doze, ("bygone", 1): bygone}, steps=())
    yield made
    made.close()


@contextmanager
def coordinating(world: World) -> Iterator[None]:
    """Run a coordinator beside the block, and let it hand over afterwards."""
    running = Coordinator(world.installation)
    ended = in_thread(running.run)
    try:
        yield
    finally:
        running.stop()
        ended.result(20)


def test_an_heir_wakes_for_the_timers_that_it_finds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with coordinating(world):
        handle = world.start(doze, "one")
        world.until(lambda: world.count("SELECT count(*) FROM saga.timer") == 1, "it dozes")

    monkeypatch.setattr(coordinator, "OWN_SECONDS", 3_600)  # the heir looks when something wakes it, and never else
    with coordinating(world):
        world.until(lambda: world.ended(handle), "the heir wakes for it")

    begun, fired = (
        next(event for event in handle.history() if event.kind is kind)
        for kind in (EventKind.TIMER_STARTED, EventKind.TIMER_FIRED)
    )
    assert handle.status() is Status.COMPLETED
    assert (fired.at - begun.at).total_seconds() >= DOZE_SECONDS


def test_a_time_that_has_passed_is_due_at_once_wherever_postgres_stands(world: World) -> None:
    world.owner.execute(f"ALTER DATABASE {world.database.name} SET timezone TO 'America/New_York'".encode())

    with coordinating(world):
        handle = world.start(bygone, "one")
        world.until(lambda: world.ended(handle), "it goes on")

    assert handle.status() is Status.COMPLETED
