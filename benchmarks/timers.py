"""How late timers are, among a crowd of others: from when each is due to the commit of the turn that fires it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from benchmarks.crowd import Crowd, send
from benchmarks.finish import Mark
from benchmarks.fleet import Ground, open_fleet
from benchmarks.meter import cpu_seconds
from benchmarks.workload import FIRED, STARTED, timed

#: Seconds, beside those that the starts take, from the first start until the first timer falls due.
LEAD_SECONDS = 12.0
#: Starts a second that the lead counts on.
STARTS_PER_SECOND = 250.0

# What the database says: by its own clock, from when a timer was due to the turn that took it.
_EARLIEST = """
SELECT min(extract(epoch FROM fired.at - (begun.payload::json ->> 'due_at')::timestamptz)), count(*)
FROM saga.event fired JOIN saga.event begun ON begun.run = fired.run AND begun.kind = 'TimerStarted'
WHERE fired.kind = 'TimerFired'
"""


@dataclass(frozen=True, slots=True)
class Falling:
    """So many timers fall due in a second, for so long."""

    per_second: float
    seconds: float
    lead_seconds: float = LEAD_SECONDS


@dataclass(frozen=True, slots=True)
class Late:
    """What was found. Lateness is in seconds; `earliest` is the least by the database's clock, below 0 if too early."""

    pending: int
    per_second: float
    fired: int
    late_seconds: list[float]
    earliest_seconds: float
    slack_seconds: float  #: from when all was ready to the first timer; below 0 the figures say nothing
    coordinator_cpu_percent: float


def measure(ground: Ground, crowd: Crowd, falling: Falling) -> Late:
    """Let timers fall due that another coordinator has set, while the crowd's own are pending.

    Raises:
        Stuck: timers do not fire.
    """
    count = round(falling.per_second * falling.seconds)
    with open_fleet(ground, marks="waiting", template=crowd.template) as fleet:
        fleet.start_coordinator()
        begin = datetime.now(UTC) + timedelta(seconds=falling.lead_seconds + count / STARTS_PER_SECOND)
        due = [begin + timedelta(seconds=number / falling.per_second) for number in range(count)]
        send(fleet, [_start(number, at) for number, at in enumerate(due)])
        fleet.line.wait(STARTED, count)
        fleet.stop_coordinators()
        fleet.start_coordinator()  # it has set none of them itself
        timed.start(datetime.now(UTC), id="ready")
        fleet.line.wait(FIRED, 1)
        roles = {"coordinator": fleet.processes()["coordinator"]}
        slack = (begin - datetime.now(UTC)).total_seconds()
        time.sleep(max(slack, 0.0))
        before = cpu_seconds(roles)["coordinator"]
        began = time.monotonic()
        fleet.line.wait(FIRED, count + 1)
        spent = (cpu_seconds(roles)["coordinator"] - before) / (time.monotonic() - began)
        fired = _times([mark for mark in fleet.line.marks() if mark.kind == FIRED])[1:]
        with psycopg.connect(fleet.database.owner_url) as connection:
            row = connection.execute(_EARLIEST).fetchone()
    assert row is not None
    # Timers fire in the order of falling due, so the nth to fire is the nth to be due, but for those of one batch.
    late = [round(at - when.timestamp(), 4) for at, when in zip(fired, due, strict=True)]
    return Late(
        pending=crowd.runs + count,
        per_second=falling.per_second,
        fired=int(row[1]) - 1,
        late_seconds=late,
        earliest_seconds=round(float(row[0]), 4),
        slack_seconds=round(slack, 2),
        coordinator_cpu_percent=round(spent * 100, 1),
    )


def _start(number: int, due_at: datetime) -> Callable[[Any], object]:
    return lambda connection: timed.start(due_at, id=f"t{number}", connection=connection)


def _times(marks: list[Mark]) -> list[float]:
    """Return when each timer's turn was committed, in Unix seconds."""
    offset = time.time() - time.monotonic()
    return [mark.at_ns / 1e9 + offset for mark in marks for _ in range(int(mark.detail.removeprefix("x")))]
