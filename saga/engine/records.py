"""The rows that travel between Postgres and the engine, as frozen values. It knows no SQL and takes no decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from saga.core.events import Event

#: How many shards runs hash to, and the most coordinators that can share; the first migration writes them.
SHARDS = 64

#: A shard and a lane of the inbox.
Place: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker gets for a claimed attempt. `input` is JSON text; `limit_seconds` is None for an unlimited step.

    `beats`: the step itself keeps its lease. `progress` is JSON text: what an earlier attempt told.
    """

    token: UUID
    attempt: int
    claimant: UUID
    run: UUID
    shard: int
    name: str
    input: str
    lease_seconds: float
    limit_seconds: float | None
    beats: bool = False
    progress: str | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """One row of the inbox that no turn has taken. `kind` is the value of an arrival's EventKind.

    Outcomes name their run by `run`; what clients send names it by `saga` and `key`, and a start proposes `run`.
    """

    id: int
    shard: int
    lane: int
    run: UUID | None
    saga: str | None
    key: str | None
    kind: str
    token: UUID | None
    attempt: int | None
    claimant: UUID | None
    dedupe: str | None
    payload: str | None
    at: datetime

    @property
    def place(self) -> Place:
        """Where it lies in the inbox."""
        return self.shard, self.lane


@dataclass(frozen=True, slots=True)
class DueTimer:
    """A timer that has fallen due."""

    run: UUID
    name: str
    shard: int
    due_at: datetime


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run's row: the log folded. `digest` is the hash chain's head, `input_digest` the SHA-256 of the input."""

    id: UUID
    saga: str
    key: str
    shard: int
    version: int
    build: str
    status: str
    reason: str | None
    cause: str | None
    head: int
    digest: bytes
    input_digest: bytes
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What P7 read: database time, arrivals by lane and id, due timers, and the rows of the runs they concern."""

    now: datetime
    arrivals: tuple[Arrival, ...]
    timers: tuple[DueTimer, ...]
    runs: dict[UUID, RunRow]
    more: bool  #: a limit was reached: there is more to take at once
    full: frozenset[Place] = frozenset()  #: where as many arrivals were read as may be
    cut: bool = False  #: the bound of bytes was reached


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to insert, at the head that its first turn reaches."""

    id: UUID
    saga: str
    key: str
    shard: int
    version: int
    build: str
    status: str
    reason: str | None
    cause: str | None
    head: int
    digest: bytes
    input_digest: bytes
    input: str
    result: str | None
    failure: str | None
    started_at: datetime
    ended_at: datetime | None
    state: str | None = None  #: JSON text that the saga shows
    attributes: str | None = None  #: JSON text of an object


@dataclass(frozen=True, slots=True)
class RunChange:
    """A compare-and-set on a run's head. `build` is the build that took the turn."""

    id: UUID
    old_head: int
    head: int
    build: str
    status: str
    reason: str | None
    cause: str | None
    digest: bytes
    result: str | None
    failure: str | None
    ended_at: datetime | None
    state: str | None = None  #: None: as before
    attributes: str | None = None  #: None: as before


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append to a run's log."""

    run: UUID
    event: Event
    digest: bytes


@dataclass(frozen=True, slots=True)
class NewTask:
    """An attempt to dispatch. `limit_seconds` None is "no limit": its lease is renewed as long as its worker lives.

    `beats`: nobody renews it but the step itself. `progress` is JSON text: what an earlier attempt told.
    """

    token: UUID
    attempt: int
    run: UUID
    shard: int
    name: str
    queue: str
    input: str
    lease_seconds: float
    limit_seconds: float | None
    beats: bool = False
    progress: str | None = None


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """What publishing a task row again needs (P15, P18). `run_label` is `saga/key`."""

    id: int
    token: UUID
    attempt: int
    run: UUID
    run_label: str
    name: str
    queue: str
    limit_seconds: float | None


@dataclass(frozen=True, slots=True)
class NewTimer:
    """A timer to set; setting a name that exists moves it."""

    run: UUID
    name: str
    shard: int
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Incident:
    """A fact that no run can take any more."""

    run: UUID | None
    token: UUID | None
    attempt: int | None
    kind: str
    payload: str | None


@dataclass(frozen=True, slots=True)
class Sent:
    """An arrival that one run puts into another's inbox: a child's start, a cancel, or a child's answer."""

    shard: int
    lane: int
    run: UUID
    saga: str
    key: str
    kind: str
    token: UUID | None = None
    attempt: int | None = None
    dedupe: str | None = None
    payload: str | None = None


@dataclass(frozen=True, slots=True)
class LockRequest:
    """A place in line for a semantic lock; `wait` False: an answer at once. `holder` names its run for the others."""

    name: str
    run: UUID
    shard: int
    token: UUID
    attempt: int
    wait: bool
    holder: str


@dataclass(slots=True)
class Batch:
    """Everything one P9 writes, all of it or nothing."""

    taken: list[int] = field(default_factory=list)  #: inbox ids to delete
    timers_gone: list[tuple[UUID, str]] = field(default_factory=list)  #: (run, name): fired, so they must exist
    timers_cancelled: list[tuple[UUID, str]] = field(default_factory=list)
    runs: list[NewRun] = field(default_factory=list)
    changes: list[RunChange] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)
    fences: list[UUID] = field(default_factory=list)  #: tokens to fence where nobody has claimed them
    kills: list[UUID] = field(default_factory=list)  #: tokens to fence whoever has claimed them (terminate)
    tasks: list[NewTask] = field(default_factory=list)
    timers: list[NewTimer] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    lock_requests: list[LockRequest] = field(default_factory=list)
    locks_withdrawn: list[UUID] = field(default_factory=list)  #: tokens that leave their lines
    locks_released: list[UUID] = field(default_factory=list)  #: runs that let go of everything
