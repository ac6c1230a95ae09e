"""Nodes whose wall clock is an hour off (F23): leases and timers are in the database's time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from saga.core.events import EventKind
from saga.core.lifecycle import Status
from tests.integration.application import patient, trip
from tests.integration.fleet import ROOT, Fleet, Node, kinds
from tests.pace import CLAIM_SECONDS

pytestmark = [pytest.mark.chaos]

HOUR = timedelta(hours=1)


def _off_by(node: Node) -> timedelta:
    """Return how far off a node's clock was when it wrote its first dated line."""
    written = re.search(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+", node.said())
    assert written is not None
    return datetime.fromisoformat(written[1]).astimezone() - datetime.now(UTC)


@pytest.mark.parametrize("sign", [1, -1], ids=["ahead", "behind"])
def test_f23_a_clock_an_hour_off_harms_no_lease_and_moves_no_timer(bare_fleet: Fleet, sign: int) -> None:
    fleet = bare_fleet
    off = {
        "PYTHONPATH": f"{ROOT / 'tests' / 'integration' / 'skewed'}:{ROOT}",
        "SAGA_TEST_CLOCK_OFF": str(sign * HOUR.total_seconds()),
    }
    slack = {"SAGA_TEST_LEASE": "5"}
    coordinators = [fleet.coordinator("c1", **off, **slack), fleet.coordinator("c2", **slack)]
    workers = [fleet.worker("w1", **off), fleet.worker("w2")]
    fleet.until_ready()
    fleet.until(lambda: fleet.count("SELECT count(DISTINCT owner) FROM saga.shard") == 2, "both share the shards")
    for node in (coordinators[0], workers[0]):
        assert abs(_off_by(node) - sign * HOUR) < timedelta(minutes=5), "its clock is off"
    (began,) = fleet.owner.execute("SELECT clock_timestamp()").fetchall()[0]

    long = [fleet.start(patient, f"long-{number}", crawl=f"gate:long-{number}") for number in range(3)]
    forward = [fleet.start(trip, f"forward-{number}", charge="fail_once") for number in range(4)]
    back = [fleet.start(trip, f"back-{number}", confirm="abort", undo_charge="fail_once") for number in range(4)]
    later = [fleet.start(trip, f"later-{number}", reserve="later:1.5") for number in range(4)]
    for number in range(3):
        fleet.reached(f"long-{number}")
    for handle in forward + later:
        fleet.ends(handle, Status.COMPLETED)
    for handle in back:
        fleet.ends(handle, Status.COMPENSATED)
    renewed = f"SELECT count(*) FROM saga.task WHERE claimed_at < clock_timestamp() - interval '{CLAIM_SECONDS + 1} s'"
    fleet.until(lambda: fleet.count(renewed) == 3, "the long steps have outlived their first lease")
    for number in range(3):
        fleet.open(f"long-{number}")
    for handle in long:
        fleet.ends(handle, Status.COMPLETED)
        assert fleet.attempts(handle, "crawl") == [1]

    for handle in later:
        history = handle.history()
        asked = next(event.at for event in history if event.kind is EventKind.STEP_POSTPONED)
        fired = next(event.at for event in history if event.kind is EventKind.TIMER_FIRED)
        assert timedelta(seconds=1.5) <= fired - asked < timedelta(seconds=10)
    for handle in (*long, *forward, *back, *later):
        assert EventKind.STEP_LOST not in kinds(handle.history())
    (ended,) = fleet.owner.execute("SELECT clock_timestamp()").fetchall()[0]
    strays = "SELECT count(*) FROM saga.event WHERE NOT at BETWEEN %s AND %s"
    assert fleet.count(strays, began, ended) == 0
    assert fleet.count("SELECT count(*) FROM saga.coordinator WHERE dead_at IS NOT NULL") == 0
    assert [node.exits for node in (*coordinators, *workers)] == [[]] * 4
