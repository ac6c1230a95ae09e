"""Long steps with a heartbeat that are killed, frozen or hang in the middle: the next attempt goes on there."""

from __future__ import annotations

import os
import signal

import pytest

from saga import Status
from saga.core.events import Event, EventKind
from saga.core.outcome import progress_of
from tests.integration.beating import BOXES, HEARTBEAT_SECONDS, moving
from tests.integration.fleet import Fleet, kinds
from tests.pace import GRACE_SECONDS

pytestmark = [pytest.mark.chaos]


def did(fleet: Fleet, job: str, attempt: int) -> list[str]:
    """Return what an attempt noted, without who ran it."""
    lines = (fleet.folder / f"{job}.log").read_text().splitlines()
    told = [line.partition(" ")[2] for line in lines if line.startswith(f"{attempt} ")]
    return [line for line in told if not line.startswith("begin")]


def boxes(first: int, behind: int) -> list[str]:
    return [f"box {number}" for number in range(first, behind)]


def lost(history: list[Event]) -> list[str | None]:
    """Return the progress that each lost attempt left."""
    return [progress_of(event.payload) for event in history if event.kind is EventKind.STEP_LOST]


def test_after_a_worker_is_killed_the_next_attempt_goes_on_where_it_was(audited: Fleet) -> None:
    handle = audited.start(moving, "killed", job="killed", middle="hang")
    audited.reached("killed")
    audited.kill(audited.nodes["w1"], audited.nodes["w2"])
    audited.tend()

    history = audited.ends(handle, Status.COMPLETED)

    assert did(audited, "killed", 1) == boxes(0, 3)
    assert did(audited, "killed", 2) == boxes(3, BOXES)
    assert lost(history) == ["3"]


def test_a_worker_that_was_frozen_finds_its_step_taken_over(audited: Fleet) -> None:
    handle = audited.start(moving, "frozen", job="frozen", middle="hang")
    audited.reached("frozen")
    (begun,) = (audited.folder / "frozen.log").read_text().splitlines()[:1]
    frozen = int(begun.rpartition(" ")[2])
    os.kill(frozen, signal.SIGSTOP)

    history = audited.ends(handle, Status.COMPLETED)
    audited.open("frozen")
    os.kill(frozen, signal.SIGCONT)

    assert did(audited, "frozen", 2) == boxes(3, BOXES)
    assert lost(history) == ["3"]
    audited.until(lambda: "fenced" in did(audited, "frozen", 1), "the frozen worker finds out")
    assert did(audited, "frozen", 1) == [*boxes(0, 4), "fenced"]
    audited.until_told()


def test_a_step_that_hangs_without_a_beat_loses_its_claim_though_its_worker_lives(audited: Fleet) -> None:
    handle = audited.start(moving, "hanging", job="hanging", middle="hang")

    history = audited.ends(handle, Status.COMPLETED)
    audited.open("hanging")

    assert did(audited, "hanging", 2) == boxes(3, BOXES)
    assert lost(history) == ["3"]
    audited.until(lambda: "fenced" in did(audited, "hanging", 1), "the one that hung finds out")
    audited.until_told()


def test_a_step_that_beats_keeps_its_claim_however_long_it_takes(audited: Fleet) -> None:
    handle = audited.start(moving, "lingering", job="lingering", middle="linger")
    audited.reached("lingering")
    kept = "SELECT count(*) FROM saga.task WHERE lease_until > claimed_at + make_interval(secs => %s)"
    twice = 2 * (HEARTBEAT_SECONDS + GRACE_SECONDS)
    audited.until(lambda: audited.count(kept, twice) == 1, "its lease has been prolonged again and again")
    audited.open("lingering")

    history = audited.ends(handle, Status.COMPLETED)

    assert EventKind.STEP_LOST not in kinds(history)
    assert did(audited, "lingering", 1) == boxes(0, BOXES)


def test_what_fails_in_the_middle_goes_on_there_too(audited: Fleet) -> None:
    handle = audited.start(moving, "broken", job="broken", middle="break")

    history = audited.ends(handle, Status.COMPLETED)

    unknown = [progress_of(event.payload) for event in history if event.kind is EventKind.STEP_UNKNOWN]
    assert unknown == ["3"]
    assert did(audited, "broken", 2) == boxes(3, BOXES)
