"""What clients and commands see."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from saga.core.events import EventKind
from saga.engine.records import Arrival, Batch, Incident, LockRequest, NewTimer
from saga.engine.store.connect import Connection
from saga.engine.store.reading import FoundRun, LockPlace, Look

from .world import World, change_of, new_event, new_run


def test_a_run_that_nobody_has_taken_yet_is_seen_by_its_arrivals(world: World, connection: Connection) -> None:
    world.sending.send(
        connection,
        shard=3,
        lane=1,
        run=UUID(int=5),
        saga="checkout",
        key="order-7",
        kind="RunStarted",
        dedupe=None,
        payload="{}",
    )

    assert world.reading.find(connection, "checkout", "order-7") is None
    assert [a.kind for a in world.reading.pending_arrivals(connection, "checkout", "order-7")] == ["RunStarted"]
    assert world.reading.pending_arrivals(connection, "checkout", "order-8") == []


def send_start(world: World, connection: Connection, *, kind: str = "RunStarted") -> None:
    world.sending.send(
        connection, shard=7, lane=1, run=None, saga="checkout", key="order-7", kind=kind, dedupe=None, payload="{}"
    )


@pytest.mark.parametrize("moment", ["find", "pending_arrivals"])
@pytest.mark.parametrize("left", [False, True], ids=["alone", "with a cancel that stays"])
def test_a_start_that_a_turn_takes_between_the_looks_is_seen(
    world: World, connection: Connection, monkeypatch: pytest.MonkeyPatch, moment: str, left: bool
) -> None:
    me = world.coordinator(connection)
    send_start(world, connection)
    if left:
        send_start(world, connection, kind="CancelRequested")
    look, pending = getattr(world.reading, moment), world.reading.pending_arrivals
    took: list[int] = []

    def look_then_take(*given: Any) -> FoundRun | list[Arrival] | None:
        seen: FoundRun | list[Arrival] | None = look(*given)
        if not took:
            arrivals = pending(connection, "checkout", "order-7")
            took.extend(arrival.id for arrival in arrivals if arrival.kind == "RunStarted")
            run = new_run(key="order-7")
            world.turning.commit(connection, me, Batch(taken=took, runs=[run], events=[new_event(run.id, 1)]))
        return seen

    monkeypatch.setattr(world.reading, moment, look_then_take)
    looked = world.reading.look(connection, "checkout", "order-7")

    assert took
    assert looked.found is not None or looked.accepted


def test_only_a_start_makes_an_address_accepted(world: World, connection: Connection) -> None:
    nothing = world.reading.look(connection, "checkout", "order-7")
    send_start(world, connection, kind="CancelRequested")
    cancelled = world.reading.look(connection, "checkout", "order-7")
    send_start(world, connection)
    started = world.reading.look(connection, "checkout", "order-7")

    assert nothing == Look(None)
    assert [arrival.kind for arrival in cancelled.waiting] == ["CancelRequested"]
    assert [looked.accepted for looked in (nothing, cancelled, started)] == [False, False, True]


def test_outcomes_of_a_run_are_pending_too(world: World, connection: Connection) -> None:
    started = world.start(connection, world.coordinator(connection))
    claim = world.claimed(connection, started.task)
    world.working.record_outcome(connection, claim, "StepSucceeded", "{}")

    pending = world.reading.pending_arrivals(connection, "checkout", started.run.key)

    assert [(arrival.kind, arrival.token) for arrival in pending] == [("StepSucceeded", claim.token)]


def test_a_finished_run_is_found_with_its_texts(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    run = world.start(connection, me).run
    done = change_of(run, status="completed", result='{"b": 1, "a": "\\u0000"}', ended_at=datetime.now(UTC))
    world.turning.commit(connection, me, Batch(changes=[done], events=[new_event(run.id, 2, EventKind.RUN_COMPLETED)]))

    found = world.reading.find(connection, "checkout", run.key)

    assert found is not None
    assert (found.input, found.result, found.failure) == (run.input, done.result, None)
    assert (found.row.status, found.row.input_digest, found.row.ended_at) == (
        "completed",
        run.input_digest,
        done.ended_at,
    )
    assert [event.kind for event, _ in world.reading.events(connection, run.id)] == ["RunStarted", "RunCompleted"]
    assert [event.seq for event, _ in world.reading.events(connection, run.id, 1)] == [2]


def test_runs_are_listed_newest_first_in_pages(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    runs = [new_run(id=UUID(int=number)) for number in range(1, 6)]
    runs.append(new_run(id=UUID(int=9), saga="refund", status="stalled", reason="saga_bug"))
    world.turning.commit(connection, me, Batch(runs=runs))

    first = world.reading.list_runs(connection, limit=3)
    second = world.reading.list_runs(connection, limit=3, before=first[-1].id)

    assert [run.id.int for run in first + second] == [9, 5, 4, 3, 2, 1]
    assert [run.id.int for run in world.reading.list_runs(connection, status="stalled")] == [9]
    assert [run.id.int for run in world.reading.list_runs(connection, status=["stalled", "running"], limit=2)] == [9, 5]
    assert world.reading.list_runs(connection, saga="checkout", status="stalled") == []
    assert world.reading.statuses(connection) == {"running": 5, "stalled": 1}


def test_runs_are_listed_by_their_attributes(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    shown = [{"city": "Berlin", "floor": 3}, {"city": "Berlin", "floor": "3"}, {"city": "Rome"}, None]
    runs = [
        new_run(id=UUID(int=number), attributes=json.dumps(attributes) if attributes else None)
        for number, attributes in enumerate(shown, 1)
    ]
    runs.append(new_run(id=UUID(int=9), saga="refund", attributes='{"city": "Berlin"}'))
    world.turning.commit(connection, me, Batch(runs=runs))

    def found(**options: Any) -> list[int]:
        return [run.id.int for run in world.reading.list_runs(connection, **options)]

    assert found(attributes={"city": "Berlin"}) == [9, 2, 1]
    assert found(attributes={"city": "Berlin"}, limit=2) == [9, 2]
    assert found(attributes={"city": "Berlin"}, before=UUID(int=2)) == [1]
    assert found(attributes={"city": "Berlin", "floor": 3}) == [1]
    assert found(attributes={"city": "Berlin"}, saga="checkout", status=["running"]) == [2, 1]
    assert found(attributes={"city": "Berlin"}, status="stalled") == []
    assert found(attributes={}) == [9, 4, 3, 2, 1]


_MANY = """
INSERT INTO saga.run (id, saga, key, shard, version, build, status, head, digest, input_digest, input, attributes,
                      started_at)
SELECT gen_random_uuid(), 'checkout', 'many-' || n, n % 64, 1, 'b', 'running', 1, sha256(''), sha256(''), '{}',
       CASE WHEN n % 4 > 0 THEN jsonb_build_object('order', n) ELSE '{}' END, now()
FROM generate_series(1, 20000) n
"""


def test_a_rare_attribute_is_found_by_its_index(world: World) -> None:
    owner = world.connect_as_owner()
    owner.execute(_MANY)
    owner.execute("ANALYZE saga.run")
    query = world.reading._list_by_attributes.replace(b"SELECT", b"EXPLAIN SELECT", 1)
    values = {"attributes": '{"order": 41}', "before": UUID(int=2**128 - 1), "saga": None, "statuses": None}

    with psycopg.connect(world.database.url) as client:  # as the commands do: the engine's own plans are pinned
        plan = "\n".join(row[0] for row in client.execute(query, {**values, "limit": 50}))
        found = world.reading.list_runs(client, attributes={"order": 41})

    assert "Bitmap Index Scan on run_attributes" in plan, plan
    assert [run.key for run in found] == ["many-41"]


def test_a_snapshot_shows_one_moment(world: World, connection: Connection) -> None:
    me = world.coordinator(world.connect())
    run = new_run()
    with world.reading.snapshot(connection):
        before = world.reading.statuses(connection)
        world.turning.commit(world.connect(), me, Batch(runs=[run]))
        within = world.reading.statuses(connection)

    assert (before, within, world.reading.statuses(connection)) == ({}, {}, {"running": 1})
    assert world.reading.standing(connection, [run.id, UUID(int=1)]) == {run.id: ("running", None)}
    assert world.reading.standing(connection, []) == {}


def test_the_line_at_a_lock_is_seen(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    runs = [new_run() for _ in range(3)]
    world.turning.commit(connection, me, Batch(runs=runs))
    for number, run in enumerate(runs):
        request = LockRequest("order:1", run.id, 7, UUID(int=number), 1, True, f"checkout/{number}")
        world.turning.commit(connection, me, Batch(lock_requests=[request]))

    places = [world.reading.locks(connection, run.id) for run in runs]

    assert places == [
        [LockPlace("order:1", True, "checkout/0", 0)],
        [LockPlace("order:1", False, "checkout/0", 0)],
        [LockPlace("order:1", False, "checkout/0", 1)],
    ]


def test_what_a_run_waits_for_is_seen(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    started = world.start(connection, me, tasks=2)
    claim = world.claimed(connection, started.task)
    due = datetime.now(UTC) + timedelta(hours=1)
    world.turning.commit(
        connection,
        me,
        Batch(
            timers=[NewTimer(started.run.id, "retry", 7, due)],
            incidents=[Incident(started.run.id, claim.token, 1, "OutcomeLate", None)],
        ),
    )

    running, queued = world.reading.open_tasks(connection, started.run.id)

    assert (running.claimed_by, queued.claimed_by) == (claim.claimant, None)
    assert running.claimed_at is not None
    assert running.lease_until is not None
    assert (running.name, running.queue, running.attempt) == ("payments.charge_card", "celery", 1)
    assert [(timer.name, timer.due_at) for timer in world.reading.timers(connection, started.run.id)] == [
        ("retry", due)
    ]
    (incident,) = world.reading.incidents(connection, started.run.id)
    assert (incident.kind, incident.token) == ("OutcomeLate", claim.token)


def test_depths_tell_what_waits_for_whom(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    nothing = world.reading.depths(connection)
    started = world.start(connection, me, tasks=3, queue="mail")
    world.claimed(connection, started.task)
    world.turning.commit(connection, me, Batch(fences=[started.tasks[1].token]))

    depths = world.reading.depths(connection)

    assert (nothing.arrivals, nothing.starts, nothing.unclaimed, nothing.claimed) == (None, None, {}, {})
    assert depths.arrivals is not None
    assert (depths.arrivals.count, depths.starts) == (1, None)
    assert {queue: depth.count for queue, depth in depths.unclaimed.items()} == {"mail": 1}
    assert {queue: depth.count for queue, depth in depths.claimed.items()} == {"mail": 1}


def test_coordinators_are_seen_with_their_shards(world: World, connection: Connection) -> None:
    dead, expired, living = (world.coordinator(connection, lease_seconds=lease) for lease in (0, 0, 60))
    world.membership.acquire(connection, living, 2, 0)
    world.membership.bury(connection, dead, grace_seconds=0)

    seen = world.reading.coordinators(connection)
    everyone = world.reading.coordinators(connection, buried=True)

    assert [(row.id, row.alive, row.shards) for row in seen] == [(expired, False, []), (living, True, [0, 1])]
    assert [(row.id, row.dead_at is None) for row in everyone] == [(dead, False), (expired, True), (living, True)]
