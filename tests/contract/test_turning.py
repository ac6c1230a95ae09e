"""P7, P9 and P10: what a batch takes, that it is written whole or not at all, and the look after a lost reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from saga.core.events import EventKind, chain_digest
from saga.engine.records import Batch, Incident, NewTimer
from saga.engine.store import turning
from saga.engine.store.connect import Connection
from saga.engine.store.failures import BatchRefused, CommitUnknown, Fenced, Superseded
from saga.engine.store.floors import Floors
from saga.engine.store.logs import UnreadableLogs

from .world import (
    DIGEST,
    Started,
    World,
    change_of,
    everything,
    in_thread,
    inbox,
    new_event,
    new_run,
    new_task,
    shards,
    standby_cut_off,
    wait_until,
    wait_until_blocked,
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def send(world: World, connection: Connection, *, shard: int = 7, lane: int = 0, key: str = "order-7") -> None:
    kind = "RunStarted" if lane else "CancelRequested"
    world.sending.send(
        connection,
        shard=shard,
        lane=lane,
        run=uuid4() if lane else None,
        saga="checkout",
        key=key,
        kind=kind,
        dedupe=None,
        payload=None,
    )


def test_an_empty_inbox_still_tells_the_time(world: World, connection: Connection) -> None:
    taken = world.turning.take(connection, shards(), limit_per_shard=5, timers_limit=5, starts=True)

    (now,) = connection.execute("SELECT clock_timestamp()").fetchall()[0]
    assert timedelta(0) <= now - taken.now < timedelta(seconds=10)
    assert (taken.arrivals, taken.timers, taken.runs, taken.more) == ((), (), {}, False)


def test_arrivals_come_before_starts_and_each_in_the_order_of_ids(world: World, connection: Connection) -> None:
    for shard, lane in ((1, 1), (2, 0), (1, 0), (2, 1)):
        send(world, connection, shard=shard, lane=lane)

    taken = world.turning.take(connection, shards(), limit_per_shard=5, timers_limit=5, starts=True)

    assert [(a.lane, a.shard) for a in taken.arrivals] == [(0, 2), (0, 1), (1, 1), (1, 2)]
    assert not taken.more


def test_starts_stay_where_they_are_while_there_is_no_room(world: World, connection: Connection) -> None:
    send(world, connection, lane=1)
    send(world, connection, lane=0)

    taken = world.turning.take(connection, shards(), limit_per_shard=5, timers_limit=5, starts=False)

    assert [arrival.kind for arrival in taken.arrivals] == ["CancelRequested"]


def test_a_backlog_of_one_shard_hides_no_other(world: World, connection: Connection) -> None:
    for _ in range(5):
        send(world, connection, shard=1)
    send(world, connection, shard=2)
    send(world, connection, shard=3)

    taken = world.turning.take(connection, [1, 2], limit_per_shard=3, timers_limit=5, starts=True)

    assert [arrival.shard for arrival in taken.arrivals] == [1, 1, 1, 2]
    assert taken.more


def test_floors_hide_what_was_emptied_and_a_full_scan_finds_it(world: World, connection: Connection) -> None:
    for _ in range(3):
        send(world, connection, shard=1)
    time = [0.0]
    floors = Floors(clock=lambda: time[0])
    first = world.turning.take(connection, [1], limit_per_shard=2, timers_limit=5, starts=True, floors=floors.current())
    floors.committed(first.arrivals)  # a lie: they are still there, as if they had been committed late

    def seen() -> int:
        current = floors.current()
        return len(
            world.turning.take(connection, [1], limit_per_shard=9, timers_limit=5, starts=True, floors=current).arrivals
        )

    before_the_first_scan = seen()
    time[0] = 1.5
    full_scan = seen()
    time[0] = 1.6
    with_floors = seen()
    floors.forget()
    forgotten = seen()

    assert (before_the_first_scan, full_scan, with_floors, forgotten) == (3, 3, 1, 3)


def test_only_timers_that_are_due_are_taken_soonest_first(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    run = world.start(connection, me, shard=7).run
    later = datetime.now(UTC) + timedelta(hours=1)
    timers = [
        NewTimer(run.id, "second", 7, LONG_AGO + timedelta(days=1)),
        NewTimer(run.id, "never", 7, later),
        NewTimer(run.id, "first", 7, LONG_AGO),
    ]
    world.turning.commit(connection, me, Batch(timers=timers))

    taken = world.turning.take(connection, [7], limit_per_shard=5, timers_limit=5, starts=True)

    assert [(timer.name, timer.due_at) for timer in taken.timers] == [
        ("first", LONG_AGO),
        ("second", LONG_AGO + timedelta(days=1)),
    ]
    assert taken.runs[run.id].key == run.key


def test_runs_are_found_by_their_address_and_by_their_id(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    by_address, by_id = (world.start(connection, me) for _ in range(2))
    send(world, connection, key=by_address.run.key)
    world.working.record_outcome(connection, world.claimed(connection, by_id.task), "StepSucceeded", None)
    send(world, connection, key="unknown")

    taken = world.turning.take(connection, [7], limit_per_shard=5, timers_limit=5, starts=True)

    assert set(taken.runs) == {by_address.run.id, by_id.run.id}
    row = taken.runs[by_id.run.id]
    assert (row.saga, row.key, row.head, row.digest, row.status) == ("checkout", by_id.run.key, 1, DIGEST, "running")


def test_a_batch_is_written_whole(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    old = world.start(connection, me)
    world.turning.commit(connection, me, Batch(timers=[NewTimer(old.run.id, "retry", 7, LONG_AGO)]))
    send(world, connection, lane=1)
    taken = world.turning.take(connection, [7], limit_per_shard=5, timers_limit=5, starts=True)
    run = new_run()
    task = new_task(run, limit_seconds=None)
    ended = datetime.now(UTC)
    batch = Batch(
        taken=[arrival.id for arrival in taken.arrivals],
        timers_gone=[(old.run.id, "retry")],
        runs=[run],
        changes=[
            change_of(
                old.run,
                head=2,
                status="compensated",
                cause="cancelled",
                result=None,
                failure='{"why": "\\u0000"}',
                ended_at=ended,
            )
        ],
        events=[
            new_event(run.id, 1, payload='{"order": "\\u0000 ünï"}'),
            new_event(old.run.id, 2, EventKind.RUN_COMPENSATED, key="x", attempt=2, token=task.token, claimant=uuid4()),
        ],
        kills=[old.task.token],
        tasks=[task],
        timers=[NewTimer(run.id, "timeout", run.shard, LONG_AGO)],
        incidents=[Incident(old.run.id, task.token, 1, "OutcomeLate", "{}"), Incident(None, None, None, "odd", None)],
    )

    committed = world.turning.commit(connection, me, batch)

    assert list(committed.task_ids) == [task.token]
    assert committed.last_task_id == committed.task_ids[task.token] > old.ids[old.task.token]
    assert inbox(connection) == []
    assert world.reading.open_tasks(connection, old.run.id) == []
    (open_task,) = world.reading.open_tasks(connection, run.id)
    assert (open_task.token, open_task.id) == (task.token, committed.last_task_id)
    assert [timer.name for timer in world.reading.timers(connection, run.id)] == ["timeout"]
    assert world.reading.timers(connection, old.run.id) == []
    found = world.reading.find(connection, "checkout", old.run.key)
    assert found is not None
    assert (found.row.status, found.row.cause, found.row.head, found.row.ended_at) == (
        "compensated",
        "cancelled",
        2,
        ended,
    )
    assert found.failure == '{"why": "\\u0000"}'
    for new in batch.events:
        ((event, digest),) = world.turning.events(connection, new.run, new.event.seq - 1)
        assert (event, digest) == (new.event, new.digest)
        assert chain_digest(DIGEST, event) == digest
    assert [incident.kind for incident in world.reading.incidents(connection)] == ["odd", "OutcomeLate"]
    assert world.turning.run_input(connection, run.id) == run.input


def test_a_batch_without_tasks_has_no_last_task(world: World, connection: Connection) -> None:
    assert world.turning.commit(connection, world.coordinator(connection), Batch()).last_task_id is None


def test_ids_of_tasks_are_read_again_after_a_lost_reply(world: World, connection: Connection) -> None:
    started = world.start(connection, world.coordinator(connection), tasks=3)

    again = world.turning.task_ids(connection, [task.token for task in started.tasks])

    assert again.task_ids == started.ids


def test_a_buried_coordinator_commits_nothing(world: World, connection: Connection) -> None:
    me = world.coordinator(connection, lease_seconds=0)
    old = world.start(connection, me)
    other = world.connect()
    assert world.membership.bury(other, me, grace_seconds=0)
    before = everything(other)

    with pytest.raises(Fenced, match="SG002"):
        world.turning.commit(connection, me, Batch(changes=[change_of(old.run)], events=[new_event(old.run.id, 2)]))

    assert everything(other) == before


def test_a_coordinator_that_never_registered_commits_nothing(world: World, connection: Connection) -> None:
    with pytest.raises(Fenced):
        world.turning.commit(connection, uuid4(), Batch())


def without_its_arrival(old: Started) -> Batch:
    return Batch(taken=[10**12])


def without_its_timer(old: Started) -> Batch:
    return Batch(timers_gone=[(old.run.id, "retry")])


def of_a_run_that_exists(old: Started) -> Batch:
    return Batch(runs=[new_run(key=old.run.key)])


def behind_the_head(old: Started) -> Batch:
    return Batch(changes=[replace(change_of(old.run), old_head=2, head=3)])


def of_a_run_that_does_not_exist(old: Started) -> Batch:
    return Batch(changes=[change_of(new_run())])


def with_an_event_that_exists(old: Started) -> Batch:
    return Batch(events=[new_event(old.run.id, 1)])


@pytest.mark.parametrize(
    "superseded",
    [
        without_its_arrival,
        without_its_timer,
        of_a_run_that_exists,
        behind_the_head,
        of_a_run_that_does_not_exist,
        with_an_event_that_exists,
    ],
)
def test_a_superseded_batch_writes_nothing(
    world: World, connection: Connection, superseded: Callable[[Started], Batch]
) -> None:
    me = world.coordinator(connection)
    old = world.start(connection, me)
    send(world, connection, lane=1)
    before = everything(connection)
    batch = superseded(old)
    run = new_run()
    batch.taken += [before["inbox"][0][0]]
    batch.runs += [run]
    batch.events += [new_event(run.id, 1)]
    batch.tasks += [new_task(run)]

    with pytest.raises(Superseded):
        world.turning.commit(connection, me, batch)

    assert everything(connection) == before


def test_two_owners_of_one_run_cannot_both_commit(world: World, connection: Connection) -> None:
    one, two = world.coordinator(connection), world.coordinator(connection)
    run = world.start(connection, one).run
    batch = Batch(changes=[change_of(run)], events=[new_event(run.id, 2)])
    watcher, blocker, first, second = (world.connect() for _ in range(4))

    with blocker.transaction():
        blocker.execute("SELECT 1 FROM saga.run WHERE id = %s FOR UPDATE", (run.id,))
        commits = [
            in_thread(world.turning.commit, first, one, batch),
            in_thread(world.turning.commit, second, two, batch),
        ]
        for waiting in (first, second):
            wait_until_blocked(watcher, waiting)

    errors = [commit.exception(timeout=10) for commit in commits]
    assert sorted(type(error).__name__ for error in errors) == ["NoneType", "Superseded"]
    assert len(world.turning.events(connection, run.id)) == 2


def oversized(old: Started) -> Batch:
    # More than an index can hold, and too random to be compressed.
    return Batch(runs=[new_run(key="".join(uuid4().hex for _ in range(500)))])


REFUSED: dict[str, Callable[[Started], Batch]] = {
    "a NUL in a key": lambda _: Batch(runs=[new_run(key="order\x00")]),
    "a NUL in a payload": lambda old: Batch(events=[new_event(old.run.id, 2, payload="\x00")]),
    "a lone surrogate": lambda _: Batch(runs=[new_run(key="order\ud800")]),
    "an unknown status": lambda old: Batch(changes=[change_of(old.run, status="sleeping")]),
    "an end without its time": lambda old: Batch(changes=[change_of(old.run, status="completed")]),
    "a time without an end": lambda old: Batch(changes=[change_of(old.run, ended_at=LONG_AGO)]),
    "a stall without a reason": lambda old: Batch(changes=[change_of(old.run, status="stalled")]),
    "a digest that is none": lambda old: Batch(changes=[change_of(old.run, digest=b"short")]),
    "a head below one": lambda _: Batch(runs=[new_run(head=0)]),
    "an attempt below one": lambda old: Batch(tasks=[new_task(old.run, attempt=0)]),
    "a token that is taken": lambda old: Batch(tasks=[old.task]),
    "a lease that is no number": lambda old: Batch(tasks=[new_task(old.run, lease_seconds=float("nan"))]),
    "a number out of range": lambda old: Batch(tasks=[new_task(old.run, attempt=2**40)]),
    "a shard that does not exist": lambda _: Batch(runs=[new_run(shard=64)]),
    "a second end": lambda old: Batch(
        events=[new_event(old.run.id, 2, EventKind.RUN_COMPLETED), new_event(old.run.id, 3, EventKind.RUN_TERMINATED)]
    ),
    "an oversized key": oversized,
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_batch_with_a_value_that_cannot_be_stored_writes_nothing(
    world: World, connection: Connection, what: str
) -> None:
    me = world.coordinator(connection)
    old = world.start(connection, me)
    send(world, connection, lane=1)
    before = everything(connection)
    batch = REFUSED[what](old)
    run = new_run()
    batch.taken += [before["inbox"][0][0]]
    batch.runs += [run]
    batch.events += [new_event(run.id, 1)]

    with pytest.raises(BatchRefused):
        world.turning.commit(connection, me, batch)

    assert everything(connection) == before


def test_a_fence_takes_back_only_what_nobody_has_claimed(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    started = world.start(connection, me, tasks=3)
    claimed, unclaimed, untouched = started.tasks
    world.claimed(connection, claimed)

    world.turning.commit(connection, me, Batch(fences=[claimed.token, unclaimed.token, uuid4()]))

    left = {task.token for task in world.reading.open_tasks(connection, started.run.id)}
    assert left == {claimed.token, untouched.token}
    assert inbox(connection) == [("StepNeverStarted", started.run.id, unclaimed.token, 1, None, None)]


def test_a_kill_takes_back_what_is_claimed_too(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    started = world.start(connection, me, tasks=2)
    claim = world.claimed(connection, started.task)

    world.turning.commit(connection, me, Batch(kills=[task.token for task in started.tasks]))

    assert world.reading.open_tasks(connection, started.run.id) == []
    assert inbox(connection) == []
    assert not world.working.record_outcome(connection, claim, "StepSucceeded", None)


def test_a_timer_set_again_moves(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    run = world.start(connection, me).run
    world.turning.commit(connection, me, Batch(timers=[NewTimer(run.id, "retry", 7, LONG_AGO)]))

    moved = LONG_AGO + timedelta(days=1)
    world.turning.commit(connection, me, Batch(timers=[NewTimer(run.id, "retry", 7, moved)]))

    assert [timer.due_at for timer in world.reading.timers(connection, run.id)] == [moved]


def test_logs_are_read_behind_what_was_seen(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    runs = [world.start(connection, me).run for _ in range(3)]
    for run in runs[:2]:
        world.turning.commit(connection, me, Batch(events=[new_event(run.id, seq) for seq in (2, 3)]))

    logs = world.turning.events_of(connection, {runs[0].id: 0, runs[1].id: 2, runs[2].id: 1})

    assert {run: [event.seq for event, _ in log] for run, log in logs.items()} == {
        runs[0].id: [1, 2, 3],
        runs[1].id: [3],
    }


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("Teleported", None),
        ("RunStalled", '{"reason":"teleported","message":""}'),
        ("RunCompensating", '{"cause":"teleported"}'),
    ],
)
def test_a_log_that_newer_code_has_written_is_named_among_those_that_are_asked_for(
    world: World, connection: Connection, kind: str, payload: str | None
) -> None:
    me = world.coordinator(connection)
    readable, newer = (world.start(connection, me).run for _ in range(2))
    connection.execute(
        "INSERT INTO saga.event (run, seq, kind, at, payload, digest) VALUES (%s, 2, %s, now(), %s, %s)",
        (newer.id, kind, payload, DIGEST),
    )

    with pytest.raises(
        UnreadableLogs, match=rf"run {newer.id}: event 2 \({kind}\) is one that this code does not know"
    ) as e:
        world.turning.events_of(connection, {readable.id: 0, newer.id: 0})

    assert list(e.value.runs) == [newer.id]
    assert list(world.turning.events_of(connection, {readable.id: 0})) == [readable.id]
    with pytest.raises(UnreadableLogs):
        world.turning.events(connection, newer.id)
    with pytest.raises(UnreadableLogs):
        world.reading.events(connection, newer.id)


def test_what_newer_code_has_sent_stays_and_hides_nothing(
    world: World, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("Teleported", "Teleported", "Beamed", "CancelRequested", "Teleported", "TerminateRequested"):
        world.sending.send(
            connection, shard=1, lane=0, run=None, saga="s", key="k", kind=kind, dedupe=None, payload=None
        )

    taken = [
        world.turning.take(connection, [1], limit_per_shard=2, timers_limit=5, starts=True).arrivals for _ in range(2)
    ]

    kinds = [[arrival.kind for arrival in arrivals] for arrivals in taken]
    assert kinds == [["CancelRequested", "TerminateRequested"]] * 2
    assert len(inbox(connection)) == 6
    assert [record.getMessage() for record in caplog.records] == [
        "arrivals of a kind that newer code has sent (Teleported) are left to a coordinator with it"
    ]


def test_one_shard_that_rang_is_read_alone_in_the_order_of_lanes(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    known, other = (world.start(connection, me, shard=7) for _ in range(2))
    world.turning.commit(connection, me, Batch(timers=[NewTimer(known.run.id, "due", 7, LONG_AGO)]))
    send(world, connection, shard=7, lane=1)
    for started in (known, other):
        world.working.record_outcome(connection, world.claimed(connection, started.task), "StepSucceeded", None)
    send(world, connection, shard=8)

    taken = world.turning.take_rung(connection, 7, known={known.run.id})

    assert taken is not None
    assert [arrival.kind for arrival in taken.arrivals] == ["StepSucceeded", "StepSucceeded", "RunStarted"]
    assert (set(taken.runs), taken.timers, taken.more) == ({other.run.id}, (), False)
    full = world.turning.take(connection, [7], limit_per_shard=9, timers_limit=9, starts=True)
    assert full.arrivals == taken.arrivals


def test_a_shard_that_rang_for_what_is_taken_already_still_tells_the_time(world: World, connection: Connection) -> None:
    taken = world.turning.take_rung(connection, 7)

    assert taken is not None
    assert datetime.now(UTC) - taken.now < timedelta(seconds=10)
    assert (taken.arrivals, taken.timers, taken.runs, taken.more) == ((), (), {}, False)


def test_a_shard_that_rang_for_many_wants_a_take_in_full(world: World, connection: Connection) -> None:
    for _ in range(turning.TAKE_RUNG_MAX - 1):
        send(world, connection)
    few = world.turning.take_rung(connection, 7)
    send(world, connection)

    assert few is not None
    assert len(few.arrivals) == turning.TAKE_RUNG_MAX - 1
    assert world.turning.take_rung(connection, 7) is None


def test_a_place_with_a_limit_of_its_own_is_read_further_than_the_others(world: World, connection: Connection) -> None:
    for shard in (1, 2):
        for _ in range(5):
            send(world, connection, shard=shard)

    taken = world.turning.take(
        connection, [1, 2], limit_per_shard=2, limits={(2, 0): 4, (9, 0): 1}, timers_limit=5, starts=True
    )

    assert [arrival.shard for arrival in taken.arrivals] == [1, 1, 2, 2, 2, 2]
    assert (taken.full, taken.more, taken.cut) == (frozenset({(1, 0), (2, 0)}), True, False)


def test_what_newer_code_has_sent_to_a_shard_that_rang_is_left_to_a_full_take(
    world: World, connection: Connection
) -> None:
    send(world, connection)
    world.sending.send(
        connection, shard=7, lane=0, run=None, saga="s", key="k", kind="Beamed", dedupe=None, payload=None
    )

    assert world.turning.take_rung(connection, 7) is None


def test_all_that_is_for_a_run_that_is_set_aside_stays_and_hides_nothing(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    aside, other = (world.start(connection, me, shard=1) for _ in range(2))
    timers = [NewTimer(started.run.id, "due", 1, LONG_AGO) for started in (aside, other)]
    world.turning.commit(connection, me, Batch(timers=timers))
    for started in (aside, other):
        claim = world.claimed(connection, started.task)
        world.working.record_outcome(connection, claim, "StepSucceeded", "{}")
        send(world, connection, shard=1, key=started.run.key)
        send(world, connection, shard=1, key=started.run.key, lane=1)

    taken = world.turning.take(
        connection,
        [1],
        limit_per_shard=2,
        timers_limit=1,
        starts=True,
        aside={aside.run.id: ("checkout", aside.run.key)},
    )

    assert [(a.kind, a.key) for a in taken.arrivals] == [
        ("StepSucceeded", None),
        ("CancelRequested", other.run.key),
        ("RunStarted", other.run.key),
    ]
    assert [timer.run for timer in taken.timers] == [other.run.id]
    assert taken.runs.keys() == {other.run.id}


def send_bytes(world: World, connection: Connection, *sizes: int | None, lane: int = 0) -> None:
    for number, size in enumerate(sizes):
        world.sending.send(
            connection,
            shard=number % 3,
            lane=lane,
            run=uuid4(),
            saga=None if lane == 0 else "s",  # type: ignore[arg-type]
            key=None if lane == 0 else str(number),  # type: ignore[arg-type]
            kind="StepSucceeded" if lane == 0 else "RunStarted",
            dedupe=None,
            payload=None if size is None else "é" * (size // 2),
        )


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ([400, 400, 400, 2], 3),
        ([400, 598, 4, 2], 3),
        ([400, 600, 2], 2),
        ([5_000, 2], 1),
        ([None, 400, None, 598, None, 2], 6),
        ([None, 5_000, None], 2),
        ([400, 598], 2),
    ],
)
def test_a_take_ends_behind_the_arrival_that_reaches_its_bytes(
    world: World, connection: Connection, sizes: list[int | None], taken: int
) -> None:
    send_bytes(world, connection, *sizes)

    found = world.turning.take(connection, range(3), limit_per_shard=50, timers_limit=5, bytes_max=1_000, starts=True)

    # Those of each shard are its oldest: what a floor relies on.
    assert [arrival.payload and len(arrival.payload) * 2 for arrival in found.arrivals] == sizes[:taken]
    assert found.more is found.cut is (sum(size or 0 for size in sizes[:taken]) >= 1_000)


def test_starts_wait_while_the_arrivals_before_them_fill_a_take(world: World, connection: Connection) -> None:
    send_bytes(world, connection, 400, 400, lane=1)
    send_bytes(world, connection, 600, 600)

    found = world.turning.take(connection, range(3), limit_per_shard=50, timers_limit=5, bytes_max=1_000, starts=True)

    assert [arrival.lane for arrival in found.arrivals] == [0, 0]
    assert found.more


def test_the_input_of_a_run_that_does_not_exist_is_an_error(world: World, connection: Connection) -> None:
    with pytest.raises(LookupError, match="has no row"):
        world.turning.run_input(connection, uuid4())


def test_stalls_that_other_code_recorded_are_found(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    mine, other, elsewhere = (world.start(connection, me, shard=shard).run for shard in (1, 1, 2))
    for run, build in ((mine, "build-1"), (other, "build-0"), (elsewhere, "build-0")):
        stall = change_of(run, status="stalled", reason="no_definition", build=build)
        world.turning.commit(connection, me, Batch(changes=[stall]))

    found = world.turning.stalled(connection, [1], ["no_definition"], other_than_build="build-1", limit=10)

    assert [run.id for run in found] == [other.id]


def commit_behind(
    world: World, connection: Connection, *, lock_timeout_seconds: float | None = 10.0
) -> tuple[UUID, Started, Connection, Connection, Batch]:
    """Return a coordinator, its run, a blocker that holds the run's row, a connection to commit with, and a batch."""
    me = world.coordinator(connection)
    started = world.start(connection, me)
    blocker = world.connect()
    blocker.autocommit = False
    blocker.execute("SELECT 1 FROM saga.run WHERE id = %s FOR UPDATE", (started.run.id,))
    committing = world.connect(f"saga:{me}", lock_timeout_seconds=lock_timeout_seconds)
    batch = Batch(changes=[change_of(started.run)], events=[new_event(started.run.id, 2)])
    return me, started, blocker, committing, batch


def test_a_commit_that_gets_no_lock_in_time_is_superseded(world: World, connection: Connection) -> None:
    me, _, _, committing, batch = commit_behind(world, connection, lock_timeout_seconds=0.05)

    with pytest.raises(Superseded, match="55P03"):
        world.turning.commit(committing, me, batch)


def test_a_commit_whose_backend_dies_is_unknown(world: World, connection: Connection) -> None:
    me, _, _, committing, batch = commit_behind(world, connection)

    commit = in_thread(world.turning.commit, committing, me, batch)
    wait_until_blocked(connection, committing)
    connection.execute("SELECT pg_terminate_backend(%s)", (committing.info.backend_pid,))

    assert isinstance(commit.exception(timeout=10), CommitUnknown)


def test_a_commit_without_its_standby_is_unknown(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    with standby_cut_off(world, "event"), pytest.raises(CommitUnknown, match="01000"):
        world.start(connection, me)


def test_heads_are_read_only_after_the_lost_commit_is_decided(world: World, connection: Connection) -> None:
    me, started, blocker, committing, batch = commit_behind(world, connection)
    commit = in_thread(world.turning.commit, committing, me, batch)
    wait_until_blocked(connection, committing)

    asking = world.connect(f"saga:{me}")
    heads = in_thread(world.turning.read_heads, asking, me, [started.run.id, uuid4()])
    wait_until_blocked(connection, asking)
    blocker.rollback()

    assert heads.result(timeout=10) == {started.run.id: 2}
    assert commit.result(timeout=10).task_ids == {}


def test_a_lost_commit_that_hangs_is_ended_before_heads_are_read(world: World, connection: Connection) -> None:
    me, started, _, committing, batch = commit_behind(world, connection)
    commit = in_thread(world.turning.commit, committing, me, batch)
    wait_until_blocked(connection, committing)

    asking = world.connect(f"saga:{me}")
    heads = world.turning.read_heads(asking, me, [started.run.id], lock_timeout_seconds=0.1)

    assert heads == {started.run.id: 1}
    assert isinstance(commit.exception(timeout=10), CommitUnknown)


def test_heads_are_not_read_by_a_coordinator_that_was_buried_meanwhile(world: World, connection: Connection) -> None:
    me = world.coordinator(connection, lease_seconds=0)
    world.membership.bury(connection, me, grace_seconds=0)

    with pytest.raises(Fenced):
        world.turning.read_heads(connection, me, [])


def test_a_zombie_that_waits_at_its_fence_is_refused_when_it_wakes(world: World, connection: Connection) -> None:
    me = world.coordinator(connection, lease_seconds=0)
    run = world.start(connection, me).run
    zombie = world.connect()  # not under the coordinator's name, so that the burial does not end it

    burying = world.connect()
    with burying.transaction():
        assert world.membership.bury(burying, me, grace_seconds=0)
        commit = in_thread(world.turning.commit, zombie, me, Batch(changes=[change_of(run)]))
        wait_until_blocked(connection, zombie)

    assert isinstance(commit.exception(timeout=10), Fenced)
    wait_until(lambda: world.turning.runs(connection, [run.id])[run.id].head == 1, "the head stays")
