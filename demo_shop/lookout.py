"""What can be seen of the engine from outside: its tables, its broker queue, its workers' tasks. It only ever reads.

Its one connection to the database is made again when it was lost, since database and broker are killed under it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import UUID

import psutil
import psycopg
import redis
from celery import Celery
from psycopg import sql

from demo_shop.evidence import Opinion
from saga.core.events import EventKind

#: What a look raises when database or broker are down.
UNREACHABLE = (psycopg.Error, redis.RedisError, OSError)

#: The kinds of the events with which a saga function begins to wait.
WAITS = frozenset({EventKind.SIGNAL_AWAITED, EventKind.TIMER_STARTED})

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run in flight: its key, which is the order's id, and how far its log has come."""

    id: UUID
    key: str
    head: int


class Lookout:
    """Looks at one application, for all threads: its schema in a database, and its queue in a broker."""

    def __init__(self, *, database_url: str, broker_url: str, schema: str, queue: str) -> None:
        self._database_url = database_url
        self._broker_url = broker_url
        self._schema = sql.Identifier(schema)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self.queue = queue

    def __enter__(self) -> Lookout:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._disconnect()

    @contextlib.contextmanager
    def broker(self) -> Iterator[redis.Redis]:
        """Lend a client of the broker."""
        with redis.Redis.from_url(self._broker_url, socket_timeout=2, socket_connect_timeout=2) as client:
            yield client

    def opinions(self) -> dict[str, Opinion]:
        """Return what the engine says of each run, by the run's key."""
        rows = self._rows("SELECT key, status, reason FROM {s}.run")
        return {key: Opinion(status, reason) for key, status, reason in rows}

    def statuses(self) -> Counter[str]:
        """Count the runs by status."""
        return Counter(dict(self._rows("SELECT status, count(*) FROM {s}.run GROUP BY status")))

    def open_work(self) -> int:
        """Count attempts, arrivals and timers that are still to be seen to, but for those of stalled runs."""
        waiting = (
            "SELECT count(*) FROM {s}.%s w LEFT JOIN {s}.run r ON r.id = w.run "
            "WHERE r.status IS DISTINCT FROM 'stalled'"
        )
        return sum(self._rows(waiting % table)[0][0] for table in ("task", "inbox", "timer"))

    def coordinators(self) -> set[UUID]:
        """Return the coordinators that own shards."""
        return {owner for (owner,) in self._rows("SELECT DISTINCT owner FROM {s}.shard WHERE owner IS NOT NULL")}

    def unowned_shards(self) -> int:
        """Count the shards that no coordinator owns."""
        return int(self._rows("SELECT count(*) FROM {s}.shard WHERE owner IS NULL")[0][0])

    def coordinator_of(self, pid: int) -> UUID | None:
        """Return which coordinator a process is, by the ports of its connections to Postgres; None when it has none."""
        ports = [opened.laddr.port for opened in psutil.Process(pid).net_connections("tcp") if opened.raddr]
        rows = self._rows(
            "SELECT DISTINCT c.id FROM {s}.coordinator c "
            "JOIN pg_stat_activity a ON a.application_name = 'saga:' || c.id::text "
            "WHERE a.client_port = ANY(%(ports)s) AND c.dead_at IS NULL",
            ports=ports,
        )
        return rows[0][0] if rows else None

    def runs_of(self, coordinator: UUID) -> list[LiveRun]:
        """Return the runs in flight on the shards that a coordinator owns."""
        return self._runs("r.shard IN (SELECT id FROM {s}.shard WHERE owner = %(owner)s)", owner=coordinator)

    def runs_in_flight(self) -> list[LiveRun]:
        """Return every run that has neither ended nor stalled."""
        return self._runs("true")

    def runs_with(self, tokens: Collection[UUID]) -> list[LiveRun]:
        """Return the runs in flight that wait for one of these tokens."""
        return self._runs("r.id IN (SELECT run FROM {s}.task WHERE token = ANY(%(tokens)s))", tokens=list(tokens))

    def claims(self, tokens: Collection[UUID] | None = None) -> dict[UUID, UUID]:
        """Return the claims that are held, as token and claimant; with tokens, only theirs."""
        rows = self._rows(
            "SELECT token, claimed_by FROM {s}.task WHERE claimed_by IS NOT NULL "
            "AND (%(tokens)s::uuid[] IS NULL OR token = ANY(%(tokens)s))",
            tokens=None if tokens is None else list(tokens),
        )
        return dict(rows)

    def logs(self, keys: Collection[str]) -> dict[str, list[str]]:
        """Return the logs of the runs with these keys, one line an event."""
        rows = self._rows(
            "SELECT r.key, concat_ws(' ', e.seq, e.at, e.kind, e.key, e.attempt, e.token, e.payload) "
            "FROM {s}.event e JOIN {s}.run r ON r.id = e.run WHERE r.key = ANY(%(keys)s) ORDER BY r.key, e.seq",
            keys=list(keys),
        )
        logs: dict[str, list[str]] = {}
        for key, line in rows:
            logs.setdefault(key, []).append(line)
        return logs

    def waiting(self) -> set[str]:
        """Return the keys of the runs that wait for a signal or a timer, and for nothing else."""
        rows = self._rows(
            "SELECT r.key FROM {s}.run r JOIN {s}.event e ON e.run = r.id AND e.seq = r.head "
            "WHERE r.status = 'running' AND e.kind = ANY(%(kinds)s)",
            kinds=sorted(WAITS),
        )
        return {key for (key,) in rows}

    def before_cancel(self) -> dict[str, str]:
        """Return, for each run that somebody asked to cancel, the kind of the event before the first such request."""
        rows = self._rows(
            "SELECT DISTINCT ON (r.key) r.key, before.kind FROM {s}.event c JOIN {s}.run r ON r.id = c.run "
            "JOIN {s}.event before ON before.run = c.run AND before.seq = c.seq - 1 "
            "WHERE c.kind = 'CancelRequested' ORDER BY r.key, c.seq"
        )
        return dict(rows)

    def heads(self, runs: Collection[UUID]) -> dict[UUID, int]:
        """Return how far the logs of these runs have come."""
        return dict(self._rows("SELECT id, head FROM {s}.run WHERE id = ANY(%(runs)s)", runs=list(runs)))

    def queue_length(self) -> int:
        """Count the messages that wait in the queue."""
        with self.broker() as client:
            return int(client.llen(self.queue))

    def running_on(self, nodes: Collection[str], *, within_seconds: float = 1.0) -> dict[str, list[UUID]]:
        """Ask worker nodes which tokens they run now; a node that does not answer in time is left out."""
        app = Celery("lookout", broker=self._broker_url, set_as_current=False)
        app.conf.broker_transport_options = {"socket_timeout": 5, "socket_connect_timeout": 2}
        try:
            asked = app.control.inspect(destination=list(nodes), timeout=within_seconds, limit=len(nodes))
            told = asked.active() or {}
        finally:
            app.close()
        return {node: [UUID(task["id"]) for task in tasks] for node, tasks in told.items()}

    def _runs(self, condition: str, **values: object) -> list[LiveRun]:
        wanted = (
            f"SELECT r.id, r.key, r.head FROM {{s}}.run r WHERE r.status IN ('running', 'compensating') AND {condition}"  # noqa: S608
        )
        return [LiveRun(*row) for row in self._rows(wanted, **values)]

    def _rows(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        composed = sql.SQL(statement).format(s=self._schema)
        with self._lock:
            if self._connection is not None:
                try:
                    return self._connection.execute(composed, values).fetchall()
                except psycopg.OperationalError:  # it was lost since the last look; this one may find the database back
                    self._disconnect()
            self._connection = psycopg.connect(self._database_url, autocommit=True, connect_timeout=2)
            return self._connection.execute(composed, values).fetchall()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None
