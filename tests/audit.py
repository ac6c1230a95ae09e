"""Holds the tables and the services' ledger against the invariants of the engine, when all is quiet.

It reads as the owner and trusts nothing that the engine says of itself where the ledger, the client's own list or a
trigger of its own says it too. It must not know how a run was driven or what was killed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import psycopg

from saga.core.definition import SagaDefinition
from saga.core.events import (
    TERMINAL,
    Direction,
    Event,
    EventKind,
    chain_digest,
    split_task_name,
    taken_back,
    token_of,
)
from saga.core.execution import Execution
from saga.core.fold import apply
from saga.core.lifecycle import ENDED, TRANSITIONS, StallReason, Status
from saga.core.outcome import unwrap
from saga.core.remains import remains_of
from saga.core.state import State
from saga.engine.codec import JsonCodec
from saga.engine.store.logs import event_of
from saga.engine.store.turning import RUN_COLUMNS
from tests.dealings import Dealings
from tests.ledger import Entry, Kind
from tests.sightings import Sighting

#: Writes down which session appended to the log, and whether it was the shard's living owner; and all about timers.
WITNESS = """
CREATE TABLE public.witness (
    run uuid, seq integer, session text, living boolean, owner boolean, at timestamptz DEFAULT clock_timestamp()
);
CREATE FUNCTION public.bear_witness() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO public.witness (run, seq, session, living, owner)
    SELECT NEW.run, NEW.seq, current_setting('application_name'), c.dead_at IS NULL, s.owner = c.id
    FROM saga.run r JOIN saga.shard s ON s.id = r.shard
    LEFT JOIN saga.coordinator c ON 'saga:' || c.id = current_setting('application_name')
    WHERE r.id = NEW.run;
    RETURN NULL;
END $$;
CREATE TRIGGER bear_witness AFTER INSERT ON saga.event FOR EACH ROW EXECUTE FUNCTION public.bear_witness();

CREATE TABLE public.timer_witness (
    id bigint GENERATED ALWAYS AS IDENTITY, run uuid, name text, what text, due_at timestamptz,
    at timestamptz DEFAULT clock_timestamp()
);
CREATE FUNCTION public.watch_timers() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF TG_TABLE_NAME = 'event' THEN
        INSERT INTO public.timer_witness (run, name, what, due_at) VALUES (NEW.run, NEW.key, 'fired', NEW.at);
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO public.timer_witness (run, name, what) VALUES (OLD.run, OLD.name, 'gone');
    ELSE
        INSERT INTO public.timer_witness (run, name, what, due_at) VALUES (NEW.run, NEW.name, 'set', NEW.due_at);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER watch_timers AFTER INSERT OR UPDATE OR DELETE ON saga.timer
    FOR EACH ROW EXECUTE FUNCTION public.watch_timers();
CREATE TRIGGER watch_timers_fire AFTER INSERT ON saga.event
    FOR EACH ROW WHEN (NEW.kind = 'TimerFired') EXECUTE FUNCTION public.watch_timers();
"""

#: Seconds after which a timer that is due should have fired, when all is quiet.
OVERDUE_SECONDS = 5.0

#: Counts what is under way: arrivals, attempts, and runs that are neither ended nor stalled.
OPEN = """
SELECT (SELECT count(*) FROM saga.inbox) + (SELECT count(*) FROM saga.task) + (SELECT count(*) FROM saga.run
WHERE status NOT IN ('completed', 'compensated', 'terminated', 'stalled'))
"""

#: Statuses that a run may be found in, with what explains it.
Stalls = Mapping[str, StallReason]


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and where."""

    invariant: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.where}: {self.what}"


@dataclass(slots=True)
class Run:
    """A run as its row and its log tell it."""

    address: str
    row: dict[str, Any]
    log: list[tuple[Event, bytes]]
    entries: list[Entry] = field(default_factory=list)
    undoes: list[Run] = field(default_factory=list)  #: the run that this one takes back, and earlier attempts at that

    @property
    def whole(self) -> Run:
        """Return the run with what it takes back before it, numbered through, as one run would have done all."""
        if not self.undoes:
            return self
        before = [entry for run in self.undoes for entry in run.log if entry[0].kind not in TERMINAL]
        log = [(replace(event, seq=seq), digest) for seq, (event, digest) in enumerate(before + self.log, start=1)]
        row = {**self.row, "id": self.undoes[0].row["id"]}
        entries = sorted([entry for run in (*self.undoes, self) for entry in run.entries], key=lambda entry: entry.id)
        return Run(self.address, row, log, entries)

    @property
    def events(self) -> list[Event]:
        return [event for event, _ in self.log]

    def of_kind(self, *kinds: EventKind) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]


class Audit:
    """What was found wrong.

    `accepted` is the client's own list of addresses whose start it was told is committed, `seen` what it was told of
    each run later, in order, and `sent` the ids of the signals that it sent to each; None: it kept no list.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        entries: Iterable[Entry],
        *,
        accepted: Iterable[str],
        maybe: Iterable[str] = (),
        stalls: Stalls | None = None,
        resolved: Iterable[str] = (),
        definitions: Mapping[tuple[str, int], SagaDefinition] | None = None,
        seen: Mapping[str, Sequence[Sighting]] | None = None,
        sent: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.violations: list[Violation] = []
        self._connection = connection
        self._accepted = set(accepted)
        self._maybe = set(maybe)
        self._stalls = dict(stalls or {})
        self._resolved = set(resolved)
        self._definitions = dict(definitions or {})
        self._seen = dict(seen or {})
        self._sent = sent
        self.runs = self._read(list(entries))
        self._dealings = Dealings(self.runs, self._found)

    def check(self) -> list[Violation]:
        """Check everything and return what does not hold."""
        self._accepted_runs()
        for run in self.runs:
            for look in (self._ends, self._log, self._fold, self._replay):
                look(run)
            whole = run.whole
            for look in (
                self._effects,
                self._undo,
                self._order_of_undo,
                self._pivot,
                self._values,
                self._attempts,
            ):
                look(whole)
        self._dealings.check(sent=self._sent, reported=self._reported())
        self._writers()
        self._timers()
        self._sightings()
        self._quiet()
        return self.violations

    # -- reading ---------------------------------------------------------------------------------------------------

    def _read(self, entries: list[Entry]) -> list[Run]:
        columns = [*RUN_COLUMNS.split(", "), "result", "failure"]
        of_address: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            of_address[entry.call.run].append(entry)
        logs: dict[UUID, list[tuple[Event, bytes]]] = defaultdict(list)
        for row in self._connection.execute(
            "SELECT run, seq, kind, at, token, attempt, claimant, key, payload, digest FROM saga.event "
            "ORDER BY run, seq"
        ):
            logs[row[0]].append((event_of(row), row[9]))
        runs = []
        for found in self._connection.execute(f"SELECT {', '.join(columns)} FROM saga.run ORDER BY id".encode()):
            row = dict(zip(columns, found, strict=True))
            address = f"{row['saga']}/{row['key']}"
            runs.append(Run(address, row, logs.pop(row["id"], []), of_address.pop(address, [])))
        of_id = {run.row["id"]: run for run in runs}
        for run in runs:
            undone = taken_back(json.loads(run.events[0].payload or "{}")) if run.log else ()
            run.undoes = [of_id[one] for one, _ in undone if one in of_id]
        for lost in logs:
            self._found("I2", str(lost), "events without a run")
        for address in of_address:
            self._found("I2", address, "a service was called for a run that does not exist")
        return runs

    def _found(self, invariant: str, where: str, what: str) -> None:
        self.violations.append(Violation(invariant, where, what))

    # -- the runs that there are -----------------------------------------------------------------------------------

    def _accepted_runs(self) -> None:
        addresses = Counter(run.address for run in self.runs)
        for address in sorted(self._accepted - addresses.keys()):
            self._found("I1", address, "accepted and lost")
        for address in sorted(addresses.keys() - self._accepted - self._maybe - self._dealings.addresses()):
            self._found("I2", address, "nobody asked for it")
        for address, count in addresses.items():
            if count > 1:
                self._found("I3", address, f"{count} runs")

    def _ends(self, run: Run) -> None:
        status, reason = Status(run.row["status"]), run.row["reason"]
        if status is Status.STALLED:
            wanted = self._stalls.get(run.address)
            if reason is None or wanted is None or reason != wanted:
                self._found("I4", run.address, f"stalled: {reason}, {run.row['failure']}")
        elif status not in ENDED:
            self._found("I4", run.address, f"{status} when all is quiet: {_tail(run)}")
        terminal = [event.seq for event in run.events if event.kind in TERMINAL]
        if len(terminal) > 1 or (terminal and terminal[0] != run.events[-1].seq):
            self._found("I5", run.address, f"terminal events at {terminal} of {len(run.events)}")

    def _log(self, run: Run) -> None:
        if [event.seq for event in run.events] != list(range(1, run.row["head"] + 1)):
            self._found("I13", run.address, f"head {run.row['head']}, log {[event.seq for event in run.events]}")
        digest = b""
        for event, stored in run.log:
            digest = chain_digest(digest, event)
            if digest != stored:
                self._found("I15", run.address, f"the chain breaks at {event.seq}")
                return
        if digest != run.row["digest"]:
            self._found("I15", run.address, "the row's digest is not the log's")

    def _fold(self, run: Run) -> None:
        state = State(run.row["id"])
        before: Status | None = None
        try:
            if run.undoes:
                state = remains_of(run.undoes[0].row["id"], (event for undone in run.undoes for event in undone.events))
            for event in run.events:
                apply(state, event)
                if before is None or state.status is not before:
                    if (before, state.status) not in TRANSITIONS:
                        self._found("I16", run.address, f"{before} -> {state.status} at {event.seq}")
                    before = state.status
        except Exception as error:  # whatever a broken log makes the fold raise, the log is broken
            self._found("I14", run.address, f"the log does not fold: {error!r}")
            return
        cause = state.cause.value if state.cause else None
        told = (str(state.status), state.result, cause)
        if told != (run.row["status"], run.row["result"], run.row["cause"]):
            self._found("I14", run.address, f"the log says {told}, the row {run.row['status']}, {run.row['cause']}")
        if str(state.stall_reason or "") != (run.row["reason"] or "") and state.status is Status.STALLED:
            self._found("I14", run.address, f"the log stalls by {state.stall_reason}, the row by {run.row['reason']}")

    def _replay(self, run: Run) -> None:
        definition = self._definitions.get((run.row["saga"], run.row["version"]))
        if definition is None or run.row["status"] == Status.STALLED:
            return
        undone = [event for one in run.undoes for event in one.events]
        undoes = (run.undoes[0].row["id"], undone) if run.undoes else None
        execution = Execution(run.row["id"], run.row["key"], definition, JsonCodec(), undoes=undoes)
        execution.replay(run.events)
        if execution.broken is not None:
            self._found("I18", run.address, f"its log does not replay: {execution.broken} {execution._message}")
        if execution.take().events:
            self._found("I18", run.address, "its replay decides more than its log")
        execution.drop()

    # -- what the services saw -------------------------------------------------------------------------------------

    def _effects(self, run: Run) -> None:
        applied = Counter(entry.call.token for entry in run.entries if entry.kind is Kind.APPLIED)
        honoured = {entry.call.token for entry in run.entries if entry.call.honours}
        for token, count in applied.items():
            if count > 1 and token in honoured:
                self._found("I6", run.address, f"token {token} applied {count} times")
        tried = Counter(
            (entry.call.token, entry.call.direction, entry.call.attempt)
            for entry in run.entries
            # A transaction may run again in the delivery that lost its COMMIT: what counts is what it left.
            if entry.kind is Kind.ATTEMPTED and entry.call.direction != "transaction"
        )
        for (token, _, attempt), count in tried.items():
            if count > 1:
                self._found("I6", run.address, f"attempt {attempt} of token {token} ran {count} times")
        for event in run.of_kind(EventKind.ACTION_SCHEDULED):
            assert event.key is not None
            if event.token != token_of(run.row["id"], event.key, Direction.ACTION):
                self._found("I6", run.address, f"the token of {event.key} is not its own")
        known = {str(event.token) for event in run.events if event.token is not None}
        for entry in run.entries:
            if entry.call.token not in known:
                self._found("I2", run.address, f"{entry.kind} of a token that the log does not have: {entry.call.step}")

    def _undo(self, run: Run) -> None:
        status = run.row["status"]
        last: dict[str, Entry] = {}
        for entry in run.entries:
            if entry.kind in (Kind.APPLIED, Kind.UNDONE):
                last[entry.call.action] = entry
        undoable = {event.token: _undoable(event) for event in run.of_kind(EventKind.ACTION_SCHEDULED)}
        landed, unknown = self._outcomes(run)
        for event in run.of_kind(EventKind.ACTION_SCHEDULED):
            latest = last.get(str(event.token))
            stands = latest is not None and latest.kind is Kind.APPLIED
            wanted = status == Status.COMPLETED and event.token in landed and not self._taken_back(run, event)
            if wanted and not stands and event.token is not None and _keeps_a_ledger(run, event):
                self._found("I7", run.address, f"completed, and {event.key} has no effect")
            if status == Status.COMPLETED and stands and not wanted and undoable[event.token]:
                self._found("I7", run.address, f"completed, and {event.key} stands although it was given up")
            if status == Status.COMPENSATED and undoable[event.token] and stands and run.address not in self._resolved:
                self._found("I8", run.address, f"compensated, and {event.key} still stands")
            must_go = status == Status.COMPENSATED and undoable[event.token] and event.token in landed | unknown
            if must_go and not self._compensated(run, event):
                self._found("I8", run.address, f"compensated, and {event.key} was not undone")
        for entry in run.entries:
            if entry.kind is not Kind.APPLIED or not entry.call.honours:
                continue
            before = [
                e
                for e in run.entries
                if e.kind is Kind.UNDONE and e.call.action == entry.call.action and e.id < entry.id
            ]
            if before:
                self._found("I10", run.address, f"{entry.call.step} took effect after its undo")

    def _outcomes(self, run: Run) -> tuple[set[UUID | None], set[UUID | None]]:
        """Return the actions that surely landed, and those that may have."""
        landed: set[UUID | None] = set()
        unknown: set[UUID | None] = set()
        actions = {event.token for event in run.of_kind(EventKind.ACTION_SCHEDULED)}
        transactional = {
            event.token
            for event in run.of_kind(EventKind.ACTION_SCHEDULED)
            if '"transactional":true' in (event.payload or "").partition(',"input":')[0]
        }
        probes = {
            token_of(run.row["id"], event.key or "", Direction.PROBE): event.token
            for event in run.of_kind(EventKind.ACTION_SCHEDULED)
        }
        for event in run.events:
            if event.kind is EventKind.STEP_SUCCEEDED and event.token in actions:
                landed.add(event.token)
            elif event.kind is EventKind.STEP_SUCCEEDED and event.token in probes and unwrap(event.payload) != "null":
                landed.add(probes[event.token])
            elif event.kind is EventKind.STEP_LOST and event.token in transactional:
                continue
            elif event.kind in (EventKind.STEP_UNKNOWN, EventKind.STEP_LOST, EventKind.STEP_REFUSED):
                unknown.add(event.token)
            elif event.kind is EventKind.OUTCOME_LATE and event.token in actions and _tells_success(event):
                landed.add(event.token)
        return landed, unknown & actions

    def _compensated(self, run: Run, action: Event) -> bool:
        undos = {event.token for event in run.of_kind(EventKind.COMPENSATION_SCHEDULED) if event.key == action.key}
        done = {event.token for event in run.of_kind(EventKind.STEP_SUCCEEDED)}
        resolved = any(event.key == action.key for event in run.of_kind(EventKind.RESOLVED))
        return resolved or (bool(undos) and undos <= done)

    def _taken_back(self, run: Run, action: Event) -> bool:
        kinds = (EventKind.STEP_DISCARDED, EventKind.STEP_GAVE_UP)
        return any(event.key == action.key for event in run.of_kind(*kinds)) or any(
            action in rolled for _, rolled in _rollbacks(run)
        )

    def _order_of_undo(self, run: Run) -> None:
        turned = next(iter(run.of_kind(EventKind.RUN_COMPENSATING)), None)
        causes = {event.key: event.seq for event in run.of_kind(EventKind.STEP_GAVE_UP, EventKind.STEP_DISCARDED)}
        for asked, rolled in _rollbacks(run):
            causes = {action.key: asked.seq for action in rolled} | causes
        first_undo: dict[str, int] = {}
        for event in run.of_kind(EventKind.COMPENSATION_SCHEDULED):
            key = event.key or ""
            first_undo.setdefault(key, event.seq)
            caused = min(turned.seq if turned else event.seq + 1, causes.get(key, event.seq + 1))
            if caused > event.seq:
                self._found("I12", run.address, f"{key} is undone at {event.seq} without a cause")
        began = {event.key or "": event for event in run.of_kind(EventKind.ACTION_SCHEDULED)}
        ended = self._ended(run)
        undone: dict[str, int] = {}
        keys = {event.token: event.key for event in run.of_kind(EventKind.COMPENSATION_SCHEDULED)}
        for event in run.of_kind(EventKind.STEP_SUCCEEDED, EventKind.RESOLVED):
            occurrence = event.key if event.kind is EventKind.RESOLVED else keys.get(event.token)
            if occurrence is not None:
                undone.setdefault(occurrence, event.seq)
        together = [{key for key, seq in first_undo.items() if turned is not None and seq >= turned.seq}]
        for asked, rolled in _rollbacks(run):
            rolled_keys = {start.key or "" for start in rolled if causes[start.key] == asked.seq}
            together.append({key for key in rolled_keys if asked.seq < first_undo.get(key, 0)} - together[0])
        for keys_undone in together:
            for older in keys_undone:
                for newer in keys_undone:
                    # Newer began after older had ended: it must be gone before older is touched.
                    later = began[newer].seq > ended.get(older, 1 << 60)
                    if later and first_undo[older] < undone.get(newer, 1 << 60):
                        self._found("I9", run.address, f"{older} is undone at {first_undo[older]}, before {newer}")

    def _ended(self, run: Run) -> dict[str, int]:
        ended: dict[str, int] = {}
        keys = {event.token: event.key or "" for event in run.of_kind(EventKind.ACTION_SCHEDULED)}
        for event in run.events:
            if event.kind is EventKind.STEP_GAVE_UP:
                ended.setdefault(event.key or "", event.seq)
            elif event.token in keys and event.kind in (EventKind.STEP_SUCCEEDED, EventKind.OUTCOME_LATE):
                ended.setdefault(keys[event.token], event.seq)
        return ended

    def _pivot(self, run: Run) -> None:
        pivot = next(iter(run.of_kind(EventKind.PIVOT_PASSED)), None)
        if pivot is None:
            return
        given_up = {event.key for event in run.of_kind(EventKind.STEP_GAVE_UP, EventKind.STEP_DISCARDED)}
        given_up |= {start.key for _, rolled in _rollbacks(run) for start in rolled}
        for event in run.of_kind(EventKind.COMPENSATION_SCHEDULED, EventKind.RUN_COMPENSATING):
            if event.seq > pivot.seq and event.key not in given_up:
                self._found("I11", run.address, f"{event.kind} {event.key} at {event.seq}, the pivot is at {pivot.seq}")

    def _values(self, run: Run) -> None:
        results = {str(e.token): unwrap(e.payload) for e in run.of_kind(EventKind.STEP_SUCCEEDED)}
        stored = {value for value in results.values() if value is not None}
        for entry in run.entries:
            if entry.kind is Kind.ATTEMPTED and entry.call.direction == "action" and entry.call.given not in ("", '""'):
                late = any(e.kind is EventKind.OUTCOME_LATE for e in run.events)
                found = any(value in (entry.call.given, f"[{entry.call.given}]") for value in stored)
                if not found and not late:
                    self._found("I19", run.address, f"{entry.call.step} received {entry.call.given}, which nobody gave")

    def _attempts(self, run: Run) -> None:
        highest: dict[UUID | None, int] = {}
        kinds = (
            EventKind.ACTION_SCHEDULED,
            EventKind.ATTEMPT_SCHEDULED,
            EventKind.PROBE_SCHEDULED,
            EventKind.COMPENSATION_SCHEDULED,
        )
        for event in run.of_kind(*kinds):
            attempt = event.attempt or 1
            if attempt != highest.get(event.token, 0) + 1:
                self._found(
                    "I20", run.address, f"attempt {attempt} of {event.key} follows {highest.get(event.token, 0)}"
                )
            highest[event.token] = attempt

    def _reported(self) -> list[tuple[UUID | None, str | None]]:
        """Return the runs and ids of the signals that nobody read, as the incidents tell them."""
        rows = self._connection.execute("SELECT run, payload FROM saga.incident WHERE kind = 'SignalReceived'")
        return [(run, json.loads(payload or "{}").get("id")) for run, payload in rows]

    # -- the whole -------------------------------------------------------------------------------------------------

    def _witnessed(self) -> bool:
        found = self._connection.execute("SELECT to_regclass('public.witness') IS NOT NULL").fetchone()
        return found is not None and bool(found[0])

    def _writers(self) -> None:
        if not self._witnessed():
            return
        for run, seq, session, living, owner in self._connection.execute(
            "SELECT run, seq, session, living, owner FROM public.witness WHERE NOT coalesce(living AND owner, false)"
        ):
            state = "buried" if not living else "not its owner"
            self._found("I17", str(run), f"event {seq} was written by {session}, which was {state}: {owner}")

    def _timers(self) -> None:
        """A timer fires when it is due, not before, and is taken away by that; the witness saw it in this order."""
        if not self._witnessed():
            return
        addresses = {run.row["id"]: run.address for run in self.runs}
        standing: dict[tuple[UUID, str], datetime] = {}
        taken: dict[tuple[UUID, str], datetime | None] = {}
        for run, name, what, told_at, at in self._connection.execute(
            "SELECT run, name, what, due_at, at FROM public.timer_witness ORDER BY id"
        ):
            timer, where = (run, name), f"{addresses.get(run, run)} {name}"
            if what == "set":
                standing[timer] = told_at
                taken.pop(timer, None)
            elif what == "gone":
                taken[timer] = standing.pop(timer, None)
            else:
                due_at = taken.pop(timer, None)
                if due_at is None:
                    self._found("I21", where, "fired, and nothing was taken away for that: it would fire again")
                elif min(told_at, at) < due_at:
                    self._found("I21", where, f"fired {due_at - min(told_at, at)} before its time")
        for saga, key, name, due_at in self._connection.execute(
            "SELECT r.saga, r.key, t.name, t.due_at FROM saga.timer t JOIN saga.run r ON r.id = t.run "
            "WHERE t.due_at < clock_timestamp() - make_interval(secs => %s) AND r.ended_at IS NULL",
            (OVERDUE_SECONDS,),
        ):
            self._found("I21", f"{saga}/{key} {name}", f"was due at {due_at} and has not fired")

    def _sightings(self) -> None:
        """What a client sees of a run only moves on: along the arrows, and with a log that grows."""
        for address, looks in self._seen.items():
            for before, after in pairwise(looks):
                on = before.status is None or (after.status is not None and after.status in _FOLLOWING[before.status])
                if not on or after.head < before.head or (after.head == before.head and after != before):
                    told = f"{before.status} with {before.head} events, then {after.status} with {after.head}"
                    self._found("I24", address, f"a client was shown {told}")

    def _quiet(self) -> None:
        ended = "(SELECT id FROM saga.run WHERE status IN ('completed', 'compensated', 'terminated'))"
        looks: dict[str, str] = {
            "attempts": "SELECT name || ' ' || attempt || coalesce(' of ' || claimed_by::text, '') FROM saga.task",
            "arrivals": "SELECT kind || ' ' || coalesce(key, run::text) FROM saga.inbox",
            "places at locks of ended runs": f"SELECT name FROM saga.lock WHERE run IN {ended}",
            "timers of ended runs": f"SELECT name FROM saga.timer WHERE run IN {ended}",
            "idle transactions": (
                "SELECT application_name || ' ' || query FROM pg_stat_activity "
                "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
            ),
        }
        for what, query in looks.items():
            rows = [str(row[0]) for row in self._connection.execute(query.encode())]
            if rows:
                self._found("I25", what, f"{len(rows)} left: {rows[:3]}")


def _following() -> dict[Status, set[Status]]:
    """Return what may be seen of a run after each status, at once or later."""
    following: dict[Status, set[Status]] = {status: {status} for status in Status}
    for _ in Status:
        for before, after in TRANSITIONS:
            for known in following.values():
                if before in known:
                    known.add(after)
    return following


_FOLLOWING = _following()


def caught(violations: Iterable[Violation]) -> list[str]:
    """Return the invariants that were violated, in order."""
    return sorted({violation.invariant for violation in violations}, key=lambda name: int(name[1:]))


def _tells_success(late: Event) -> bool:
    return bool(json.loads(late.payload or "{}").get("kind") == EventKind.STEP_SUCCEEDED)


def _rollbacks(run: Run) -> list[tuple[Event, list[Event]]]:
    """Return each rollback to a save-point, with the starts of the steps that it takes back."""
    found = []
    marked = {event.key: event.seq for event in run.of_kind(EventKind.SAVEPOINT_SET)}
    for asked in run.of_kind(EventKind.ROLLBACK_ASKED):
        starts = run.of_kind(EventKind.ACTION_SCHEDULED)
        found.append((asked, [start for start in starts if marked[asked.key] < start.seq < asked.seq]))
    return found


def _undoable(event: Event) -> bool:
    return '"undo":null' not in (event.payload or "")


def _keeps_a_ledger(run: Run, event: Event) -> bool:
    """Say whether a step's service writes to the ledger at all: its name stands there for some call of this run."""
    if (event.key or "").startswith(("child:", "lock:")):
        return False
    name = split_task_name((event.key or "").partition("#")[0])[0].rpartition(".")[2]
    return any(entry.call.step == name and entry.kind is not Kind.ATTEMPTED for entry in run.entries) or not any(
        entry.call.step == name for entry in run.entries
    )


def _tail(run: Run) -> str:
    return " ".join(f"{event.seq}:{event.kind}" for event in run.events[-6:])
