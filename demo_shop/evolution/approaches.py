"""The four approaches as the harness sees them: what to start, what can be struck, and what each says of its orders.

It only starts and looks. It must not strike, and must not judge.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg
import redis
from psycopg import sql

from demo_shop.evidence import Opinion
from demo_shop.evolution import checkpoints, event_sourcing, flow
from demo_shop.evolution.kills import Fault
from demo_shop.lookout import Lookout
from demo_shop.processes import ROOT, Supervisor
from demo_shop.stage import SCHEMA, START_SECONDS, lookout_of, start_engine, wait_until_up
from demo_shop.tables import fresh_tables
from demo_shop.waiting import wait_for
from saga.cli.embedded import Servers

#: Seconds that a worker node has to say what it runs.
INSPECT_SECONDS = 0.5
_HERE = Path(__file__).parent
_SHARED = (_HERE / "calling.py", _HERE / "errands.py")
_TASKS = tuple(ROOT / "tasks" / f"{name}.py" for name in ("service", "stock", "payments", "shipping", "mail"))


@dataclass(frozen=True, slots=True)
class Ground:
    """What an approach stands on in one run. `environment` has the addresses of the services and servers."""

    stack: ExitStack  #: ends what was made for the run
    servers: Servers
    supervisor: Supervisor
    environment: Mapping[str, str]
    port: int
    patience_seconds: float

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Start a module of this package as a process."""
        command = [sys.executable, "-m", f"demo_shop.evolution.{module}", *arguments]
        self.supervisor.start(name, command, self.environment)

    def wait_until_ready(self, *names: str) -> None:
        """Wait until processes have said `ready`.

        Raises:
            TookTooLong: one did not; the message names its log.
        """
        for name in names:
            log = self.supervisor.children[name].log
            wait_for(lambda: "ready" in log.read_text().split(), what=f"{name}: see {log}", seconds=START_SECONDS)  # noqa: B023

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Look into the database."""
        with psycopg.connect(self.servers.database_url, autocommit=True, connect_timeout=2) as connection:
            return connection.execute(statement, values).fetchall()

    def make_tables(self, tables: str, schema_name: str) -> None:
        """Make an approach's tables as their owner, and let the application use them."""
        with psycopg.connect(self.servers.owner_url, autocommit=True) as connection:
            connection.execute(tables)
            role = self.servers.application_role
            if role is not None:
                names = {"s": sql.Identifier(schema_name), "r": sql.Identifier(role)}
                connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {s} TO {r}").format(**names))
                connection.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA {s} TO {r}").format(**names))


class Approach(Protocol):
    """One way to fulfil orders."""

    @property
    def name(self) -> str:
        """What it is called in tables and JSON."""
        ...

    @property
    def meets(self) -> frozenset[Fault]:
        """The faults of servers that it meets, since it uses them."""
        ...

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files whose marked lines deal with failure."""
        ...

    def start(self, ground: Ground) -> Sequence[str]:
        """Start everything, wait until it is up, and return the names of the processes that can be killed."""
        ...

    def opinions(self, ground: Ground) -> dict[str, Opinion]:
        """Return what it knows of each order; an order that it does not know is left out."""
        ...

    def works(self, ground: Ground, accepted: Collection[str]) -> bool:
        """Say whether it may still do something about one of these orders."""
        ...

    def holds(self, ground: Ground, victims: Collection[str]) -> set[str]:
        """Return the orders that these processes have in hand."""
        ...


def open_orders(opinions: Mapping[str, Opinion], accepted: Collection[str]) -> set[str]:
    """Return the orders that have not ended by what the approach says; one that it does not know is open."""
    return {order for order in accepted if order not in opinions or opinions[order].status not in flow.ENDED}


class SingleServer:
    """See `demo_shop.evolution.single_server`; it knows of itself what its log says."""

    name = "single_server"
    meets: frozenset[Fault] = frozenset()
    sources = (*_SHARED, _HERE / "single_server.py")

    def start(self, ground: Ground) -> Sequence[str]:
        ground.start("api", "single_server", "--port", str(ground.port))
        ground.wait_until_ready("api")
        return ("api",)

    def opinions(self, ground: Ground) -> dict[str, Opinion]:
        return said(self._log(ground))[0]

    def works(self, ground: Ground, accepted: Collection[str]) -> bool:
        return bool(said(self._log(ground))[1])

    def holds(self, ground: Ground, victims: Collection[str]) -> set[str]:
        return said(self._log(ground))[1]

    def _log(self, ground: Ground) -> list[str]:
        return ground.supervisor.children["api"].log.read_text().splitlines()


def said(log: list[str]) -> tuple[dict[str, Opinion], set[str]]:
    """Return what a single server's log says of the orders that ended, and those that its last start has in hand."""
    ended: dict[str, Opinion] = {}
    in_hand: set[str] = set()
    for line in log:
        order, _, rest = line.partition(" ")
        what, _, reason = rest.partition(" ")
        if line == "up":
            in_hand.clear()
        elif what == "accepted":
            in_hand.add(order)
        elif what in flow.ENDED:
            ended[order] = Opinion(what, reason or None)
            in_hand.discard(order)
    return ended, in_hand


class Checkpoints:
    """See `demo_shop.evolution.checkpoints`."""

    name = "checkpoints"
    meets = frozenset({Fault.BROKER, Fault.DATABASE})
    sources = (*_SHARED, *(_HERE / f"{name}.py" for name in ("flow", "storing", "checkpoints")))

    def start(self, ground: Ground) -> Sequence[str]:
        ground.make_tables(checkpoints.TABLES, "checkpoints")
        workers = {f"worker-{number}": str(number) for number in range(1, checkpoints.WORKERS + 1)}
        for name, number in workers.items():
            ground.start(name, "checkpoints", "worker", "--number", number)
        patience = str(ground.patience_seconds)
        ground.start("api", "checkpoints", "api", "--port", str(ground.port), "--patience", patience)
        ground.wait_until_ready("api", *workers)
        return ("api", *workers)

    def opinions(self, ground: Ground) -> dict[str, Opinion]:
        rows = ground.rows("SELECT id, state, reason FROM checkpoints.checkout")
        return {order: Opinion(state, reason) for order, state, reason in rows}

    def works(self, ground: Ground, accepted: Collection[str]) -> bool:
        return bool(open_orders(self.opinions(ground), accepted))

    def holds(self, ground: Ground, victims: Collection[str]) -> set[str]:
        opinions = self.opinions(ground)
        found = open_orders(opinions, opinions)
        if "api" in victims:
            return found
        return {order for order in found if f"worker-{checkpoints.worker_of(order)}" in victims}


class EventSourcing:
    """See `demo_shop.evolution.event_sourcing`."""

    name = "event_sourcing"
    meets = frozenset({Fault.BROKER, Fault.DATABASE})
    sources = (*_SHARED, *(_HERE / f"{name}.py" for name in ("flow", "storing", "event_sourcing")))

    def start(self, ground: Ground) -> Sequence[str]:
        ground.make_tables(event_sourcing.TABLES, "event_sourcing")
        patience = ("--patience", str(ground.patience_seconds))
        workers = tuple(f"worker-{number}" for number in range(1, event_sourcing.WORKERS + 1))
        for name in workers:
            ground.start(name, "event_sourcing", "worker", "--name", name, *patience)
        ground.start("relay", "event_sourcing", "relay", *patience)
        ground.start("api", "event_sourcing", "api", "--port", str(ground.port))
        ground.wait_until_ready("api", "relay", *workers)
        return ("api", "relay", *workers)

    def opinions(self, ground: Ground) -> dict[str, Opinion]:
        rows = ground.rows(event_sourcing.LAST)
        return {order: Opinion(state, told if state == flow.STALLED else None) for order, state, told in rows}

    def works(self, ground: Ground, accepted: Collection[str]) -> bool:
        return bool(open_orders(self.opinions(ground), accepted))

    def holds(self, ground: Ground, victims: Collection[str]) -> set[str]:
        held: set[str] = set()  # the API holds none: an order is its event from the first moment
        if "relay" in victims:
            rows = ground.rows("SELECT order_id FROM event_sourcing.event WHERE published_at IS NULL")
            held |= {order for (order,) in rows}
        stream, group = event_sourcing.STREAM, event_sourcing.GROUP
        with redis.Redis.from_url(ground.servers.broker_url, decode_responses=True, socket_timeout=2) as client:
            for pending in client.xpending_range(stream, group, min="-", max="+", count=1000):
                if str(pending["consumer"]).partition(":")[0] in victims:
                    entry = str(pending["message_id"])
                    held |= {event["order"] for _, event in client.xrange(stream, entry, entry)}
        return held


class Saga:
    """See `demo_shop.evolution.saga`: this framework, with two coordinators and two worker nodes."""

    name = "saga"
    meets = frozenset({Fault.BROKER, Fault.DATABASE})
    sources = (*_TASKS, ROOT / "demo_shop" / "sagas.py", _HERE / "saga.py")
    _coordinators = ("coordinator-1", "coordinator-2")
    _workers = ("worker-1", "worker-2")

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        self._looks: Lookout | None = None

    def start(self, ground: Ground) -> Sequence[str]:
        ground.stack.enter_context(fresh_tables(ground.servers, SCHEMA))
        self._looks = ground.stack.enter_context(lookout_of(ground.servers))
        self._nodes = start_engine(
            ground.supervisor, ground.environment, coordinators=self._coordinators, workers=self._workers
        )
        ground.start("api", "saga", "--port", str(ground.port))
        wait_until_up(self._lookout, coordinators=self._coordinators, nodes=tuple(self._nodes.values()))
        ground.wait_until_ready("api")
        return ("api", *self._coordinators, *self._workers)

    def opinions(self, ground: Ground) -> dict[str, Opinion]:
        return self._lookout.opinions()

    def works(self, ground: Ground, accepted: Collection[str]) -> bool:
        lookout = self._lookout
        return bool(lookout.open_work() or open_orders(lookout.opinions(), accepted))

    def holds(self, ground: Ground, victims: Collection[str]) -> set[str]:
        lookout = self._lookout
        if set(self._coordinators) <= set(victims):
            return {run.key for run in lookout.runs_in_flight()}
        held: set[str] = set()
        for name in set(self._coordinators) & set(victims):
            child = ground.supervisor.children[name]
            coordinator = lookout.coordinator_of(child.pid) if child.lives else None
            held |= {run.key for run in lookout.runs_of(coordinator)} if coordinator else set()
        nodes = [node for name, node in self._nodes.items() if name in victims]
        if nodes:
            running = lookout.running_on(nodes, within_seconds=INSPECT_SECONDS)
            tokens = [token for of_node in running.values() for token in of_node]
            held |= {run.key for run in lookout.runs_with(lookout.claims(tokens))}
        return held

    @property
    def _lookout(self) -> Lookout:
        assert self._looks is not None, "it was not started"
        return self._looks


def every_approach() -> tuple[Approach, ...]:
    """Return the four, in the order in which teams come to them."""
    return SingleServer(), Checkpoints(), EventSourcing(), Saga()
