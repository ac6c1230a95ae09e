"""The shop's client, a process of its own: it starts orders and cancels some, and writes down what it was told.

`python -m demo_shop.shopfront --orders N --seed S --over SECONDS --journal FILE`. A line `sale N` on its standard input
brings the next N customers in at once; the end of its input ends it. It must not know services, ledgers or kills.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

from demo_shop.app import checkout, express
from demo_shop.journal import Journal
from demo_shop.orders import PlannedOrder, plan_orders
from saga import RunEnded, RunExists, ValueRefused

SAGAS = {definition.name: definition for definition in (checkout, express)}

#: Seconds between two tries when the engine cannot be asked.
AGAIN_SECONDS = 0.2
#: Seconds after which an order that could not be started, or cancelled, is given up.
PATIENCE_SECONDS = 60.0


class Sale:
    """How many customers come in before their time."""

    def __init__(self) -> None:
        self._waiting = 0
        self._changed = threading.Condition()

    def announce(self, customers: int) -> None:
        """Let so many more customers come in at once."""
        with self._changed:
            self._waiting += customers
            self._changed.notify()

    def takes_one(self, *, within_seconds: float) -> bool:
        """Wait so long for a customer of a sale, and say whether there was one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting > 0, timeout=max(0.0, within_seconds)):
                return False
            self._waiting -= 1
            return True


def serve_customers(planned: list[PlannedOrder], journal: Journal, sale: Sale) -> None:
    """Start each order at its time, or sooner in a sale, and cancel those that are to be cancelled."""
    opened = time.monotonic()
    cancels: list[tuple[float, PlannedOrder]] = []

    def start(order: PlannedOrder) -> None:
        journal.write("asked", order)
        if _persist(lambda: SAGAS[order.saga].start(order.order, id=order.order.id)):
            journal.write("accepted", order)
        if order.cancels_after_seconds is not None:
            cancels.append((time.monotonic() + order.cancels_after_seconds, order))

    def cancel_what_is_due(now: float) -> None:
        for due, order in sorted(cancels, key=lambda cancel: cancel[0]):
            if due > now:
                break
            cancels.remove((due, order))
            journal.write("cancel asked", order)
            asked = _persist(SAGAS[order.saga].handle(order.order.id).cancel)
            journal.write("cancel accepted" if asked else "cancel refused", order)

    for order in planned:
        while (wait := opened + order.starts_after_seconds - time.monotonic()) > 0:
            if sale.takes_one(within_seconds=min(wait, 0.05)):
                break
            cancel_what_is_due(time.monotonic())
        start(order)
    while cancels:
        cancel_what_is_due(time.monotonic())
        time.sleep(0.02)


def _persist(ask: Callable[[], object]) -> bool:
    """Ask until it is answered: the same key again makes no second run, so an unknown answer is asked again too."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            ask()
        except (RunEnded, RunExists, ValueRefused):
            return False
        except Exception as error:  # whatever a lost database, or a start that no coordinator has taken, is told by
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            if time.monotonic() > until:
                return False
            time.sleep(AGAIN_SECONDS)
        else:
            return True


def _listen(sale: Sale) -> None:
    for line in sys.stdin:
        verb, _, number = line.partition(" ")
        if verb == "sale":
            sale.announce(int(number))
    os._exit(0)  # whoever started us is gone


@click.command()
@click.option("--orders", type=click.IntRange(1), required=True)
@click.option("--seed", type=int, required=True)
@click.option("--over", "over_seconds", type=float, required=True, help="Seconds over which the orders are spread.")
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), required=True)
def open_shop(orders: int, seed: int, over_seconds: float, journal: Path) -> None:
    """Serve the customers of a seed, then end."""
    sale = Sale()
    threading.Thread(target=_listen, args=(sale,), daemon=True).start()
    serve_customers(plan_orders(orders, seed=seed, over_seconds=over_seconds), Journal(journal), sale)


if __name__ == "__main__":
    open_shop()
