"""What is known of one step of a run, folded from its events: facts and small questions about them, no policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from saga.core.definition import Policy
from saga.core.events import Direction, EventKind, token_of
from saga.core.pinned import ChildLink, Close, Link, LockLink


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
    forgotten: int = 0  #: lost, because a crash of Postgres may have forgotten who had claimed it
    not_run: int = 0
    began_at: datetime | None = None  #: when the first attempt was scheduled; deadlines count from here
    ended: EventKind | None = None  #: how the last attempt ended
    postponed_seconds: float = 0.0
    failure: str | None = None  #: JSON text of what its last failed attempt said
    progress: str | None = None  #: JSON text of how far an attempt said it was, for the next one

    def renew(self) -> None:
        """Give the track its whole budget again, as an operator's retry does."""
        self.used = self.lost = self.forgotten = self.not_run = 0
        self.began_at = None


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

    def timer_before(self, track: Track) -> str:
        """Return the name of the timer before a track's next attempt."""
        return f"{track.direction}:{self.occurrence}"

    def choose(self, track: Track) -> None:
        """Note that policy chose this track: the other of action and probe has nothing left to decide."""
        if track.direction is Direction.COMPENSATION:
            return
        for other in (self.action, self.probe):
            if other is not None and other is not track and other.phase in (Phase.DUE, Phase.READY):
                other.phase = Phase.IDLE

    def end_action(self, seq: int) -> None:
        """Note that nothing more will be heard of the action."""
        self.action.phase = Phase.DONE
        self.gave_up = self.gave_up or not self.succeeded
        if not self.may_stand:
            self.settled_seq = self.settled_seq or seq

    def undo_once_more(self, run: UUID) -> Track:
        """Make a compensation with a token of its own ready: who remembers the first would only repeat its answer."""
        assert self.undo is not None
        self.undos += 1
        self.undo_again = False
        token = token_of(run, self.occurrence, Direction.COMPENSATION, again=self.undos)
        self.undo = Track(token, Direction.COMPENSATION, self.undo.policy, self.undo.task, phase=Phase.READY)
        self.tracks = (*self.tracks[:-1], self.undo)
        return self.undo
