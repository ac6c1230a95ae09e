"""What one run's turn sends to others (`p_sent`): children's starts, cancels, answers; with the batch or not at all."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from saga.engine.records import Arrival, Batch, Sent
from saga.engine.store.connect import Connection
from saga.engine.store.failures import Superseded
from saga.engine.store.sleeping import Doorbell

from .world import SCHEMA, World, in_thread, new_run, shards

PARENT, CHILD, TOKEN = uuid4(), uuid4(), uuid4()
START = Sent(3, 1, CHILD, "leg", "journey/7#1", "RunStarted", payload='{"version":1,"input":"\\u0000 é"}')
CANCEL = Sent(3, 0, CHILD, "leg", "journey/7#1", "CancelRequested", dedupe="parent")
ANSWER = Sent(9, 0, PARENT, "journey", "7", "StepSucceeded", TOKEN, 2, payload='{"pivoted":false,"value":1}')


@pytest.fixture
def me(world: World, connection: Connection) -> UUID:
    return world.coordinator(connection)


def taken(world: World, connection: Connection) -> list[Arrival]:
    return list(world.turning.take(connection, shards(), limit_per_shard=9, timers_limit=9, starts=True).arrivals)


def test_what_is_sent_arrives_as_it_was_sent(world: World, connection: Connection, me: UUID) -> None:
    world.turning.commit(connection, me, Batch(sent=[START, CANCEL, ANSWER]))

    cancel, answer, start = taken(world, connection)
    for arrival, sent in ((start, START), (cancel, CANCEL), (answer, ANSWER)):
        for name in ("shard", "lane", "run", "saga", "key", "kind", "token", "attempt", "dedupe", "payload"):
            assert getattr(arrival, name) == getattr(sent, name), name
        assert arrival.claimant is None
    assert start.id < cancel.id < answer.id


def test_what_is_sent_rings_for_the_runs_it_is_for(world: World, connection: Connection, me: UUID) -> None:
    doorbell = Doorbell(world.connect(), SCHEMA)
    assert doorbell.try_sleep([3, 9])
    waiting = in_thread(doorbell.wait, 10)

    world.turning.commit(connection, me, Batch(sent=[ANSWER]))

    assert waiting.result(15).shards == {9}
    doorbell.wake()


def test_what_is_sent_and_not_committed_yet_keeps_its_coordinator_awake(
    world: World, connection: Connection, me: UUID
) -> None:
    doorbell = Doorbell(world.connect(), SCHEMA)

    with connection.transaction():
        world.turning.commit(connection, me, Batch(sent=[ANSWER]))
        asleep = doorbell.try_sleep([9])

    assert not asleep
    assert [arrival.kind for arrival in taken(world, connection)] == ["StepSucceeded"]


def test_a_batch_that_is_refused_sends_nothing(world: World, connection: Connection, me: UUID) -> None:
    run = new_run()
    world.turning.commit(connection, me, Batch(runs=[run]))

    with pytest.raises(Superseded):
        world.turning.commit(connection, me, Batch(runs=[run], sent=[START, ANSWER]))

    assert taken(world, world.connect()) == []


def test_two_coordinators_send_to_one_run_at_once(world: World, connection: Connection, me: UUID) -> None:
    other = world.connect()
    you = world.coordinator(other)

    with connection.transaction():
        world.turning.commit(connection, me, Batch(sent=[ANSWER]))
        in_thread(world.turning.commit, other, you, Batch(sent=[CANCEL])).result(10)

    assert [arrival.kind for arrival in taken(world, connection)] == ["StepSucceeded", "CancelRequested"]
