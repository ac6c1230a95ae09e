"""The kills of a run: when each strikes, what its victim held, and how long the held runs took to go on.

It decides by seed and by what it sees; it must not judge the run. Whatever it kills the supervisor starts again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import UUID

from demo_shop.lookout import UNREACHABLE, LiveRun, Lookout
from demo_shop.processes import Supervisor
from saga.cli.chaos import flush_broker
from saga.cli.embedded import Server

#: A flush counts when at least this many messages were queued.
QUEUED_MIN = 20
#: With fewer orders than this no sale can fill the queue so far, and no flush is planned.
FLUSH_ORDERS_MIN = 60
#: How many customers a sale brings in to fill the queue.
SALE_ORDERS = 40
#: Seconds that a kill waits for a victim that holds work, and that it may take with all its repeats.
VICTIM_SECONDS = 10.0
KILL_SECONDS = 30.0
#: Seconds between stopping Postgres and starting it again.
DATABASE_AWAY_SECONDS = 1.5


class KillKind(StrEnum):
    """What is killed."""

    WORKER = "worker"
    COORDINATOR = "coordinator"
    BROKER = "broker"  # FLUSHALL
    DATABASE = "database"  # stopped without a checkpoint, and started again
    ALL_WORKERS = "all_workers"


@dataclass(slots=True)
class Kill:
    """One kill: what its victim held right before, and since when each held run goes on. Times are Unix seconds."""

    kind: KillKind
    victim: str
    at: float
    claims: int = 0
    messages: int = 0
    runs: tuple[LiveRun, ...] = ()
    resumed_after_seconds: dict[UUID, float] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """A kill counts when its victim held work in flight."""
        if self.kind is KillKind.BROKER:
            return self.messages >= QUEUED_MIN
        return bool(self.claims or self.runs or self.messages)

    @property
    def held(self) -> str:
        """What the victim held, in words."""
        parts = ((self.claims, "claim"), (len(self.runs), "run"), (self.messages, "message"))
        return ", ".join(f"{count} {noun}{'s' * (count != 1)}" for count, noun in parts if count) or "nothing"


def plan_kills(count: int, *, seed: int, available: Sequence[KillKind] = tuple(KillKind)) -> list[KillKind]:
    """Choose the kinds of so many kills: each available kind before any comes twice, in an order by seed.

    Flushes come early, since the sale that fills the queue needs customers who are still to come.
    """
    rng = random.Random(f"kills:{seed}")
    planned: list[KillKind] = []
    while len(planned) < count:
        planned += rng.sample(list(available), len(available))
    del planned[count:]
    late = max(1, count * 6 // 10)
    for number, kind in enumerate(planned):
        others = [early for early in range(late) if planned[early] is not KillKind.BROKER]
        if number >= late and kind is KillKind.BROKER and others:
            chosen = rng.choice(others)
            planned[number], planned[chosen] = planned[chosen], kind
    return planned


class Chaos:
    """Strikes the planned kills in a thread of its own, spread over the time in which orders come in."""

    def __init__(
        self,
        kinds: Sequence[KillKind],
        *,
        lookout: Lookout,
        supervisor: Supervisor,
        workers: dict[str, str],
        coordinators: Sequence[str],
        over_seconds: float,
        seed: int,
        database: Server | None = None,
        announce_sale: Callable[[int], None] | None = None,
    ) -> None:
        """Plan; `workers` maps the supervisor's names of the worker nodes to their Celery node names.

        What stops the database needs it, and what flushes the broker needs a sale that fills the queue.
        """
        self._kinds = tuple(kinds)
        self.kills: list[Kill] = []
        self._error: BaseException | None = None
        self._lookout = lookout
        self._supervisor = supervisor
        self._workers = workers
        self._coordinators = tuple(coordinators)
        self._database = database
        self._announce_sale = announce_sale
        self._over_seconds = over_seconds
        self._rng = random.Random(f"victims:{seed}")
        self._stop = threading.Event()
        self._strikes = threading.Thread(target=self._strike_all, name="chaos", daemon=True)
        self._watches = threading.Thread(target=self._watch_held_runs, name="recovery", daemon=True)

    @property
    def counted(self) -> list[Kill]:
        """The kills whose victims held work in flight."""
        return [kill for kill in self.kills if kill.counts]

    @property
    def done(self) -> bool:
        """Say whether all kills have struck, or have been given up."""
        return not self._strikes.is_alive()

    @property
    def complaints(self) -> list[str]:
        """What did not go as planned."""
        found = [] if self._error is None else [f"the kills ended early: {self._error!r}"]
        if len(self.counted) < len(self._kinds):
            found.append(f"only {len(self.counted)} of {len(self._kinds)} kills met work in flight")
        return found

    def start(self) -> None:
        """Begin."""
        self._strikes.start()
        self._watches.start()

    def stop(self) -> None:
        """Strike no more, and wait for what is under way."""
        self._stop.set()
        for thread in (self._strikes, self._watches):
            if thread.ident is not None:
                thread.join(KILL_SECONDS)

    def _strike_all(self) -> None:
        # The last tenth of the time has no kills, so that the last ones meet orders too.
        gap = self._over_seconds * 0.9 / max(1, len(self._kinds))
        began = time.monotonic()
        try:
            for number, kind in enumerate(self._kinds):
                due = began + gap * (number + 0.5)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                self._strike_until_it_counts(kind)
        except BaseException as error:
            self._error = error
            raise

    def _strike_until_it_counts(self, kind: KillKind) -> None:
        strike = {
            KillKind.WORKER: self._kill_a_worker,
            KillKind.ALL_WORKERS: self._kill_all_workers,
            KillKind.COORDINATOR: self._kill_a_coordinator,
            KillKind.BROKER: self._flush_the_broker,
            KillKind.DATABASE: self._stop_the_database,
        }[kind]
        until = time.monotonic() + KILL_SECONDS
        while time.monotonic() < until and not self._stop.is_set():
            try:
                kill = strike()
            except UNREACHABLE:
                kill = None  # another kill is still being recovered from
            if kill is not None:
                self.kills.append(kill)
                if kill.counts:
                    return
            self._stop.wait(0.2)

    def _kill_a_worker(self) -> Kill | None:
        names = self._rng.sample(sorted(self._workers), len(self._workers))
        running = self._lookout.running_on(self._workers.values())
        for name in names:
            tokens = running.get(self._workers[name], [])
            if self._lookout.claims(tokens):
                return self._kill_workers([name], tokens, KillKind.WORKER)
        return None

    def _kill_all_workers(self) -> Kill | None:
        tokens = [token for running in self._lookout.running_on(self._workers.values()).values() for token in running]
        if not self._lookout.claims(tokens):
            return None
        return self._kill_workers(sorted(self._workers), tokens, KillKind.ALL_WORKERS)

    def _kill_workers(self, names: list[str], tokens: list[UUID], kind: KillKind) -> Kill:
        before = self._lookout.claims(tokens)
        at = time.time()
        self._supervisor.kill(*names)
        # A claim that the dead still hold is one they held when they died.
        after = self._lookout.claims(tokens)
        held = [token for token, claimant in before.items() if after.get(token) == claimant]
        return Kill(kind, ", ".join(names), at, claims=len(held), runs=tuple(self._lookout.runs_with(held)))

    def _kill_a_coordinator(self) -> Kill | None:
        for name in self._rng.sample(self._coordinators, len(self._coordinators)):
            child = self._supervisor.children[name]
            coordinator = self._lookout.coordinator_of(child.pid) if child.lives else None
            runs = self._lookout.runs_of(coordinator) if coordinator else []
            if runs:
                at = time.time()
                self._supervisor.kill(name)
                return Kill(KillKind.COORDINATOR, name, at, runs=self._look_again(runs))
        return None

    def _flush_the_broker(self) -> Kill | None:
        assert self._announce_sale is not None
        self._announce_sale(SALE_ORDERS)
        until = time.monotonic() + VICTIM_SECONDS
        while self._lookout.queue_length() < QUEUED_MIN:
            if time.monotonic() > until or self._stop.wait(0.01):
                return None
        with self._lookout.broker() as client:
            at = time.time()
            lost = flush_broker(client, self._lookout.queue)
        runs = self._lookout.runs_with([UUID(message.task_id) for message in lost])
        return Kill(KillKind.BROKER, "the broker", at, messages=len(lost), runs=tuple(runs))

    def _stop_the_database(self) -> Kill | None:
        assert self._database is not None
        runs, claims = self._lookout.runs_in_flight(), self._lookout.claims()
        if not runs and not claims:
            return None
        at = time.time()
        self._database.stop(immediate=True)
        self._stop.wait(DATABASE_AWAY_SECONDS)
        self._database.start()
        return Kill(KillKind.DATABASE, "Postgres", at, claims=len(claims), runs=self._look_again(runs))

    def _look_again(self, runs: list[LiveRun]) -> tuple[LiveRun, ...]:
        """Return the runs as the kill left them: a turn may have ended between the look and the kill."""
        heads = self._lookout.heads([run.id for run in runs])
        return tuple(replace(run, head=heads.get(run.id, run.head)) for run in runs)

    def _watch_held_runs(self) -> None:
        while not self._stop.wait(0.1):
            waiting = [
                (kill, run)
                for kill in list(self.kills)
                for run in kill.runs
                if kill.counts and run.id not in kill.resumed_after_seconds
            ]
            if not waiting:
                continue
            try:
                heads = self._lookout.heads({run.id for _, run in waiting})
            except UNREACHABLE:
                continue
            now = time.time()
            for kill, run in waiting:
                if heads.get(run.id, run.head) > run.head:
                    kill.resumed_after_seconds[run.id] = now - kill.at
