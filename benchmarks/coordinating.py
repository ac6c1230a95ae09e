"""A coordinator under measurement, `python -m benchmarks.coordinating`: it is marked, and nothing else is changed."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

from benchmarks.application import MARKS_VARIABLE
from benchmarks.finish import mark
from benchmarks.workload import ENDED, FIRED, SIGNALLED, STARTED
from saga.core.events import EventKind
from saga.engine.coordinator import serve
from saga.engine.crashpoints import Point, arm
from saga.engine.store.sleeping import Doorbell
from saga.engine.store.turning import Turning


def _mark_ends(point: Point, detail: str) -> None:
    if point is Point.TURN_COMMITTED and (ended := detail.split(" ").count(EventKind.RUN_COMPLETED)):
        mark(ENDED, f"x{ended}")


_WAITING = {
    EventKind.RUN_STARTED: STARTED,
    EventKind.SIGNAL_RECEIVED: SIGNALLED,
    EventKind.TIMER_FIRED: FIRED,
    EventKind.RUN_COMPLETED: ENDED,
}


def _mark_waiting(point: Point, detail: str) -> None:
    if point is Point.TURN_COMMITTED:
        kinds = detail.split(" ")
        for kind, word in _WAITING.items():
            if count := kinds.count(kind):
                mark(word, f"x{count}")


def _mark_hops(point: Point, detail: str) -> None:
    mark(point.value, detail.replace(" ", "+") or "-")
    _mark_ends(point, detail)


def _marked(function: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        mark(before)
        answer = function(*args, **kwargs)
        mark(after)
        return answer

    return call


def main() -> None:
    """Serve until SIGTERM."""
    from benchmarks.app import app

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if os.environ.get(MARKS_VARIABLE) == "hops":
        arm(_mark_hops)
        for owner, name in ((Doorbell, "wait"), (Doorbell, "try_sleep"), (Doorbell, "wake"), (Turning, "take")):
            word = f"{owner.__name__.lower()}.{name}"
            setattr(owner, name, _marked(getattr(owner, name), f"{word}.begin", f"{word}.end"))
    else:
        arm(_mark_waiting if os.environ.get(MARKS_VARIABLE) == "waiting" else _mark_ends)
    serve(app)


if __name__ == "__main__":
    main()
