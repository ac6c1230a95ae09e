"""Where the time of an idle saga goes: each hop of a step, from the marks that its processes make on the way."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from dataclasses import dataclass

from benchmarks.drain import Sender, idle_ms
from benchmarks.finish import Mark
from benchmarks.fleet import PREFORK_2, Ground, open_fleet
from benchmarks.systems import SAGA
from benchmarks.workload import ENDED

#: The hops of one step, in order: the mark at its end, and what lies between it and the mark before.
HOPS = {
    "turn.published": "published (publisher thread, pipelined LPUSH)",
    "main.received": "received by the worker's main process",
    "worker.received": "started in the worker's child",
    "worker.claimed": "claimed (durable commit)",
    "worker.ran": "decoded, run, encoded",
    "worker.recorded": "outcome recorded (asynchronous commit) and rung",
    "doorbell.wait.end": "coordinator awake",
    "turn.taken": "taken (inbox, runs)",
    "turn.decided": "decided",
    "turn.committed": "committed (durable), reply read",
}


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop: how long after the mark before it, in milliseconds."""

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
        spans: dict[str, list[float]] = defaultdict(list)
        for _ in range(sagas):
            before = len(fleet.line.marks())
            idle_ms(sender, 1, rng)
            fleet.line.wait(ENDED, sender.sent)
            for name, span in _spans(fleet.line.marks()[before:]):
                spans[name].append(span)
    return [
        Hop(name, meaning, round(statistics.median(spans[name]), 3), round(max(_but_the_slowest(spans[name])), 3))
        for name, meaning in HOPS.items()
        if spans[name]
    ]


def _spans(marks: list[Mark]) -> list[tuple[str, float]]:
    """Return the hops from one commit to the next: each from its nearest mark before it that belongs to the chain."""
    found = []
    previous: Mark | None = None
    order = list(HOPS)
    for mark in marks:
        if mark.kind not in HOPS:
            continue
        if previous is not None:
            distance = (order.index(mark.kind) - order.index(previous.kind)) % len(order)
            if distance == 1:
                found.append((mark.kind, (mark.at_ns - previous.at_ns) / 1e6))
        previous = mark
    return found


def _but_the_slowest(spans: list[float]) -> list[float]:
    kept = sorted(spans)
    return kept[: max(1, round(len(kept) * 0.99))]
