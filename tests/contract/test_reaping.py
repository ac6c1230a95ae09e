"""P17 and P18: what is lost is told exactly once, and only what is surely lost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from saga.engine.store.connect import Connection

from .world import Started, World, in_thread, inbox

SHARD = 7


def lost(world: World, connection: Connection, *, tasks: int = 1) -> Started:
    """Start a run whose attempts are claimed and whose leases have run out."""
    started = world.start(connection, world.coordinator(connection), tasks=tasks, lease_seconds=1e-6)
    for task in started.tasks:
        world.claimed(connection, task)
    return started


def age(connection: Connection, seconds: float) -> None:
    connection.execute("UPDATE saga.task SET created_at = clock_timestamp() - make_interval(secs => %s)", (seconds,))


def test_two_reapers_at_once_tell_of_each_lost_claim_once(world: World, connection: Connection) -> None:
    started = lost(world, connection, tasks=60)
    reapers = [world.connect() for _ in range(3)]

    futures = [in_thread(world.reaping.reap_lost, reaper, [SHARD], grace_seconds=0) for reaper in reapers]
    told = sum(future.result(timeout=10) for future in futures)
    told += world.reaping.reap_lost(connection, [SHARD], grace_seconds=0)

    assert told == 60
    arrivals = inbox(connection)
    assert {row[0] for row in arrivals} == {"StepLost"}
    assert sorted(row[2] for row in arrivals) == sorted(task.token for task in started.tasks)
    assert world.reading.open_tasks(connection, started.run.id) == []


def test_a_pass_reaps_no_more_than_its_limit(world: World, connection: Connection) -> None:
    lost(world, connection, tasks=5)

    passes = [world.reaping.reap_lost(connection, [SHARD], grace_seconds=0, limit=3) for _ in range(3)]

    assert passes == [3, 2, 0]


def test_claims_with_a_living_lease_and_unclaimed_tasks_are_not_lost(world: World, connection: Connection) -> None:
    started = world.start(connection, world.coordinator(connection), tasks=2)
    world.claimed(connection, started.task)

    assert world.reaping.reap_lost(connection, [SHARD], grace_seconds=0) == 0
    assert world.reaping.lost_preview(connection) == []


def test_claims_of_other_shards_are_left_to_their_owners(world: World, connection: Connection) -> None:
    lost(world, connection)

    assert world.reaping.reap_lost(connection, [SHARD + 1], grace_seconds=0) == 0


def test_nothing_is_lost_until_postgres_and_the_connection_are_older_than_the_grace(
    world: World, connection: Connection
) -> None:
    lost(world, connection)
    (uptime,) = connection.execute(
        "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float"
    ).fetchall()[0]
    young = world.connect()

    assert world.reaping.reap_lost(young, [SHARD], grace_seconds=uptime / 2) == 0
    assert world.reaping.reap_lost(young, [SHARD], grace_seconds=10_000_000) == 0
    assert world.reaping.reap_lost(young, [SHARD], grace_seconds=0) == 1


def test_a_reaper_passes_over_an_outcome_that_is_being_recorded(world: World, connection: Connection) -> None:
    started = world.start(connection, world.coordinator(connection), lease_seconds=1e-6)
    claim = world.claimed(connection, started.task)
    worker = world.connect()

    with worker.transaction():
        world.working.record_outcome(worker, claim, "StepSucceeded", None)
        assert world.reaping.reap_lost(connection, [SHARD], grace_seconds=0) == 0

    assert [row[0] for row in inbox(connection)] == ["StepSucceeded"]


def test_a_preview_shows_what_a_pass_would_reap_and_touches_nothing(world: World, connection: Connection) -> None:
    started = lost(world, connection)

    (claim,) = world.reaping.lost_preview(connection)

    assert (claim.token, claim.run, claim.run_label) == (
        started.task.token,
        started.run.id,
        f"checkout/{started.run.key}",
    )
    assert claim.lease_until < claim.claimed_at + timedelta(seconds=1)
    assert inbox(connection) == []
    assert world.reaping.reap_lost(connection, [SHARD], grace_seconds=0) == 1


def test_unclaimed_tasks_are_counted_by_queue_once_they_have_settled(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    started = world.start(connection, me, tasks=4)
    world.start(connection, me, queue="mail")
    world.claimed(connection, started.task)
    fresh = world.reaping.unclaimed_by_queue(connection)
    age(connection, 11)

    assert fresh == {}
    assert world.reaping.unclaimed_by_queue(connection) == {"celery": 3, "mail": 1}
    assert world.reaping.count_unclaimed(connection, "celery", 2) == 2
    assert world.reaping.count_unclaimed(connection, "celery", 10) == 3
    assert world.reaping.count_unclaimed(connection, "nobody's", 10) == 0


def test_the_oldest_unclaimed_tasks_are_read_with_the_same_attempt(world: World, connection: Connection) -> None:
    started = world.start(connection, world.coordinator(connection), tasks=3)
    age(connection, 11)

    messages = world.reaping.oldest_unclaimed(connection, "celery", 2)

    assert [message.id for message in messages] == sorted(started.ids.values())[:2]
    assert [message.attempt for message in messages] == [1, 1]
    assert [row.attempt for row in world.reading.open_tasks(connection, started.run.id)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("seconds", "overdue"),
    [(200, False), (299, False), (301, True), (310, False), (590, False), (601, True), (1190, False), (1203, True)],
)
def test_a_task_is_overdue_at_each_doubling_of_five_minutes(
    world: World, connection: Connection, seconds: float, overdue: bool
) -> None:
    world.start(connection, world.coordinator(connection))
    now, at_first = world.reaping.overdue(connection, None)
    age(connection, seconds)

    then, messages = world.reaping.overdue(connection, now - timedelta(seconds=5))

    assert at_first == []
    assert then >= now
    assert len(messages) == (1 if overdue else 0)


def test_a_claimed_task_is_never_overdue(world: World, connection: Connection) -> None:
    started = world.start(connection, world.coordinator(connection))
    world.claimed(connection, started.task)
    now, _ = world.reaping.overdue(connection, None)
    age(connection, 301)

    assert world.reaping.overdue(connection, now - timedelta(seconds=5))[1] == []
