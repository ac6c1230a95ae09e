"""Transactional steps (P6): the effect and its outcome are committed together, whatever is killed or unanswered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from billiard.exceptions import SoftTimeLimitExceeded

import saga.engine.renewing
import saga.engine.store.reaping
from saga.cli.embedded import Database
from saga.core.events import EventKind
from saga.core.lifecycle import Status
from saga.engine.client import Handle
from saga.engine.crashpoints import Point
from tests.arming import Victim
from tests.integration.application import ledgered
from tests.simulation.faults import Fault
from tests.simulation.world import World

pytestmark = [pytest.mark.chaos, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

POSTINGS = """
CREATE TABLE public.posting (token uuid NOT NULL, attempt integer NOT NULL);
GRANT SELECT, INSERT, DELETE ON public.posting TO PUBLIC;
"""
POINTS = [Point.WORKER_CLAIMED, Point.WORKER_RAN, Point.WORKER_RECORDED]


@pytest.fixture
def world(database: Database, broker_url: str, tmp_path: Path) -> Iterator[World]:
    """A world whose services keep their postings in the tables' own database; no invariant falls in it."""
    made = World(database, broker_url, tmp_path / "world")
    made.owner.execute(POSTINGS)
    yield made
    try:
        found = made.audit()
        assert not found, "\n".join(map(str, found)) + "\n" + made.told()
    finally:
        made.close()


def _ended(world: World, handle: Handle[str]) -> Status:
    world.until(lambda: world.ended(handle), "it ends")
    return handle.status()


def _postings(world: World) -> int:
    return world.count("SELECT count(*) FROM public.posting")


def _staff(world: World) -> None:
    world.coordinator("c1")
    for name in ("w1", "w2"):
        world.worker(name)
    world.until_ready()


@pytest.mark.parametrize("point", POINTS)
def test_f13_a_worker_killed_in_a_transactional_action_posts_once(world: World, point: Point) -> None:
    armed = world.armoury.arm(point, "^application.post$")
    _staff(world)

    handle = world.start(ledgered, "killed")

    world.until(lambda: armed.fired, "the worker dies")
    assert _ended(world, handle) is Status.COMPLETED
    assert _postings(world) == 1


@pytest.mark.parametrize("point", POINTS)
def test_f13_a_worker_killed_in_a_transactional_compensation_takes_back_once(world: World, point: Point) -> None:
    armed = world.armoury.arm(point, "^application.post.compensate$")
    _staff(world)

    handle = world.start(ledgered, "killed-undo", confirm="abort")

    world.until(lambda: armed.fired, "the worker dies")
    assert _ended(world, handle) is Status.COMPENSATED
    assert _postings(world) == 0


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.EXECUTE_AND_TIMEOUT])
@pytest.mark.parametrize(("name", "moods", "end"), [("do", {}, 1), ("undo", {"confirm": "abort"}, 0)])
def test_f19_a_transaction_whose_commit_has_no_reply_is_looked_after(
    world: World, fault: Fault, name: str, moods: dict[str, str], end: int
) -> None:
    world.plant = _losing_commits(fault)
    _staff(world)

    handle = world.start(ledgered, name, **moods)

    assert _ended(world, handle) is (Status.COMPENSATED if moods else Status.COMPLETED)
    assert _postings(world) == end
    unanswered = {EventKind.STEP_UNKNOWN, EventKind.STEP_LOST, EventKind.STEP_ROLLED_BACK}
    assert not unanswered & {event.kind for event in handle.history()}
    assert any("has no answer" in world.said(worker) for worker in ("w1", "w2"))


def _losing_commits(fault: Fault) -> Callable[[], None]:
    """Plant a COMMIT without a reply, once in each process."""

    def plant() -> None:
        commit = psycopg.Connection.commit
        lost: list[int] = []

        def losing(self: psycopg.Connection[Any]) -> None:
            if lost or self.autocommit:
                commit(self)
                return
            lost.append(1)
            if fault is Fault.EXECUTE_AND_TIMEOUT:
                commit(self)
            self.close()
            raise psycopg.OperationalError("injected: no reply to COMMIT")

        psycopg.Connection.commit = losing  # type: ignore[method-assign]

    return plant


@pytest.mark.parametrize("landed", [False, True])
def test_a_worker_told_to_end_in_a_commit_tells_how_that_ended_before_it_goes(world: World, landed: bool) -> None:
    ends = world.folder / "told-to-end"

    def plant() -> None:
        commit = psycopg.Connection.commit

        def ending(self: psycopg.Connection[Any]) -> None:
            if landed or self.autocommit or ends.exists():
                commit(self)
            if not self.autocommit and not ends.exists():
                ends.touch()
                raise SystemExit

        psycopg.Connection.commit = ending  # type: ignore[method-assign]

    world.plant = plant
    _staff(world)

    handle = world.start(ledgered, "told-to-end")

    assert _ended(world, handle) is Status.COMPLETED
    assert ends.exists()
    assert _postings(world) == 1
    kinds = [event.kind for event in handle.history()]
    assert EventKind.STEP_LOST not in kinds
    assert (EventKind.STEP_ROLLED_BACK in kinds) is not landed


def test_f12_a_transaction_fenced_while_it_ran_is_rolled_back(world: World) -> None:
    armed = world.armoury.arm(Point.WORKER_RAN, "^application.post$", victim=Victim.FREEZE)
    _staff(world)
    handle = world.start(ledgered, "fenced")
    world.until(lambda: armed.fired, "a worker is frozen")

    assert _ended(world, handle) is Status.COMPLETED
    world.thaw()

    world.until(
        lambda: any("was fenced while it ran and is rolled back" in world.said(name) for name in ("w1", "w2")),
        "the frozen worker finds itself fenced",
    )
    assert _postings(world) == 1


def test_an_error_in_a_transactional_step_rolls_back_and_is_retried(world: World) -> None:
    _staff(world)

    handle = world.start(ledgered, "rolled-back", post="fail_once")

    assert _ended(world, handle) is Status.COMPLETED
    assert EventKind.STEP_ROLLED_BACK in [event.kind for event in handle.history()]
    assert _postings(world) == 1


def _refusing(error: Exception, times: int) -> Callable[[], None]:
    """Plant a Postgres that each worker cannot reach for its first transactions; no claim runs out meanwhile."""

    def plant() -> None:
        saga.engine.renewing.LEASE_GRACE_SECONDS = saga.engine.renewing.LEASE_SECONDS_MAX = 60.0
        connect = sqlalchemy.Engine.connect
        refused: list[int] = []

        def refusing(self: sqlalchemy.Engine) -> sqlalchemy.Connection:
            if len(refused) < times:
                refused.append(1)
                raise error
            return connect(self)

        sqlalchemy.Engine.connect = refusing  # type: ignore[method-assign]

    return plant


AWAY = sqlalchemy.exc.OperationalError("", {}, psycopg.OperationalError("injected: Postgres is away"))


def test_a_transaction_that_postgres_is_away_for_is_begun_when_it_answers(world: World) -> None:
    world.plant = _refusing(AWAY, 3)
    _staff(world)

    handle = world.start(ledgered, "away")

    assert _ended(world, handle) is Status.COMPLETED
    assert _postings(world) == 1
    kinds = [event.kind for event in handle.history()]
    assert not {EventKind.STEP_LOST, EventKind.STEP_ROLLED_BACK} & set(kinds)


def test_a_transaction_whose_time_is_over_before_postgres_answers_is_tried_again(world: World) -> None:
    world.plant = _refusing(SoftTimeLimitExceeded(), 1)
    _staff(world)

    handle = world.start(ledgered, "out-of-time")

    assert _ended(world, handle) is Status.COMPLETED
    assert _postings(world) == 1
    kinds = [event.kind for event in handle.history()]
    assert EventKind.STEP_ROLLED_BACK in kinds
    assert EventKind.STEP_LOST not in kinds


def test_a_claim_that_a_crash_of_postgres_forgot_is_made_again(world: World) -> None:
    refuse = _refusing(AWAY, 1)

    def plant() -> None:
        # Nothing is published again here: whoever drops the message has lost the attempt.
        setattr(saga.engine.store.reaping, "SETTLING_SECONDS", 3_600)  # noqa: B010 - a constant to mypy
        refuse()

    world.plant = plant
    armed = world.armoury.arm(Point.WORKER_CLAIMED, "^application.post$", victim=Victim.FREEZE)
    _staff(world)
    handle = world.start(ledgered, "forgotten")
    world.until(lambda: armed.fired, "a worker has claimed it")

    forget = "UPDATE saga.task SET claimed_by = NULL, claimed_at = NULL, lease_until = NULL RETURNING attempt"
    assert world.count(forget) == 1
    world.thaw()

    assert _ended(world, handle) is Status.COMPLETED
    assert _postings(world) == 1
    assert EventKind.STEP_LOST not in [event.kind for event in handle.history()]
