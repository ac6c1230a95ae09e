"""One measurement of one system: latency when idle, then a backlog that is drained, and what both cost."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.finish import FinishLine
from benchmarks.fleet import Choice, Fleet, Ground, open_fleet
from benchmarks.meter import PostgresMeter, cpu_seconds, memory_mib
from benchmarks.systems import System
from benchmarks.workload import ENDED, LAST_STEP, STEPS

#: Seconds after which an idle Postgres backend reports its statistics at its next statement; commits that are counted
#: in the WAL need none.
SETTLE_SECONDS = 1.2
#: Seconds between two sagas when idle, at random: so that everything sleeps, and at no fixed distance from any timer.
PAUSE_SECONDS = (0.02, 0.06)


@dataclass(frozen=True, slots=True)
class Size:
    """How much one measurement does."""

    sagas: int
    idle: int
    settle_seconds: float = SETTLE_SECONDS  #: before the counts of Postgres are read


@dataclass(frozen=True, slots=True)
class Drained:
    """What one measurement found. Milliseconds of CPU are per step; `written` is per saga."""

    sagas_per_second: float
    idle_ms: list[float]
    idle_last_step_ms: list[float]
    cpu_ms_per_step: dict[str, float]
    memory_mib: dict[str, float]
    written: dict[str, float]
    fill_seconds: float


@dataclass(slots=True)
class Sender:
    """Sends numbered sagas to one system and waits for their ends."""

    system: System
    line: FinishLine
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    sent: int = 0

    def send(self, count: int = 1) -> None:
        """Send so many."""
        for _ in range(count):
            self.system.send(next(self.numbers))
        self.sent += count

    def wait(self) -> None:
        """Wait until all that were sent have ended.

        Raises:
            Stuck: nothing ends any more.
        """
        self.line.wait(ENDED, self.sent)


def measure(
    ground: Ground,
    meter: PostgresMeter,
    system: System,
    choice: Choice,
    size: Size,
    *,
    events: bool = False,
    rng: random.Random,
    during: Callable[[Fleet], contextlib.AbstractContextManager[None]] = lambda _: contextlib.nullcontext(),
) -> Drained:
    """Start a fleet for one system, measure, and end it; `during` wraps the time in which the backlog is drained.

    Raises:
        Stuck: sagas do not end.
    """
    with open_fleet(ground, acks=system.acks) as fleet:
        for _ in range(system.coordinators):
            fleet.start_coordinator()
        fleet.start_workers(choice, events=events)
        sender = Sender(system, fleet.line)
        spread = 16  # enough for each worker process to get some
        sender.send(spread)
        sender.wait()
        whole, last = idle_ms(sender, size.idle, rng) if system.idle else ([], [])

        settle_seconds = size.settle_seconds if meter.reads_wal else SETTLE_SECONDS
        _settle(sender, spread, settle_seconds)
        written_before = meter.read(fleet.database.name)
        roles = fleet.processes()
        before = cpu_seconds(roles)
        with fleet.paused():
            began = time.monotonic()
            sender.send(size.sagas)
            fill_seconds = time.monotonic() - began
        filled = cpu_seconds(roles)
        with during(fleet):
            drain_began = time.monotonic_ns()
            sender.wait()
        drain_seconds = (fleet.line.last(ENDED).at_ns - drain_began) / 1e9
        after = cpu_seconds(roles)
        held = memory_mib(roles)
        _settle(sender, spread, settle_seconds)
        written = meter.between(written_before, meter.read(fleet.database.name), per=size.sagas + spread)

    steps = size.sagas * STEPS
    spent = {role: round((after[role] - before[role]) * 1000 / steps, 4) for role in roles}
    # The client only sends; what it does meanwhile is to read the finish line.
    spent["client"] = round((filled["client"] - before["client"]) * 1000 / steps, 4)
    return Drained(
        sagas_per_second=round(size.sagas / drain_seconds, 2),
        idle_ms=whole,
        idle_last_step_ms=last,
        cpu_ms_per_step=spent,
        memory_mib=held,
        written=written,
        fill_seconds=round(fill_seconds, 3),
    )


def idle_ms(sender: Sender, count: int, rng: random.Random) -> tuple[list[float], list[float]]:
    """Return the milliseconds from the sending to the saga's end, and to the end of its last step, one at a time."""
    whole: list[float] = []
    last: list[float] = []
    for _ in range(count):
        time.sleep(rng.uniform(*PAUSE_SECONDS))
        began = time.monotonic_ns()
        sender.send()
        sender.wait()
        for times, kind in ((whole, ENDED), (last, LAST_STEP)):
            times.append(round((sender.line.last(kind).at_ns - began) / 1e6, 3))
    return whole, last


def _settle(sender: Sender, count: int, seconds: float) -> None:
    time.sleep(seconds)
    sender.send(count)
    sender.wait()
