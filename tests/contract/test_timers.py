"""Timers in P9: one that fired must be there, or the batch is behind; one that is cancelled need not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from saga.engine.records import Batch, NewTimer
from saga.engine.store.connect import Connection
from saga.engine.store.failures import Superseded

from .world import World, change_of, everything

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def timers_of(connection: Connection, run: UUID) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM saga.timer WHERE run = %s", (run,))}


def test_a_cancelled_timer_that_is_not_there_refuses_no_batch(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    run = world.start(connection, me).run
    world.turning.commit(connection, me, Batch(timers=[NewTimer(run.id, "set", 7, PAST)]))

    batch = Batch(timers_cancelled=[(run.id, "set"), (run.id, "set"), (run.id, "never set")], changes=[change_of(run)])
    world.turning.commit(connection, me, batch)

    assert timers_of(connection, run.id) == set()
    assert world.turning.runs(connection, [run.id])[run.id].head == run.head + 1


@pytest.mark.parametrize("cancelled", [[], ["other"], ["never set", "other"]])
def test_a_fired_timer_that_is_not_there_refuses_the_batch_whatever_is_cancelled_beside_it(
    world: World, connection: Connection, cancelled: list[str]
) -> None:
    me = world.coordinator(connection)
    run = world.start(connection, me).run
    world.turning.commit(connection, me, Batch(timers=[NewTimer(run.id, "other", 7, PAST)]))
    before = everything(connection)

    batch = Batch(
        timers_gone=[(run.id, "fired before")],
        timers_cancelled=[(run.id, name) for name in cancelled],
        changes=[change_of(run)],
    )
    with pytest.raises(Superseded, match="timers of this batch are gone already"):
        world.turning.commit(connection, me, batch)

    with world.connect() as other:
        assert everything(other) == before


def test_a_timer_is_cancelled_and_set_again_in_one_batch(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    run = world.start(connection, me).run
    later = PAST + timedelta(days=1)
    world.turning.commit(connection, me, Batch(timers=[NewTimer(run.id, "moved", 7, PAST)]))

    world.turning.commit(
        connection, me, Batch(timers_cancelled=[(run.id, "moved")], timers=[NewTimer(run.id, "moved", 7, later)])
    )

    assert connection.execute("SELECT name, due_at FROM saga.timer").fetchall() == [("moved", later)]


def test_a_look_ahead_finds_what_falls_due_soon_in_my_shards(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    run = world.start(connection, me).run
    now = datetime.now(UTC)

    def at(seconds: float) -> datetime:
        return now + timedelta(seconds=seconds)

    timers = [NewTimer(run.id, f"t{n}", shard, due) for n, (shard, due) in enumerate(
        [(3, PAST), (3, at(60)), (3, at(20)), (3, at(30)), (4, at(25)), (4, at(4_000)), (5, at(10))]
    )]  # fmt: skip
    world.turning.commit(connection, me, Batch(timers=timers))

    def soon(limit: int) -> list[datetime]:
        return sorted(world.turning.due_soon(connection, [3, 4], seconds=100, limit_per_shard=limit))

    assert soon(9) == [at(20), at(25), at(30), at(60)]
    assert soon(1) == [at(20), at(25)]
    assert world.turning.due_soon(connection, [], seconds=100, limit_per_shard=9) == []


def test_a_look_ahead_walks_down_the_index(world: World, connection: Connection) -> None:
    query = world.turning._due_soon.replace(b"WITH clock", b"EXPLAIN WITH clock", 1)

    plan = "\n".join(row[0] for row in connection.execute(query, {"shards": "{3,4}", "seconds": 5, "limit": 9}))

    assert "Index Cond: ((shard = mine.shard) AND (due_at > " in plan, plan
