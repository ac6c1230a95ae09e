"""One coordinator in a thread of the test's own process: long turns and take-overs, errors in their middle, leftovers.

Nothing is killed here. What a coordinator does beside others, and when it dies, the traces and the chaos say.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from saga.cli.embedded import Database
from saga.core.address import shard_of
from saga.core.events import EventKind, start_payload
from saga.core.lifecycle import StallReason, Status
from saga.core.outcome import wrap
from saga.engine import crashpoints, upkeep
from saga.engine.client import Handle
from saga.engine.coordinator import Coordinator
from saga.engine.crashpoints import Point
from saga.engine.publisher import Publisher
from saga.engine.records import SHARDS
from saga.engine.store import reaping
from saga.engine.store.connect import Connection, connect
from saga.engine.store.membership import Membership
from saga.engine.store.turning import Turning
from saga.engine.store.working import Working
from saga.engine.turn import ORPHAN_SECONDS, Turns
from tests.contract.world import in_thread
from tests.integration.application import trip
from tests.ledger import Call
from tests.simulation.faults import Fault, failing
from tests.simulation.mutants import Hand
from tests.simulation.world import World

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]

_TASK = "SELECT token FROM saga.task t JOIN saga.run r ON r.id = t.run WHERE r.key = %s"


@pytest.fixture
def world(database: Database, broker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world without any process yet; no invariant falls in it."""
    monkeypatch.setattr(upkeep, "PASS_SECONDS", 0.1)
    # What is not published when it should be is not found by its count either.
    monkeypatch.setattr(reaping, "SETTLING_SECONDS", 3_600)
    made = World(database, broker_url, tmp_path / "world")
    yield made
    try:
        found = made.audit()
        assert not found, "\n".join(map(str, found)) + "\n" + made.told()
    finally:
        made.close()


@contextmanager
def coordinating(world: World) -> Iterator[None]:
    """Run a coordinator beside the block, and let it hand over afterwards."""
    coordinator = Coordinator(world.installation)
    ended = in_thread(coordinator.run)
    try:
        yield
    finally:
        coordinator.stop()
        ended.result(20)


@contextmanager
def watching(point: Point, see: Callable[[], Any]) -> Iterator[list[Any]]:
    """Collect what is seen at each passage of a point."""
    seen: list[Any] = []
    crashpoints.arm(lambda passed, detail: seen.append(see()) if passed is point else None)
    try:
        yield seen
    finally:
        crashpoints.arm(None)


@pytest.fixture
def beside(world: World) -> Iterator[Connection]:
    """A connection for a coordinator's thread to look around with."""
    with connect(world.database.url, application_name="beside") as opened:
        yield opened


def beaten(world: World, beside: Connection) -> bool:
    """Wait for the next beat; say whether there was one."""

    def lease() -> Any:
        row = beside.execute("SELECT max(lease_until) FROM saga.coordinator WHERE dead_at IS NULL").fetchone()
        return row and row[0]

    before = lease()
    return bool(world.wait(lambda: lease() > before, seconds=5, tend=False))


def left_behind(world: World) -> tuple[Handle[Any], Handle[Any]]:
    """Leave what a dead coordinator left: a run that its older build stalled, and one whose task is unpublished."""
    dead = Hand.join(world)
    dead.own_all()
    stalled = world.start(trip, "stalled")
    run = stalled._proposed
    assert run is not None
    dead.commit(dead.turns.stall(dead.take(), run, StallReason.NO_DEFINITION, "the older build had no such saga"))
    world.owner.execute("UPDATE saga.run SET build = 'older'")
    unpublished = world.start(trip, "unpublished")
    dead.commit(dead.turns.decide(dead.take()))
    dead.leave()
    return stalled, unpublished


def test_a_turn_longer_than_its_lease_keeps_it(
    world: World, beside: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = [world.start(trip, f"long-{number}") for number in range(4)]
    turn = Turns._turn
    lived: list[bool] = []

    def slow(self: Turns, *args: Any) -> None:
        lived.append(beaten(world, beside))
        turn(self, *args)

    monkeypatch.setattr(Turns, "_turn", slow)
    with coordinating(world):
        world.until(lambda: world.count("SELECT count(*) FROM saga.run") == 4, "all are taken")
        assert lived == [True] * 4
        for handle in handles:
            handle.terminate()
        world.until(lambda: all(world.ended(handle) for handle in handles), "they end")


def test_a_take_over_longer_than_its_lease_keeps_it(
    world: World, beside: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.worker("w1")
    handles = left_behind(world)
    messages_after = Membership.messages_after
    lived: list[bool] = []

    def slow(self: Membership, *args: Any, **options: Any) -> Any:
        if len(lived) < 4:
            lived.append(beaten(world, beside))
        return messages_after(self, *args, **options)

    monkeypatch.setattr(Membership, "messages_after", slow)
    with coordinating(world):
        world.until(lambda: all(world.ended(handle) for handle in handles), "they end")

    assert lived == [True] * 4


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Membership, "set_strikes"), (Membership, "messages_after"), (Turning, "stalled")],
    ids=["strikes", "messages", "stalled"],
)
def test_a_take_over_that_an_error_cuts_short_is_done_again(
    world: World, beside: Connection, monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str
) -> None:
    world.worker("w1")
    handles = left_behind(world)
    struck: list[Fault | None] = []

    def first_call() -> Fault | None:
        struck.append(Fault.TIMEOUT if not struck else None)
        return struck[-1]

    monkeypatch.setattr(owner, name, failing(getattr(owner, name), first_call, commits=False))

    # Before the first turn on them the shards are marked: their owner has died.
    strikes = "SELECT min(strikes) FROM saga.shard"
    with watching(Point.TURN_TAKEN, lambda: beside.execute(strikes).fetchone()) as seen, coordinating(world):
        world.until(lambda: all(world.ended(handle) for handle in handles), "they end")

    assert struck[0] is Fault.TIMEOUT
    assert seen[0] == (1,)
    for handle in handles:
        assert handle.status() is Status.COMPLETED
    retries = [event.kind for event in handles[0].history()].count(EventKind.RETRY_REQUESTED)
    assert retries == 1


def test_a_cancel_waits_for_its_start_and_one_without_a_start_becomes_an_incident(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.worker("w1")
    room: list[bool] = []
    monkeypatch.setattr(Publisher, "has_room", property(lambda self: bool(room)))
    handle = world.start(trip, "waits")
    handle.cancel()
    with psycopg.connect(world.database.url) as caller:  # in a caller's transaction nobody looks for its run
        Handle(world.installation, "trip", "never-started").cancel(connection=caller)
    world.owner.execute("UPDATE saga.inbox SET at = at - make_interval(secs => %s)", (ORPHAN_SECONDS + 1,))

    with coordinating(world):
        world.until(lambda: world.count("SELECT count(*) FROM saga.incident") == 1, "one of them is dropped")
        assert world.count("SELECT count(*) FROM saga.inbox") == 2
        room.append(True)
        world.until(lambda: world.ended(handle), "it ends")

    assert handle.status() is Status.COMPENSATED
    assert world.owner.execute("SELECT kind, run FROM saga.incident").fetchall() == [("CancelRequested", None)]


def test_what_waits_for_its_start_hides_nothing_behind_it(world: World) -> None:
    """The cancels come first in the lane, and are more than a take holds of one shard."""
    world.worker("w1")
    handle = world.start(trip, "behind")
    with psycopg.connect(world.database.url) as caller:  # in a caller's transaction nobody looks for its run
        for key in keys_beside("behind", 40):
            Handle(world.installation, "trip", key).cancel(connection=caller)

    with coordinating(world):
        world.until(lambda: world.ended(handle), "it ends", seconds=ORPHAN_SECONDS / 2)
        assert world.count("SELECT count(*) FROM saga.inbox") == 40
        world.owner.execute("UPDATE saga.inbox SET at = at - make_interval(secs => %s)", (ORPHAN_SECONDS + 1,))
        world.until(lambda: world.count("SELECT count(*) FROM saga.incident") == 40, "all of them are dropped")

    assert handle.status() is Status.COMPLETED


def test_starts_that_wait_for_another_runs_end_hide_none_behind_them(world: World) -> None:
    waited_for = world.start(trip, "waited-for")
    undo = start_payload(1, None, "{}", undoes=waited_for._proposed)

    with coordinating(world):
        world.until(lambda: world.count("SELECT count(*) FROM saga.run") == 1, "it is taken")
        with connect(world.database.url, application_name="parent") as parent:
            for key in keys_beside("behind", 40):
                values: dict[str, Any] = {"run": uuid4(), "saga": "trip", "key": key, "kind": "RunStarted"}
                shard = shard_of("trip", key, SHARDS)
                world.installation.sending.send(parent, shard=shard, lane=1, dedupe=None, payload=undo, **values)
        behind = world.start(trip, "behind")
        world.until(lambda: world.count("SELECT count(*) FROM saga.run") == 2, "what is behind them is taken")
        assert world.count("SELECT count(*) FROM saga.inbox") == 40
        world.owner.execute("DELETE FROM saga.inbox")
        for handle in (waited_for, behind):
            handle.terminate()
        world.until(lambda: world.ended(waited_for) and world.ended(behind), "they end")


def keys_beside(key: str, count: int) -> Iterator[str]:
    """Return so many other keys of trips in the shard of this one."""
    others = (f"beside-{number}" for number in itertools.count())
    shard = shard_of("trip", key, SHARDS)
    return itertools.islice((other for other in others if shard_of("trip", other, SHARDS) == shard), count)


def test_a_retry_that_is_set_and_cancelled_in_one_batch_blocks_nobody(world: World) -> None:
    world.worker("w1")
    hand = Hand.join(world)
    hand.own_all()
    handle = world.start(trip, "set-and-cancelled")
    hand.commit(hand.turns.decide(hand.take()))
    _fail_first_step(world, hand, handle)
    handle.cancel()
    beside = world.start(trip, "beside")
    hand.leave()

    with coordinating(world):
        world.until(lambda: world.ended(handle) and world.ended(beside), "they end")

    assert handle.status() is Status.COMPENSATED
    assert beside.status() is Status.COMPLETED
    kinds = [event.kind for event in handle.history()]
    assert kinds.index(EventKind.RETRY_SET) < kinds.index(EventKind.CANCEL_REQUESTED)


def _fail_first_step(world: World, hand: Hand, handle: Handle[Any]) -> None:
    """Play the worker of `reserve`: it calls its service, whose reply is lost."""
    row = world.owner.execute(_TASK, (handle.key,)).fetchone()
    assert row is not None
    working = Working("saga")
    claim = working.claim(hand.connection, row[0], 1, uuid4())
    assert claim is not None
    call = Call(handle.address, "reserve", "action", str(row[0]), str(row[0]), 1)
    world.ledger.attempted(call)
    world.ledger.apply(call)
    payload = wrap('{"type":"TimeoutError","message":"no reply"}', worker="w/1", ran_seconds=0.1)
    assert working.record_outcome(hand.connection, claim, EventKind.STEP_UNKNOWN, payload)


def test_a_due_timer_that_its_run_knows_nothing_of_is_deleted_once(world: World) -> None:
    handle = world.start(trip, "zombie-timer")
    with coordinating(world):
        world.until(lambda: world.count("SELECT count(*) FROM saga.task") == 1, "it waits for a worker")
        with watching(Point.TURN_TAKEN, lambda: None) as turns:
            world.owner.execute(
                "INSERT INTO saga.timer (run, name, shard, due_at) "
                "SELECT id, 'action:application.charge#1', shard, clock_timestamp() FROM saga.run"
            )
            world.until(lambda: world.count("SELECT count(*) FROM saga.timer") == 0, "the timer is deleted")
            before = handle.history()
            handle.terminate()
            world.until(lambda: world.ended(handle), "it ends")

    assert EventKind.TIMER_FIRED not in [event.kind for event in handle.history()]
    assert len(before) == 2
    assert len(turns) == 2
