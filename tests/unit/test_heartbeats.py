"""Heartbeats: what a step tells of itself while it runs, and what the next attempt gets of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import cast
from uuid import UUID

import psycopg
import pytest

from saga import Context, DefinitionError, Retry, SagaError, Status, ValueRefused, current, saga, step
from saga.core.current import Attempt, attempt_now
from saga.core.effects import RunTask
from saga.core.events import EventKind
from saga.core.outcome import progress_of, wrap
from saga.core.pinned import policy_from_json, policy_to_json
from saga.engine.codec import JsonCodec
from saga.engine.heart import BEAT_SECONDS_MIN, PROGRESS_BYTES_MAX, Heart
from saga.engine.records import Claim
from saga.engine.renewing import LEASE_GRACE_SECONDS, LEASE_SECONDS_MAX, lease_seconds
from saga.engine.store.connect import Connection
from saga.engine.store.working import Working
from saga.testing import attempt, play
from tests.unit.driven import Driven

PLAIN = Retry(attempts=3, first_seconds=10, jitter=0)


@step(retry=PLAIN, heartbeat=30, timeout=None)
def bring_in(rows: int) -> int:
    begin = current.progress() or 0
    for row in range(begin, rows):
        if row == begin + 4:
            raise RuntimeError("the file server went away")
        current.heartbeat(row + 1)
    return begin


@bring_in.compensate(heartbeat=5, retry=PLAIN)
def throw_out(began: int | None, rows: int) -> None:
    return None


@bring_in.probe
def look_in(rows: int) -> int | None:
    return None


@saga("bringing")
def bringing(ctx: Context, rows: int) -> int:
    return ctx.run(bring_in, rows)


@saga("bringing_slowly")
def bringing_slowly(ctx: Context, rows: int) -> int:
    return ctx.run(bring_in.with_options(heartbeat=300), rows)


# -- what is declared and pinned -----------------------------------------------------------------------------------


def test_a_heartbeat_is_pinned_and_old_logs_have_none() -> None:
    policy = bring_in.policy

    assert policy_from_json(policy_to_json(policy)) == policy
    assert (policy.heartbeat_seconds, bring_in.compensation_policy.heartbeat_seconds) == (30, 5)
    assert bring_in.with_options(heartbeat=None).policy.heartbeat_seconds is None
    assert "heartbeat" not in policy_to_json(bring_in.with_options(heartbeat=None).policy)


@pytest.mark.parametrize("seconds", [0, -1, 400 * 86_400])
def test_a_heartbeat_is_some_seconds(seconds: float) -> None:
    with pytest.raises(DefinitionError, match="heartbeat="):
        bring_in.with_options(heartbeat=seconds)


def test_the_lease_is_a_heartbeat_and_a_grace_but_no_longer_than_the_limit() -> None:
    assert lease_seconds(None, 30) == 30 + LEASE_GRACE_SECONDS
    assert lease_seconds(3600, 300) == 300 + LEASE_GRACE_SECONDS
    assert lease_seconds(20, 300) == 20 + LEASE_GRACE_SECONDS
    assert lease_seconds(None) == LEASE_SECONDS_MAX


def test_every_direction_beats_as_it_was_declared() -> None:
    run = Driven(bringing)
    action = _task(run, "bring_in")
    run.unknown("bring_in").fire()
    probe = _task(run, "bring_in.probe")
    run.find("bring_in", 7)
    slow = _task(Driven(bringing_slowly), "bring_in")

    assert (action.heartbeat_seconds, probe.heartbeat_seconds, slow.heartbeat_seconds) == (30, None, 300)


# -- what the next attempt gets ------------------------------------------------------------------------------------


def _task(run: Driven, name: str) -> RunTask:
    task = run.open[name]
    assert isinstance(task, RunTask)
    return task


def _end(run: Driven, kind: EventKind, payload: str | None, name: str = "bring_in") -> None:
    task = run.open.pop(name)
    run.feed(kind, token=task.token, attempt=task.attempt, claimant=run.claimant(), payload=payload)


def test_the_progress_of_a_lost_attempt_reaches_the_next_one_past_its_probe() -> None:
    run = Driven(bringing, 9)

    _end(run, EventKind.STEP_LOST, '{"progress":"{\\"row\\": 5}"}')
    run.find_nothing("bring_in")

    assert _task(run, "bring_in").progress == '{"row": 5}'


def test_an_attempt_that_tells_nothing_leaves_the_progress_as_it_was() -> None:
    run = Driven(bringing, 9)
    error = json.dumps({"type": "", "message": '"progress":"7"'})

    told: list[str | None] = []
    for kind, payload in (
        (EventKind.STEP_UNKNOWN, wrap(error, worker="w/1", ran_seconds=1, progress="[5]")),
        (EventKind.STEP_UNKNOWN, wrap(error, worker="w/1", ran_seconds=1)),
        (EventKind.STEP_LOST, None),
    ):
        _end(run, kind, payload)
        if run.timers:
            run.fire()
        run.find_nothing("bring_in")
        told.append(_task(run, "bring_in").progress)

    assert told == ["[5]", "[5]", "[5]"]


def test_what_was_postponed_goes_on_from_its_progress() -> None:
    run = Driven(bringing, 9)

    _end(run, EventKind.STEP_POSTPONED, wrap("5", worker="w/1", ran_seconds=1, progress='"half"'))
    run.fire()

    assert _task(run, "bring_in").progress == '"half"'


def test_there_is_no_progress_where_nothing_says_so() -> None:
    assert progress_of(None) is None
    assert progress_of("{}") is None
    assert progress_of('{"pivoted":true,"value":{"progress":"3"}}') is None


# -- the beat ------------------------------------------------------------------------------------------------------


@dataclass
class Postgres:
    """Stands for the store: what was told, and what it answers."""

    told: list[str | None]
    answer: bool | Exception = True
    connections: int = 0

    def beat(self, connection: object, claim: Claim, progress: str | None, *, grace_seconds: float) -> bool:
        self.told.append(progress)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


CLAIM = Claim(UUID(int=1), 1, UUID(int=2), UUID(int=3), 7, "a.b", "{}", 35, None, beats=True)


def _heart(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> tuple[Heart, Attempt, list[float]]:
    clock = [100.0]
    monkeypatch.setattr("saga.engine.heart.time.monotonic", lambda: clock[0])
    running = Attempt(UUID(int=1), UUID(int=1), 1, "a/1", "a.b")

    def disconnect() -> None:
        postgres.connections -= 1

    def connect() -> Connection:
        postgres.connections = 1
        return cast(Connection, None)

    heart = Heart(JsonCodec(), cast(Working, postgres), CLAIM, running, connect=connect, disconnect=disconnect)
    return heart, running, clock


def test_a_tight_loop_beats_a_few_times_a_second_and_the_last_progress_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    postgres = Postgres([])
    heart, _, clock = _heart(postgres, monkeypatch)

    for number in range(1_000):
        clock[0] = 100 + number / 1_000  # a second in all
        heart.beat(number)

    assert len(postgres.told) == round(1 / BEAT_SECONDS_MIN)
    assert postgres.told[:2] == ["0", str(round(BEAT_SECONDS_MIN * 1_000))]
    assert heart.told == "999"


def test_a_beat_without_news_tells_no_progress_again(monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = Postgres([])
    heart, _, clock = _heart(postgres, monkeypatch)

    for progress in (None, {"row": 1}, None, {"row": 1}):
        heart.beat(progress)
        clock[0] += 1

    assert postgres.told == [None, '{"row":1}', None, None]
    assert heart.told == '{"row":1}'


def test_a_beat_that_was_held_back_goes_with_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = Postgres([])
    heart, _, clock = _heart(postgres, monkeypatch)

    heart.beat(1)
    heart.beat(2)
    clock[0] += 1
    heart.beat(None)

    assert postgres.told == ["1", "2"]


def test_a_fenced_attempt_is_told_so_and_beats_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = Postgres([], answer=False)
    heart, running, clock = _heart(postgres, monkeypatch)

    heart.beat(1)
    clock[0] += 60
    heart.beat(2)

    assert running.fenced
    assert postgres.told == ["1"]


def test_without_an_answer_the_step_goes_on_and_tells_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = Postgres([], answer=psycopg.OperationalError("gone"))
    heart, running, clock = _heart(postgres, monkeypatch)

    heart.beat(1)
    clock[0] += 1
    heart.beat(2)  # too soon: a server that does not answer must not hold up the work
    postgres.answer = True
    clock[0] += 10
    heart.beat(None)

    assert not running.fenced
    assert postgres.told == ["1", "2"]
    assert postgres.connections == 1


def test_a_time_limit_in_mid_beat_strikes_the_step_and_leaves_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = Postgres([], answer=TimeoutError("time is up"))
    heart, _, _ = _heart(postgres, monkeypatch)

    with pytest.raises(TimeoutError):
        heart.beat(1)

    assert postgres.connections == 0


@pytest.mark.parametrize("progress", ["x" * PROGRESS_BYTES_MAX, object()])
def test_progress_that_cannot_be_kept_is_refused_at_once(progress: object, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = Postgres([])
    heart, _, _ = _heart(postgres, monkeypatch)

    with pytest.raises(ValueRefused, match="the progress"):
        heart.beat(progress)

    assert postgres.told == []


# -- in a step -----------------------------------------------------------------------------------------------------


def test_a_unit_test_gives_and_gets_progress() -> None:
    with attempt(progress=2) as running:
        assert bring_in(5) == 2

    assert running.told == [3, 4, 5]
    with attempt():
        assert current.progress() is None
        current.heartbeat()


def test_progress_of_a_transactional_step_is_refused() -> None:
    with attempt(connection=object(), step="ledger.post") as running:
        current.heartbeat()
        with pytest.raises(SagaError, match=r"ledger\.post is transactional"):
            current.heartbeat(3)

    assert running.told == []


def test_outside_a_step_there_is_no_heartbeat() -> None:
    with pytest.raises(SagaError, match="outside a running step"):
        current.heartbeat()


def test_an_attempt_without_a_heart_may_beat() -> None:
    reset = attempt_now.set(Attempt(UUID(int=1), UUID(int=1), 1, "a/1", "a.b"))
    current.heartbeat(5)
    attempt_now.reset(reset)


def test_a_play_goes_on_from_the_progress_of_the_attempt_before() -> None:
    played = play(bringing, 10)

    assert (played.status, played.result) == (Status.COMPLETED, 8)
    assert played.effects.count("test_heartbeats.bring_in") == 3


def test_a_worker_that_dies_in_a_play_leaves_its_progress_and_a_short_lease() -> None:
    played = play(bringing, 3, crash_at="worker.ran test_heartbeats.bring_in#1")

    assert (played.status, played.result) == (Status.COMPLETED, 3)
    assert played.elapsed == timedelta(seconds=30 + LEASE_GRACE_SECONDS)
