"""What a turn asks the world to do beside writing events. Effects follow from events; a replay makes and drops them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class RunTask:
    """Dispatch an attempt: `name` is the Celery task, `input` the JSON text it gets, `limit_seconds` its hard limit."""

    token: UUID
    attempt: int
    name: str
    input: str
    limit_seconds: float | None


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


Effect = RunTask | SetTimer | CancelTimer | Fence | Kill
