"""P2-P6: claims, outcomes and what a fenced worker may still do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import create_engine

from saga.core.outcome import progress_of
from saga.engine.store.connect import Connection, conninfo_of
from saga.engine.store.failures import CommitUnknown
from saga.engine.store.working import late_payload

from .world import World, crash, in_thread, inbox, standby_cut_off, standby_named, wait_until_blocked


def test_a_claim_by_two_deliveries_is_had_by_the_first(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task

    first = world.working.claim(connection, task.token, 1, uuid4())
    second = world.working.claim(world.connect(), task.token, 1, uuid4())

    assert first is not None
    assert (first.run, first.shard, first.name, first.input) == (task.run, task.shard, task.name, task.input)
    assert (first.lease_seconds, first.limit_seconds) == (30.0, 20.0)
    assert second is None


def test_two_claims_at_once_wait_for_each_other_and_one_gets_it(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task
    other = world.connect()

    with connection.transaction():
        assert world.working.claim(connection, task.token, 1, uuid4()) is not None
        waiting = in_thread(world.working.claim, other, task.token, 1, uuid4())
        wait_until_blocked(world.connect(), other)

    assert waiting.result(timeout=10) is None


def test_a_claim_whose_reply_was_lost_is_had_again_by_the_same_delivery(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task
    delivery = uuid4()

    world.working.claim(connection, task.token, 1, delivery)
    again = world.working.claim(connection, task.token, 1, delivery)

    assert again is not None


@pytest.mark.parametrize("attempt", [0, 2])
def test_a_message_of_another_attempt_claims_nothing(world: World, connection: Connection, attempt: int) -> None:
    task = world.start(connection, world.coordinator(connection)).task

    assert world.working.claim(connection, task.token, attempt, uuid4()) is None


def test_an_outcome_ends_the_attempt_and_tells_its_run(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task
    claim = world.claimed(connection, task)

    recorded = world.working.record_outcome(connection, claim, "StepSucceeded", '{"id": 5}')

    assert recorded
    assert inbox(connection) == [("StepSucceeded", task.run, task.token, 1, claim.claimant, '{"id": 5}')]
    assert world.reading.open_tasks(connection, task.run) == []
    assert world.working.claim(connection, task.token, 1, claim.claimant) is None


def test_an_outcome_of_a_delivery_that_holds_no_claim_is_fenced(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task
    claim = world.claimed(connection, task)
    other = replace(claim, claimant=uuid4())

    assert not world.working.record_outcome(connection, other, "StepSucceeded", None)
    assert not world.working.renew(connection, other, grace_seconds=3)

    assert inbox(connection) == []
    assert world.working.still_claimed(connection, claim)


def test_an_outcome_recorded_twice_is_told_once(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task
    claim = world.claimed(connection, task)

    first = world.working.record_outcome(connection, claim, "StepSucceeded", None)
    second = world.working.record_outcome(connection, claim, "StepSucceeded", None)

    assert (first, second) == (True, False)
    assert len(inbox(connection)) == 1


def test_a_fenced_worker_records_nothing_and_tells_it_late(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection), lease_seconds=1e-6).task
    claim = world.claimed(connection, task)
    assert world.reaping.reap_lost(connection, [task.shard], grace_seconds=0) == 1

    recorded = world.working.record_outcome(connection, claim, "StepSucceeded", '{"id": 5}')
    world.working.record_late(connection, claim, "StepSucceeded", '{"id": 5}')

    assert not recorded
    lost, late = inbox(connection)
    assert lost == ("StepLost", task.run, task.token, 1, claim.claimant, None)
    assert late[:5] == ("OutcomeLate", task.run, task.token, 1, claim.claimant)
    assert late_payload(late[5]) == ("StepSucceeded", {"id": 5})


def test_a_late_outcome_without_a_payload_is_read_back_as_none(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task

    world.working.record_late(connection, world.claimed(connection, task), "StepUnknown", None)

    assert late_payload(inbox(connection)[0][5]) == ("StepUnknown", None)


def test_a_renewal_ends_with_the_limit_and_its_grace(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection), lease_seconds=500, limit_seconds=20).task
    claim = world.claimed(connection, task)

    renewed = world.working.renew(connection, claim, grace_seconds=3)

    (row,) = world.reading.open_tasks(connection, task.run)
    assert renewed
    assert row.claimed_at is not None
    assert row.lease_until == row.claimed_at + timedelta(seconds=23)


def test_a_step_without_a_limit_is_renewed_for_ever(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection), lease_seconds=500, limit_seconds=None).task
    claim = world.claimed(connection, task)

    assert claim.limit_seconds is None
    assert world.working.renew(connection, claim, grace_seconds=3)

    (row,) = world.reading.open_tasks(connection, task.run)
    assert row.lease_until is not None
    assert row.claimed_at is not None
    assert row.lease_until > row.claimed_at + timedelta(seconds=499)


def test_a_fenced_worker_cannot_renew(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection), lease_seconds=1e-6).task
    claim = world.claimed(connection, task)
    world.reaping.reap_lost(connection, [task.shard], grace_seconds=0)

    assert not world.working.renew(connection, claim, grace_seconds=3)


def test_a_beat_prolongs_the_lease_and_keeps_the_progress(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    task = world.start(connection, me, lease_seconds=500, limit_seconds=None, beats=True, progress='{"row": 1}').task
    claim = world.claimed(connection, task)
    assert (claim.beats, claim.progress) == (True, '{"row": 1}')

    for told, kept in (('{"row": 2}', '{"row": 2}'), (None, '{"row": 2}')):
        (before,) = world.reading.open_tasks(connection, task.run)
        assert world.working.beat(connection, claim, told, grace_seconds=3)

        (after,) = world.reading.open_tasks(connection, task.run)
        again = world.working.claim(connection, task.token, 1, claim.claimant)
        assert after.lease_until is not None
        assert before.lease_until is not None
        assert after.lease_until > before.lease_until
        assert again is not None
        assert again.progress == kept


def test_a_beat_ends_with_the_limit_and_its_grace(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection), lease_seconds=500, limit_seconds=20, beats=True).task
    claim = world.claimed(connection, task)

    assert world.working.beat(connection, claim, None, grace_seconds=3)

    (row,) = world.reading.open_tasks(connection, task.run)
    assert row.claimed_at is not None
    assert row.lease_until == row.claimed_at + timedelta(seconds=23)


def test_a_lost_attempt_leaves_its_progress_and_beats_no_more(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    told = '{"name": "\\"progress\\":ü\\u0000"}'
    started = world.start(connection, me, tasks=2, lease_seconds=1e-6, beats=True)
    claims = [world.claimed(connection, task) for task in started.tasks]
    assert world.working.beat(connection, claims[0], told, grace_seconds=3)

    assert world.reaping.reap_lost(connection, [7], grace_seconds=0) == 2

    payloads = {row[2]: row[5] for row in inbox(connection)}
    assert progress_of(payloads[claims[0].token]) == told
    assert payloads[claims[1].token] is None
    assert not world.working.beat(connection, claims[0], "3", grace_seconds=3)


def test_a_beat_commits_asynchronously_and_nothing_after_it(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection), beats=True).task
    claim = world.claimed(connection, task)

    with connection.transaction():
        world.working.beat(connection, claim, None, grace_seconds=3)
        assert connection.execute("SHOW synchronous_commit").fetchall() == [("off",)]

    assert connection.execute("SHOW synchronous_commit").fetchall() == [("on",)]


def test_neither_a_claim_nor_an_outcome_waits_for_the_disk(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task
    seen = []

    with connection.transaction():
        claim = world.claimed(connection, task)
        seen += connection.execute("SHOW synchronous_commit").fetchall()
    with connection.transaction():
        world.working.record_outcome(connection, claim, "StepSucceeded", None)
        seen += connection.execute("SHOW synchronous_commit").fetchall()

    assert seen == [("off",), ("off",)]
    assert connection.execute("SHOW synchronous_commit").fetchall() == [("on",)]


def test_a_claim_waits_where_a_standby_is_waited_for(
    world: World, connection: Connection, superuser: Connection
) -> None:
    task = world.start(connection, world.coordinator(connection)).task

    with standby_named(superuser), superuser.transaction(force_rollback=True):
        world.claimed(superuser, task)
        seen = superuser.execute("SHOW synchronous_commit").fetchall()

    assert seen == [("on",)]


def test_a_claim_without_its_standby_is_unknown(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task

    with standby_cut_off(world, "task"), pytest.raises(CommitUnknown, match="synchronous standby"):
        world.claimed(connection, task)


def test_a_claim_waits_where_unlogged_tables_survive_a_crash(
    world: World, connection: Connection, superuser: Connection
) -> None:
    task = world.start(connection, world.coordinator(connection)).task

    with superuser.transaction(force_rollback=True):
        superuser.execute("CREATE FUNCTION public.aurora_version() RETURNS text LANGUAGE sql AS $$ SELECT '16' $$")
        world.claimed(superuser, task)
        seen = superuser.execute("SHOW synchronous_commit").fetchall()

    assert seen == [("on",)]


def test_after_a_crash_nothing_is_claimed_until_what_it_may_have_forgotten_is_seen_to(
    world: World, connection: Connection
) -> None:
    me = world.coordinator(connection)
    before = world.start(connection, me).task
    crash(world)

    claimed = [world.working.claim(connection, before.token, 1, uuid4())]
    world.membership.remember(connection)
    claimed.append(world.working.claim(connection, before.token, 1, uuid4()))
    after = world.start(connection, me).task

    assert claimed == [None, None]
    assert world.claimed(connection, after).token == after.token


@pytest.mark.parametrize("seen_to", [False, True], ids=["before", "after"])
def test_whose_claim_a_crash_forgot_beats_renews_and_records_as_ever(
    world: World, connection: Connection, seen_to: bool
) -> None:
    beating, renewing, recording = world.start(connection, world.coordinator(connection), tasks=3, beats=True).tasks
    claims = {task: world.claimed(connection, task) for task in (beating, renewing, recording)}
    crash(world, forgets=True)
    if seen_to:
        world.membership.remember(connection)

    assert world.working.beat(connection, claims[beating], "3", grace_seconds=3)
    assert world.working.renew(connection, claims[renewing], grace_seconds=3)
    assert world.working.still_claimed(connection, claims[recording])
    assert world.working.record_outcome(connection, claims[recording], "StepSucceeded", None)

    left = world.reading.open_tasks(connection, beating.run) + world.reading.open_tasks(connection, renewing.run)
    assert {row.claimed_by for row in left} == {claims[beating].claimant, claims[renewing].claimant}
    assert [row[0] for row in inbox(connection)] == ["StepSucceeded"]


def test_a_claim_that_was_forgotten_and_is_another_attempts_now_records_nothing(
    world: World, connection: Connection
) -> None:
    task = world.start(connection, world.coordinator(connection)).task
    claim = world.claimed(connection, task)
    crash(world, forgets=True)
    world.membership.remember(connection)
    earlier = replace(claim, attempt=claim.attempt - 1)

    assert not world.working.record_outcome(connection, earlier, "StepSucceeded", None)
    assert not world.working.renew(connection, earlier, grace_seconds=3)


def test_a_transactional_step_commits_its_outcome_with_its_work(world: World, connection: Connection) -> None:
    started = world.start(connection, world.coordinator(connection), tasks=2)
    kept, dropped = (world.claimed(connection, task) for task in started.tasks)
    engine = create_engine("postgresql+psycopg://" + conninfo_of(world.database.url).partition("://")[2])

    with engine.begin() as own:
        assert world.working.record_outcome_within(own, kept, "StepSucceeded", '{"id": 5}')
    with engine.connect() as own:
        assert world.working.record_outcome_within(own, dropped, "StepSucceeded", None)
        own.rollback()
    with engine.begin() as own:
        fenced = not world.working.record_outcome_within(own, kept, "StepSucceeded", '{"id": 5}')
    engine.dispose()

    assert fenced
    assert inbox(connection) == [("StepSucceeded", kept.run, kept.token, 1, kept.claimant, '{"id": 5}')]
    assert not world.working.still_claimed(connection, kept)
    assert world.working.still_claimed(connection, dropped)


@pytest.mark.parametrize("landed", [True, False])
def test_a_lost_commit_is_waited_for_before_it_is_judged(world: World, connection: Connection, landed: bool) -> None:
    claim = world.claimed(connection, world.start(connection, world.coordinator(connection)).task)
    asking = world.connect()

    with connection.transaction(force_rollback=not landed):
        world.working.record_outcome(connection, claim, "StepSucceeded", None)
        answer = in_thread(world.working.still_claimed, asking, claim)
        wait_until_blocked(world.connect(), asking)

    assert answer.result(timeout=10) is not landed


def test_the_workers_path_needs_no_session(world: World, connection: Connection) -> None:
    task = world.start(connection, world.coordinator(connection)).task
    pooled = world.connect(session=False)

    # More often than psycopg's threshold for preparing.
    claim = [world.working.claim(pooled, task.token, 1, task.run) for _ in range(7)][-1]
    assert claim is not None
    assert world.working.renew(pooled, claim, grace_seconds=3)
    assert world.working.record_outcome(pooled, claim, "StepSucceeded", None)

    assert pooled.execute("SELECT count(*) FROM pg_prepared_statements").fetchall() == [(0,)]
