"""The processes of one measurement on a database and a broker of their own: coordinators, worker nodes, the client.

It starts, pauses and ends them, and must not know what is measured.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis
from celery import Celery

from benchmarks.application import (
    CACHE_VARIABLE,
    DATABASE_VARIABLE,
    LEASE_VARIABLE,
    MARKS_VARIABLE,
    NO_ACKS_VARIABLE,
    close,
    make,
)
from benchmarks.finish import VARIABLE, FinishLine
from demo_shop.processes import Child, Supervisor
from saga.cli import embedded
from saga.engine import schema

TEMPLATE = "bench_template"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of workers: so many nodes, each with this pool."""

    name: str
    nodes: int
    pool: tuple[str, ...]


PREFORK_2 = Choice("1 node prefork -c2", 1, ("-P", "prefork", "-c", "2"))
CHOICES = {
    choice.name: choice
    for choice in (
        PREFORK_2,
        Choice("1 node prefork -c4", 1, ("-P", "prefork", "-c", "4")),
        Choice("2 nodes solo", 2, ("-P", "solo")),
    )
}


@dataclass(slots=True)
class Ground:
    """What all measurements of a command stand on: the servers, an upgraded database to copy, a supervisor."""

    servers: embedded.Servers
    supervisor: Supervisor
    folder: Path


@contextlib.contextmanager
def open_ground(folder: Path) -> Iterator[Ground]:
    """Start the servers and prepare the database that each measurement copies; at the end nothing is left running.

    Raises:
        ConfigurationError: a server does not start, or the role that the environment named may not create databases.
    """
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(embedded.servers(folder))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=folder)))
        supervisor = stack.enter_context(Supervisor(place))
        template = servers.create_database(TEMPLATE)
        stack.callback(servers.drop_database, TEMPLATE)
        schema.upgrade(template.owner_url, "saga", grant_to=servers.application_role)
        yield Ground(servers, supervisor, place)


@dataclass(slots=True)
class Fleet:
    """What runs for one measurement."""

    ground: Ground
    app: Celery
    database: embedded.Database
    line: FinishLine
    environment: dict[str, str]
    coordinators: list[Child] = field(default_factory=list)
    workers: list[Child] = field(default_factory=list)

    def start_coordinator(self) -> Child:
        """Start one more coordinator."""
        child = self._start(f"coordinator-{next(_numbers)}", [sys.executable, "-m", "benchmarks.coordinating"])
        self.coordinators.append(child)
        return child

    def stop_coordinators(self) -> None:
        """Let the coordinators hand over and end."""
        self.ground.supervisor.stop(*(child.name for child in self.coordinators))
        self.coordinators.clear()

    def start_workers(self, choice: Choice, *, events: bool = False) -> None:
        """Start the nodes of a choice; `events` sends Celery's events (-E)."""
        for _ in range(choice.nodes):
            name = f"worker-{next(_numbers)}"
            command = [sys.executable, "-m", "celery", "-A", "benchmarks.app", "worker", "-n", f"{name}@%h"]
            command += [*choice.pool, "-l", "WARNING", "--without-gossip", "--without-mingle"]
            self.workers.append(self._start(name, [*command, *(["-E"] if events else [])]))

    def ended(self) -> str | None:
        """Return which process has ended although nobody killed it, and what it said last."""
        for child in (*self.coordinators, *self.workers):
            if not child.lives and not child.killed:
                return f"{child.name} has ended:\n{child.log.read_text(errors='replace')[-1_500:]}"
        return None

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the living processes by role; a server that is not ours has none."""
        mains = [psutil.Process(child.pid) for child in self.workers if child.lives]
        found = {
            "coordinator": [psutil.Process(child.pid) for child in self.coordinators if child.lives],
            "worker_main": mains,
            "worker_child": [process for main in mains for process in main.children(recursive=True)],
            "client": [psutil.Process()],
        }
        for role, server in (("postgres", self.ground.servers.postgres), ("broker", self.ground.servers.valkey)):
            if server is not None:
                leader = psutil.Process(server.pid)
                found[role] = [leader, *leader.children(recursive=True)]
        return found

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze coordinators and workers while a backlog is made; do it for less than a lease."""
        roles = self.processes()
        frozen = [process for role in ("coordinator", "worker_main", "worker_child") for process in roles[role]]
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in frozen:
                process.send_signal(signal.SIGCONT)

    def _start(self, name: str, command: list[str]) -> Child:
        return self.ground.supervisor.start(name, command, self.environment, kept=False)


@contextlib.contextmanager
def open_fleet(
    ground: Ground,
    *,
    marks: str = "ends",
    cache_runs: int | None = None,
    lease_seconds: float | None = None,
    acks: bool = True,
    template: str = TEMPLATE,
) -> Iterator[Fleet]:
    """Make a copy of a database and an empty broker; at the end kill what was started on them, and drop the copy."""
    number = next(_numbers)
    name = f"bench_{number}"
    broker = ground.servers.broker_url
    database = ground.servers.create_database(name, template=template)
    with contextlib.ExitStack() as stack:
        stack.callback(ground.servers.drop_database, name)
        with redis.Redis.from_url(broker) as client:
            client.flushdb()
        line = stack.enter_context(FinishLine(ground.folder / f"finish-{number}"))
        app = make(database=database.url, broker=broker)
        stack.callback(close, app)
        environment = {
            "CELERY_BROKER_URL": broker,
            DATABASE_VARIABLE: database.url,
            MARKS_VARIABLE: marks,
            VARIABLE: str(line.path),
            CACHE_VARIABLE: "" if cache_runs is None else str(cache_runs),
            LEASE_VARIABLE: "" if lease_seconds is None else str(lease_seconds),
            NO_ACKS_VARIABLE: "" if acks else "1",
        }
        fleet = Fleet(ground, app, database, line, environment)
        line.ended = fleet.ended
        try:
            yield fleet
        finally:
            ground.supervisor.kill(*(child.name for child in (*fleet.coordinators, *fleet.workers)))
