"""P12-P16: leases, burials, and who owns which shard after any of them."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from saga.core.events import NOBODY
from saga.engine.records import SHARDS, Batch, NewTask
from saga.engine.store.connect import Connection
from saga.engine.store.failures import Fenced, Superseded
from saga.engine.store.membership import OwnedShard
from saga.engine.store.reading import OpenTask

from .world import World, change_of, crash, in_thread, new_task, wait_until, wait_until_blocked


def test_registering_twice_is_harmless(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)

    world.membership.register(connection, me, "build-1", 60)

    assert [row.id for row in world.reading.coordinators(connection)] == [me]


def test_a_beat_prolongs_the_lease_and_never_takes_the_mark_back(world: World, connection: Connection) -> None:
    me = world.coordinator(connection, lease_seconds=0)

    assert world.membership.beat(connection, me, 60, 12)
    assert world.membership.beat(connection, me, 60, 5)

    assert connection.execute("SELECT published FROM saga.coordinator").fetchall() == [(12,)]
    assert world.membership.living(connection) == 1
    assert world.membership.expired(connection, grace_seconds=0) == []


def test_a_buried_coordinator_learns_it_by_its_beat(world: World, connection: Connection) -> None:
    me = world.coordinator(connection, lease_seconds=0)
    world.membership.bury(connection, me, grace_seconds=0)

    assert not world.membership.beat(connection, me, 60, 0)
    assert world.membership.living(connection) == 0


def test_nobody_with_a_living_lease_is_buried(world: World, connection: Connection) -> None:
    me = world.coordinator(connection, lease_seconds=60)

    assert world.membership.expired(connection, grace_seconds=0) == []
    assert not world.membership.bury(connection, me, grace_seconds=0)


def test_nobody_is_buried_before_postgres_and_the_connection_are_older_than_the_grace(
    world: World, connection: Connection
) -> None:
    me = world.coordinator(connection, lease_seconds=0)
    (uptime,) = connection.execute(
        "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float"
    ).fetchall()[0]
    young = world.connect()
    # Postgres has been up for longer than this, the new connection has not.
    grace = uptime / 2
    assert grace > 0.1

    for seconds in (grace, 10_000_000):
        assert world.membership.expired(young, grace_seconds=seconds) == []
        assert not world.membership.bury(young, me, grace_seconds=seconds)
    assert world.membership.expired(young, grace_seconds=0) == [me]


def test_of_two_buriers_one_does_it(world: World, connection: Connection) -> None:
    dead = world.coordinator(connection, lease_seconds=0)
    first, second = world.connect(), world.connect()

    with connection.transaction():
        connection.execute("SELECT 1 FROM saga.coordinator WHERE id = %s FOR UPDATE", (dead,))
        burials = [
            in_thread(world.membership.bury, burier, dead, grace_seconds=0, lock_timeout_seconds=10)
            for burier in (first, second)
        ]
        watcher = world.connect()
        wait_until_blocked(watcher, first)
        wait_until_blocked(watcher, second)

    assert sorted(burial.result(timeout=10) for burial in burials) == [False, True]


def test_a_burial_ends_the_backends_of_the_dead_and_no_others(world: World, connection: Connection) -> None:
    dead, living = world.coordinator(connection, lease_seconds=0), world.coordinator(connection)
    theirs, others = world.connect(f"saga:{dead}"), world.connect(f"saga:{living}")

    assert world.membership.bury(connection, dead, grace_seconds=0)

    with pytest.raises(psycopg.OperationalError):
        theirs.execute("SELECT 1")
    others.execute("SELECT 1")


def test_a_burial_gets_past_a_commit_that_hangs_with_the_fence(world: World, connection: Connection) -> None:
    dead = world.coordinator(connection, lease_seconds=0)
    run = world.start(connection, dead).run
    blocker, hanging = world.connect(), world.connect(f"saga:{dead}")
    with blocker.transaction():
        blocker.execute("SELECT 1 FROM saga.run WHERE id = %s FOR UPDATE", (run.id,))
        commit = in_thread(world.turning.commit, hanging, dead, Batch(changes=[change_of(run)]))
        wait_until_blocked(connection, hanging)

        assert world.membership.bury(connection, dead, grace_seconds=0, lock_timeout_seconds=0.05)

    assert commit.exception(timeout=10) is not None
    assert world.turning.runs(connection, [run.id])[run.id].head == 1


def test_two_that_acquire_at_once_share_fairly(world: World, connection: Connection) -> None:
    one, two = world.coordinator(connection), world.coordinator(connection)
    first, second = world.connect(), world.connect()

    taken = [
        in_thread(world.membership.acquire, first, one, SHARDS // 2, 0),
        in_thread(world.membership.acquire, second, two, SHARDS // 2, 0),
    ]

    got = [shard for future in taken for shard in future.result(timeout=10)]
    assert len(got) == len(set(got))
    # Rows that the other was just locking are passed over; the next round finds what they left.
    for me in (one, two):
        world.membership.acquire(connection, me, SHARDS // 2, len(world.membership.owned(connection, me)))
    assert len(world.membership.owned(connection, one)) == len(world.membership.owned(connection, two)) == SHARDS // 2


def test_acquiring_passes_over_what_another_is_acquiring(world: World, connection: Connection) -> None:
    one, two = world.coordinator(connection), world.coordinator(connection)
    other = world.connect()

    with other.transaction():
        theirs = world.membership.acquire(other, one, 3, 0)
        mine = world.membership.acquire(connection, two, SHARDS, 0)

    assert theirs == [0, 1, 2]
    assert sorted(mine) == list(range(3, SHARDS))


def test_nothing_is_acquired_above_the_fair_share(world: World, connection: Connection) -> None:
    assert world.membership.acquire(connection, world.coordinator(connection), 4, 4) == []


def test_shards_of_the_living_are_not_acquired(world: World, connection: Connection) -> None:
    one, two = world.coordinator(connection, lease_seconds=0), world.coordinator(connection)
    world.membership.acquire(connection, one, SHARDS, 0)

    assert world.membership.acquire(connection, two, SHARDS, 0) == []  # expired, but nobody has buried it


def test_a_buried_coordinator_acquires_nothing(world: World, connection: Connection) -> None:
    me = world.coordinator(connection, lease_seconds=0)
    world.membership.bury(connection, me, grace_seconds=0)

    with pytest.raises(Fenced):
        world.membership.acquire(connection, me, SHARDS, 0)


def test_an_heir_publishes_again_behind_the_mark_of_the_dead(world: World, connection: Connection) -> None:
    dead, heir = world.coordinator(connection, lease_seconds=60), world.coordinator(connection)
    world.membership.acquire(connection, dead, SHARDS, 0)
    published, claimed, forgotten = world.start(connection, dead, tasks=3, shard=7).tasks
    world.claimed(connection, claimed)
    mark = world.turning.task_ids(connection, [published.token]).last_task_id
    assert mark is not None
    world.membership.beat(connection, dead, 0, mark)
    world.membership.bury(connection, dead, grace_seconds=0)

    world.membership.acquire(connection, heir, SHARDS, 0)

    owned = world.membership.owned(connection, heir)
    assert len(owned) == SHARDS
    assert owned[7] == OwnedShard(7, republish_from=mark, suspect=None, strikes=0)
    (message,) = world.membership.messages_after(connection, 7, mark)
    assert (message.token, message.attempt, message.name) == (forgotten.token, 1, forgotten.name)
    assert (message.queue, message.limit_seconds) == ("celery", 20.0)
    assert message.run_label.startswith("checkout/order-")
    assert world.membership.messages_after(connection, 8, mark) == []


def test_a_mark_survives_an_heir_that_dies_before_it_has_published(world: World, connection: Connection) -> None:
    first, second, third = (world.coordinator(connection, lease_seconds=0) for _ in range(3))
    world.membership.acquire(connection, first, 1, 0)
    world.start(connection, first, tasks=2)
    world.membership.bury(connection, first, grace_seconds=0)
    world.membership.acquire(connection, second, 1, 0)
    world.membership.beat(connection, second, 0, 1_000)
    world.membership.bury(connection, second, grace_seconds=0)

    world.membership.acquire(connection, third, 1, 0)

    assert world.membership.owned(connection, third)[0].republish_from == 0


def test_a_new_coordinator_need_not_publish_what_was_there_before_it(world: World, connection: Connection) -> None:
    first = world.coordinator(connection)
    started = world.start(connection, first, tasks=3)

    second = world.coordinator(connection, lease_seconds=0)

    marks: dict[UUID, int] = dict(connection.execute("SELECT id, published FROM saga.coordinator").fetchall())
    assert marks == {first: 0, second: max(started.ids.values())}


def test_a_shard_is_released_once_it_is_published(world: World, connection: Connection) -> None:
    dead, heir = world.coordinator(connection, lease_seconds=0), world.coordinator(connection)
    world.membership.acquire(connection, dead, 2, 0)
    world.membership.bury(connection, dead, grace_seconds=0)
    world.membership.acquire(connection, heir, 3, 0)

    released = world.membership.release(connection, heir, [0, 1, 2, 3])
    assert world.membership.republished(connection, heir, 0)
    later = world.membership.release(connection, heir, [0, 1])

    assert (released, later) == ([2], [0])
    assert list(world.membership.owned(connection, heir)) == [1]
    assert not world.membership.republished(connection, heir, 0)


def test_one_that_resigns_frees_its_shards_at_once(world: World, connection: Connection) -> None:
    me, heir = world.coordinator(connection), world.coordinator(connection)
    world.membership.acquire(connection, me, 5, 0)

    assert world.membership.resign(connection, me, published=3)

    assert not world.membership.resign(connection, me)
    assert world.membership.living(connection) == 1
    assert world.membership.acquire(connection, heir, 5, 0) == [0, 1, 2, 3, 4]
    assert world.membership.owned(connection, heir)[0].republish_from is None


def test_one_that_resigns_hands_on_what_it_had_still_to_publish(world: World, connection: Connection) -> None:
    dead = world.coordinator(connection, lease_seconds=0)
    world.membership.acquire(connection, dead, 1, 0)
    world.membership.bury(connection, dead, grace_seconds=0)
    me, heir = world.coordinator(connection), world.coordinator(connection)
    world.membership.acquire(connection, me, 2, 0)

    world.membership.resign(connection, me, published=9)
    world.membership.acquire(connection, heir, 2, 0)

    marks = {shard: owned.republish_from for shard, owned in world.membership.owned(connection, heir).items()}
    assert marks == {0: 0, 1: None}


def test_only_the_owner_marks_a_suspect(world: World, connection: Connection) -> None:
    me, other = world.coordinator(connection), world.coordinator(connection)
    world.membership.acquire(connection, me, 1, 0)
    run = uuid4()

    assert world.membership.set_suspect(connection, me, 0, run, 2)
    assert not world.membership.set_suspect(connection, other, 0, uuid4(), 0)
    world.membership.set_strikes(connection, other, [0], 0)

    assert world.membership.owned(connection, me)[0] == OwnedShard(0, None, run, 2)


def test_one_run_is_suspected_at_a_time(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    world.membership.acquire(connection, me, 3, 0)
    first, second = uuid4(), uuid4()

    world.membership.set_strikes(connection, me, [2], 1)
    world.membership.set_suspect(connection, me, 0, first, 4)
    world.membership.set_suspect(connection, me, 1, second, 2)

    owned = world.membership.owned(connection, me)
    assert owned == {
        0: OwnedShard(0, None, None, 2),
        1: OwnedShard(1, None, second, 2),
        2: OwnedShard(2, None, None, 1),
    }

    world.membership.set_strikes(connection, me, [0, 1], 0)

    assert {shard.strikes for shard in world.membership.owned(connection, me).values()} == {0, 1}


def test_messages_are_read_in_portions_oldest_first(world: World, connection: Connection) -> None:
    started = world.start(connection, world.coordinator(connection), tasks=5)

    first = world.membership.messages_after(connection, 7, 0, limit=2)
    rest = world.membership.messages_after(connection, 7, first[-1].id)

    assert [message.id for message in first + rest] == sorted(started.ids.values())


def test_a_restarted_coordinator_waits_for_its_own_lost_beat(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    run = world.start(connection, me).run
    beating = world.connect()

    with connection.transaction():
        world.turning.commit(connection, me, Batch(changes=[change_of(run)], tasks=[new_task(run)]))
        beat = in_thread(world.membership.beat, beating, me, 60, 4)
        wait_until_blocked(world.connect(), beating)

    assert beat.result(timeout=10)
    wait_until(lambda: world.membership.living(connection) == 1, "the coordinator lives")


def test_after_a_crash_what_nobody_has_claimed_is_taken_for_claimed_once(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    claimed, unclaimed, gone = world.start(connection, me, tasks=3, lease_seconds=30).tasks
    claims = {task: world.claimed(connection, task).claimant for task in (claimed, gone)}
    assert world.membership.remember(connection) == 0
    crash(world)

    taken = [world.membership.remember(connection), world.membership.remember(connection)]

    assert taken == [1, 0]
    holders = {row.token: row.claimed_by for row in world.reading.open_tasks(connection, unclaimed.run)}
    assert holders == {claimed.token: claims[claimed], gone.token: claims[gone], unclaimed.token: NOBODY}


def test_a_backlog_is_taken_for_claimed_in_parts(
    world: World, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga.engine.store.membership.FORGOTTEN_AT_ONCE", 2)
    run = world.start(connection, world.coordinator(connection), tasks=5).run
    crash(world)
    moves: list[None] = []

    assert world.membership.remember(connection, lambda: moves.append(None)) == 5

    assert len(moves) == 3
    assert {row.claimed_by for row in world.reading.open_tasks(connection, run.id)} == {NOBODY}


def test_after_a_crash_a_claim_that_is_known_has_the_time_of_a_beat_that_may_be_forgotten(
    world: World, connection: Connection
) -> None:
    me = world.coordinator(connection)
    beating = world.start(connection, me, beats=True, lease_seconds=30).task
    quiet = world.start(connection, me, lease_seconds=30).task
    claimants = {task.token: world.claimed(connection, task).claimant for task in (beating, quiet)}
    world.connect_as_owner().execute("UPDATE saga.task SET lease_until = lease_until - interval '20 s'")
    crash(world)
    before = {row.token: row.lease_until for row in _open(world, connection, beating, quiet)}

    world.membership.remember(connection)

    after = {row.token: row.lease_until for row in _open(world, connection, beating, quiet)}
    assert {row.token: row.claimed_by for row in _open(world, connection, beating, quiet)} == claimants
    assert before[quiet.token] == after[quiet.token]
    found, left = after[beating.token], before[beating.token]
    assert found is not None
    assert left is not None
    assert found - left >= timedelta(seconds=20)


def _open(world: World, connection: Connection, *tasks: NewTask) -> list[OpenTask]:
    return [row for task in tasks for row in world.reading.open_tasks(connection, task.run)]


def test_after_a_crash_no_turn_is_committed_until_what_it_may_have_forgotten_is_seen_to(
    world: World, connection: Connection
) -> None:
    me = world.coordinator(connection)
    crash(world)

    with pytest.raises(Superseded, match="Postgres crashed"):
        world.start(connection, me)
    world.membership.remember(connection)

    assert world.start(connection, me).ids


def test_of_two_that_see_a_crash_one_waits_for_the_other(world: World, connection: Connection) -> None:
    world.start(connection, world.coordinator(connection))
    crash(world)
    other = world.connect()

    with connection.transaction():
        assert world.membership.remember(connection) == 1
        waiting = in_thread(world.membership.remember, other)
        wait_until_blocked(world.connect(), other)

    assert waiting.result(timeout=10) == 0
