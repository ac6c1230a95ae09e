"""Where the time of an idle saga goes: each hop of a step, from the marks that its processes make on the way."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.drain import Sender, idle_ms
from benchmarks.finish import Mark
from benchmarks.fleet import PREFORK_2, Ground, open_fleet
from benchmarks.ranking import percentile
from benchmarks.systems import SAGA

#: The hops of one step, from the commit that schedules it to the next: mark, the mark that it is counted from, meaning.
HOPS = (
    ("turn.published", "turn.committed", "published (publisher's thread); the reply to it is not waited for"),
    ("main.received", "turn.committed", "from the commit to the worker's main process"),
    ("worker.received", "main.received", "to the worker's child"),
    ("worker.claimed", "worker.received", "claimed"),
    ("worker.ran", "worker.claimed", "input decoded, step run, result encoded"),
    ("worker.recorded", "worker.ran", "outcome recorded and rung; the reply to it is not waited for"),
    ("doorbell.wait.end", "worker.ran", "from the step's end to the coordinator's waking"),
    ("turn.taken", "doorbell.wait.end", "arrivals and runs read"),
    ("turn.decided", "turn.taken", "decided"),
    ("next", "turn.decided", "committed (durable)"),
    ("next", "turn.committed", "one step, from commit to commit"),
)


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop, in milliseconds."""

    mark: str
    meaning: str
    p50_ms: float
    p99_ms: float


def measure(ground: Ground, *, sagas: int, rng: random.Random) -> list[Hop]:
    """Send sagas one at a time through a fleet that marks every hop.

    Raises:
        Stuck: sagas do not end.
    """
    with open_fleet(ground, marks="hops") as fleet:
        fleet.start_coordinator()
        fleet.start_workers(PREFORK_2)
        sender = Sender(SAGA, fleet.line)
        sender.send(16)
        sender.wait()
        spans: dict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(sagas):
            seen = len(fleet.line.marks())
            idle_ms(sender, 1, rng)
            for times in _steps(fleet.line.marks()[seen:]):
                for name, since, _ in HOPS:
                    if name in times and since in times:
                        spans[name, since].append((times[name] - times[since]) / 1e6)
    return [
        Hop(name, meaning, round(statistics.median(found), 3), round(percentile(found, 0.99), 3))
        for name, since, meaning in HOPS
        if (found := spans[name, since])
    ]


def _steps(marks: list[Mark]) -> Iterator[dict[str, int]]:
    """Return, for each step, when each of its marks was made: one saga is under way, so commits part its steps."""
    times: dict[str, int] = {}
    for mark in marks:
        if mark.kind == "turn.committed":
            if times:
                yield {**times, "next": mark.at_ns}
            times = {}
        # A ring that another waking has heard already comes first: the last one counts.
        times[mark.kind] = mark.at_ns
