"""Real coordinators and real Celery workers for a test module: started, killed, frozen, started again when they end.

It knows processes and waits on conditions. What is right when they are quiet is the audit's to say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg
import redis
from celery import Celery

from saga.cli.embedded import Database
from saga.core.definition import SagaDefinition
from saga.core.errors import ConfigurationError, RunEnded, UnknownRun
from saga.core.events import Event, EventKind
from saga.core.lifecycle import StallReason, Status
from saga.engine.client import Handle, start_run
from saga.engine.installation import DEFAULTS, Installation
from saga.engine.store.connect import connect
from tests.arming import Armed, Armoury, Victim
from tests.audit import OPEN, WITNESS, Audit, Violation
from tests.integration.application import FOLDER_VARIABLE, Order
from tests.ledger import Kind, Ledger
from tests.sightings import Sightings

__all__ = ["Armed", "Fleet", "Node", "Victim"]

ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds after which a wait on a condition fails its test.
PATIENCE_SECONDS = 15.0
COORDINATOR = [sys.executable, "-c", "from tests.integration.application import serve_coordinator as s; s()"]
WORKER = [sys.executable, "-m", "celery", "-A", "tests.integration.application", "worker"]
WORKER_OPTIONS = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]

T = TypeVar("T")


@dataclass
class Node:
    """A process that is kept running, the leader of a process group of its own."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    kept: bool = True
    exits: list[int] = field(default_factory=list)  #: how its earlier starts ended

    @property
    def pid(self) -> int:
        """The process id of the current start."""
        return self.process.pid

    @property
    def lives(self) -> bool:
        """Whether the current start still runs."""
        return self.process.poll() is None

    def said(self) -> str:
        """Return what it has logged so far, in all its starts."""
        return self.log.read_text(errors="replace")


class Fleet:
    """Processes over one database, one broker and one ledger, and a client of them."""

    def __init__(self, database: Database, broker_url: str, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.database = database
        self.broker_url = broker_url
        self.folder = folder
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.armoury = Armoury(folder / "armed")
        self.nodes: dict[str, Node] = {}
        self.accepted: set[str] = set()
        self.stalls: dict[str, StallReason] = {}
        self.told_of: set[Violation] = set()  #: each is the failure of one test only
        self.resolved: set[str] = set()  #: an operator's evidence stands for one of its undos
        self.sightings = Sightings()
        self.environment = {
            "PYTHONPATH": str(ROOT),
            FOLDER_VARIABLE: str(folder),
            "SAGA_TEST_BROKER": broker_url,
            "SAGA_TEST_DATABASE": database.url,
            **environment,
        }
        app = Celery("client", broker=broker_url, set_as_current=False)
        app.add_defaults({**DEFAULTS, "saga_database_url": database.url})
        self.app = app
        self.installation = Installation(app)
        self.owner = connect(database.owner_url, application_name="audit")
        self.owner.execute(WITNESS.encode())

    # -- processes -------------------------------------------------------------------------------------------------

    def coordinator(self, name: str, **environment: str) -> Node:
        """Start a coordinator that is started again whenever it ends."""
        return self._start(name, COORDINATOR, environment)

    def worker(self, name: str, *options: str, **environment: str) -> Node:
        """Start a Celery worker with two prefork children, kept running too."""
        pool = list(options) or ["-P", "prefork", "-c", "2"]
        return self._start(name, [*WORKER, "-n", f"{name}@test", *pool, *WORKER_OPTIONS], environment)

    def _start(self, name: str, command: list[str], environment: Mapping[str, str]) -> Node:
        log = self.folder / f"{name}.log"
        merged = {**os.environ, **self.environment, **environment}
        node = Node(name, command, merged, log, self._spawn(command, merged, log))
        self.nodes[name] = node
        return node

    def _spawn(self, command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                command, cwd=ROOT, env=dict(environment), stdout=out, stderr=out, start_new_session=True
            )

    def tend(self) -> None:
        """Start again what has ended."""
        for node in self.nodes.values():
            if node.kept and not node.lives:
                self._bury(node)
                node.process = self._spawn(node.command, node.environment, node.log)

    def _bury(self, node: Node) -> None:
        node.exits.append(node.process.wait())
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)

    def kill(self, *nodes: Node) -> None:
        """SIGKILL whole nodes, children included, at once."""
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
        for node in nodes:
            node.process.wait()

    def freeze(self, *nodes: Node) -> None:
        """SIGSTOP whole nodes."""
        for node in nodes:
            os.killpg(node.pid, signal.SIGSTOP)

    def thaw(self, *nodes: Node) -> None:
        """SIGCONT whole nodes."""
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGCONT)

    def stop(self, *nodes: Node) -> None:
        """SIGTERM, wait, and do not start again."""
        for node in nodes:
            node.kept = False
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGCONT)
                node.process.terminate()
        for node in nodes:
            try:
                node.process.wait(8)
            except subprocess.TimeoutExpired:
                self.kill(node)
            self._bury(node)

    def close(self) -> None:
        """End everything."""
        for node in self.nodes.values():
            node.kept = False
        self.kill(*self.nodes.values())
        for node in self.nodes.values():
            for process in psutil.process_iter(["pid"]):  # prefork children that outlived their parent
                with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
                    if os.getpgid(process.pid) == node.pid:
                        process.kill()
        self.installation.database.dispose()
        self.owner.close()

    # -- waiting ---------------------------------------------------------------------------------------------------

    def until(self, holds: Callable[[], T], what: str, *, seconds: float = PATIENCE_SECONDS, tend: bool = True) -> T:
        """Look again until it holds, and meanwhile start again what has ended."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while True:
            found = holds()
            if found:
                return found
            if tend:
                self.tend()
            assert time.monotonic() < deadline, f"waited {seconds} s: {what}\n{self.told()}"
            pause.wait(0.02)

    def told(self) -> str:
        """Return the ends of all logs, and where the unfinished runs stand."""
        parts = [f"--- {node.name}\n{node.said()[-1500:]}" for node in self.nodes.values()]
        with contextlib.suppress(psycopg.Error):
            rows = self.owner.execute(
                "SELECT saga, key, status, reason, head FROM saga.run WHERE ended_at IS NULL LIMIT 5"
            ).fetchall()
            tasks = self.owner.execute("SELECT name, attempt, claimed_by, lease_until FROM saga.task").fetchall()
            parts.append(f"--- open runs {rows}\n--- attempts {tasks}")
        return "\n".join(parts)

    def until_ready(self) -> None:
        """Wait until every coordinator owns its share, and every worker listens."""
        self.until(lambda: self.owned_by_living() == 64, "all shards are owned")
        for node in self.nodes.values():
            if node.command[:3] == WORKER[:3]:
                self.until(lambda node=node: "ready." in node.said(), f"{node.name} is ready")  # type: ignore[misc]

    def owned_by_living(self) -> int:
        """Count the shards whose owner lives."""
        return self.count(
            "SELECT count(*) FROM saga.shard s JOIN saga.coordinator c ON c.id = s.owner "
            "WHERE c.dead_at IS NULL AND c.lease_until > clock_timestamp()"
        )

    def count(self, query: str, *values: Any) -> int:
        """Run a query for one number; -1 while Postgres is away."""
        try:
            if self.owner.closed:
                self.owner = connect(self.database.owner_url, application_name="audit")
            row = self.owner.execute(query.encode(), values).fetchone()
        except psycopg.OperationalError:
            self.owner.close()
            with contextlib.suppress(psycopg.Error):
                self.owner = connect(self.database.owner_url, application_name="audit")
            return -1
        return 0 if row is None else int(row[0])

    # -- the client ------------------------------------------------------------------------------------------------

    def start(self, saga: SagaDefinition, key: str, **moods: str) -> Handle[Any]:
        """Start a run, and remember that it was accepted."""
        text = self.installation.codec.encode_saga_input(saga, Order(moods))
        handle = start_run(self.installation, saga, key, text)
        self.accepted.add(handle.address)
        return handle

    def handle(self, saga: SagaDefinition, key: str) -> Handle[Any]:
        """Return the handle of a run that something else starts."""
        return Handle(self.installation, saga.name, key, definition=saga)

    def status(self, handle: Handle[Any]) -> Status | None:
        """Return where a run stands; None before its first turn, and while Postgres is away."""
        try:
            found = self.sightings.look(handle)
        except (ConfigurationError, psycopg.Error):
            return None
        return None if found is None else Status(found.row.status)

    def shown(self, handle: Handle[Any]) -> Any:
        """Return what a run shows, or None while there is none."""
        with contextlib.suppress(UnknownRun):
            return handle.state()
        return None

    def ends(self, handle: Handle[Any], status: Status, *, seconds: float = PATIENCE_SECONDS) -> list[Event]:
        """Wait until a run has ended like this, and return its log."""
        over = (Status.COMPLETED, Status.COMPENSATED, Status.TERMINATED, Status.STALLED)
        self.until(lambda: self.status(handle) in over, f"{handle.address} ends {status}", seconds=seconds)
        history = handle.history()
        shown = " ".join(f"{e.kind}{'@' + str(e.attempt) if e.attempt else ''}" for e in history)
        assert self.status(handle) is status, f"{handle.address} is {self.status(handle)}: {shown}"
        return history

    def stalls_as(self, handle: Handle[Any], reason: StallReason, *, seconds: float = PATIENCE_SECONDS) -> list[Event]:
        """Wait until a run stalls for this reason, and expect it to stay so."""
        history = self.ends(handle, Status.STALLED, seconds=seconds)
        found = handle._line.find()
        assert found is not None
        assert found.row.reason == reason, found.failure
        self.stalls[handle.address] = reason
        return history

    def cancel(self, handle: Handle[Any]) -> None:
        """Ask for a run to be undone; one that has ended meanwhile is left alone."""
        with contextlib.suppress(RunEnded):
            handle.cancel()

    def attempts(self, handle: Handle[Any], step: str, direction: str = "action") -> list[int]:
        """Return the attempts at which a service was called, in order."""
        entries = self.ledger.entries(run=handle.address, step=step, kind=Kind.ATTEMPTED)
        return [entry.call.attempt for entry in entries if entry.call.direction == direction]

    def applied(self, handle: Handle[Any], step: str) -> int:
        """Count the effects of a step's action."""
        return len(self.ledger.entries(run=handle.address, step=step, kind=Kind.APPLIED))

    def undone(self, handle: Handle[Any], step: str) -> int:
        """Count the undos of a step's action."""
        return len(self.ledger.entries(run=handle.address, step=step, kind=Kind.UNDONE))

    # -- gates, messages, evidence ---------------------------------------------------------------------------------

    def reached(self, gate: str) -> None:
        """Wait until a step stands at a gate."""
        self.until(lambda: (self.folder / f"{gate}.reached").exists(), f"gate {gate} is reached")

    def open(self, gate: str) -> None:
        """Let what waits at a gate pass."""
        (self.folder / f"{gate}.open").touch()

    @contextlib.contextmanager
    def broker(self) -> Iterator[redis.Redis]:
        """Lend a client of the broker."""
        with redis.Redis.from_url(self.broker_url) as client:
            yield client

    def queued(self) -> int:
        """Count the messages that wait in the broker's queue or with a worker."""
        with self.broker() as client:
            waiting: Any = client.llen("celery")
            held: Any = client.hlen("unacked")
            return int(waiting) + int(held)

    def fired(self, armed: Armed, *, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait until an armed crash has happened; return the process that it hit."""
        return self.until(lambda: armed.fired, "the armed crash happens", seconds=seconds) or 0

    def until_told(self) -> None:
        """Wait until no worker has anything in hand: a fenced one may still have to tell what it knows."""
        nodes = [f"{node.name}@test" for node in self.nodes.values() if node.command[: len(WORKER)] == WORKER]

        def idle() -> bool:
            asked = self.app.control.inspect(destination=nodes, timeout=1.0, limit=len(nodes)).active() or {}
            return len(asked) == len(nodes) and not any(asked.values())

        self.until(idle, "the workers have told all")

    def audit(self, definitions: Mapping[tuple[str, int], SagaDefinition]) -> None:
        """Wait until all is quiet, and fail on any invariant that does not hold."""
        self.armoury.disarm()
        self.until(lambda: self.count(OPEN) == 0, "all is quiet")
        found = Audit(
            self.owner,
            self.ledger.entries(),
            accepted=self.accepted,
            stalls=self.stalls,
            resolved=self.resolved,
            definitions=definitions,
            seen=self.sightings.of_run,
        ).check()
        found = [violation for violation in found if violation not in self.told_of]
        self.told_of.update(found)
        assert not found, "\n".join(map(str, found))


def kinds(history: list[Event]) -> list[EventKind]:
    """Return the kinds of a log, in order."""
    return [event.kind for event in history]
