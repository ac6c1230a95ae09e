"""How much a command measures, and in which order. It measures nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.application import SETTINGS
from benchmarks.drain import SETTLE_SECONDS, Size
from benchmarks.fleet import CHOICES, PREFORK_2, Choice
from benchmarks.length import Lengths
from benchmarks.systems import CHAIN, SAGA, SYSTEMS, System
from benchmarks.timers import LEAD_SECONDS, Falling
from benchmarks.waiting import Waits
from saga.engine.installation import DEFAULTS


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement of the main comparison."""

    round: int
    system: System
    choice: Choice
    events: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. Every part of it is printed and written into each record."""

    seed: int
    rounds: int
    sagas: int
    idle: int
    settle_seconds: float
    choices: tuple[str, ...]
    with_events: bool
    short_steps: int
    long_steps: int
    steps_in_all: int
    replayed_steps_in_all: int
    length_in_flight: int
    kills: int
    lease_seconds: float
    recovery_in_flight: int
    hops: int
    profiled_sagas: int
    soak_minutes: float
    waiting_runs: int
    waiting_cache_runs: int
    rest_seconds: float
    probes: int
    timers_per_second: float
    timers_seconds: float
    timers_lead_seconds: float
    profile: bool

    @property
    def size(self) -> Size:
        """How much one measurement of the main comparison does."""
        return Size(self.sagas, self.idle, self.settle_seconds)

    @property
    def waits(self) -> Waits:
        """How much one measurement of waiting does."""
        return Waits(
            self.waiting_runs, self.settle_seconds, self.rest_seconds, self.probes, self.sagas, self.waiting_cache_runs
        )

    @property
    def falling(self) -> Falling:
        """How many timers fall due."""
        return Falling(self.timers_per_second, self.timers_seconds, self.timers_lead_seconds)

    def turns(self) -> Iterator[Turn]:
        """Interleave: in each round every system with every choice, and the other way round in every other round."""
        for number in range(1, self.rounds + 1):
            turns = [Turn(number, system, CHOICES[name]) for name in self.choices for system in SYSTEMS]
            if self.with_events:
                turns += [Turn(number, system, PREFORK_2, events=True) for system in (SAGA, CHAIN)]
            yield from turns if number % 2 else reversed(turns)

    def lengths(self) -> Iterator[tuple[int, Lengths]]:
        """Interleave short and long runs; then once each with a cache of one run, which replays at every step."""
        in_flight = self.length_in_flight
        for number in range(1, self.rounds + 1):
            for steps in (self.short_steps, self.long_steps):
                yield number, Lengths(steps, in_flight, self.steps_in_all)
        for steps in (self.short_steps, self.long_steps):
            yield 1, Lengths(steps, min(2, in_flight), self.replayed_steps_in_all, cache_runs=1)

    def rng(self, *parts: object) -> random.Random:
        """Return the randomness of one part, by the seed."""
        return random.Random(f"{self.seed}:{parts}")

    def settings(self) -> dict[str, Any]:
        """Return everything that was set."""
        celery = {key: value for key, value in SETTINGS.items() if key != "broker_connection_retry_on_startup"}
        return {**asdict(self), "celery": celery}


FULL = Plan(
    seed=7,
    rounds=3,
    sagas=1_000,
    idle=100,
    settle_seconds=SETTLE_SECONDS,
    choices=tuple(CHOICES),
    with_events=True,
    short_steps=10,
    long_steps=500,
    steps_in_all=6_000,
    replayed_steps_in_all=1_000,
    length_in_flight=12,
    kills=5,
    lease_seconds=float(DEFAULTS["saga_lease_seconds"]),
    recovery_in_flight=200,
    hops=100,
    profiled_sagas=4_000,
    soak_minutes=10,
    waiting_runs=100_000,
    waiting_cache_runs=int(DEFAULTS["saga_cache_runs"]),
    rest_seconds=60,
    probes=200,
    timers_per_second=100,
    timers_seconds=60,
    timers_lead_seconds=LEAD_SECONDS,
    profile=True,
)
QUICK = Plan(
    seed=7,
    rounds=1,
    sagas=40,
    idle=8,
    settle_seconds=0.1,
    choices=(PREFORK_2.name,),
    with_events=False,
    short_steps=5,
    long_steps=25,
    steps_in_all=100,
    replayed_steps_in_all=50,
    length_in_flight=4,
    kills=1,
    lease_seconds=4.0,
    recovery_in_flight=40,
    hops=5,
    profiled_sagas=200,
    soak_minutes=0,
    waiting_runs=100,
    waiting_cache_runs=40,
    rest_seconds=0.5,
    probes=5,
    timers_per_second=40,
    timers_seconds=1,
    timers_lead_seconds=3.0,
    profile=False,
)
