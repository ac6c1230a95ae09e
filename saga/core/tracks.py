"""What is known of one step of a run, folded from its events: facts and small questions about them, no policy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from saga.core.definition import Policy
from saga.core.events import Direction, EventKind
from saga.core.retry import Retry


class Phase(StrEnum):
    """Where one direction of a step stands."""

    IDLE = "idle"  #: nothing was scheduled yet
    IN_FLIGHT = "in_flight"  #: an attempt is dispatched and not answered
    DUE = "due"  #: an attempt was answered; policy must decide what follows
    WAITING = "waiting"  #: a timer runs before the next attempt
    READY = "ready"  #: the next attempt may go out now
    STUCK = "stuck"  #: only an operator helps
    DONE = "done"


@dataclass(slots=True)
class Track:
    """The attempts of one direction of a step."""

    token: UUID
    direction: Direction
    policy: Policy
    task: str  #: the Celery task's name
    phase: Phase = Phase.IDLE
    attempt: int = 0  #: the last one scheduled
    used: int = 0  #: attempts that count against the policy
    lost: int = 0
    not_run: int = 0
    began_at: datetime | None = None  #: when the first attempt was scheduled; deadlines count from here
    ended: EventKind | None = None  #: how the last attempt ended
    postponed_seconds: float = 0.0
    failure: str | None = None  #: JSON text of what its last failed attempt said

    def renew(self) -> None:
        """Give the track its whole budget again, as an operator's retry does."""
        self.used = self.lost = self.not_run = 0
        self.began_at = None


@dataclass(slots=True)
class StepState:
    """One occurrence of a step in a run."""

    occurrence: str
    input: str  #: JSON text, as the action gets it
    scheduled_seq: int
    action: Track
    probe: Track | None
    undo: Track | None
    unknown: bool = False  #: sticky: some attempt may have landed
    succeeded: bool = False
    gave_up: bool = False
    undone: bool = False
    discarded: bool = False  #: lost a `first`: its effect is not wanted
    undos: int = 0  #: how often it was undone because of what was told late
    undo_again: bool = False  #: a result came to light while the undo without it was under way
    result: str | None = None  #: JSON text
    failure: str | None = None  #: JSON text of why the action failed, as the saga function is told
    ended_seq: int | None = None  #: when its action ended, for the order of undo
    settled_seq: int | None = None  #: when the saga function may see how it ended
    tracks: tuple[Track, ...] = field(default=())

    def __post_init__(self) -> None:
        self.tracks = tuple(track for track in (self.action, self.probe, self.undo) if track is not None)

    @property
    def quiet(self) -> bool:
        """No attempt of its action or probe is with a worker."""
        return self.action.phase is not Phase.IN_FLIGHT and (
            self.probe is None or self.probe.phase is not Phase.IN_FLIGHT
        )

    @property
    def may_stand(self) -> bool:
        """Its effect is there, or may be, and was not undone."""
        return self.undo is not None and not self.undone and (self.succeeded or self.unknown)

    @property
    def must_go(self) -> bool:
        """It stands, or may, and must be undone although the run as a whole goes forward."""
        return self.may_stand and ((self.gave_up and not self.succeeded) or self.discarded)

    @property
    def wants_undo_now(self) -> bool:
        """Nothing is left to wait for before it is undone."""
        return self.must_go and self.over

    @property
    def over(self) -> bool:
        """No further attempt of the action will follow."""
        return (self.succeeded or self.gave_up) and self.quiet

    @property
    def finished(self) -> bool:
        """The run could end as far as this step is concerned."""
        if not self.quiet or self.settled_seq is None:
            return False
        return not self.must_go and not (self.undo and self.undo.phase is Phase.IN_FLIGHT)


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """Return a policy as the JSON object that the log pins."""
    retry = policy.retry
    return {
        "attempts": retry.attempts,
        "first": retry.first_seconds,
        "factor": retry.factor,
        "max": retry.max_seconds,
        "jitter": retry.jitter,
        "timeout": policy.timeout_seconds,
        "deadline": policy.deadline_seconds,
    }


def policy_from_json(value: dict[str, Any]) -> Policy:
    """Read what `policy_to_json` wrote."""
    retry = Retry(
        attempts=value["attempts"],
        first_seconds=value["first"],
        factor=value["factor"],
        max_seconds=value["max"],
        jitter=value["jitter"],
    )
    return Policy(retry=retry, timeout_seconds=value["timeout"], deadline_seconds=value["deadline"])


_pinned: dict[str, tuple[Policy, Policy | None, bool, str]] = {}


def pinned_text(*, task: str, policy: Policy, undo: Policy | None, probe: bool) -> str:
    """Return the JSON text of what the log pins of a step beside its input."""
    value = {
        "task": task,
        "policy": policy_to_json(policy),
        "undo": policy_to_json(undo) if undo else None,
        "probe": probe,
    }
    return json.dumps(value, separators=(",", ":"))


def read_pinned(text: str) -> tuple[Policy, Policy | None, bool, str]:
    """Return (action's policy, compensation's policy or None, has a probe, task name); remembered, for it repeats."""
    known = _pinned.get(text)
    if known is None:
        value = json.loads(text)
        undo = policy_from_json(value["undo"]) if value["undo"] else None
        known = (policy_from_json(value["policy"]), undo, value["probe"], value["task"])
        if len(_pinned) < 4_096:
            _pinned[text] = known
    return known
