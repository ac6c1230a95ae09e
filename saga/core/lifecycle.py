"""The statuses of a run and the arrows between them; docs/lifecycle.md is generated from here. It knows no events."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    STALLED = "stalled"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    TERMINATED = "terminated"


class StallReason(StrEnum):
    """Why a run stands in front of an operator."""

    COMPENSATION_GAVE_UP = "compensation_gave_up"
    FAILED_AFTER_PIVOT = "failed_after_pivot"
    REPLAY_MISMATCH = "replay_mismatch"
    SAGA_BUG = "saga_bug"
    NO_DEFINITION = "no_definition"
    POISON_STEP = "poison_step"
    NOT_DECODED = "not_decoded"
    LIMIT_REACHED = "limit_reached"


#: Stalls under which the saga function itself cannot go on. Arrivals are recorded and wait; a retry replays the log.
SUSPENDING = frozenset(
    {StallReason.REPLAY_MISMATCH, StallReason.SAGA_BUG, StallReason.NO_DEFINITION, StallReason.LIMIT_REACHED}
)


class Cause(StrEnum):
    """Why a run was undone."""

    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    PARENT_UNDONE = "parent_undone"


ENDED = frozenset({Status.COMPLETED, Status.COMPENSATED, Status.TERMINATED})

#: Every arrow there is, with what takes it. `None` is "no run yet".
TRANSITIONS: dict[tuple[Status | None, Status], str] = {
    (None, Status.RUNNING): "a start is accepted",
    (Status.RUNNING, Status.COMPLETED): "the saga function returned and all it started is settled",
    (Status.RUNNING, Status.COMPENSATING): "Abort or StepFailed left the function, a cancel, or the run's timeout",
    (Status.RUNNING, Status.STALLED): "see the stall reasons",
    (Status.RUNNING, Status.TERMINATED): "an operator terminated it: nothing is undone",
    (Status.COMPENSATING, Status.COMPENSATED): "everything that had to be undone is undone",
    (
        Status.COMPENSATING,
        Status.STALLED,
    ): "a compensation gave up, or a step of the undo is poison or cannot be decoded",
    (Status.COMPENSATING, Status.TERMINATED): "an operator terminated it: the rest is not undone",
    (
        Status.STALLED,
        Status.RUNNING,
    ): "an operator's retry or resolution, a coordinator with other code, or a late success",
    (
        Status.STALLED,
        Status.COMPENSATING,
    ): "a cancel, the run's timeout, or a failure beside the stall; or a retry or resolution, once undo had begun",
    (Status.STALLED, Status.TERMINATED): "an operator terminated it",
}
