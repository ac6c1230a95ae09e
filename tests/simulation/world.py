"""Coordinators and workers as forked processes over a real Postgres and a real broker, with faults by a seed.

A coordinator is the real one. A worker takes messages off the queue by itself, loses and doubles some, and runs the
real attempt on the rest; what is forked inherits what a test has patched. It must not know what is right.
"""

from __future__ import annotations

import base64
import contextlib
import faulthandler
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import redis
from celery import Celery

from saga.cli.embedded import Database
from saga.core.definition import AnyStep, SagaDefinition
from saga.core.errors import RunEnded, UnknownRun
from saga.core.events import split_task_name
from saga.core.lifecycle import StallReason
from saga.core.signals import Signal
from saga.engine.client import Handle, start_run
from saga.engine.coordinator import Coordinator
from saga.engine.installation import DEFAULTS, Installation
from saga.engine.store.connect import connect
from saga.engine.worker import perform
from tests.arming import Armoury
from tests.audit import OPEN, WITNESS, Audit, Violation
from tests.integration import application, waiting
from tests.integration.application import FOLDER_VARIABLE, Order
from tests.ledger import Ledger
from tests.pace import quicken
from tests.sightings import Sightings
from tests.simulation.faults import Faults

#: Seconds of a coordinator's lease here.
LEASE_SECONDS = 1.2
#: Seconds after which a wait on a condition fails.
PATIENCE_SECONDS = 15.0
#: Counts the arrivals that a turn takes: one to a run that there is not, and that nothing starts, lies for a minute.
ARRIVED = """
SELECT count(*) FROM saga.inbox i WHERE i.kind = 'RunStarted'
OR EXISTS (SELECT FROM saga.run r WHERE r.id = i.run OR (r.saga, r.key) = (i.saga, i.key))
"""
#: Counts what will happen by itself within so many seconds: arrivals, attempts, and timers that fall due. Where nothing
#: will, a run that is open waits for somebody outside, or for ever.
UNDER_WAY = f"""
SELECT ({ARRIVED}) + (SELECT count(*) FROM saga.task)
+ (SELECT count(*) FROM saga.timer WHERE due_at < clock_timestamp() + make_interval(secs => %s))
"""
SAGAS: dict[tuple[str, int], SagaDefinition] = {
    (saga.name, saga.version): saga
    for saga in (
        application.trip,
        application.fork,
        application.fallback,
        application.patient,
        application.drifting,
        application.straying,
        application.racing,
        application.ledgered,
        *waiting.SAGAS,
    )
}
STEPS: tuple[AnyStep, ...] = (
    application.reserve,
    application.charge,
    application.confirm,
    application.book,
    application.notify,
    application.crawl,
    application.drift,
    application.stray,
    application.post,
)


@dataclass(slots=True)
class Child:
    """A forked process that is forked again when it ends."""

    name: str
    body: Callable[[], None]
    pid: int
    kept: bool = True
    consumes: bool = False  #: a worker: its last words count
    exits: list[int] = field(default_factory=list)

    @property
    def lives(self) -> bool:
        return self.pid > 0


def make_installation(
    url: str, broker_url: str, sagas: Mapping[tuple[str, int], SagaDefinition] = SAGAS, steps: Iterable[AnyStep] = STEPS
) -> Installation:
    """Build an installation of these sagas and of no others, whatever else was declared in this process."""
    app = Celery("simulated", broker=broker_url, set_as_current=False)
    app.add_defaults({**DEFAULTS, "saga_database_url": url})
    app.conf.update(saga_lease_seconds=LEASE_SECONDS, saga_turn_seconds=1.0)
    installation = Installation(app)
    definitions = installation.definitions
    for step in steps:
        definitions.codec.step(step)
        definitions.steps[step.name] = step
    for key, saga in sagas.items():
        definitions.codec.saga(saga)
        definitions.sagas[key] = saga
    return installation


class World:
    """One database, one broker and one ledger, the children over them, and a client."""

    def __init__(
        self,
        database: Database,
        broker_url: str,
        folder: Path,
        *,
        seed: int = 0,
        sagas: Mapping[tuple[str, int], SagaDefinition] = SAGAS,
        steps: Iterable[AnyStep] = STEPS,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.database = database
        self.broker_url = broker_url
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.armoury = Armoury(folder / "armed")
        self.children: dict[str, Child] = {}
        self.accepted: set[str] = set()
        self.sent: dict[str, set[str]] = {}  #: ids of the signals that were accepted, by the address of their run
        self.stalls: dict[str, StallReason] = {}
        self.sagas = sagas
        self.sightings = Sightings()
        self.plant: Callable[[], object] = lambda: None  #: run in every child before anything else
        self.cache_runs = 5_000
        self.installation = make_installation(database.url, broker_url, sagas, steps)
        self.owner = connect(database.owner_url, application_name="audit")
        found = self.owner.execute("SELECT to_regclass('public.witness') IS NULL").fetchone()
        if found is not None and found[0]:
            self.owner.execute(WITNESS.encode())

    # -- processes -------------------------------------------------------------------------------------------------

    def coordinator(self, name: str, faults: Faults | None = None) -> Child:
        """Fork a coordinator."""

        def body() -> None:
            (faults or Faults()).wrap_coordinator(random.Random(f"{self.seed}-{name}-{time.time_ns()}"))
            self.installation.app.conf.saga_cache_runs = self.cache_runs
            coordinator = Coordinator(self.installation)
            signal.signal(signal.SIGTERM, lambda number, frame: coordinator.stop())
            coordinator.run()

        return self._fork(name, body)

    def worker(self, name: str, faults: Faults | None = None) -> Child:
        """Fork a worker of one process."""

        def body() -> None:
            chosen = faults or Faults()
            rng = random.Random(f"{self.seed}-{name}-{time.time_ns()}")
            chosen.wrap_worker(rng)
            ends = threading.Event()
            signal.signal(signal.SIGTERM, lambda number, frame: ends.set())
            consume(self.installation, self.broker_url, chosen, rng, ends)

        child = self._fork(name, body)
        child.consumes = True
        return child

    def _fork(self, name: str, body: Callable[[], None]) -> Child:
        child = self.children.get(name) or Child(name, body, 0)
        child.body = body
        self.children[name] = child
        child.pid = self._spawn(name, body)
        return child

    def _spawn(self, name: str, body: Callable[[], None]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            faulthandler.disable()
            for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            log = os.open(self.folder / f"{name}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            faulthandler.enable(sys.stderr)
            logging.basicConfig(
                level="INFO", stream=sys.stderr, format="%(asctime)s %(process)d %(levelname)s %(message)s", force=True
            )
            os.environ[FOLDER_VARIABLE] = str(self.folder)
            quicken()
            self.armoury.listen()
            self.plant()
            body()
        except BaseException:  # the child's end, whatever it is, must not unwind into the test's own frames
            logging.getLogger("simulation").exception("%s ends", name)
            os._exit(1)
        os._exit(0)

    def tend(self) -> None:
        """Fork again what has ended."""
        for child in self.children.values():
            if child.lives:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    child.pid = 0
                    child.exits.append(os.waitstatus_to_exitcode(status))
            if not child.lives and child.kept:
                child.pid = self._spawn(child.name, child.body)

    def kill(self, *names: str) -> None:
        """SIGKILL children; `tend` forks them again."""
        for name in names:
            child = self.children[name]
            if child.lives:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                child.pid = 0

    def freeze(self, *names: str) -> None:
        """SIGSTOP children."""
        for name in names:
            if self.children[name].lives:
                os.kill(self.children[name].pid, signal.SIGSTOP)

    def thaw(self, *names: str) -> None:
        """SIGCONT children."""
        for name in names or tuple(self.children):
            if self.children[name].lives:
                os.kill(self.children[name].pid, signal.SIGCONT)

    def retire(self) -> list[Child]:
        """Let the workers finish what they have in hand and end; return those that did."""
        workers = [child for child in self.children.values() if child.consumes and child.kept]
        for child in workers:
            child.kept = False
            if child.lives:
                os.kill(child.pid, signal.SIGTERM)
        self.wait(lambda: not any(child.lives for child in workers), seconds=PATIENCE_SECONDS)
        return workers

    def remove(self, *names: str) -> None:
        """Kill children for good."""
        for name in names:
            self.children[name].kept = False
        self.kill(*names)
        for name in names:
            del self.children[name]

    def close(self) -> None:
        """End everything."""
        self.remove(*self.children)
        self.installation.database.dispose()
        self.owner.close()

    def said(self, name: str) -> str:
        """Return what a child has logged."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- waiting and looking ---------------------------------------------------------------------------------------

    def wait(self, holds: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS, tend: bool = True) -> Any:
        """Look again until it holds, or for so long; return what it was in the end."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while True:
            found = holds()
            if found or time.monotonic() > deadline:
                return found
            if tend:
                self.tend()
            pause.wait(0.01)

    def settle(self, holds: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
        """Wait until it holds, or nothing is under way any more that could bring it about; return what it was then."""
        deadline = time.monotonic() + seconds
        found: Any = None

        def over() -> bool:
            nonlocal found
            still = self.still(deadline - time.monotonic())  # first: what holds after that holds for good
            found = holds()
            return bool(found or still)

        self.wait(over, seconds=seconds)
        return found

    def still(self, seconds: float) -> bool:
        """Say whether nothing will happen by itself within so many seconds."""
        return self.count(UNDER_WAY, max(0.0, seconds)) == 0

    def until(self, holds: Callable[[], Any], what: str, *, seconds: float = PATIENCE_SECONDS) -> Any:
        """Wait until it holds, and fail otherwise."""
        found = self.wait(holds, seconds=seconds)
        assert found, f"seed {self.seed}: waited {seconds} s: {what}\n{self.told()}"
        return found

    def told(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(f"--- {name}\n{self.said(name)[-1200:]}" for name in self.children)

    def count(self, query: str, *values: Any) -> int:
        """Run a query for one number; -1 while Postgres is away."""
        try:
            row = self.owner.execute(query.encode(), values).fetchone()
        except psycopg.OperationalError:
            self.owner.close()
            with contextlib.suppress(psycopg.Error):
                self.owner = connect(self.database.owner_url, application_name="audit")
            return -1
        return 0 if row is None else int(row[0])

    def until_ready(self) -> None:
        """Wait until every shard has a living owner."""
        owned = (
            "SELECT count(*) FROM saga.shard s JOIN saga.coordinator c ON c.id = s.owner "
            "WHERE c.dead_at IS NULL AND c.lease_until > clock_timestamp()"
        )
        self.until(lambda: self.count(owned) == 64, "all shards are owned")

    @contextlib.contextmanager
    def broker(self) -> Iterator[redis.Redis]:
        """Lend a client of the broker."""
        with redis.Redis.from_url(self.broker_url) as client:
            yield client

    def queued(self) -> int:
        """Count the messages in the queue."""
        with self.broker() as client:
            waiting: Any = client.llen("celery")
            return int(waiting)

    def start(self, saga: SagaDefinition, key: str, **moods: str) -> Handle[Any]:
        """Start a run, and remember that it was accepted."""
        text = self.installation.codec.encode_saga_input(saga, Order(moods))
        handle = start_run(self.installation, saga, key, text)
        self.accepted.add(handle.address)
        return handle

    def handle(self, saga: SagaDefinition, key: str) -> Handle[Any]:
        """Return the handle of a run that something else starts."""
        return Handle(self.installation, saga.name, key, definition=saga)

    def send(self, handle: Handle[Any], signal: Signal[Any], value: Any, *, id: str) -> bool:
        """Send a signal, and remember that it was accepted; False: it was refused, for the run has ended or is not."""
        try:
            handle.send(signal, value, id=id)
        except (RunEnded, UnknownRun):
            return False
        self.sent.setdefault(handle.address, set()).add(id)
        return True

    def ended(self, handle: Handle[Any]) -> bool:
        """Say whether a run has ended or stands stalled."""
        found = self.sightings.look(handle)
        return found is not None and (found.row.ended_at is not None or found.row.status == "stalled")

    def reached(self, gate: str) -> None:
        """Wait until a step stands at a gate."""
        self.until(lambda: (self.folder / f"{gate}.reached").exists(), f"gate {gate} is reached")

    def open(self, gate: str) -> None:
        """Let what waits at a gate pass."""
        (self.folder / f"{gate}.open").touch()

    def audit(self, *, seconds: float = PATIENCE_SECONDS) -> list[Violation]:
        """Wait until all is quiet, for so long, and hold everything against the invariants.

        It is quiet, too, when runs are open and nothing is under way that could end them. A fenced worker may still be
        at work when every run has ended: it is quiet when the workers have told all.
        """
        self.armoury.disarm()
        self.thaw()
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            self.settle(lambda: self.count(OPEN) == 0, seconds=give_up_at - time.monotonic())
            retired = self.retire()
            self.wait(lambda: self.count(ARRIVED) == 0, seconds=give_up_at - time.monotonic())
            if self.count(OPEN) == 0 or self.still(give_up_at - time.monotonic()):
                break
            for child in retired:  # what they told last has set something going
                child.kept = True
        audit = Audit(
            self.owner,
            self.ledger.entries(),
            accepted=self.accepted,
            stalls=self.stalls,
            definitions=self.sagas,
            seen=self.sightings.of_run,
            sent=self.sent,
        )
        return audit.check()


def consume(
    installation: Installation, broker_url: str, faults: Faults, rng: random.Random, ends: threading.Event
) -> None:
    """Take messages off the queue until told to end: some are lost, some doubled, the rest run as by a real worker."""
    client = redis.Redis.from_url(broker_url)
    while not ends.is_set():
        try:
            taken: Any = client.brpop(["celery"], timeout=0.05)
        except redis.RedisError:
            time.sleep(0.1)
            continue
        if taken is None or rng.random() < faults.lost:
            continue
        message: Mapping[str, Any] = json.loads(taken[1])
        if rng.random() < faults.doubled and "again" not in message:
            for _ in range(2):
                client.rpush("celery", json.dumps({**message, "again": True}))
        _, given, _ = json.loads(base64.b64decode(message["body"]))
        task = message["headers"]["task"]
        if split_task_name(task)[0] in installation.definitions.steps:
            # What Celery would show; the outcome is in the database.
            with contextlib.suppress(Exception):
                perform(installation, task, UUID(given["idempotency_key"]), given["run"], given["attempt"])
