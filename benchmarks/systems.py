"""The systems that are compared: how each is sent one saga of four no-op steps. They measure nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import workload


@dataclass(frozen=True, slots=True)
class System:
    """One side of the comparison.

    `idle` says whether its latency means something. `acks=False` turns kombu's emulation of acknowledgements off:
    this engine loses nothing but time without it, a chain loses its tasks when a worker dies.
    """

    name: str
    title: str
    send: Callable[[int], None]
    coordinators: int
    idle: bool = True
    acks: bool = True


def _start_saga(number: int) -> None:
    workload.four.start(number, id=f"n{number}")


def _send_noops(number: int) -> None:
    for place in range(workload.STEPS):
        workload.noop.delay(number * workload.STEPS - workload.STEPS + 1 + place)


SAGA = System("saga", "this engine, each step its own task", _start_saga, coordinators=1)
SAGA_NO_ACKS = System(
    "saga_no_acks", "this engine, workers without ack emulation", _start_saga, coordinators=1, acks=False
)
CHAIN = System("chain", "Celery's chain, acks_late", workload.send_chain, coordinators=0)
NOOP = System("noop", "no-op tasks from a full queue, ÷ 4 (the ceiling)", _send_noops, coordinators=0, idle=False)
SYSTEMS = (SAGA, SAGA_NO_ACKS, CHAIN, NOOP)
