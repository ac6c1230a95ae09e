"""What a coordinator's threads do when they fail in a way that nobody thought of: they end it, as if it had died."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from saga.cli.embedded import Database
from saga.core.lifecycle import Status
from saga.engine import upkeep
from saga.engine.client import Handle
from saga.engine.coordinator import Buried, Coordinator
from saga.engine.publisher import Publisher, PublisherFailed
from saga.engine.records import TaskMessage
from saga.engine.store.connect import Connection
from saga.engine.upkeep import Upkeep
from tests.contract.world import in_thread
from tests.integration.application import trip
from tests.simulation.world import World

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]


class Unforeseen(Exception):
    """Stands for any bug."""


@pytest.fixture
def world(database: Database, broker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world without any process yet; no invariant falls in it."""
    monkeypatch.setattr(upkeep, "PASS_SECONDS", 0.1)
    made = World(database, broker_url, tmp_path / "world")
    yield made
    try:
        found = made.audit()
        assert not found, "\n".join(map(str, found)) + "\n" + made.told()
    finally:
        made.close()


def ended(world: World, handle: Handle[str]) -> Status:
    """Let another coordinator and a worker finish the run."""
    world.coordinator("heir")
    world.worker("w1")
    world.until(lambda: world.ended(handle), "another takes over")
    return handle.status()


def traceback_of(error: type[BaseException]) -> Callable[[logging.LogRecord], bool]:
    return lambda record: bool(record.exc_info and record.exc_info[0] is error)


def test_an_upkeep_that_fails_ends_its_coordinator(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Upkeep, connection: Connection) -> None:
        raise Unforeseen

    with monkeypatch.context() as patched:
        patched.setattr(Upkeep, "_pass", fail)
        ending: Future[None] = in_thread(Coordinator(world.installation).run)
        with pytest.raises(Buried):
            ending.result(20)

    assert any(map(traceback_of(Unforeseen), caplog.records))
    assert ended(world, world.start(trip, "upkeep")) is Status.COMPLETED


def test_a_publisher_that_fails_ends_its_coordinator_and_another_publishes(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Publisher, parcels: Sequence[object]) -> None:
        raise Unforeseen

    def leave_it_to_the_thread(self: Publisher, messages: Sequence[TaskMessage], mark: int) -> None:
        self.give(messages, mark=mark)

    handle = world.start(trip, "publisher")
    with monkeypatch.context() as patched:
        patched.setattr(Publisher, "_publish", fail)
        patched.setattr(Publisher, "publish", leave_it_to_the_thread)
        ending: Future[None] = in_thread(Coordinator(world.installation).run)
        with pytest.raises(PublisherFailed, match="Unforeseen"):
            ending.result(20)

    assert any(map(traceback_of(Unforeseen), caplog.records))
    assert ended(world, handle) is Status.COMPLETED


def test_a_publisher_that_failed_never_says_that_all_is_published(world: World) -> None:
    def fail() -> None:
        raise Unforeseen

    publisher = Publisher(world.installation.app)
    publisher.give([], then=fail)
    publisher.start()

    assert not publisher.stop(10)
    with pytest.raises(PublisherFailed):
        assert publisher.has_room
