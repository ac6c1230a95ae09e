"""What is known of one step of a run, folded from its events: facts and small questions about them, no policy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
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
    progress: str | None = None  #: JSON text of how far an attempt said it was, for the next one

    def renew(self) -> None:
        """Give the track its whole budget again, as an operator's retry does."""
        self.used = self.lost = self.not_run = 0
        self.began_at = None


class Close(StrEnum):
    """What becomes of a child when its parent ends before it."""

    WAIT = "wait"  #: the parent waits for it
    CANCEL = "cancel"  #: it is undone
    ABANDON = "abandon"  #: it goes on by itself


@dataclass(frozen=True, slots=True)
class ChildLink:
    """A child run in the place of a task; the log pins it."""

    saga: str
    key: str
    version: int
    timeout_seconds: float | None
    close: Close


@dataclass(frozen=True, slots=True)
class LockLink:
    """A semantic lock in the place of a task; the log pins it."""

    name: str
    wait: bool


Link = ChildLink | LockLink


@dataclass(slots=True)
class StepState:
    """One occurrence of a step in a run; with a `link` it is a child or a lock, and no worker runs it."""

    occurrence: str
    input: str  #: JSON text, as the action gets it
    scheduled_seq: int
    scheduled_at: datetime
    action: Track
    probe: Track | None
    undo: Track | None
    link: Link | None = None
    unknown: bool = False  #: sticky: some attempt may have landed
    succeeded: bool = False
    gave_up: bool = False
    undone: bool = False
    discarded: bool = False  #: lost a `first`, or was rolled back: its effect is not wanted
    in_turn: bool = False  #: rolled back: undone in the reverse order of start, with the others
    transactional: bool = False  #: its effect is one commit with its outcome: what was lost left nothing
    irrevocable: bool = False  #: a child that passed its pivot
    told: bool = False  #: that it is settled was noted
    told_to_end: bool = False  #: a child that was asked to be undone
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
        """Nothing is left to wait for before it is undone by itself."""
        return self.must_go and self.over and not self.in_turn

    @property
    def over(self) -> bool:
        """No further attempt of the action will follow."""
        return (self.succeeded or self.gave_up) and self.quiet

    @property
    def abandoned(self) -> bool:
        """It is a child that goes on whatever becomes of this run."""
        return isinstance(self.link, ChildLink) and self.link.close is Close.ABANDON

    @property
    def may_fail(self) -> bool:
        """Its failure is an answer, behind the pivot too: a lock that is another's, a child that is left alone."""
        return self.abandoned or isinstance(self.link, LockLink)

    @property
    def finished(self) -> bool:
        """The run could end as far as this step is concerned."""
        if self.abandoned:
            return True
        if not self.quiet or self.settled_seq is None:
            return False
        return not self.must_go and not (self.undo and self.undo.phase is Phase.IN_FLIGHT)


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """Return a policy as the JSON object that the log pins."""
    retry = policy.retry
    value = {
        "attempts": retry.attempts,
        "first": retry.first_seconds,
        "factor": retry.factor,
        "max": retry.max_seconds,
        "jitter": retry.jitter,
        "timeout": policy.timeout_seconds,
        "deadline": policy.deadline_seconds,
    }
    if policy.heartbeat_seconds is not None:  # most have none
        value["heartbeat"] = policy.heartbeat_seconds
    return value


def policy_from_json(value: dict[str, Any]) -> Policy:
    """Read what `policy_to_json` wrote."""
    retry = Retry(
        attempts=value["attempts"],
        first_seconds=value["first"],
        factor=value["factor"],
        max_seconds=value["max"],
        jitter=value["jitter"],
    )
    return Policy(
        retry=retry,
        timeout_seconds=value["timeout"],
        deadline_seconds=value["deadline"],
        heartbeat_seconds=value.get("heartbeat"),
    )


@dataclass(frozen=True, slots=True)
class Pinned:
    """What the log pins of a step beside its input. `undo` is None where there is no compensation."""

    task: str  #: the Celery task's name
    policy: Policy
    undo: Policy | None = None
    probe: bool = False
    link: Link | None = None
    transactional: bool = False


_pinned: dict[str, Pinned] = {}


def pinned_text(pinned: Pinned) -> str:
    """Return what is pinned as JSON text."""
    value: dict[str, Any] = {
        "task": pinned.task,
        "policy": policy_to_json(pinned.policy),
        "undo": policy_to_json(pinned.undo) if pinned.undo else None,
        "probe": pinned.probe,
    }
    if pinned.transactional:
        value["transactional"] = True
    if pinned.link is not None:
        value["child" if isinstance(pinned.link, ChildLink) else "lock"] = asdict(pinned.link)
    return json.dumps(value, separators=(",", ":"))


def read_pinned(text: str) -> Pinned:
    """Read what `pinned_text` wrote; remembered, for it repeats."""
    known = _pinned.get(text)
    if known is None:
        value = json.loads(text)
        link: Link | None = None
        if "child" in value:
            child = value["child"]
            link = ChildLink(**{**child, "close": Close(child["close"])})
        elif "lock" in value:
            link = LockLink(**value["lock"])
        undo = policy_from_json(value["undo"]) if value["undo"] else None
        known = Pinned(
            value["task"],
            policy_from_json(value["policy"]),
            undo,
            value["probe"],
            link,
            value.get("transactional", False),
        )
        if len(_pinned) < 4_096:
            _pinned[text] = known
    return known
