"""Runs the same orders and kills through each approach, one after another, and gathers what came of them.

It conducts, and must not do the others' work itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from demo_shop.evidence import gather
from demo_shop.evolution.approaches import Approach, Ground, every_approach, open_orders
from demo_shop.evolution.customers import Customers
from demo_shop.evolution.kills import Kill, Striker, Struck, empty_broker, plan_kills
from demo_shop.evolution.lines import count_in
from demo_shop.evolution.tally import Tally, count
from demo_shop.journal import JOURNAL, Journal, accepted_orders, read_journal
from demo_shop.lookout import UNREACHABLE
from demo_shop.orders import CHECKOUT, PlannedOrder, plan_orders, scripts_of
from demo_shop.processes import ROOT, Supervisor
from demo_shop.services.catalogue import SERVICES
from demo_shop.stage import environment_of, mending, start_services, workplace
from saga.cli import embedded
from saga.cli.embedded.kept import free_port

#: Orders a second that come in, and the seconds that a kill has for itself at the least.
ORDERS_PER_SECOND, SECONDS_PER_KILL = 4.0, 2.0
#: Seconds for which an approach's silence is waited out after the last order and kill.
END_SECONDS = 120.0
#: The approach that promises to lose nothing.
PROMISES = "saga"


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line; `patience_seconds` is after how long an approach gives up the silent."""

    orders: int
    kills: int
    seed: int
    patience_seconds: float

    @property
    def over_seconds(self) -> float:
        """Seconds over which the orders come in."""
        return max(self.orders / ORDERS_PER_SECOND, self.kills * SECONDS_PER_KILL, 1.0)


@dataclass(frozen=True, slots=True)
class Fared:
    """How one approach fared. `settled` says whether it came to rest in time, so many seconds after the last order."""

    approach: str
    tally: Tally
    struck: Sequence[Struck]
    settled: bool
    settled_after_seconds: float
    failure_handling_lines: int

    @property
    def keeps_its_promise(self) -> bool:
        """Say whether nothing is wrong, where that is promised: the others promise nothing."""
        wrong = self.tally.lost or self.tally.doubled or self.tally.half_done or not self.settled
        return self.approach != PROMISES or not wrong


def plan_checkouts(options: Options) -> list[PlannedOrder]:
    """Return the first so many checkouts among the demo's orders, at the times of so many of the demo's orders.

    Nobody cancels: an order that its customer would cancel is only slow.
    """
    times = plan_orders(options.orders, seed=options.seed, over_seconds=options.over_seconds)
    # More than half of any deal are checkouts.
    every = plan_orders(2 * options.orders, seed=options.seed, over_seconds=options.over_seconds)
    checkouts = [order for order in every if order.saga == CHECKOUT][: options.orders]
    return [
        replace(order, starts_after_seconds=timed.starts_after_seconds, cancels_after_seconds=None)
        for order, timed in zip(checkouts, times, strict=True)
    ]


def compare(options: Options, console: Console) -> list[Fared]:
    """Run every approach and return how each fared.

    Raises:
        ConfigurationError: the servers cannot be started.
        TookTooLong: an approach's processes did not come up.
    """
    planned = plan_checkouts(options)
    kills = plan_kills(options.kills, planned, seed=options.seed, over_seconds=options.over_seconds)
    fared = []
    with workplace(console, prefix="evolution-", leaves="Logs and ledgers") as place:
        for approach in every_approach():
            console.print(f"{approach.name}: {len(planned)} orders, {len(kills)} kills …", highlight=False)
            fared.append(_run(approach, place.folder / approach.name, options, planned, kills))
        place.keeps = not all(one.keeps_its_promise for one in fared)
    return fared


def _run(
    approach: Approach, folder: Path, options: Options, planned: Sequence[PlannedOrder], kills: Sequence[Kill]
) -> Fared:
    folder.mkdir()
    journal = folder / JOURNAL
    with contextlib.ExitStack() as stack:
        # Servers of its own for each: nobody finds what another one left.
        servers = stack.enter_context(embedded.servers(ROOT / ".saga"))
        if servers.valkey is None:  # the environment named it
            empty_broker(servers)
        supervisor = stack.enter_context(Supervisor(folder))
        environment = {
            **environment_of(servers, lease_seconds=options.patience_seconds),
            **start_services(supervisor, folder, tuple(SERVICES.values()), scripts_of(planned)),
        }
        ground = Ground(stack, servers, supervisor, environment, free_port(), options.patience_seconds)
        victims = approach.start(ground)
        mended = stack.enter_context(mending(supervisor))
        stopping = threading.Event()
        url = f"http://127.0.0.1:{ground.port}"
        customers = Customers(planned, url=url, journal=Journal(journal), stopping=stopping)
        look = _Look(approach, ground, journal)
        striker = Striker(
            kills,
            victims=victims,
            meets=approach.meets,
            supervisor=supervisor,
            servers=servers,
            in_hand=look.in_hand,
            unended=look.unended,
            stopping=stopping,
        )
        with ThreadPoolExecutor(2) as threads:
            both = [threads.submit(work) for work in (customers.come_in, striker.strike_all)]
            try:
                for under_way in both:
                    under_way.result()
            finally:
                stopping.set()
        waited_from = time.monotonic()
        settled = look.wait_until_quiet(END_SECONDS)
        settled_after_seconds = time.monotonic() - waited_from
        opinions = approach.opinions(ground)
        mended.set()
        # Whatever still has work in hand ends here, so that no effect can follow the look at the ledgers.
        supervisor.stop_all()
        evidence = gather(folder, planned, opinions)
    held = {order for struck in striker.struck for order in struck.held}
    return Fared(
        approach=approach.name,
        tally=count(evidence, in_flight=held),
        struck=striker.struck,
        settled=settled,
        settled_after_seconds=settled_after_seconds,
        failure_handling_lines=count_in(approach.sources),
    )


class _Look:
    """Looks at an approach's orders while servers are killed: what cannot be seen now is seen as nothing."""

    def __init__(self, approach: Approach, ground: Ground, journal: Path) -> None:
        self._approach = approach
        self._ground = ground
        self._journal = journal

    def in_hand(self, victims: Sequence[str] | None) -> set[str]:
        """Return the orders that processes hold; with None, all that are open."""
        try:
            if victims is None:
                return open_orders(self._approach.opinions(self._ground), self._accepted())
            return self._approach.holds(self._ground, victims)
        except UNREACHABLE:
            return set()  # another kill is still being recovered from

    def unended(self, orders: set[str]) -> set[str]:
        """Return those that are still open."""
        try:
            return open_orders(self._approach.opinions(self._ground), orders)
        except UNREACHABLE:
            return orders

    def wait_until_quiet(self, seconds: float) -> bool:
        """Wait until the approach has nothing to do, and say whether that was in time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(*UNREACHABLE):
                if not self._approach.works(self._ground, self._accepted()):
                    return True
            time.sleep(0.1)
        return False

    def _accepted(self) -> set[str]:
        return accepted_orders(read_journal(self._journal))
