"""What goes wrong in a play, and where: the names of the boundaries that it comes by.

What dies or freezes at a boundary, and what is lost with it, the stage knows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from saga.engine.crashpoints import Point


class Frozen(StrEnum):
    """Until when a worker freezes that has claimed an attempt: beyond its lease, and then it acts all the same."""

    OVERTAKEN = "worker.overtaken"  # until the next attempt, or its undo, has acted
    OUTLIVED = "worker.outlived"  # until nothing else of the run is left to be done


#: What goes wrong at a boundary, in words.
MEANING: dict[str, str] = {
    Point.TURN_DECIDED: "the coordinator dies before its decision is stored",
    Point.TURN_COMMITTED: "the coordinator dies after its decision is stored, and before its messages are sent",
    Point.TURN_PUBLISHED: "the coordinator dies after it has sent its messages, and they are sent again",
    Point.WORKER_RECEIVED: "the worker dies with the message, before it has claimed the attempt",
    Point.WORKER_CLAIMED: "the worker dies before the effect",
    Point.WORKER_RAN: "the worker dies after the effect, before it is recorded",
    Point.WORKER_RECORDED: "the worker dies after the record, and its message is delivered again",
    Frozen.OVERTAKEN: "the worker freezes before the effect, and acts late, after the next attempt or after its undo",
    Frozen.OUTLIVED: "the worker freezes before the effect, and acts late, after the end of the run",
}


@dataclass(slots=True)
class Mishaps:
    """Where something goes wrong in a play and where it is cancelled, by the names of boundaries.

    `passed` is all that it came by.
    """

    crash_at: str | None = None
    cancel_at: str | None = None
    passed: list[str] = field(default_factory=list)
    _times: Counter[str] = field(default_factory=Counter)

    def pass_by(self, point: Point | Frozen, what: str) -> str:
        """Name a boundary, and remember that the play came by it."""
        name = f"{point} {what}"
        self._times[name] += 1
        if self._times[name] > 1:
            name += f" ({self._times[name]})"
        self.passed.append(name)
        return name
