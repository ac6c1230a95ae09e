"""Named no-op hooks at each commit and dispatch, for tests to kill a process there. Nothing reads the environment."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Point(StrEnum):
    """Every place where a kill means something of its own; docs/guarantees.md says what is seen there."""

    WORKER_RECEIVED = "worker.received"  # a message is there, nothing is claimed
    WORKER_CLAIMED = "worker.claimed"  # the claim is committed, the function has not begun
    WORKER_RAN = "worker.ran"  # the function has ended, nothing is recorded
    WORKER_RECORDED = "worker.recorded"  # the outcome is recorded, the message is not acknowledged
    TURN_TAKEN = "turn.taken"  # arrivals are read, nothing is decided
    TURN_DECIDED = "turn.decided"  # decided in memory, not committed
    TURN_COMMITTED = "turn.committed"  # committed, nothing is published
    TURN_PUBLISHED = "turn.published"  # published, the mark is not recorded
    SHARDS_ACQUIRED = "shards.acquired"  # shards are mine, their tasks are not published again


Hook = Callable[[Point, str], None]

_hook: Hook | None = None


def arm(hook: Hook | None) -> None:
    """Call `hook(point, detail)` at every point; None disarms. The detail is a task's name or a turn's events."""
    global _hook
    _hook = hook


def reach(point: Point, detail: str = "") -> None:
    """Pass a point."""
    if _hook is not None:
        _hook(point, detail)
