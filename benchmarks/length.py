"""What a step costs in a long run against a short one: it must not grow with what the run has behind it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks import workload
from benchmarks.finish import FinishLine
from benchmarks.fleet import PREFORK_2, Ground, open_fleet
from benchmarks.meter import cpu_seconds
from benchmarks.workload import ENDED, Stretch

#: Only ends are marked, and long runs end late and together.
SILENT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Runs of so many steps, so many of them in flight, until there were so many steps in all."""

    steps: int
    in_flight: int
    steps_in_all: int
    cache_runs: int | None = None


@dataclass(frozen=True, slots=True)
class StepCost:
    """Milliseconds per step, of the coordinator's CPU and by the clock on the wall."""

    coordinator_cpu_ms: float
    wall_ms: float
    runs: int


def measure(ground: Ground, lengths: Lengths) -> StepCost:
    """Keep runs of one length in flight until enough were made.

    Raises:
        Stuck: runs do not end.
    """
    runs = max(lengths.in_flight, lengths.steps_in_all // lengths.steps)
    with open_fleet(ground, cache_runs=lengths.cache_runs) as fleet:
        fleet.start_coordinator()
        fleet.start_workers(PREFORK_2)
        _keep_in_flight(fleet.line, "warm", 4, lengths.in_flight, lengths.in_flight)
        roles = {"coordinator": fleet.processes()["coordinator"]}
        fleet.line.clear()
        before = cpu_seconds(roles)["coordinator"]
        seconds = _keep_in_flight(fleet.line, "measured", lengths.steps, lengths.in_flight, runs)
        spent = cpu_seconds(roles)["coordinator"] - before
    steps = runs * lengths.steps
    return StepCost(round(spent * 1000 / steps, 4), round(seconds * 1000 / steps, 4), runs)


def _keep_in_flight(line: FinishLine, name: str, steps: int, in_flight: int, runs: int) -> float:
    """Return how many seconds it took from the first start to the last end."""
    began = time.monotonic_ns()
    for number in range(runs):
        line.wait(ENDED, number - in_flight + 1, silent_seconds=SILENT_SECONDS)
        workload.long.start(Stretch(number, steps), id=f"{name}-{number}")
    line.wait(ENDED, runs, silent_seconds=SILENT_SECONDS)
    return (line.last(ENDED).at_ns - began) / 1e9
