"""Workers of an older build than the coordinator's: they lack a step, and a worker that has it comes later (F27)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from saga.core.events import EventKind
from saga.core.lifecycle import Status
from tests.integration.application import BUILD_VARIABLE
from tests.integration.deployed_new import polished
from tests.integration.fleet import ROOT, Fleet, kinds

pytestmark = [pytest.mark.chaos]

_UNREGISTERED = "Received unregistered task of type 'deployed_new.polish"


def shown(fleet: Fleet, address: str) -> Any:
    """Return what `saga show` says of a run."""
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tests.integration.application", "saga", "show", address, "--json"],
        cwd=ROOT,
        env={**os.environ, **fleet.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_f27_a_step_that_no_worker_knows_is_seen_and_runs_when_a_worker_comes_that_does(bare_fleet: Fleet) -> None:
    fleet = bare_fleet
    fleet.coordinator("c1")
    old = fleet.worker("old", "-P", "prefork", "-c", "1", **{BUILD_VARIABLE: "old"})
    fleet.until_ready()

    handle = fleet.start(polished, "lacking")

    fleet.until(lambda: old.said().count(_UNREGISTERED) >= 2, "its message is thrown away, and sent again")
    waits = (
        "SELECT count(*) FROM saga.task WHERE claimed_by IS NULL AND created_at < clock_timestamp() - interval '3 s'"
    )
    fleet.until(lambda: fleet.count(waits) == 1, "it has waited for long enough to be odd")
    assert fleet.status(handle) is Status.RUNNING
    seen = "no worker of queue celery knows the task deployed_new.polish (old@test): they drop its messages"
    # A worker that is busy starting may not answer in time.
    fleet.until(lambda: shown(fleet, handle.address)["waiting"][0].startswith(seen), "it is seen", seconds=30)

    fleet.worker("new")

    history = fleet.ends(handle, Status.COMPLETED, seconds=30)
    assert EventKind.STEP_LOST not in kinds(history)
    assert fleet.attempts(handle, "polish") == [1]
    assert old.lives


def test_f27_an_undo_that_no_worker_knows_waits_for_one_that_does(bare_fleet: Fleet) -> None:
    fleet = bare_fleet
    fleet.coordinator("c1")
    new = fleet.worker("new", "-P", "prefork", "-c", "1")
    fleet.until_ready()
    handle = fleet.start(polished, "rolled-back", polish="gate:polish")
    fleet.reached("polish")
    handle.cancel()
    new.kept = False
    new.process.terminate()
    fleet.until(lambda: "Warm shutdown" in new.said(), "its worker takes nothing more")
    fleet.open("polish")
    fleet.until(lambda: not new.lives, "the step is done")

    old = fleet.worker("old", "-P", "prefork", "-c", "1", **{BUILD_VARIABLE: "old"})
    fleet.until(lambda: f"{_UNREGISTERED}.compensate" in old.said(), "its undo is thrown away")
    assert fleet.status(handle) is Status.COMPENSATING
    assert fleet.undone(handle, "reserve") == 0

    fleet.worker("newer")

    fleet.ends(handle, Status.COMPENSATED, seconds=30)
    assert fleet.undone(handle, "polish") == 1
    assert fleet.undone(handle, "reserve") == 1
