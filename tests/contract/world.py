"""What the contract tests share: the store bound to one database, rows to write, and waits on what Postgres shows."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from saga.cli.embedded import Database
from saga.core.events import Event, EventKind, chain_digest
from saga.engine.records import SHARDS, Batch, Claim, NewEvent, NewRun, NewTask, RunChange
from saga.engine.store.connect import Connection, connect
from saga.engine.store.membership import Membership
from saga.engine.store.reading import Reading
from saga.engine.store.reaping import Reaping
from saga.engine.store.sending import Sending
from saga.engine.store.turning import Turning
from saga.engine.store.working import Working

SCHEMA = "saga"
#: Seconds after which a wait on a condition fails its test.
PATIENCE_SECONDS = 10.0
DIGEST = hashlib.sha256(b"contract").digest()

T = TypeVar("T")


@dataclass
class World:
    """One test's database as the application's role sees it, and the statements bound to its schema."""

    database: Database
    sending: Sending = field(default_factory=lambda: Sending(SCHEMA))
    working: Working = field(default_factory=lambda: Working(SCHEMA))
    turning: Turning = field(default_factory=lambda: Turning(SCHEMA))
    membership: Membership = field(default_factory=lambda: Membership(SCHEMA))
    reaping: Reaping = field(default_factory=lambda: Reaping(SCHEMA))
    reading: Reading = field(default_factory=lambda: Reading(SCHEMA))
    opened: list[Connection] = field(default_factory=list)

    def connect(self, name: str = "contract", **options: Any) -> Connection:
        """Open a connection as the application; the fixture closes it."""
        connection = connect(self.database.url, application_name=name, **options)
        self.opened.append(connection)
        return connection

    def connect_as_owner(self) -> Connection:
        """Open a connection as the owner of the tables; the fixture closes it."""
        connection = connect(self.database.owner_url, application_name="owner")
        self.opened.append(connection)
        return connection

    def coordinator(self, connection: Connection, *, lease_seconds: float = 60.0) -> UUID:
        """Register a coordinator; a lease of 0 has run out at once."""
        me = uuid4()
        self.membership.register(connection, me, "build-1", lease_seconds)
        return me

    def start(self, connection: Connection, me: UUID, *, tasks: int = 1, shard: int = 7, **of_task: Any) -> Started:
        """Commit a run with a log of one event and some attempts."""
        run = new_run(shard=shard)
        attempts = [new_task(run, **of_task) for _ in range(tasks)]
        committed = self.turning.commit(
            connection, me, Batch(runs=[run], events=[new_event(run.id, 1)], tasks=attempts)
        )
        return Started(run, tuple(attempts), committed.task_ids)

    def claimed(self, connection: Connection, task: NewTask) -> Claim:
        """Claim an attempt that is free."""
        claim = self.working.claim(connection, task.token, task.attempt, uuid4())
        assert claim is not None
        return claim


@dataclass(frozen=True)
class Started:
    """A run that was committed, with its attempts and their row ids."""

    run: NewRun
    tasks: tuple[NewTask, ...]
    ids: dict[UUID, int]

    @property
    def task(self) -> NewTask:
        return self.tasks[0]


def new_run(*, shard: int = 7, key: str | None = None, **changes: Any) -> NewRun:
    run = NewRun(
        id=uuid4(),
        saga="checkout",
        key=key or f"order-{uuid4().hex[:8]}",
        shard=shard,
        version=1,
        build="build-1",
        status="running",
        reason=None,
        cause=None,
        head=1,
        digest=DIGEST,
        input_digest=DIGEST,
        input='{"order": 7}',
        result=None,
        failure=None,
        started_at=datetime.now(UTC),
        ended_at=None,
    )
    return replace(run, **changes)


def new_event(run: UUID, seq: int, kind: EventKind = EventKind.RUN_STARTED, **of_event: Any) -> NewEvent:
    event = Event(seq, kind, of_event.pop("at", datetime.now(UTC)), **of_event)
    return NewEvent(run, event, chain_digest(DIGEST, event))


def new_task(run: NewRun, **changes: Any) -> NewTask:
    task = NewTask(
        token=uuid4(),
        attempt=1,
        run=run.id,
        shard=run.shard,
        name="payments.charge_card",
        queue="celery",
        input='{"amount": 1}',
        lease_seconds=30.0,
        limit_seconds=20.0,
    )
    return replace(task, **changes)


def change_of(run: NewRun, **changes: Any) -> RunChange:
    change = RunChange(
        id=run.id,
        old_head=run.head,
        head=run.head + 1,
        build="build-1",
        status="running",
        reason=None,
        cause=None,
        digest=DIGEST,
        result=None,
        failure=None,
        ended_at=None,
    )
    return replace(change, **changes)


def everything(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Read all rows that a batch can change, to show that a refused one changed nothing."""
    tables = {
        "inbox": b"SELECT * FROM saga.inbox ORDER BY id",
        "timer": b"SELECT * FROM saga.timer ORDER BY run, name",
        "run": b"SELECT * FROM saga.run ORDER BY id",
        "event": b"SELECT * FROM saga.event ORDER BY run, seq",
        "task": b"SELECT * FROM saga.task ORDER BY id",
        "incident": b"SELECT * FROM saga.incident ORDER BY id",
    }
    return {table: connection.execute(query).fetchall() for table, query in tables.items()}


def inbox(connection: Connection) -> list[tuple[Any, ...]]:
    """Read kind, run, token, attempt, claimant and payload of what has arrived."""
    return connection.execute(
        "SELECT kind, run, token, attempt, claimant, payload FROM saga.inbox ORDER BY id"
    ).fetchall()


def crash(world: World, *, forgets: bool = False) -> None:
    """Leave the tables as a crash of Postgres would; `forgets`: no claim was on the disk yet."""
    owner = world.connect_as_owner()
    owner.execute("DELETE FROM saga.unbroken")
    if forgets:
        owner.execute("UPDATE saga.task SET claimed_by = NULL, claimed_at = NULL, lease_until = NULL")


def in_thread(function: Callable[..., T], *args: Any, **options: Any) -> Future[T]:
    """Run a call that may wait in a thread of its own; its result or error comes by the future."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **options))
        except BaseException as error:  # the test reads it from the future
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Look again until it holds; fail with what was waited for."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s: {what}"
        pause.wait(0.005)


def wait_until_blocked(watcher: Connection, waiting: Connection) -> None:
    """Wait until the backend of another connection waits for a lock."""
    pid = waiting.info.backend_pid

    def blocked() -> bool:
        row = watcher.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (pid,)).fetchone()
        return row is not None and bool(row[0])

    wait_until(blocked, f"backend {pid} waits for a lock")


@contextmanager
def standby_named(superuser: Connection) -> Iterator[None]:
    """Let commits wait for a standby, which there is not: whatever is done meanwhile has to be rolled back."""

    def names(wanted: str, alter: str) -> None:
        superuser.execute(f"ALTER SYSTEM {alter}".encode())
        superuser.execute("SELECT pg_reload_conf()")
        wait_until(lambda: superuser.execute("SHOW synchronous_standby_names").fetchall() == [(wanted,)], alter)

    names("nobody", "SET synchronous_standby_names = 'nobody'")
    try:
        yield
    finally:
        names("", "RESET synchronous_standby_names")


@contextmanager
def standby_cut_off(world: World, table: str) -> Iterator[None]:
    """Make what is written look like a cancelled wait for a synchronous standby: a success, and a warning."""
    owner = world.connect_as_owner()
    owner.execute(
        "CREATE FUNCTION saga.cut_off() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE WARNING 'canceling wait for synchronous replication due to user request'; RETURN NULL; END $$"
    )
    owner.execute(
        f"CREATE TRIGGER cut_off AFTER INSERT OR UPDATE ON saga.{table} EXECUTE FUNCTION saga.cut_off()".encode()
    )
    try:
        yield
    finally:
        owner.execute("DROP FUNCTION saga.cut_off CASCADE")


def shards() -> range:
    return range(SHARDS)
