"""The state of a run as its log tells it: what `fold` has made of the events so far. It decides nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from saga.core.effects import CancelTimer, Effect, SetTimer
from saga.core.events import Parent
from saga.core.lifecycle import Cause, StallReason, Status
from saga.core.tracks import StepState, Track
from saga.core.waits import Mailbox, Wait


class State:
    """A run as its log tells it. `effects` collects what the events ask of the world; a replay throws them away."""

    def __init__(self, run: UUID) -> None:
        self.run = run
        self.seq = 0
        self.at: datetime | None = None
        self.version = 0
        self.input: str = "null"
        self.timeout_seconds: float | None = None
        self.steps: dict[str, StepState] = {}
        self.tokens: dict[UUID, tuple[StepState, Track]] = {}
        self.dirty: dict[str, StepState] = {}  #: steps touched since policy last looked; ordered
        self.unfinished: dict[str, StepState] = {}
        self.standing: dict[str, StepState] = {}  #: steps whose effects are there, or may be
        self.stuck: dict[UUID, StallReason] = {}
        self.waits: dict[str, Wait] = {}
        self.mailbox = Mailbox()
        self.settlements: list[str] = []  #: occurrences in the order in which the function may see how they ended
        self.savepoints: dict[str, int] = {}  #: each with its seq
        self.shown: str | None = None  #: JSON text of what `ctx.set_state` said last
        self.attributes: dict[str, Any] = {}
        self.parent: Parent | None = None
        self.undoes: UUID | None = None  #: the run whose effects this one takes back
        self.unheard: dict[str, datetime] = {}  #: timers for what was in flight when that run was ended
        self.locks = False
        self.timers: set[str] = set()
        self.claimants: set[UUID] = set()  #: deliveries whose own word is in the log
        self.effects: list[Effect] = []
        self.pivoted = False
        self.undoing = False
        self.cause: Cause | None = None
        self.suspended: StallReason | None = None
        self.ended: Status | None = None
        self.cancel_asked: Cause | None = None
        self.terminate_asked = False
        self.failure: str | None = None  #: JSON text
        self.result: str | None = None  #: JSON text

    @property
    def status(self) -> Status:
        """The status that the run's row shows."""
        if self.ended is not None:
            return self.ended
        if self.suspended is not None or self.stuck:
            return Status.STALLED
        return Status.COMPENSATING if self.undoing else Status.RUNNING

    @property
    def stall_reason(self) -> StallReason | None:
        """Why the run is stalled, if it is."""
        if self.ended is not None:
            return None
        return self.suspended or next(iter(self.stuck.values()), None)

    def since(self, savepoint: str) -> list[StepState]:
        """Return the steps that were started behind a save-point and are wanted still."""
        seq = self.savepoints[savepoint]
        return [step for step in self.steps.values() if step.scheduled_seq > seq and not step.discarded]

    # -- what the fold changes in several places at once -----------------------------------------------------------

    def add(self, step: StepState) -> None:
        """Take a new step in."""
        self.steps[step.occurrence] = step
        for track in step.tracks:
            self.tokens[track.token] = (step, track)

    def touch(self, step: StepState) -> None:
        """Note that an event has changed a step."""
        self.dirty[step.occurrence] = step
        if step.settled_seq is not None and not step.told:
            step.told = True
            self.settlements.append(step.occurrence)
        if step.may_stand:
            self.standing[step.occurrence] = step
        else:
            self.standing.pop(step.occurrence, None)
        if step.finished:
            self.unfinished.pop(step.occurrence, None)
        else:
            self.unfinished[step.occurrence] = step

    def settle(self, wait: Wait, seq: int) -> None:
        """Note that a wait is over."""
        wait.settled_seq = seq
        self.settlements.append(wait.occurrence)

    def unstick(self, track: Track) -> None:
        """Note that a track needs no operator any more."""
        self.stuck.pop(track.token, None)

    def set_timer(self, name: str, due_at: datetime) -> None:
        """Ask to be woken."""
        self.timers.add(name)
        self.effects.append(SetTimer(name, due_at))

    def drop_timer(self, name: str) -> None:
        """Cancel a timer if it is set."""
        if name in self.timers:
            self.timers.discard(name)
            self.effects.append(CancelTimer(name))
