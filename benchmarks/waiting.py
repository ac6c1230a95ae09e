"""What runs that wait cost: the system at rest, its throughput and its latencies, with a crowd and without."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks import workload
from benchmarks.crowd import Crowd, send
from benchmarks.drain import PAUSE_SECONDS, Sender
from benchmarks.finish import FinishLine
from benchmarks.fleet import PREFORK_2, TEMPLATE, Fleet, Ground, open_fleet
from benchmarks.meter import cpu_seconds, memory_mib
from benchmarks.systems import SAGA
from benchmarks.workload import SIGNALLED, STARTED, ping, waiting
from saga.engine.installation import DEFAULTS


@dataclass(frozen=True, slots=True)
class Waits:
    """How much one measurement of waiting does: runs that wait, seconds at rest, probes one at a time, a backlog.

    It settles before the backlog and before the rest.
    """

    runs: int
    settle_seconds: float
    rest_seconds: float
    probes: int
    sagas: int
    cache_runs: int = int(DEFAULTS["saga_cache_runs"])  #: that a coordinator keeps in memory


@dataclass(frozen=True, slots=True)
class Waited:
    """What one measurement found; `runs` waited meanwhile, and `cached` of them were in the coordinator's memory."""

    runs: int
    cached: int
    rest_cpu_percent: dict[str, float]  #: of one core, by role
    coordinator_mib: float
    sagas_per_second: float
    coordinator_ms_per_saga: float  #: of CPU, while the backlog is drained: other people's load hardly moves it
    start_ms: list[float]
    signal_ms: list[float]


def measure(ground: Ground, crowd: Crowd | None, waits: Waits, *, rng: random.Random) -> Waited:
    """Measure a fleet with the crowd, or without one: then only as many runs wait as are sent a signal.

    Raises:
        Stuck: something does not come to its end.
    """
    template = TEMPLATE if crowd is None else crowd.template
    with open_fleet(ground, marks="waiting", cache_runs=waits.cache_runs, template=template) as fleet:
        fleet.start_coordinator()
        fleet.start_workers(PREFORK_2)
        line, numbers = fleet.line, itertools.count(1)
        _backlog(fleet, line, numbers, 16)
        cached = 0 if crowd is None else _fill_the_cache(fleet, crowd, waits.cache_runs, rng)

        started = list(_each(line, STARTED, waits.probes, rng, lambda number: _start(number)))
        keys = [f"p{number}" if crowd is None else f"w{rng.randrange(crowd.runs)}" for number in range(waits.probes)]
        signalled = list(_each(line, SIGNALLED, waits.probes, rng, lambda number: _ping(keys[number])))
        time.sleep(waits.settle_seconds)
        per_second, spent_ms = _backlog(fleet, line, numbers, waits.sagas, paused=True)
        time.sleep(waits.settle_seconds)
        roles = {role: fleet.processes().get(role, []) for role in ("coordinator", "postgres")}
        before = cpu_seconds(roles)
        began = time.monotonic()
        time.sleep(waits.rest_seconds)
        seconds = time.monotonic() - began
        after = cpu_seconds(roles)
        held = memory_mib(roles)["coordinator"]
    return Waited(
        runs=waits.probes if crowd is None else crowd.runs + waits.probes,
        cached=cached,
        rest_cpu_percent={role: round((after[role] - before[role]) / seconds * 100, 2) for role in roles},
        coordinator_mib=held,
        sagas_per_second=per_second,
        coordinator_ms_per_saga=spent_ms,
        start_ms=started,
        signal_ms=signalled,
    )


def _start(number: int) -> None:
    waiting.start(number, id=f"p{number}")


def _ping(key: str) -> None:
    waiting.handle(key).send(ping, 1)


def _fill_the_cache(fleet: Fleet, crowd: Crowd, most: int, rng: random.Random) -> int:
    """Send a signal to as many runs as a coordinator keeps in memory: it is as full as it gets."""
    chosen = rng.sample(range(crowd.runs), min(crowd.runs, most))
    seen = fleet.line.count(SIGNALLED)
    send(fleet, [lambda c, n=n: waiting.handle(f"w{n}").send(ping, 1, connection=c) for n in chosen])  # type: ignore[misc]
    fleet.line.wait(SIGNALLED, seen + len(chosen))
    return len(chosen)


def _each(line: FinishLine, kind: str, count: int, rng: random.Random, act: Callable[[int], None]) -> Iterator[float]:
    """Do something so often, one at a time from rest, and return the milliseconds until it is committed."""
    for number in range(count):
        time.sleep(rng.uniform(*PAUSE_SECONDS))
        line.clear()
        began = time.monotonic_ns()
        act(number)
        line.wait(kind, 1)
        yield round((line.last(kind).at_ns - began) / 1e6, 3)


def _backlog(
    fleet: Fleet, line: FinishLine, numbers: Iterator[int], count: int, *, paused: bool = False
) -> tuple[float, float]:
    """Send sagas of four steps, to a frozen fleet if it shall be a backlog.

    Return how many ended in a second, and the milliseconds of the coordinator's CPU for each.
    """
    line.clear()
    sender = Sender(SAGA, line, numbers)
    roles = {"coordinator": fleet.processes()["coordinator"]}
    with fleet.paused() if paused else contextlib.nullcontext():
        sender.send(count)
        before = cpu_seconds(roles)["coordinator"]
    began = time.monotonic_ns()
    sender.wait()
    spent = cpu_seconds(roles)["coordinator"] - before
    seconds = (line.last(workload.ENDED).at_ns - began) / 1e9
    return round(count / seconds, 2), round(spent / count * 1000, 3)
