"""The kills of a comparison: what is struck when, from the seed alone, and so the same for every approach.

It strikes processes and servers; it must not know any approach, nor judge what came of it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import redis

from demo_shop.orders import PlannedOrder
from demo_shop.processes import Supervisor
from saga.cli.embedded import Server, Servers

#: Seconds from a server's death until it is back, empty if it is the broker.
AWAY_SECONDS = 1.5
#: Seconds after an order has come in at which a kill strikes, at the least and at the most.
AFTER_SECONDS = (0.1, 0.5)


class Fault(StrEnum):
    """What is struck."""

    PROCESS = "process"  # SIGKILL of one process of the approach
    MACHINE = "machine"  # SIGKILL of all processes of the approach at once
    BROKER = "broker"  # Redis dies, and comes back empty
    DATABASE = "database"  # Postgres dies without a checkpoint, and comes back


#: Of five kills. A process comes first, so that the fewest kills strike every approach.
_DECK = (Fault.MACHINE, Fault.PROCESS, Fault.BROKER, Fault.DATABASE)


@dataclass(frozen=True, slots=True)
class Kill:
    """One planned kill: so long after the shop opens; `pick`, from 0 to 1, chooses among an approach's processes."""

    at_seconds: float
    fault: Fault
    pick: float


@dataclass(frozen=True, slots=True)
class Struck:
    """A kill that was struck: when, on whom, and which orders the victims had in hand.

    `victims` is None, and nothing was struck, where the approach uses no such server, or it is not ours to stop.
    """

    kill: Kill
    victims: tuple[str, ...] | None
    held: frozenset[str] = frozenset()
    struck_at_seconds: float | None = None


def plan_kills(count: int, planned: Sequence[PlannedOrder], *, seed: int, over_seconds: float) -> list[Kill]:
    """Plan so many kills over the time in which orders come in, each shortly after an order, so that it meets work."""
    rng = random.Random(f"evolution:{seed}")
    faults: list[Fault] = []
    while len(faults) < count:
        faults += [Fault.PROCESS, *rng.sample(_DECK, len(_DECK))]
    starts = [order.starts_after_seconds for order in planned]
    slot_seconds = over_seconds / max(1, count)
    kills = []
    for number, fault in enumerate(faults[:count]):
        begins = slot_seconds * number
        there = [start for start in starts if begins <= start < begins + slot_seconds] or [begins]
        kills.append(Kill(rng.choice(there) + rng.uniform(*AFTER_SECONDS), fault, rng.random()))
    return sorted(kills, key=lambda kill: kill.at_seconds)


def empty_broker(servers: Servers) -> None:
    """Take everything away that the broker holds.

    Raises:
        redis.RedisError: the broker does not answer.
    """
    with redis.Redis.from_url(servers.broker_url) as client:
        client.flushall()


class Striker:
    """Strikes the kills at their times, until `stopping`; the supervisor starts again what it killed."""

    def __init__(
        self,
        kills: Sequence[Kill],
        *,
        victims: Sequence[str],
        meets: frozenset[Fault],
        supervisor: Supervisor,
        servers: Servers,
        in_hand: Callable[[Sequence[str] | None], set[str]],
        unended: Callable[[set[str]], set[str]],
        stopping: threading.Event,
    ) -> None:
        """Plan. `in_hand` tells what processes hold (None: all that is open), `unended` which of that is open yet."""
        self.struck: list[Struck] = []
        self._kills = kills
        self._victims = victims
        self._meets = meets
        self._supervisor = supervisor
        self._servers = servers
        self._in_hand = in_hand
        self._unended = unended
        self._stopping = stopping

    def strike_all(self) -> None:
        """Strike from now on, since the shop opens now."""
        opened = time.monotonic()
        for kill in self._kills:
            if self._stopping.wait(max(0.0, opened + kill.at_seconds - time.monotonic())):
                return
            self.struck.append(self._strike(kill, opened))

    def _strike(self, kill: Kill, opened: float) -> Struck:
        if kill.fault in (Fault.BROKER, Fault.DATABASE):
            server = self._servers.valkey if kill.fault is Fault.BROKER else self._servers.postgres
            if kill.fault not in self._meets or (server is None and kill.fault is Fault.DATABASE):
                return Struck(kill, None)
            held = self._in_hand(None)
            struck_at_seconds = time.monotonic() - opened
            self._strike_server(server)
            return Struck(kill, (kill.fault.value,), frozenset(self._unended(held)), struck_at_seconds)
        victims = tuple(self._victims)
        if kill.fault is Fault.PROCESS:
            victims = (victims[int(kill.pick * len(victims))],)
        held = self._in_hand(victims)
        struck_at_seconds = time.monotonic() - opened
        self._supervisor.kill(*victims)
        return Struck(kill, victims, frozenset(self._unended(held)), struck_at_seconds)

    def _strike_server(self, server: Server | None) -> None:
        if server is None:  # a broker that the environment named: it is not ours to stop, but to empty
            empty_broker(self._servers)
        else:
            server.stop(immediate=True)
            self._stopping.wait(AWAY_SECONDS)
            server.start()
