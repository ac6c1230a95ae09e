"""A database in which many runs wait: made once by real starts, copied for each measurement. It measures nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from benchmarks import workload
from benchmarks.application import close
from benchmarks.fleet import Fleet, Ground, open_fleet
from benchmarks.workload import STARTED
from demo_shop.waiting import wait_for

TEMPLATE = "bench_crowd"
#: Arrivals that one transaction sends.
TOGETHER = 500

_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"


@dataclass(frozen=True, slots=True)
class Crowd:
    """Runs that wait, `w0` and so on, in a database to copy; each for a signal, or each for a timer."""

    runs: int
    template: str
    started_per_second: float
    database_mib: float


@contextlib.contextmanager
def crowd(ground: Ground, runs: int, *, sleeping: bool = False) -> Iterator[Crowd]:
    """Start so many runs that wait for a signal, or sleep for a month, through a coordinator; keep their database.

    Raises:
        Stuck: starts are not taken.
    """
    with open_fleet(ground, marks="waiting") as fleet:
        fleet.start_coordinator()
        began = time.monotonic()
        start = _sleep if sleeping else _wait
        send(fleet, [start(number) for number in range(runs)])
        fleet.line.wait(STARTED, runs)
        seconds = time.monotonic() - began
        fleet.stop_coordinators()
        close(fleet.app)
        mib = _settle(ground, fleet.database.name, fleet.database.owner_url)
        ground.servers.create_database(TEMPLATE, template=fleet.database.name)
    try:
        yield Crowd(runs, TEMPLATE, round(runs / seconds, 1), mib)
    finally:
        ground.servers.drop_database(TEMPLATE)


def send(fleet: Fleet, sends: Sequence[Callable[[Any], object]]) -> None:
    """Call each with a connection whose transaction it joins, many in one."""
    with psycopg.connect(fleet.database.url) as connection:
        for first in range(0, len(sends), TOGETHER):
            for each in sends[first : first + TOGETHER]:
                each(connection)
            connection.commit()


def _wait(number: int) -> Callable[[Any], object]:
    return lambda connection: workload.waiting.start(number, id=f"w{number}", connection=connection)


def _sleep(number: int) -> Callable[[Any], object]:
    due_at = datetime.now(UTC) + timedelta(days=30)
    return lambda connection: workload.timed.start(due_at, id=f"w{number}", connection=connection)


def _settle(ground: Ground, name: str, owner_url: str) -> float:
    """Vacuum, wait until nobody is connected any more, and return the size in MiB."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute("VACUUM (ANALYZE)")
    with psycopg.connect(ground.servers.superuser_url, autocommit=True) as connection:

        def alone() -> bool:
            row = connection.execute(_SESSIONS, [name]).fetchone()
            return row is not None and row[0] == 0

        wait_for(alone, what="everybody to leave the database of the crowd", seconds=30)
        size = connection.execute("SELECT pg_database_size(%s)", [name]).fetchone()
    assert size is not None
    return round(int(size[0]) / 2**20, 1)
