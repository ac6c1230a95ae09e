"""A saga with a long step that tells how far it is, and keeps a list of what each of its attempts did.

It knows nothing of the tests that kill it.
"""

from __future__ import annotations

import os

from saga import Context, current, saga, step
from tests.integration.application import QUICK, Order, act, folder, pass_gate

#: Seconds of its heartbeat.
HEARTBEAT_SECONDS = 2.0
BOXES = 5


class Fenced(Exception):
    """Another attempt has taken over."""


@step(retry=QUICK, timeout=None, heartbeat=HEARTBEAT_SECONDS)
def haul(order: Order) -> str:
    """Haul boxes, one after the other."""
    job = order.moods["job"]
    note(job, f"begin {os.getpid()}")
    for box in range(current.progress() or 0, BOXES):
        note(job, f"box {box}")
        current.heartbeat(box + 1)
        if current.fenced:
            note(job, "fenced")
            raise Fenced
        if current.attempt == 1 and box == 2:
            _meet(order, job)
    return act("haul", order)


def _meet(order: Order, job: str) -> None:
    """Meet in the middle of the first attempt what the order's mood says."""
    match order.moods.get("middle"):
        case "hang":
            pass_gate(job)
        case "break":
            raise RuntimeError("the lift is stuck")
        case "linger":
            (folder() / f"{job}.reached").touch()
            while not (folder() / f"{job}.open").exists():
                current.heartbeat()


def note(job: str, what: str) -> None:
    """Write down what this attempt does."""
    with (folder() / f"{job}.log").open("a") as log:
        log.write(f"{current.attempt} {what}\n")


@saga("moving")
def moving(ctx: Context, order: Order) -> str:
    """One long step."""
    return ctx.run(haul, order)
