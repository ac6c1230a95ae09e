"""The traces of docs/protocol.md, section 3, that today's features can meet: a test here, or where the table says.

| trace | test |
|---|---|
| a forgotten claim (decision 24) | `mutants.forgotten_claim`, `forgotten_fence` and their mutants |
| evict on any batch error, compare-and-set on head | `mutants.failed_batch`, `mutants.two_owners` and their mutants |
| the fence is one exclusive row lock; lost COMMIT (F19) | `test_f19_…` here; contract, turning |
| retry is a timer, the reaper never bumps | `test_a_retry_that_waits_survives_its_coordinator` |
| unknown is sticky per token | `mutants.unknown_then_abort` and its mutant |
| late outcomes are told | `mutants.late_effect` and its mutant; `test_a_recorded_outcome_…` here |
| one arrival at a time | `mutants.two_at_once` and its mutant |
| acquire is re-read | `test_shards_acquired_without_a_reply_are_found` |
| eviction | integration, misbehaving sagas: `finally:`, a block while leaving, a cache of one |
| no take by DELETE … RETURNING | integration, misbehaving sagas: a blocking function stalls alone |
| decoding before the user's function; result refused; NUL and NaN | unit tests of the outcome table and the codec |
| grace after restart | integration, outages: F18; contract, membership and reaping |
| claimant per delivery, and "or mine" | `test_a_claim_without_a_reply_is_still_this_deliverys` |
| no retry or undo before the hard limit has passed | `test_an_unknown_attempt_is_left_alone_until_its_lease_ends` |
| synchronous replicas | contract, turning and working (a warning stands for the cut-off wait) |
| one server-side call a batch; one lease row | contract, turning |
| the broker's count against ours | `mutants.flushed` and its mutant; F22 |
| the doorbell through callers' long transactions | `test_a_start_in_a_long_transaction_holds_up_nobody` |
| clients insert into the inbox only | the same |
| SIGALRM and suspect; stalls by no definition and mismatch | integration, misbehaving sagas |
| a worker that reaches the broker but not Postgres | integration, outages |
| publishing never blocks the loop | integration, outages: F22, a paused broker |
| publish only what is surely committed | `plain` and the mutant "publish before commit" |
| a release or hand-over with something unpublished | `test_f19_…` here; contract, membership |
| signals, children, continue-as-new | later features |
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

import saga.engine.store.reaping
from saga.cli.embedded import Database
from saga.core.events import EventKind
from saga.core.lifecycle import Status
from saga.engine.client import start_run
from saga.engine.crashpoints import Point
from saga.engine.records import Batch
from saga.engine.store.connect import Connection
from saga.engine.store.failures import CommitUnknown
from saga.engine.store.membership import Membership
from saga.engine.store.reading import FoundRun
from saga.engine.store.turning import Committed, Turning
from saga.engine.store.working import Working
from tests.arming import Victim
from tests.integration.application import Order, drifting, trip
from tests.pace import CLAIM_SECONDS
from tests.simulation.faults import Fault, failing
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


def staff(world: World, *workers: str) -> None:
    """Start one coordinator, and two workers where none are named."""
    world.coordinator("c1")
    for name in workers or ("w1", "w2"):
        world.worker(name)
    world.until_ready()


def failing_each(owner: type[Any], name: str, fault: Fault, *, commits: bool) -> Callable[[], None]:
    """Plant a statement that fails at every second call."""

    def plant() -> None:
        calls: list[int] = []

        def choose() -> Fault | None:
            calls.append(1)
            return fault if len(calls) % 2 else None

        setattr(owner, name, failing(getattr(owner, name), choose, commits=commits))

    return plant


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize(("name", "moods"), [("forward", {}), ("back", {"confirm": "abort", "charge": "fail_once"})])
def test_f19_a_commit_without_a_reply_is_read_again_and_makes_one_transition(
    world: World, fault: Fault, name: str, moods: dict[str, str]
) -> None:
    world.plant = failing_each(Turning, "commit", fault, commits=True)
    staff(world)

    handle = world.start(trip, name, **moods)

    world.until(lambda: world.ended(handle), "it ends")
    assert handle.status() is (Status.COMPENSATED if moods else Status.COMPLETED)


def test_f19_a_coordinator_told_to_end_with_a_commit_in_doubt_leaves_it_to_its_heir(world: World) -> None:
    doubt = world.folder / "doubt"

    def plant() -> None:
        # Nothing but the heir's own look at the mark publishes again here.
        setattr(saga.engine.store.reaping, "SETTLING_SECONDS", 3_600)  # noqa: B010 - a constant to mypy
        commit, read_heads = Turning.commit, Turning.read_heads
        struck: list[int] = []

        def lose(self: Turning, connection: Connection, me: UUID, batch: Batch) -> Committed:
            done = commit(self, connection, me, batch)
            if batch.tasks and not doubt.exists():
                struck.append(1)
                doubt.touch()
                connection.close()
                raise CommitUnknown("injected: no reply to the commit")
            return done

        def refuse(self: Turning, *args: Any, **options: Any) -> dict[UUID, int]:
            if struck:
                raise psycopg.OperationalError("injected: no answer about the commit")
            return read_heads(self, *args, **options)

        Turning.commit = lose  # type: ignore[method-assign]
        Turning.read_heads = refuse  # type: ignore[method-assign]

    world.plant = plant
    staff(world)
    handle = world.start(trip, "in-doubt")
    world.until(doubt.exists, "a commit is in doubt")
    leaving = world.children["c1"]
    leaving.kept = False
    os.kill(leaving.pid, signal.SIGTERM)
    world.until(lambda: not leaving.lives, "the coordinator ends")

    world.coordinator("c2")

    world.until(lambda: world.ended(handle), "its heir publishes what was in doubt")


@pytest.mark.parametrize("fault", list(Fault))
def test_a_claim_without_a_reply_is_still_this_deliverys(world: World, fault: Fault) -> None:
    world.plant = failing_each(Working, "claim", fault, commits=True)
    staff(world)

    handle = world.start(trip, "claims")

    world.until(lambda: world.ended(handle), "it ends")
    assert EventKind.STEP_LOST not in [event.kind for event in handle.history()]


def test_a_recorded_outcome_without_a_reply_is_no_late_one(world: World) -> None:
    # Asked again it finds nothing to end and says so late; the log knows the delivery, also that of the last step.
    world.plant = failing_each(Working, "record_outcome", Fault.EXECUTE_AND_TIMEOUT, commits=True)
    staff(world)

    handle = world.start(trip, "recorded")

    world.until(lambda: world.ended(handle), "it ends")
    # The start, then each step's outcome and the late word of its delivery: the last may come after the run's end.
    steps = [event.kind for event in handle.history()].count(EventKind.ACTION_SCHEDULED)
    arrived = "SELECT last_value FROM saga.inbox_id_seq"
    world.until(lambda: world.count(arrived) >= 1 + 2 * steps, "each fenced delivery tells what it knows")
    world.until(lambda: world.count("SELECT count(*) FROM saga.inbox") == 0, "it is taken")
    assert EventKind.OUTCOME_LATE not in [event.kind for event in handle.history()]
    assert world.count("SELECT count(*) FROM saga.incident") == 0


def test_shards_acquired_without_a_reply_are_found(world: World) -> None:
    world.plant = failing_each(Membership, "acquire", Fault.EXECUTE_AND_TIMEOUT, commits=True)
    staff(world)

    handle = world.start(trip, "acquired")

    world.until(lambda: world.ended(handle), "it ends")


def test_a_retry_that_waits_survives_its_coordinator(world: World) -> None:
    armed = world.armoury.arm(Point.TURN_COMMITTED, "RetrySet")
    staff(world)

    handle = world.start(trip, "waiting", reserve="fail_once")

    world.until(lambda: armed.fired, "the coordinator dies")
    world.until(lambda: world.ended(handle), "it ends")
    attempts = [e.call.attempt for e in world.ledger.entries(step="reserve") if e.kind == "attempted"]
    assert attempts == [1, 2]


def test_an_unknown_attempt_is_left_alone_until_its_lease_ends(world: World) -> None:
    staff(world, "w1", "w2", "w3")
    armed = world.armoury.arm(Point.WORKER_RAN, "^application.drift$", victim=Victim.FREEZE)
    handle = world.start(drifting, "left-alone")
    frozen = world.until(lambda: armed.fired, "a worker is frozen")

    handle.cancel()
    world.until(lambda: world.count("SELECT count(*) FROM saga.inbox") == 0, "the run goes back")
    lost = "SELECT count(*) FROM saga.event WHERE kind = 'StepLost'"
    world.until(lambda: world.count(lost) == 1, "its claim runs out")
    world.kill(next(name for name, child in world.children.items() if child.pid == frozen))

    world.until(lambda: world.ended(handle), "it ends")
    assert handle.status() is Status.COMPENSATED
    history = handle.history()
    lost_at = next(event.at for event in history if event.kind is EventKind.STEP_LOST)
    asked_at = next(event.at for event in history if event.key == "application.drift#1")
    undos = [event.at for event in history if event.kind is EventKind.COMPENSATION_SCHEDULED]
    assert min(undos) >= lost_at
    assert (lost_at - asked_at).total_seconds() >= CLAIM_SECONDS


def test_a_start_in_a_long_transaction_holds_up_nobody(world: World) -> None:
    staff(world)
    text = world.installation.codec.encode_saga_input(trip, Order({}))
    with psycopg.connect(world.database.url) as caller:
        late = start_run(world.installation, trip, "caller", text, caller)
        # The same key and another one, alone: the first comes before the caller's, the second beside it.
        other = world.start(trip, "beside")
        same = world.start(trip, "caller")
        world.until(lambda: world.ended(other) and world.ended(same), "the others end meanwhile")
        caller.commit()

    world.until(lambda: world.count("SELECT count(*) FROM saga.inbox") == 0, "the caller's start is taken")
    assert not late.created
    assert same.created


def look_too_early(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client's first look come just before the turn that takes a start, and every later one after it."""
    find = world.installation.reading.find
    looks: list[int] = []

    def late_find(*given: Any) -> FoundRun | None:
        looks.append(1)
        return find(*given) if len(looks) > 1 else None

    monkeypatch.setattr(world.installation.reading, "find", late_find)


def test_a_cancel_that_looks_while_the_start_is_being_taken_is_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    staff(world)
    handle = world.start(trip, "looked-at", reserve="gate:looked-at")
    world.reached("looked-at")

    look_too_early(world, monkeypatch)
    handle.cancel()
    world.open("looked-at")

    world.until(lambda: world.ended(handle), "it ends")
    assert handle.status() is Status.COMPENSATED


def test_a_run_that_is_looked_at_while_its_start_is_being_taken_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    staff(world)
    handle = world.start(trip, "looked-for", reserve="gate:looked-for")
    world.reached("looked-for")

    look_too_early(world, monkeypatch)
    status = handle.status()
    world.open("looked-for")

    assert status is Status.RUNNING
    world.until(lambda: world.ended(handle), "it ends")
