"""The process that takes turns on the runs of its shards: take, decide, commit, publish; and sleeps when all is done.

One thread does all that; a beat, an upkeep and a publisher run beside it. What a turn decides it must not know.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from uuid import UUID, uuid4

import psycopg
from celery import Celery

from saga.core.errors import ConfigurationError, SagaError
from saga.core.events import EventKind
from saga.core.lifecycle import StallReason, Status
from saga.engine import schema as tables
from saga.engine.beating import Beat
from saga.engine.cache import Cache
from saga.engine.crashpoints import Point, reach
from saga.engine.database import Database
from saga.engine.installation import Installation, installation_of
from saga.engine.messages import queue_of
from saga.engine.preparing import Prepared
from saga.engine.publisher import Publisher
from saga.engine.records import Taken
from saga.engine.resting import SOON_SECONDS, Rest
from saga.engine.store.connect import Connection, connect
from saga.engine.store.failures import BatchRefused, CommitUnknown, Fenced, StoreFailure, Superseded
from saga.engine.store.floors import Floors
from saga.engine.store.logs import UnreadableLogs
from saga.engine.store.membership import Membership, OwnedShard
from saga.engine.store.sending import Sending
from saga.engine.store.turning import TAKE_BYTES_MAX, Turning
from saga.engine.store.widths import Widths
from saga.engine.suspicion import DEATHS_ALONE_MAX, Suspicion
from saga.engine.turn import Log, Turns
from saga.engine.upkeep import Upkeep

log = logging.getLogger("saga.coordinator")

#: Seconds between two looks at what is mine, and the longest sleep.
OWN_SECONDS = 1.0
#: Collections of younger garbage before one that looks at everything: some 700,000 objects more than before.
FULL_COLLECTION_AFTER = 100
#: Timers of a shard that a look ahead notes.
TIMERS_AHEAD_MAX = 100
#: With so many attempts out, a turn of fewer than LINGER_ARRIVALS waits for a fuller batch: so long for each attempt
#: that is out, so that workers never run dry meanwhile, and at most LINGER_SECONDS_MAX.
LINGER_OUTSTANDING = 24
LINGER_ARRIVALS = 64
LINGER_SECONDS_EACH = 0.0004
LINGER_SECONDS_MAX = 0.05
#: A turn of at most so many arrivals leaves the bells rung for: waking up and lying down again would cost more.
QUIET_ARRIVALS = 4

#: Stalls that another build may get going again.
_NEW_BUILD_HELPS = (StallReason.NO_DEFINITION, StallReason.REPLAY_MISMATCH)


class Buried(SagaError):
    """Raised when this coordinator's lease ran out and others took over: the process must exit."""


class Coordinator:
    """One start of a coordinator. `run` returns after `stop`, and raises Buried when others took over."""

    def __init__(self, installation: Installation) -> None:
        app = installation.app
        conf = app.conf
        self.me: UUID = uuid4()
        self._installation = installation
        self._app = app
        self._schema = installation.schema
        self._lease_seconds = float(conf.saga_lease_seconds)
        self._arrivals_max = int(conf.saga_batch_arrivals)
        self._build = installation.definitions.build
        self._turning = Turning(self._schema)
        self._membership = Membership(self._schema)
        self._sending = Sending(self._schema)
        self._floors = Floors()
        self._widths = Widths()
        self._cache = Cache(int(conf.saga_cache_runs))
        self._publisher = Publisher(app)
        self._connection: Connection | None = None
        self._rung: frozenset[int] = frozenset()  #: shards that rang while the bells were held
        self._shards: dict[int, OwnedShard] = {}
        self._suspicion = Suspicion(self._membership, self.me)
        #: Runs whose logs only newer code can read: (shard, saga, key).
        self._aside: dict[UUID, tuple[int, str, str]] = {}
        self._republishing: set[int] = set()  #: shards whose tasks the publisher is sending again
        self._owned_at = 0.0
        self._moved = 0
        self._outstanding = 0
        self._runs_max: int | None = None
        self._left = False  #: the last batch left arrivals of its take behind
        self._took: set[int] = set()  #: arrivals that the batches of this cycle took
        self._in_doubt = False  #: it was told to end before it knew whether its last batch landed
        self._stopping = threading.Event()
        self._rest = Rest(self._schema, self._connect, self._stopping)
        self._turns = Turns(
            installation.definitions,
            self._cache,
            build=self._build,
            route=lambda task: queue_of(app, task),
            logs=self._logs,
            start_waits=self._start_waits,
            moved=self._move,
            seconds=float(conf.saga_turn_seconds),
        )
        self._beat = Beat(
            self._membership,
            self.me,
            self._lease_seconds,
            connect=self._connect,
            published=lambda: self._publisher.published,
            moved=lambda: self._moved,
        )
        self._upkeep = Upkeep(
            app,
            self._schema,
            self.me,
            self._lease_seconds,
            connect=self._connect,
            owned=lambda: frozenset(self._shards),
            publisher=self._publisher,
            ring=self._rest.ring,
        )

    def stop(self) -> None:
        """Hand over: end after the turn under way. Safe in a signal handler."""
        self._stopping.set()
        self._rest.ring()

    def run(self) -> None:
        """Take turns until told to stop, then hand every shard over at once.

        Raises:
            Buried: others took over; nothing of this process may be used any more.
        """
        self._begin()
        try:
            while not self._stopping.is_set():
                self._moved += 1
                try:
                    self._cycle()
                except Fenced as error:
                    raise Buried(f"coordinator {self.me} was buried: its shards have other owners") from error
                except (psycopg.Error, StoreFailure) as error:
                    log.warning("lost Postgres (%s): again", type(error).__name__)
                    self._disconnect()
                    self._stopping.wait(0.2)
            self._hand_over()
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._publisher.stop(0)
            self._upkeep.stop()
            self._beat.stop()
            self._cache.clear()
            self._disconnect()
            self._rest.close()

    # -- coming and going ------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        return connect(self._installation.session_url, application_name=f"saga:{self.me}")

    def _begin(self) -> None:
        while not self._stopping.is_set():
            try:
                self._membership.register(self._turn_connection(), self.me, self._build, self._lease_seconds)
                break
            except (psycopg.OperationalError, CommitUnknown) as error:
                log.warning("cannot register with Postgres (%s): again", type(error).__name__)
                self._disconnect()
                self._stopping.wait(0.5)
        self._publisher.start()
        self._beat.start()
        self._upkeep.start()
        log.info("coordinator %s, build %s, lease %g s", self.me, self._build, self._lease_seconds)

    def _hand_over(self) -> None:
        self._upkeep.stop()
        if not self._publisher.stop(self._lease_seconds / 2) or self._in_doubt:
            return  # something is unpublished, or may be: whoever buries this one finds the mark and publishes it
        with suppress(psycopg.Error, StoreFailure):
            self._membership.resign(self._turn_connection(), self.me, published=self._publisher.published)

    def _turn_connection(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = None
        self._rest.disconnect()
        self._rung = frozenset()
        self._floors.forget()
        self._owned_at = 0.0

    # -- the loop --------------------------------------------------------------------------------------------------

    def _cycle(self) -> None:
        if self._beat.lost.is_set() or self._upkeep.lost.is_set():
            raise Fenced(f"coordinator {self.me} was buried")
        if time.monotonic() - self._owned_at >= OWN_SECONDS:
            self._own()
        taken = self._take()
        self._took.clear()
        careful = self._suspicion.careful and (taken.arrivals or taken.timers)
        progress = self._turn_carefully(taken) if careful else self._turn(taken)
        if not taken.more and self._suspicion:
            self._suspicion.acquit(self._turn_connection(), self._shards)
            return
        if not careful and self._widths.learn(taken, self._took):
            return
        if progress and (taken.more or self._left):
            return
        if progress and self._outstanding >= LINGER_OUTSTANDING and len(taken.arrivals) < LINGER_ARRIVALS:
            self._rest.get_up()
            self._stopping.wait(min(self._outstanding * LINGER_SECONDS_EACH, LINGER_SECONDS_MAX))
            return
        if progress and len(taken.arrivals) > QUIET_ARRIVALS:
            self._rest.get_up()
            return
        self._sleep()

    def _take(self) -> Taken:
        per_shard = max(4, 2 * self._arrivals_max // max(len(self._shards), 1))
        # While the bells are held, every arrival rings: then only the shards that rang are looked at, and in full.
        rung, self._rung = self._rung & self._shards.keys(), frozenset()
        if self._rest.until_timer() <= 0:
            rung = frozenset()
        taken = None
        if len(rung) == 1 and self._publisher.has_room and not self._aside:
            taken = self._turning.take_rung(self._turn_connection(), *rung, known=self._cache)
        if taken is None:
            taken = self._turning.take(
                self._turn_connection(),
                sorted(rung or self._shards),
                limit_per_shard=per_shard,
                timers_limit=per_shard,
                limits=self._widths.limits(per_shard),
                bytes_max=self._widths.bytes_max(TAKE_BYTES_MAX),
                starts=self._publisher.has_room,
                floors=None if rung else self._floors.current(),
                known=self._cache,
                aside={run: (saga, key) for run, (_, saga, key) in self._aside.items()},
            )
        concerned = {arrival.run for arrival in taken.arrivals if arrival.run} | {timer.run for timer in taken.timers}
        taken = replace(taken, runs={**taken.runs, **self._cache.rows(concerned, self._build)})
        self._rest.looked(taken.now, everywhere=not rung)
        return taken

    def _turn(self, taken: Taken, *, only: UUID | None = None) -> bool:
        """Decide and commit one batch; False when there was nothing to do."""
        if not taken.arrivals and not taken.timers:
            return False
        reach(Point.TURN_TAKEN)
        try:
            prepared = self._turns.decide(taken, only=only, runs_max=self._runs_max)
        except UnreadableLogs as error:
            self._set_aside(taken, error)
            return True
        return self._commit(prepared, taken)

    def _set_aside(self, taken: Taken, error: UnreadableLogs) -> None:
        """Leave runs that newer code has written to that code: stalled, and all that is for them stays in the inbox."""
        for run, why in error.runs.items():
            row = taken.runs.get(run)
            if row is None:  # the start of a run that undoes one of newer code's: it waits in the inbox
                start = next(arrival for arrival in taken.arrivals if arrival.run == run)
                self._aside[run] = (start.shard, start.saga or "", start.key or "")
                continue
            log.error("%s/%s is left to newer code: %s", row.saga, row.key, why)
            self._aside[run] = (row.shard, row.saga, row.key)
            stalled = row.status == Status.STALLED and row.reason == StallReason.REPLAY_MISMATCH
            if row.ended_at is None and not stalled:
                self._commit(self._turns.stall_unread(row, taken.now, StallReason.REPLAY_MISMATCH, why), taken)

    def _commit(self, prepared: Prepared, taken: Taken) -> bool:
        batch = prepared.batch
        if not (batch.taken or batch.timers_gone or batch.timers_cancelled or batch.changes):
            return False
        kinds = " ".join(event.event.kind for event in batch.events)
        reach(Point.TURN_DECIDED, kinds)
        try:
            task_ids = self._turning.commit(self._turn_connection(), self.me, batch).task_ids
        except Superseded as error:
            log.info("a batch was behind the database (%s): taken again", error)
            self._back_out(prepared)
            return True
        except BatchRefused as error:
            self._back_out(prepared)
            self._halve(prepared, taken, error)
            return True
        except CommitUnknown:
            found = self._look_after(prepared)
            if found is None:
                self._back_out(prepared)
                self._runs_max = max(len(prepared.heads) // 2, 1)  # it may be the batch's size that ends connections
                return True
            task_ids = found
        except BaseException:
            self._back_out(prepared)
            raise
        reach(Point.TURN_COMMITTED, kinds)
        self._runs_max = None
        self._floors.committed(prepared.taken)
        self._took.update(batch.taken)
        self._outstanding += len(batch.tasks) - sum(1 for arrival in prepared.taken if arrival.token is not None)
        self._outstanding = max(self._outstanding, 0)
        self._left = len(prepared.taken) < len(taken.arrivals)
        self._rest.remember(timer.due_at for timer in batch.timers)
        if batch.fences:
            self._rest.get_up()  # what a fence takes back arrives without a ring
        messages = prepared.messages(task_ids)
        if messages:
            self._publisher.publish(messages, max(task_ids.values()))
        return True

    def _back_out(self, prepared: Prepared) -> None:
        """Forget everything that the failed batch touched: memory is ahead of the database."""
        self._cache.evict(prepared.heads)
        self._disconnect()

    def _halve(self, prepared: Prepared, taken: Taken, error: BatchRefused) -> None:
        """Find the run whose values cannot be stored, by halves, and stall it alone."""
        runs = list(prepared.heads)
        if len(runs) > 1:
            self._runs_max = len(runs) // 2
            return
        self._runs_max = None
        for run in runs:
            log.error("run %s cannot be stored and is stalled: %s", prepared.labels[run], error)
            self._commit(self._turns.stall(taken, run, StallReason.LIMIT_REACHED, str(error)), taken)

    def _look_after(self, prepared: Prepared) -> dict[UUID, int] | None:
        """Find out whether a commit without an answer landed (P10): its task ids, or None when nothing was written."""
        while not self._stopping.is_set():
            self._disconnect()
            try:
                connection = self._turn_connection()
                heads = self._turning.read_heads(connection, self.me, prepared.heads)
                landed = all(heads.get(run, 0) == after for run, (_, after) in prepared.heads.items())
                if not prepared.heads or not landed:
                    return None
                return self._turning.task_ids(connection, [task.token for task in prepared.batch.tasks]).task_ids
            except Fenced:
                raise
            except (psycopg.Error, StoreFailure) as error:
                log.warning("a commit is unknown and Postgres does not answer (%s)", type(error).__name__)
                self._moved += 1
                self._stopping.wait(0.2)
        self._in_doubt = True
        return None

    def _start_waits(self, saga: str, key: str) -> bool:
        arrivals = self._installation.reading.pending_arrivals(self._turn_connection(), saga, key)
        return any(arrival.kind == EventKind.RUN_STARTED for arrival in arrivals)

    def _move(self) -> None:
        """Tell the beat that the loop is alive: a long turn is not a dead one."""
        self._moved += 1

    def _logs(self, runs: Iterable[UUID]) -> dict[UUID, Log]:
        return self._turning.events_of(self._turn_connection(), dict.fromkeys(runs, 0))

    # -- shards ----------------------------------------------------------------------------------------------------

    def _own(self) -> None:
        """Read what is mine (P15), the only truth of it, and publish again what my predecessor may not have."""
        faulthandler.dump_traceback_later(3 * self._lease_seconds + 30, exit=True)
        connection = self._turn_connection()
        forgotten = self._membership.remember(connection, self._move)
        if forgotten:
            log.warning("Postgres crashed: %d attempts that nobody has claimed may be running", forgotten)
        if self._upkeep.release and self._publisher.drained:
            spare = sorted(self._shards)[-self._upkeep.release :]
            self._upkeep.release = 0
            self._membership.release(connection, self.me, spare)
        owned = self._membership.owned(connection, self.me)
        changed = frozenset(owned.keys() ^ self._shards.keys())
        came = owned.keys() - self._shards.keys()
        self._rung = frozenset()
        if changed:
            log.info("owns %d shards", len(owned))
            self._cache.evict_shards(changed)
            self._aside = {run: place for run, place in self._aside.items() if place[0] not in changed}
            self._floors.forget()
            self._rest.get_up()
        self._suspicion.came(connection, (owned[shard] for shard in came))
        for shard in owned.values():
            if shard.republish_from is not None and shard.id not in self._republishing:
                self._republish(connection, shard)
            self._move()
        if came:
            reach(Point.SHARDS_ACQUIRED)
            self._retry_with_this_build(connection, sorted(came))
        soon = self._turning.due_soon(connection, sorted(owned), seconds=SOON_SECONDS, limit_per_shard=TIMERS_AHEAD_MAX)
        self._rest.expect(soon)
        # Last: what an error cut short is done again for shards that are not noted yet.
        self._shards = owned
        self._owned_at = time.monotonic()

    def _republish(self, connection: Connection, shard: OwnedShard) -> None:
        messages = self._membership.messages_after(connection, shard.id, shard.republish_from or 0)

        def published() -> None:
            with suppress(psycopg.Error), self._connect() as own:
                self._membership.republished(own, self.me, shard.id)
            self._republishing.discard(shard.id)

        self._republishing.add(shard.id)
        self._publisher.give(messages, then=published)

    def _retry_with_this_build(self, connection: Connection, shards: list[int]) -> None:
        """Let runs that another build could not replay try once with this one."""
        stalled = self._turning.stalled(connection, shards, _NEW_BUILD_HELPS, other_than_build=self._build, limit=1_000)
        for row in stalled:
            self._sending.send(
                connection,
                shard=row.shard,
                lane=0,
                run=row.id,
                saga=row.saga,
                key=row.key,
                kind=EventKind.RETRY_REQUESTED.value,
                dedupe=None,
                payload=None,
            )
            self._move()

    def _turn_carefully(self, taken: Taken) -> bool:
        """After two unclean deaths take one run at a time, written down before it is tried: it may be what killed."""
        progress = False
        row_shards = {row.id: row.shard for row in taken.runs.values()}
        starts = {a.run: a.shard for a in taken.arrivals if a.kind == EventKind.RUN_STARTED and a.run is not None}
        for run, shard in self._suspicion.first({**starts, **row_shards}).items():
            if self._suspicion.guilty(run, shard):
                log.error("run %s killed the coordinators that tried it alone and is stalled", run)
                message = f"{DEATHS_ALONE_MAX} coordinators died one after the other while they tried it alone"
                progress |= self._commit(self._turns.stall(taken, run, StallReason.SAGA_BUG, message), taken)
                continue
            self._suspicion.tries(self._turn_connection(), run, shard)
            progress |= self._turn(taken, only=run)
        self._suspicion.survived(self._turn_connection())
        return progress

    def _sleep(self) -> None:
        """Lie down and look once more; having looked with the bells held, wait until there is something to do (P19)."""
        if not self._rest.held:
            self._rest.lie_down(sorted(self._shards))
            return
        rings, own = self._rest.wait(OWN_SECONDS)
        self._rung = rings.shards
        if rings.members:
            self._upkeep.now()
        if own:
            self._owned_at = 0.0


def serve(app: Celery) -> None:
    """Run a coordinator in this process until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: no database or broker is set.
        SchemaError: the tables are missing, older or newer than this code.
        Buried: its lease ran out and others took over: start a new process.
    """
    app.finalize()
    installation = installation_of(app)
    check_ready(installation)
    coordinator = Coordinator(installation)

    def end(_number: int, _frame: FrameType | None) -> None:
        coordinator.stop()

    collect_seldom()
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    coordinator.run()


def collect_seldom() -> None:
    """Let the garbage collector of this process look seldom at what stays: imports, and thousands of waiting runs.

    A look at all of them takes a fifth of a second, in which no turn is taken. Runs that leave memory are no garbage:
    nothing in them refers to itself any more.
    """
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_AFTER)


def check_ready(installation: Installation) -> None:
    """Refuse to start without a database, its tables, and a broker.

    Raises:
        ConfigurationError: one of them is missing; the message says what to set.
        SchemaError: the tables are missing, older or newer than this code.
    """
    if not installation.app.conf.broker_url and not installation.app.conf.broker_write_url:
        raise ConfigurationError("no broker is set: set broker_url in the application, or CELERY_BROKER_URL")
    database = Database(installation.session_url, installation.schema)
    try:
        with database.connection() as connection:
            tables.check(connection, installation.schema)
    finally:
        database.dispose()
