"""P19: a coordinator that sleeps is always rung, and one that is awake never."""

from __future__ import annotations

import os
import random
import threading
from uuid import uuid4

import psycopg
import pytest

from saga.engine.store.connect import Connection
from saga.engine.store.sleeping import Doorbell, Rings

from .world import SCHEMA, World, in_thread, wait_until

#: Seconds without a ring after which a row in the inbox has been missed.
MISSED_SECONDS = 3.0
SHARDS = (3, 4, 5, 6)


def send(world: World, connection: Connection, shard: int = 3) -> None:
    world.sending.send(
        connection,
        shard=shard,
        lane=1,
        run=uuid4(),
        saga="checkout",
        key="order-7",
        kind="RunStarted",
        dedupe=None,
        payload=None,
    )


def test_a_sleeper_is_rung_for_the_shard_that_something_arrived_for(world: World, connection: Connection) -> None:
    doorbell = Doorbell(world.connect(), SCHEMA)
    assert doorbell.try_sleep(SHARDS)

    waiting = in_thread(doorbell.wait, 10)
    send(world, connection, shard=5)

    assert waiting.result(timeout=10) == Rings(shards=frozenset({5}))


def test_a_ring_between_two_statements_is_not_lost(world: World, connection: Connection) -> None:
    listening = world.connect()
    doorbell = Doorbell(listening, SCHEMA)
    doorbell.try_sleep(SHARDS)
    send(world, connection)

    listening.execute("SELECT 1")  # the notification comes in with this answer

    assert doorbell.wait(10) == Rings(shards=frozenset({3}))
    assert not doorbell.wait(0)


def test_nobody_rings_for_one_that_is_awake_or_for_shards_of_another(world: World, connection: Connection) -> None:
    doorbell = Doorbell(world.connect(), SCHEMA)
    doorbell.try_sleep([3])
    send(world, connection, shard=4)
    doorbell.wake()
    send(world, connection, shard=3)

    assert not doorbell.wait(0.05)


def test_a_sender_in_flight_keeps_the_coordinator_awake(world: World) -> None:
    doorbell = Doorbell(world.connect(), SCHEMA)
    sender = world.connect()

    with sender.transaction():
        send(world, sender)
        in_flight = doorbell.try_sleep(SHARDS)
        others = doorbell.try_sleep([4, 5])
        doorbell.wake()

    assert (in_flight, others) == (False, True)
    assert doorbell.try_sleep(SHARDS)


def test_a_failed_sleep_keeps_no_bell(world: World) -> None:
    first, second = Doorbell(world.connect(), SCHEMA), Doorbell(world.connect(), SCHEMA)
    sender = world.connect()
    with sender.transaction():
        send(world, sender, shard=6)
        assert not first.try_sleep(SHARDS)

        assert second.try_sleep([3, 4, 5])


def test_a_doorbell_that_was_given_up_keeps_no_bell_from_its_successor(world: World) -> None:
    given_up, others = world.connect("saga:me"), world.connect("saga:other")
    assert Doorbell(given_up, SCHEMA).try_sleep([3, 4])
    assert Doorbell(others, SCHEMA).try_sleep([5])

    successor = Doorbell(world.connect("saga:me"), SCHEMA)

    wait_until(lambda: successor.try_sleep([3, 4]), "the bells are free")
    assert not successor.try_sleep([5]), "that one lives"
    with pytest.raises(psycopg.OperationalError):
        given_up.execute("SELECT 1")


def test_one_without_shards_sleeps_too(world: World) -> None:
    assert Doorbell(world.connect(), SCHEMA).try_sleep([])


def test_a_sleep_ends_when_shards_come_free(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    world.membership.acquire(connection, me, 4, 0)
    doorbell = Doorbell(world.connect(), SCHEMA)
    doorbell.try_sleep(SHARDS)

    world.membership.release(connection, me, [0])
    released = doorbell.wait(10)
    world.membership.resign(connection, me)
    resigned = doorbell.wait(10)

    assert (released, resigned) == (Rings(members=True), Rings(members=True))


def test_a_sleep_ends_when_another_descriptor_is_readable(world: World) -> None:
    doorbell = Doorbell(world.connect(), SCHEMA)
    readable, writable = os.pipe()
    waiting = in_thread(doorbell.wait, 10, descriptors=[readable])

    os.write(writable, b"x")

    assert waiting.result(timeout=10) == Rings(descriptors=frozenset({readable}))
    os.close(readable)
    os.close(writable)


def test_a_sleep_on_a_dead_connection_is_an_error(world: World, connection: Connection) -> None:
    listening = world.connect()
    doorbell = Doorbell(listening, SCHEMA)
    doorbell.try_sleep(SHARDS)
    waiting = in_thread(doorbell.wait, 10)

    connection.execute("SELECT pg_terminate_backend(%s)", (listening.info.backend_pid,))

    assert isinstance(waiting.exception(timeout=10), psycopg.OperationalError)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_wake_up_is_lost_however_senders_and_sleeps_meet(world: World, seed: int) -> None:
    print(f"seed {seed}")
    senders, rounds, wanted = 4, 40, 10
    doorbell = Doorbell(world.connect(), SCHEMA)
    looking = world.connect()
    stop = threading.Event()
    pause = threading.Event()  # never set: a pause that needs no clock of its own

    def sender(number: int) -> int:
        rng = random.Random(seed * 100 + number)
        sending = world.connect()
        committed = 0
        for sent in range(rounds * 10):
            if sent >= rounds and sleeps > wanted:
                break  # a busy machine sleeps seldom: then it takes more rounds to meet a sleeper often enough
            pause.wait(rng.random() * 0.01)
            shard = rng.choice(SHARDS)
            if rng.random() < 0.6:
                send(world, sending, shard)
                committed += 1
                continue
            kept = rng.random() < 0.8
            with sending.transaction(force_rollback=not kept):
                pause.wait(rng.random() * 0.01)
                send(world, sending, shard)
                pause.wait(rng.random() * 0.03)  # a caller's long transaction
            committed += kept
        return committed

    def inbox() -> dict[int, int]:
        taken = world.turning.take(looking, SHARDS, limit_per_shard=100, timers_limit=1, starts=True)
        return {arrival.id: arrival.shard for arrival in taken.arrivals}

    sleeps = 0
    missed = 0
    taken = 0

    def coordinator() -> None:
        nonlocal sleeps, missed, taken
        while True:
            if found := inbox():
                looking.execute("DELETE FROM saga.inbox WHERE id = ANY (%s)", (list(found),))
                taken += len(found)
                continue
            if stop.is_set():
                return
            if not doorbell.try_sleep(SHARDS):
                pause.wait(0.001)
                continue
            if not inbox():
                sleeps += 1
                rung = doorbell.wait(MISSED_SECONDS).shards
                # Still asleep: each shard that something lies in by now must ring, not only any one of them.
                silent = set(inbox().values()) - rung
                while silent:
                    rings = doorbell.wait(MISSED_SECONDS)
                    if not rings:
                        missed += 1
                        break
                    silent -= rings.shards
            doorbell.wake()

    futures = [in_thread(sender, number) for number in range(senders)]
    turning = in_thread(coordinator)
    committed = sum(future.result(timeout=60) for future in futures)
    wait_until(lambda: taken == committed, f"all {committed} are taken; seed {seed}")
    stop.set()
    world.connect().execute("SELECT pg_notify('saga:saga', 'members')")
    turning.result(timeout=10)

    assert missed == 0
    assert sleeps > wanted
