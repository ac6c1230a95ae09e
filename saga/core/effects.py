"""What a turn asks the world to do beside writing events. Effects follow from events; a replay makes and drops them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from saga.core.events import Parent


@dataclass(frozen=True, slots=True)
class RunTask:
    """Dispatch an attempt: `name` is the Celery task, `input` the JSON text it gets, `limit_seconds` its hard limit.

    With `heartbeat_seconds` it must tell in time that it goes on. `progress` is JSON text: what an earlier one told.
    """

    token: UUID
    attempt: int
    name: str
    input: str
    limit_seconds: float | None
    heartbeat_seconds: float | None = None
    progress: str | None = None


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Wake the run at a time."""

    name: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget a timer that was set and has not fired."""

    name: str


@dataclass(frozen=True, slots=True)
class Fence:
    """Take an attempt back if no worker has claimed it yet; one that is claimed is awaited."""

    token: UUID


@dataclass(frozen=True, slots=True)
class Kill:
    """Fence an attempt whoever has claimed it: its outcome will be an incident."""

    token: UUID


@dataclass(frozen=True, slots=True)
class Report:
    """Keep something that no run can take any more for the operator, as an incident; `payload` is JSON text."""

    kind: str
    payload: str


@dataclass(frozen=True, slots=True)
class StartChild:
    """Start a run that answers this one's token as an attempt does; `undoes`: it is the undo of that run.

    An undo begins when all of `after`, by id and key, have ended: the run it undoes, and earlier attempts at that.
    """

    token: UUID
    attempt: int
    run: UUID
    saga: str
    key: str
    version: int
    timeout_seconds: float | None
    input: str
    undoes: UUID | None = None
    after: tuple[tuple[UUID, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TellChild:
    """Ask a child to be undone, or end it where it stands: `kind` is the event kind of what is asked."""

    saga: str
    key: str
    run: UUID
    kind: str


@dataclass(frozen=True, slots=True)
class RequestLock:
    """Ask for a semantic lock, which answers the token as an attempt does; `wait`: stand in line for it."""

    token: UUID
    attempt: int
    name: str
    wait: bool


@dataclass(frozen=True, slots=True)
class WithdrawLock:
    """Leave the line for a lock; who holds it already is answered already."""

    token: UUID


@dataclass(frozen=True, slots=True)
class AnswerParent:
    """Tell the parent how this run ended, as a worker tells how an attempt did: `kind` is the outcome's event kind."""

    parent: Parent
    kind: str
    payload: str


@dataclass(frozen=True, slots=True)
class ReleaseLocks:
    """Let go of every lock of the run, and of its places in line."""


Effect = (
    RunTask
    | SetTimer
    | CancelTimer
    | Fence
    | Kill
    | Report
    | StartChild
    | TellChild
    | AnswerParent
    | RequestLock
    | WithdrawLock
    | ReleaseLocks
)
