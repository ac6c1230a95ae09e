"""Workers told to end in the middle of a step: they finish it, or tell at once that nobody knows how it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from saga.cli.embedded import Servers
from saga.core.events import EventKind
from saga.core.lifecycle import Status
from saga.engine.client import Handle
from tests.integration.application import drifting
from tests.integration.conftest import SAGAS, make_fleet
from tests.integration.fleet import Fleet, Node, kinds

pytestmark = [pytest.mark.chaos]


@pytest.fixture(scope="module")
def workless(servers: Servers, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One coordinator, and no worker yet."""
    for made in make_fleet(servers, template_database, tmp_path_factory.mktemp("workless")):
        made.coordinator("c1")
        made.until_ready()
        yield made


@pytest.fixture
def fleet(workless: Fleet) -> Iterator[Fleet]:
    """The module's fleet; the workers of a test end with it."""
    yield workless
    workless.audit(SAGAS)
    workless.stop(*(node for name, node in workless.nodes.items() if name != "c1"))
    for name in [name for name in workless.nodes if name != "c1"]:
        del workless.nodes[name]


def leaving(fleet: Fleet, name: str, **environment: str) -> Node:
    """Start the worker that will be told to end; it is not started again."""
    soft = [f"worker.soft_shutdown_timeout={environment.pop('soft')}"] if "soft" in environment else []
    node = fleet.worker(name, "-P", "prefork", "-c", "2", *soft, **environment)
    fleet.until_ready()
    node.kept = False
    return node


def two_runs(fleet: Fleet, name: str) -> dict[str, Handle[Any]]:
    """Start a run that stands in an action, and one that stands in a compensation."""
    started = {
        "action": fleet.start(drifting, f"{name}-action", drift=f"gate:{name}-action"),
        "compensation": fleet.start(
            drifting, f"{name}-compensation", confirm="abort", undo_drift=f"gate:{name}-compensation"
        ),
    }
    for direction in started:
        fleet.reached(f"{name}-{direction}")
    return started


def they_end(fleet: Fleet, runs: dict[str, Handle[Any]], attempts: dict[str, list[int]]) -> None:
    """Wait for the ends of both runs, which took so many attempts; no worker was given up as lost."""
    for direction, handle in runs.items():
        history = fleet.ends(handle, Status.COMPLETED if direction == "action" else Status.COMPENSATED)
        assert EventKind.STEP_LOST not in kinds(history)
        assert kinds(history).count(EventKind.STEP_UNKNOWN) == len(attempts[direction]) - 1
        assert fleet.attempts(handle, "drift", direction) == attempts[direction]
        assert fleet.applied(handle, "drift") == 1


def test_a_worker_that_is_told_to_end_finishes_its_steps(fleet: Fleet) -> None:
    worker = leaving(fleet, "warm")
    runs = two_runs(fleet, "warm")

    os.kill(worker.pid, signal.SIGTERM)
    fleet.until(lambda: "Warm shutdown" in worker.said(), "it has understood")
    for direction in runs:
        fleet.open(f"warm-{direction}")

    fleet.until(lambda: not worker.lives, "it ends")
    assert worker.process.returncode == 0
    fleet.worker("staying")
    they_end(fleet, runs, {"action": [1], "compensation": [1]})


@pytest.mark.parametrize(
    ("number", "environment"),
    [(signal.SIGQUIT, {}), (signal.SIGTERM, {"REMAP_SIGTERM": "SIGQUIT"})],
    ids=["quit", "remapped"],
)
def test_a_worker_that_is_told_to_end_at_once_tells_of_its_steps_before_it_goes(
    fleet: Fleet, number: signal.Signals, environment: dict[str, str]
) -> None:
    name = f"cold-{number.name}"
    worker = leaving(fleet, name, **environment)
    runs = two_runs(fleet, name)

    os.kill(worker.pid, number)

    for handle in runs.values():
        fleet.until(lambda handle=handle: EventKind.STEP_UNKNOWN in kinds(handle.history()), "it is told")  # type: ignore[misc]
        told = next(event for event in handle.history() if event.kind is EventKind.STEP_UNKNOWN)
        assert '"SystemExit"' in (told.payload or "")
        assert "its worker was shut down in mid-step" in (told.payload or "")
    fleet.until(lambda: not worker.lives, "it ends")
    fleet.worker("staying")
    they_end(fleet, runs, {"action": [1, 2], "compensation": [1, 2]})


def test_a_worker_with_a_soft_shutdown_finishes_what_it_can_in_that_time_and_tells_of_the_rest(fleet: Fleet) -> None:
    worker = leaving(fleet, "soft", soft="3")
    runs = two_runs(fleet, "soft")

    os.kill(worker.pid, signal.SIGQUIT)
    fleet.open("soft-compensation")

    fleet.until(lambda: not worker.lives, "it ends")
    assert "Initiating Soft Shutdown" in worker.said()
    fleet.worker("staying")
    they_end(fleet, runs, {"action": [1, 2], "compensation": [1]})


def test_a_worker_that_is_told_to_end_while_it_tells_an_outcome_tells_it_again_before_it_goes(fleet: Fleet) -> None:
    worker = leaving(fleet, "telling")
    handle = fleet.start(drifting, "telling", drift="gate:telling")
    fleet.reached("telling")
    waits = (
        "SELECT COALESCE(max(pid), 0) FROM pg_stat_activity "
        "WHERE application_name = 'saga-worker' AND cardinality(pg_blocking_pids(pid)) > 0"
    )

    with psycopg.connect(fleet.database.owner_url) as holder:
        holder.execute("SELECT 1 FROM saga.task WHERE name = 'application.drift' FOR UPDATE")
        fleet.open("telling")
        first = fleet.until(lambda: fleet.count(waits), "it tells")
        os.kill(worker.pid, signal.SIGQUIT)
        fleet.until(lambda: fleet.count(waits) not in (0, first), "it tells again")

    fleet.until(lambda: not worker.lives, "it ends")
    fleet.worker("staying")
    they_end(fleet, {"action": handle}, {"action": [1]})
