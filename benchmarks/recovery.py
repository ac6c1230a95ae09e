"""How long the runs of a killed coordinator stand still, and whether a living one is ever taken for dead."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import psycopg

from benchmarks import workload
from benchmarks.fleet import PREFORK_2, Fleet, Ground, open_fleet
from benchmarks.workload import ENDED, Stretch
from demo_shop.waiting import wait_for

#: Steps of each run in flight: enough that both coordinators hold many runs, whenever one is killed.
RUN_STEPS = 40
#: Seconds between two looks at the runs that the victim held: the resolution of the result.
LOOK_SECONDS = 0.02
#: Seconds in which the shards must be shared evenly, and in which every held run must go on.
SHARE_SECONDS = 40.0
RESUME_SECONDS = 60.0

_UNENDED = "SELECT r.id, r.head FROM saga.run r JOIN saga.shard s ON s.id = r.shard "
_HELD = _UNENDED + "WHERE r.ended_at IS NULL AND s.owner = %s"
_HEADS = "SELECT id, head FROM saga.run WHERE id = ANY (%s)"
_STILL_HELD = _HEADS + " AND ended_at IS NULL"
_OWNERS = "SELECT owner, count(*) FROM saga.shard WHERE owner IS NOT NULL GROUP BY owner"
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
_TAKEN_OVER = "SELECT count(*) FROM saga.coordinator WHERE dead_at IS NOT NULL"
_LIVING = "SELECT id FROM saga.coordinator WHERE dead_at IS NULL"
_LEAST_LEASE = (
    "SELECT extract(epoch FROM min(lease_until - clock_timestamp())) FROM saga.coordinator WHERE dead_at IS NULL"
)
_LOST = "SELECT count(*) FROM saga.event WHERE kind = 'StepLost'"


@dataclass(frozen=True, slots=True)
class Recovered:
    """One kill: for each run that the victim held, the seconds from the kill to the run's first event after it."""

    lease_seconds: float
    resumed_seconds: list[float]


@dataclass(frozen=True, slots=True)
class Soaked:
    """A time at 100% CPU in which nobody was killed: each takeover in it is a false one."""

    minutes: float
    burners: int
    takeovers: int
    coordinators_exited: int
    attempts_lost: int
    least_lease_left_seconds: float
    lease_seconds: float
    runs_ended: int


def measure(ground: Ground, *, kills: int, in_flight: int, lease_seconds: float) -> Iterator[Recovered]:
    """Kill one of two coordinators under load, time after time, and start another in its place.

    Raises:
        Stuck: the load stands still.
        TookTooLong: shards are not shared, or a held run does not go on.
    """
    with _loaded(ground, in_flight, lease_seconds) as (fleet, connection):
        for number in range(kills):
            if number:
                _start_known(fleet, connection, _ids(connection))
            _wait_until_shared(connection)
            yield Recovered(lease_seconds, _resumed_seconds(fleet, connection))


def soak(ground: Ground, *, minutes: float, in_flight: int, lease_seconds: float) -> Soaked:
    """Burn every core beside two coordinators under load, and count who is taken for dead.

    Raises:
        Stuck: the load stands still.
        TookTooLong: shards are not shared.
    """
    with _loaded(ground, in_flight, lease_seconds) as (fleet, connection):
        _wait_until_shared(connection)
        ended_before, least = fleet.line.count(ENDED), lease_seconds
        with _burning() as burners:
            until = time.monotonic() + minutes * 60
            while time.monotonic() < until:
                time.sleep(0.5)
                least = min(least, _number(connection, _LEAST_LEASE))
        return Soaked(
            minutes=minutes,
            burners=burners,
            takeovers=int(_number(connection, _TAKEN_OVER)),
            coordinators_exited=sum(not child.lives for child in fleet.coordinators),
            attempts_lost=int(_number(connection, _LOST)),
            least_lease_left_seconds=round(least, 2),
            lease_seconds=lease_seconds,
            runs_ended=fleet.line.count(ENDED) - ended_before,
        )


def _resumed_seconds(fleet: Fleet, connection: psycopg.Connection) -> list[float]:
    """Kill a coordinator, and return after how many seconds each run that it held went on."""
    child = next(child for child in fleet.coordinators if child.lives)
    victim = _coordinators[child.pid]
    runs = [run for run, _ in connection.execute(_HELD, [victim]).fetchall()]
    killed_at = time.monotonic()
    fleet.ground.supervisor.kill(child.name)
    # What it had sent before it died may still be committed: only what comes after that is another's doing.
    name = f"saga:{victim}"
    wait_for(lambda: not _number(connection, _SESSIONS, name), what="the victim's sessions to end", seconds=10)
    heads: dict[UUID, int] = dict(connection.execute(_STILL_HELD, [runs]).fetchall())
    resumed: list[float] = []
    until = killed_at + RESUME_SECONDS
    while heads and time.monotonic() < until:
        now_heads = connection.execute(_HEADS, [list(heads)]).fetchall()
        at = time.monotonic() - killed_at
        for run, head in now_heads:
            if head > heads[run]:
                del heads[run]
                resumed.append(round(at, 3))
        time.sleep(LOOK_SECONDS)
    resumed += [RESUME_SECONDS] * len(heads)
    return resumed


#: Which coordinator a process is; filled when it is started.
_coordinators: dict[int, UUID] = {}


@contextlib.contextmanager
def _loaded(ground: Ground, in_flight: int, lease_seconds: float) -> Iterator[tuple[Fleet, psycopg.Connection]]:
    """Two coordinators, a worker node, and a thread that keeps runs in flight."""
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(open_fleet(ground, lease_seconds=lease_seconds))
        connection = stack.enter_context(
            psycopg.connect(fleet.database.owner_url, autocommit=True, application_name="bench-lookout")
        )
        for _ in range(2):
            _start_known(fleet, connection, _ids(connection))
        fleet.start_workers(PREFORK_2)
        stopping = threading.Event()
        feeder = threading.Thread(target=_feed, args=(fleet, in_flight, stopping), name="feeder", daemon=True)
        feeder.start()
        stack.callback(feeder.join)
        stack.callback(stopping.set)
        fleet.line.wait(ENDED, 1)
        yield fleet, connection


def _feed(fleet: Fleet, in_flight: int, stopping: threading.Event) -> None:
    number = 0
    while not stopping.wait(LOOK_SECONDS):
        while number - fleet.line.count(ENDED) < in_flight and not stopping.is_set():
            workload.long.start(Stretch(number, RUN_STEPS), id=f"load-{number}")
            number += 1


def _start_known(fleet: Fleet, connection: psycopg.Connection, known: set[UUID]) -> None:
    child = fleet.start_coordinator()
    new = wait_for(lambda: _ids(connection) - known, what="a coordinator to register", seconds=30)
    _coordinators[child.pid] = new.pop()


def _wait_until_shared(connection: psycopg.Connection) -> None:
    def shared() -> bool:
        counts = [count for _, count in connection.execute(_OWNERS).fetchall()]
        return len(counts) == 2 and max(counts) - min(counts) <= 1

    wait_for(shared, what="two coordinators to share the shards", seconds=SHARE_SECONDS)


@contextlib.contextmanager
def _burning() -> Iterator[int]:
    """Burn as many processes as there are cores."""
    count = os.cpu_count() or 1
    burners = [multiprocessing.get_context("spawn").Process(target=_burn, daemon=True) for _ in range(count)]
    for burner in burners:
        burner.start()
    try:
        yield count
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def _burn() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        sum(range(100_000))


def _ids(connection: psycopg.Connection) -> set[UUID]:
    return {row[0] for row in connection.execute(_LIVING).fetchall()}


def _number(connection: psycopg.Connection, query: str, *values: object) -> float:
    row = connection.execute(query.encode(), values).fetchone()
    return float(row[0] or 0) if row else 0.0
