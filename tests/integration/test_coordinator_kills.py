"""Coordinators killed at each of their crash points, in the forward direction and while undoing (F2 to F6)."""

from __future__ import annotations

import pytest

from saga.core.lifecycle import Status
from saga.engine.crashpoints import Point
from tests.integration.application import trip
from tests.integration.fleet import Fleet

pytestmark = [pytest.mark.chaos]

DIRECTIONS = {
    "action": ("ActionScheduled", "application.charge$", {}),
    "compensation": ("CompensationScheduled", "application.charge.compensate$", {"confirm": "abort"}),
    "probe": ("ProbeScheduled", "application.charge.probe$", {"charge": "fail_once"}),
}
DIRECTION = pytest.mark.parametrize("direction", DIRECTIONS)


def _killed_at(fleet: Fleet, point: Point, detail: str, key: str, **moods: str) -> None:
    armed = fleet.armoury.arm(point, detail)
    handle = fleet.start(trip, key, **moods)
    fleet.fired(armed)
    undone = "abort" in moods.values()
    fleet.ends(handle, Status.COMPENSATED if undone else Status.COMPLETED)
    assert fleet.applied(handle, "reserve") == 1
    assert fleet.applied(handle, "charge") == 1
    assert fleet.undone(handle, "charge") == (1 if undone else 0)


@DIRECTION
def test_f2_a_coordinator_killed_before_publishing_is_succeeded_by_one_that_publishes(
    audited: Fleet, direction: str
) -> None:
    event, _, moods = DIRECTIONS[direction]

    _killed_at(audited, Point.TURN_COMMITTED, event, f"f2-{direction}", **moods)


@DIRECTION
def test_f3_a_coordinator_killed_after_publishing_makes_a_duplicate_message_and_one_effect(
    audited: Fleet, direction: str
) -> None:
    _, task, moods = DIRECTIONS[direction]

    _killed_at(audited, Point.TURN_PUBLISHED, task, f"f3-{direction}", **moods)


@pytest.mark.parametrize(
    ("inbox", "moods"),
    [
        ("StepSucceeded ActionScheduled", {}),
        ("StepFailed .*CompensationScheduled", {"confirm": "abort"}),
        ("StepSucceeded AttemptScheduled", {"charge": "fail_once"}),
    ],
    ids=DIRECTIONS,
)
def test_f4_a_coordinator_killed_with_outcomes_in_the_inbox_does_nothing_again(
    audited: Fleet, inbox: str, moods: dict[str, str]
) -> None:
    _killed_at(audited, Point.TURN_DECIDED, inbox, f"f4-{inbox[4:]}", **moods)


@pytest.mark.parametrize("point", [Point.TURN_DECIDED, Point.TURN_COMMITTED])
def test_f5_a_coordinator_killed_while_undoing_resumes_at_that_compensation(audited: Fleet, point: Point) -> None:
    # The second compensation: the first one is done, and must be neither skipped nor doubled.
    _killed_at(audited, point, "StepSucceeded CompensationScheduled", f"f5-{point}", confirm="abort")


@pytest.mark.parametrize("point", [Point.TURN_DECIDED, Point.TURN_COMMITTED])
@pytest.mark.parametrize(("end", "moods"), [("RunCompleted", {}), ("RunCompensated", {"confirm": "abort"})])
def test_f6_a_coordinator_killed_at_the_terminal_write_leads_to_the_same_end(
    audited: Fleet, point: Point, end: str, moods: dict[str, str]
) -> None:
    _killed_at(audited, point, end, f"f6-{point}-{end}", **moods)


def test_a_coordinator_killed_with_shards_acquired_but_not_published_again_loses_no_message(audited: Fleet) -> None:
    first = audited.armoury.arm(Point.TURN_COMMITTED, "ActionScheduled")
    second = audited.armoury.arm(Point.SHARDS_ACQUIRED)

    handle = audited.start(trip, "acquired")

    audited.fired(first)
    audited.fired(second)
    audited.ends(handle, Status.COMPLETED)
