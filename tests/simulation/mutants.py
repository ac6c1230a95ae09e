"""Defects planted in the engine on purpose, each with what brings it out and the invariants that must notice.

A mutant is planted in forked processes, or in the database of one test; this process's own engine stays whole. It must
not know how the audit finds it.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg

import saga.core.fold
import saga.core.policy
import saga.engine.preparing
from saga.cli.embedded import Servers
from saga.core.effects import AnswerParent, ReleaseLocks, StartChild, TellChild
from saga.core.events import Direction, Event, EventKind
from saga.core.execution import Execution
from saga.core.state import State
from saga.core.tracks import Phase
from saga.core.waits import Mailbox
from saga.engine.cache import Cache, CachedRun
from saga.engine.client import Handle
from saga.engine.coordinator import Coordinator
from saga.engine.crashpoints import Point
from saga.engine.messages import Broker, queue_of
from saga.engine.preparing import Prepared
from saga.engine.records import Arrival, Batch, Taken, TaskMessage
from saga.engine.store.connect import Connection, connect
from saga.engine.store.failures import StoreFailure
from saga.engine.store.membership import Membership
from saga.engine.store.turning import Committed, Turning
from saga.engine.store.working import Working
from saga.engine.turn import Turns
from saga.engine.upkeep import Upkeep
from tests.arming import Victim
from tests.integration.application import drifting, fork, racing, straying, trip
from tests.integration.waiting import answer, asking, exclusive, journey, parting, regretful
from tests.ledger import Call, Kind
from tests.simulation.faults import Fault, Faults, failing
from tests.simulation.world import World

Drive = Callable[[World, Servers], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One defect: `plant` runs in each forked process, `sql` changes the database; `drive` brings it out."""

    name: str
    caught_by: frozenset[str]  #: any of these is enough
    drive: Drive
    plant: Callable[[], None] = lambda: None
    sql: Callable[[str], str] | None = None  #: makes another `commit_turns_v1` of the one there is
    bound_seconds: float = 2.5  #: after which the run must have ended


# -- what brings them out ----------------------------------------------------------------------------------------------


def _staffed(world: World, faults: Faults | None = None) -> None:
    world.coordinator("c1")
    for name in ("w1", "w2"):
        world.worker(name, faults)
    world.until_ready()


def plain(world: World, servers: Servers) -> None:
    """Run to the end, and undo."""
    _staffed(world)
    handles = [world.start(trip, "plain"), world.start(trip, "undone", confirm="abort")]
    world.settle(lambda: all(map(world.ended, handles)), seconds=2.5)


def doubled(world: World, servers: Servers) -> None:
    """Deliver every message three times, while its step is under way."""
    _staffed(world, Faults(doubled=1.0))
    handles = [world.start(trip, f"doubled-{number}", reserve="slow", charge="slow") for number in range(3)]
    world.settle(lambda: all(map(world.ended, handles)), seconds=3)


def flushed(world: World, servers: Servers) -> None:
    """Lose every message that is queued."""
    _staffed(world)
    world.freeze("w1", "w2")
    # A frozen worker may have been waiting for one, and gets it; the others are in the queue.
    handles = [world.start(trip, f"flushed-{number}") for number in range(4)]
    world.until(lambda: world.count("SELECT count(*) FROM saga.task") == 4 and world.queued() >= 2, "messages wait")
    with world.broker() as client:
        client.flushdb()
    world.thaw()
    world.settle(lambda: all(map(world.ended, handles)), seconds=4)


def unknown_then_abort(world: World, servers: Servers) -> None:
    """Let the first attempt land without a reply, and the second one say Abort."""
    _staffed(world)
    handle = world.start(trip, "unknown", reserve="abort_later")
    world.settle(lambda: world.ended(handle), seconds=2.5)


def late_effect(world: World, servers: Servers) -> None:
    """Freeze a worker between its claim and its call, until its service, which forgets, has been told to undo it."""
    world.coordinator("c1")
    for name in ("w1", "w2", "w3"):
        world.worker(name)
    world.until_ready()
    armed = world.armoury.arm(Point.WORKER_CLAIMED, "^application.stray$", victim=Victim.FREEZE)
    handle = world.start(straying, "late", stray="forgetful", undo_reserve="gate:late")
    frozen = world.until(lambda: armed.fired, "a worker is frozen")
    handle.cancel()
    world.reached("late")
    os.kill(frozen, signal.SIGCONT)
    applied = "application.stray"
    world.until(lambda: any(e.kind == "applied" and e.call.step == "stray" for e in world.ledger.entries()), applied)
    late = "SELECT (SELECT count(*) FROM saga.inbox) + (SELECT count(*) FROM saga.event WHERE kind = 'OutcomeLate')"
    world.wait(lambda: world.count(late) > 0, seconds=0.5)
    world.open("late")
    world.settle(lambda: world.ended(handle), seconds=2.5)


def two_at_once(world: World, servers: Servers) -> None:
    """Let two outcomes wait for one turn."""
    _staffed(world)
    handle = world.start(racing, "race", reserve="gate:race-a", crawl="gate:race-b")
    world.reached("race-a")
    world.reached("race-b")
    world.freeze("c1")
    world.open("race-a")
    world.open("race-b")
    world.until(lambda: world.count("SELECT count(*) FROM saga.inbox") == 2, "both outcomes wait")
    world.thaw()
    world.settle(lambda: world.ended(handle), seconds=3)


def failed_batch(world: World, servers: Servers) -> None:
    """Fail the first commit that moves a run on, before it is executed."""
    original = Turning.commit
    unanswered = failing(original, lambda: Fault.TIMEOUT, commits=True)
    failed: list[int] = []
    planted = world.plant

    def commit(self: Turning, connection: Connection, me: UUID, batch: Batch) -> Committed:
        if batch.changes and not failed:
            failed.append(1)
            return cast(Committed, unanswered(self, connection, me, batch))
        return original(self, connection, me, batch)

    def plant() -> None:
        planted()
        Turning.commit = commit  # type: ignore[method-assign]

    world.plant = plant
    plain(world, servers)


def forgotten_claim(world: World, servers: Servers) -> None:
    """Stop Postgres hard in the middle of a step, and deliver its message again."""
    _staffed(world)
    handle, gate = _claim_forgotten(world, servers)
    token = next(e.token for e in handle.history() if e.key == "application.drift#1")
    assert token is not None
    _deliver_again(world, handle, token)
    attempts = "the message was dropped, or the step runs again"
    world.until(
        lambda: (
            any("dropped a message" in world.said(name) for name in ("w1", "w2"))
            or len(world.ledger.entries(run=handle.address, step="drift", kind=Kind.ATTEMPTED)) == 2
        ),
        attempts,
    )
    world.open(gate)
    world.thaw()
    world.settle(lambda: world.ended(handle), seconds=6)


def forgotten_fence(world: World, servers: Servers) -> None:
    """Stop Postgres hard in the middle of a step, and cancel the run."""
    _staffed(world)
    handle, gate = _claim_forgotten(world, servers)
    handle.cancel()
    world.thaw("c1")
    cancelled = "SELECT count(*) FROM saga.event WHERE kind = 'CancelRequested'"
    world.until(lambda: world.count(cancelled) == 1, "it is cancelled")
    undoing = "SELECT count(*) FROM saga.event WHERE kind = 'CompensationScheduled'"
    world.wait(lambda: world.count(undoing) > 0, seconds=1)  # for nothing: what may be running is awaited
    world.open(gate)
    world.thaw()
    world.settle(lambda: world.ended(handle), seconds=6)


def _claim_forgotten(world: World, servers: Servers) -> tuple[Handle[Any], str]:
    """Crash Postgres while a step stands at a gate, until its claim is forgotten; all but one worker stay frozen.

    Whatever else Postgres flushes just then takes the claim with it: then nothing is forgotten, and the run goes on.
    The step's worker is frozen, because it renews its claim, and a renewal makes good what was forgotten.
    """
    for number in range(8):
        gate = f"forgotten-{number}"
        with _unflushed(servers):
            handle = world.start(drifting, gate, drift=f"gate:{gate}")
            world.reached(gate)
            at_work = world.ledger.entries(run=handle.address, step="drift")[-1].pid
            world.freeze("c1", next(name for name, child in world.children.items() if child.pid == at_work))
            _crash(world, servers)
        if world.count("SELECT count(*) FROM saga.task WHERE claimed_by IS NULL") == 1:
            return handle, gate
        world.open(gate)
        world.thaw()
        world.until(partial(world.ended, handle), "it ends, for nothing was forgotten")
    raise AssertionError("each crash came after a flush")


@contextmanager
def _unflushed(servers: Servers) -> Iterator[None]:
    """Leave to a crash of Postgres what no commit has waited for."""
    with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
        superuser.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        superuser.execute("SELECT pg_reload_conf()")
    yield
    with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
        superuser.execute("ALTER SYSTEM RESET wal_writer_delay")
        superuser.execute("SELECT pg_reload_conf()")


def _crash(world: World, servers: Servers) -> None:
    assert servers.postgres is not None
    servers.postgres.stop(immediate=True)
    servers.postgres.start()
    world.until(lambda: world.count("SELECT count(*) FROM saga.run") >= 0, "Postgres is back")


def delayed(world: World, servers: Servers) -> None:
    """Ask for a step again in a while."""
    _staffed(world)
    handle = world.start(trip, "delayed", reserve="later:0.6")
    world.settle(lambda: world.ended(handle), seconds=5)


def forgotten_end(world: World, servers: Servers) -> None:
    """Show a client that a run has ended, stop Postgres hard, and show it again before any turn is taken."""
    _staffed(world)
    with _unflushed(servers):
        handle = world.start(trip, "forgotten-end")
        world.until(lambda: world.ended(handle), "it is seen to have ended")
        world.freeze("c1")
        _crash(world, servers)
    world.ended(handle)
    world.thaw()
    world.settle(lambda: world.ended(handle), seconds=6)


def signalled(world: World, servers: Servers) -> None:
    """Send one signal twice, and another that nobody reads."""
    _staffed(world)
    handle = world.start(asking, "signalled", reserve="gate:signalled")
    world.reached("signalled")
    for id in ("a", "a", "b"):
        world.send(handle, answer, "yes", id=id)
    world.open("signalled")
    world.settle(lambda: world.ended(handle), seconds=3)


def locked(world: World, servers: Servers) -> None:
    """Let a run wait for a lock while the one that has it is undone, slowly."""
    _staffed(world)
    first = world.start(exclusive, "first", lock="name", undo_reserve="gate:locked")
    world.until(lambda: _applied(world, first), "the first has it")
    second = world.start(exclusive, "second", lock="name")
    world.until(lambda: world.count("SELECT count(*) FROM saga.lock WHERE NOT held") == 1, "the second waits")
    first.cancel()
    world.reached("locked")
    world.wait(lambda: _applied(world, second), seconds=0.5)
    world.open("locked")
    world.send(second, answer, "yes", id="a")
    world.settle(lambda: world.ended(first) and world.ended(second), seconds=3)


def parented(world: World, servers: Servers) -> None:
    """Let children complete, fail, be undone with their parents, and be cancelled at a parent's end."""
    _staffed(world)
    moods: list[dict[str, str]] = [{}, {"charge": "abort"}, {"confirm": "abort"}]
    handles = [world.start(journey, f"parented-{number}", **mood) for number, mood in enumerate(moods)]
    handles.append(world.start(parting, "parted"))
    left = world.handle(asking, "parted-abandoned")
    world.settle(lambda: world.send(left, answer, "yes", id="a"), seconds=3)
    world.settle(lambda: all(map(world.ended, [*handles, left])), seconds=5)


def rolled_back(world: World, servers: Servers) -> None:
    """Go back to a save-point, and on."""
    _staffed(world)
    handle = world.start(regretful, "rolled-back", confirm="abort")
    world.settle(lambda: world.ended(handle), seconds=4)


def _applied(world: World, handle: Handle[Any]) -> bool:
    return bool(world.ledger.entries(run=handle.address, step="reserve", kind=Kind.APPLIED))


def _deliver_again(world: World, handle: Handle[Any], token: UUID) -> None:
    broker = Broker(world.installation.app)
    broker.publish([TaskMessage(1, token, 1, uuid4(), handle.address, "application.drift", "celery", None)])
    broker.close()


@dataclass
class Hand:
    """A coordinator played by hand: it takes, decides and commits when it is told to."""

    world: World
    me: UUID
    connection: Connection
    turning: Turning
    turns: Turns

    @classmethod
    def join(cls, world: World) -> Hand:
        """Register."""
        me = uuid4()
        turning = Turning("saga")
        definitions = world.installation.definitions
        connection = connect(world.database.url, application_name=f"saga:{me}")
        membership = Membership("saga")
        membership.remember(connection)
        membership.register(connection, me, definitions.build, 60.0)
        turns = Turns(
            definitions,
            Cache(100),
            build=definitions.build,
            route=lambda task: queue_of(world.installation.app, task),
            logs=lambda runs: turning.events_of(connection, dict.fromkeys(runs, 0)),
            start_waits=lambda saga, key: False,
            moved=lambda: None,
            seconds=5.0,
        )
        return cls(world, me, connection, turning, turns)

    def own_all(self) -> None:
        """Take every shard, whoever has them."""
        self.world.owner.execute("UPDATE saga.shard SET owner = %s", (self.me,))

    def take(self) -> Taken:
        """P7."""
        return self.turning.take(self.connection, range(64), limit_per_shard=50, timers_limit=50, starts=True)

    def commit(self, prepared: Prepared) -> bool:
        """P9; False when it was refused."""
        if self.connection.closed or self.connection.broken:
            self.connection = connect(self.world.database.url, application_name=f"saga:{self.me}")
        try:
            self.turning.commit(self.connection, self.me, prepared.batch)
        except StoreFailure:
            return False
        return True

    def leave(self) -> None:
        """Close the connection, and be dead."""
        self.connection.close()
        self.world.owner.execute("UPDATE saga.coordinator SET dead_at = clock_timestamp() WHERE id = %s", (self.me,))


def zombie(world: World, servers: Servers) -> None:
    """Let a coordinator commit what it decided before it was buried."""
    old = Hand.join(world)
    old.own_all()
    handle = world.start(trip, "zombie")
    prepared = old.turns.decide(old.take())
    world.owner.execute(
        "UPDATE saga.coordinator SET dead_at = clock_timestamp(), published = 0 WHERE id = %s", (old.me,)
    )
    old.commit(prepared)
    old.connection.close()
    world.coordinator("c1")
    world.worker("w1")
    world.until_ready()
    world.settle(lambda: world.ended(handle), seconds=3)


def two_owners(world: World, servers: Servers) -> None:
    """Let two living coordinators own every shard, and decide on the same run at the same head."""
    first, second = Hand.join(world), Hand.join(world)
    first.own_all()
    handle = world.start(fork, "two-owners")
    first.commit(first.turns.decide(first.take()))
    working = Working("saga")
    for step in ("application.reserve", "application.notify"):
        row = world.owner.execute("SELECT token FROM saga.task WHERE name = %s", (step,)).fetchone()
        assert row is not None
        claim = working.claim(first.connection, row[0], 1, uuid4())
        assert claim is not None
        call = Call(handle.address, step.partition(".")[2], "action", str(row[0]), str(row[0]), 1)
        world.ledger.attempted(call)
        world.ledger.apply(call)
        working.record_outcome(first.connection, claim, EventKind.STEP_SUCCEEDED, '{"value":"\\"seat\\""}')
    taken = first.take()
    decided = [
        hand.turns.decide(replace(taken, arrivals=(arrival,)))
        for hand, arrival in zip((first, second), taken.arrivals, strict=True)
    ]
    first.commit(decided[0])
    second.own_all()
    second.commit(decided[1])
    second.leave()
    first.leave()
    world.coordinator("c1")
    world.worker("w1")
    world.until_ready()
    world.settle(lambda: world.ended(handle), seconds=3)


# -- what is planted ---------------------------------------------------------------------------------------------------


def _token_check_off() -> None:
    original = Working.__init__

    def init(self: Working, schema: str) -> None:
        original(self, schema)
        cut = re.sub(rb"AND \(claimed_by IS NULL .*? OR claimed_by = %\(claimant\)s\)", b"", self._claim)
        assert cut != self._claim
        self._claim = cut

    Working.__init__ = init  # type: ignore[method-assign]


def _tombstone_off() -> None:
    original = Working.__init__

    def init(self: Working, schema: str) -> None:
        original(self, schema)
        kept = self._outcome.replace(b"DELETE FROM", b"UPDATE").replace(
            b".task WHERE", b".task SET claimed_by = NULL, claimed_at = NULL, lease_until = NULL WHERE"
        )
        assert kept != self._outcome
        self._outcome = kept

    Working.__init__ = init  # type: ignore[method-assign]


def _claims_after_a_crash() -> None:
    original = Working.__init__

    def init(self: Working, schema: str) -> None:
        original(self, schema)
        cut = self._claim.replace(b'AND EXISTS (SELECT FROM "saga".unbroken)', b"")
        assert cut != self._claim
        self._claim = cut

    Working.__init__ = init  # type: ignore[method-assign]


def _unclaimed_after_a_crash() -> None:
    original = Membership.__init__

    def init(self: Membership, schema: str) -> None:
        original(self, schema)
        cut = self._forgotten.replace(b"WHERE claimed_by IS NULL AND token IN", b"WHERE false AND token IN")
        assert cut != self._forgotten
        self._forgotten = cut

    Membership.__init__ = init  # type: ignore[method-assign]


def _forward_undo() -> None:
    def undo(state: State, emit: saga.core.policy.Emit) -> None:
        standing = [step for step in state.steps.values() if step.may_stand]
        if not standing:
            emit(EventKind.RUN_COMPENSATED)
            return
        oldest = min(standing, key=lambda step: step.scheduled_seq)
        if oldest.undo is not None and oldest.undo.phase is Phase.IDLE:
            emit(EventKind.COMPENSATION_SCHEDULED, token=oldest.undo.token, attempt=1, key=oldest.occurrence)

    saga.core.policy._undo = undo


def _publish_before_commit() -> None:
    original = Coordinator._commit

    def commit(self: Coordinator, prepared: Prepared, taken: Taken) -> bool:
        publish = self._publisher.publish
        messages = prepared.messages({task.token: 0 for task in prepared.batch.tasks})
        published = threading.Event()
        self._publisher.give(messages, then=published.set)
        published.wait(2)
        threading.Event().wait(0.1)
        self._publisher.publish = lambda messages, mark: None  # type: ignore[method-assign]
        try:
            return original(self, prepared, taken)
        finally:
            self._publisher.publish = publish  # type: ignore[method-assign]

    Coordinator._commit = commit  # type: ignore[method-assign]


def _gaps() -> None:
    original = Execution._append

    def append(self: Execution, given: Any, at: Any) -> None:
        if given.kind is EventKind.STEP_SUCCEEDED:
            self._seq += 1
        original(self, given, at)

    Execution._append = append  # type: ignore[method-assign]


def _no_eviction() -> None:
    def get(self: Cache, run: UUID, head: int) -> CachedRun | None:
        return self._runs.get(run)

    def back_out(self: Coordinator, prepared: Prepared) -> None:
        self._disconnect()

    Cache.get = get  # type: ignore[method-assign]
    Coordinator._back_out = back_out  # type: ignore[method-assign]


def _two_arrivals_at_once() -> None:
    feed, rest = Turns._feed, Execution._come_to_rest
    left: list[int] = [0]

    def feed_all(self: Turns, work: Any, *args: Any) -> Any:
        left[0] = len(work.arrivals)
        return feed(self, work, *args)

    def rest_at_last(self: Execution, now: Any) -> None:
        left[0] -= 1
        if left[0] <= 0:
            rest(self, now)

    Turns._feed = feed_all  # type: ignore[assignment, method-assign]
    Execution._come_to_rest = rest_at_last  # type: ignore[method-assign]


def _unknown_not_sticky() -> None:
    original = saga.core.fold.FOLDS[EventKind.STEP_FAILED]

    def failed(state: State, event: Event) -> None:
        original(state, event)
        known = state.tokens.get(event.token) if event.token else None
        if known and known[1].direction is Direction.ACTION:
            known[0].unknown = False

    saga.core.fold.FOLDS[EventKind.STEP_FAILED] = failed


def _late_dropped() -> None:
    def record_late(self: Working, *args: Any) -> None:
        return None

    Working.record_late = record_late  # type: ignore[assignment, method-assign]


def _no_lost_message_rule() -> None:
    def find(self: Upkeep, connection: Connection) -> None:
        return None

    Upkeep._find_lost_messages = find  # type: ignore[method-assign]


def _early_timers() -> None:
    original = Turning.__init__

    def init(self: Turning, schema: str) -> None:
        original(self, schema)
        early = self._take.replace(
            b"due_at <= (SELECT now FROM clock)", b"due_at <= (SELECT now FROM clock) + interval '1 h'"
        )
        assert early != self._take
        self._take = early

    Turning.__init__ = init  # type: ignore[method-assign]


def _asynchronous_turns() -> None:
    original = Turning.commit

    def commit(self: Turning, connection: Connection, me: UUID, batch: Batch) -> Committed:
        connection.execute("SET synchronous_commit = off")
        return original(self, connection, me, batch)

    Turning.commit = commit  # type: ignore[method-assign]


def _doubles_kept() -> None:
    known, receive = Turns._already_known, Mailbox.receive

    def already_known(self: Turns, execution: Execution, arrival: Arrival, prepared: Prepared) -> bool:
        return arrival.kind != EventKind.SIGNAL_RECEIVED and known(self, execution, arrival, prepared)

    def receive_all(self: Mailbox, event: Any, name: str, value: str) -> Any:
        self.ids.clear()
        return receive(self, event, name, value)

    Turns._already_known = already_known  # type: ignore[method-assign]
    Mailbox.receive = receive_all  # type: ignore[method-assign]


def _unread_forgotten() -> None:
    def leftovers(self: Mailbox) -> list[str]:
        return []

    Mailbox.leftovers = leftovers  # type: ignore[method-assign]


def _without(*kinds: type[Any]) -> Callable[[], None]:
    """Return what lets effects of these kinds get lost on their way into the batch."""

    def plant() -> None:
        original = saga.engine.preparing._put_among_runs

        def put(run: UUID, cached: CachedRun, effect: Any, batch: Batch) -> None:
            if not isinstance(effect, kinds):
                original(run, cached, effect, batch)

        saga.engine.preparing._put_among_runs = put

    return plant


def _locks_let_go_of_early() -> None:
    original = saga.core.fold.FOLDS[EventKind.RUN_COMPENSATING]

    def run_compensating(state: State, event: Event) -> None:
        original(state, event)
        state.effects.append(ReleaseLocks())

    saga.core.fold.FOLDS[EventKind.RUN_COMPENSATING] = run_compensating


def _forward_rollback() -> None:
    def roll_back(state: State, emit: saga.core.policy.Emit) -> None:
        standing = [step for step in state.unfinished.values() if step.in_turn and step.may_stand]
        oldest = min(standing, key=lambda step: step.scheduled_seq, default=None)
        if oldest is not None and oldest.undo is not None and oldest.undo.phase is Phase.IDLE:
            emit(EventKind.COMPENSATION_SCHEDULED, token=oldest.undo.token, attempt=1, key=oldest.occurrence)

    saga.core.policy._roll_back = roll_back


def _locks_kept(definition: str) -> str:
    return definition.replace("p_locks_withdrawn, p_locks_released);", "p_locks_withdrawn, NULL);")


def _timers_kept(definition: str) -> str:
    return re.sub(r"DELETE FROM (\S+\.timer) t USING", r"UPDATE \1 t SET due_at = t.due_at FROM", definition)


def _fence_off(definition: str) -> str:
    return definition.replace("AND c.dead_at IS NULL FOR NO KEY UPDATE", "FOR NO KEY UPDATE")


def _compare_and_set_off(definition: str) -> str:
    # The log's primary key holds the same line: with it in place nothing gets through, so it yields too.
    loose = definition.replace("WHERE r.id = x.id AND r.head = x.old_head", "WHERE r.id = x.id")
    end = "key text, payload text, digest bytea);"
    return loose.replace(end, end[:-1] + " ON CONFLICT DO NOTHING;")


MUTANTS = (
    Mutant("token check off", frozenset({"I6"}), doubled, _token_check_off),
    Mutant("tombstone off", frozenset({"I6", "I25"}), doubled, _tombstone_off, bound_seconds=0.5),
    Mutant("claims after a crash", frozenset({"I6"}), forgotten_claim, _claims_after_a_crash, bound_seconds=6),
    Mutant(
        "unclaimed after a crash", frozenset({"I8", "I9"}), forgotten_fence, _unclaimed_after_a_crash, bound_seconds=8
    ),
    Mutant("asynchronous turns", frozenset({"I24"}), forgotten_end, _asynchronous_turns, bound_seconds=6),
    Mutant("timers before their time", frozenset({"I21"}), delayed, _early_timers),
    Mutant("timers kept when they fired", frozenset({"I21"}), delayed, sql=_timers_kept),
    Mutant("fence off", frozenset({"I17"}), zombie, sql=_fence_off),
    Mutant("compare-and-set off", frozenset({"I4", "I13", "I14", "I15"}), two_owners, sql=_compare_and_set_off),
    Mutant("undo in forward order", frozenset({"I9"}), plain, _forward_undo),
    Mutant("publish before commit", frozenset({"I4"}), plain, _publish_before_commit, bound_seconds=0.1),
    Mutant("gaps in seq", frozenset({"I13"}), plain, _gaps),
    Mutant("no eviction after a failed batch", frozenset({"I4"}), failed_batch, _no_eviction, bound_seconds=0.1),
    Mutant("two arrivals fed at once", frozenset({"I18"}), two_at_once, _two_arrivals_at_once),
    Mutant("unknown not sticky", frozenset({"I8"}), unknown_then_abort, _unknown_not_sticky),
    Mutant("late outcomes dropped", frozenset({"I8"}), late_effect, _late_dropped),
    Mutant("signals taken twice", frozenset({"I22"}), signalled, _doubles_kept),
    Mutant("unread signals forgotten", frozenset({"I22"}), signalled, _unread_forgotten),
    Mutant("locks not released", frozenset({"I4", "I25"}), locked, sql=_locks_kept),
    Mutant("locks released before the undo", frozenset({"I28"}), locked, _locks_let_go_of_early),
    Mutant("children's answers lost", frozenset({"I4", "I27"}), parented, _without(AnswerParent)),
    Mutant("children's starts lost", frozenset({"I1"}), parented, _without(StartChild)),
    Mutant("children not told", frozenset({"I4", "I27"}), parented, _without(TellChild)),
    Mutant("rollback in forward order", frozenset({"I9"}), rolled_back, _forward_rollback),
    Mutant("no lost-message rule", frozenset({"I4"}), flushed, _no_lost_message_rule, bound_seconds=0.1),
)


def plant_sql(world: World, mutant: Mutant) -> None:
    """Replace the call that commits turns in this world's database."""
    if mutant.sql is None:
        return
    row = world.owner.execute("SELECT pg_get_functiondef('saga.commit_turns_v1'::regproc)").fetchone()
    assert row is not None
    changed = mutant.sql(row[0])
    assert changed != row[0], f"{mutant.name}: there is nothing to take out of commit_turns_v1"
    world.owner.execute(changed.encode())
