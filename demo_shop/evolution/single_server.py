"""Approach 1: one API process that calls service after service, with try/except undo, and keeps no state of its own.

It must not know who judges it. Its log says what came of each order, as logs do. What is marked: the except branches
and the list of what is to be undone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import click

from demo_shop.evolution.calling import Refused, Services, Unanswered
from demo_shop.evolution.errands import Errands
from demo_shop.evolution.reception import serve
from tasks.values import Order

#: Orders that are fulfilled at once.
THREADS = 32


def fulfil(errands: Errands, order: Order) -> str:
    """Run an order's errands, or undo those that were run, and return how it ended."""
    undo: list[Callable[[Order], None]] = []  # failure handling
    try:
        undo.append(errands.release)  # failure handling
        reservation = errands.reserve(order)
        undo.append(errands.refund)  # failure handling
        errands.charge(order)
    # failure handling: begin
    except (Refused, Unanswered) as error:
        if isinstance(error, Refused):
            undo.pop()  # nothing has happened there
        for back in reversed(undo):
            back(order)
        return "compensated"
    # failure handling: end
    errands.book(order, reservation)
    errands.mail(order)
    return "completed"


class SingleServer:
    """Accepts orders and fulfils them in threads; what it is at, it has in memory only."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._threads = ThreadPoolExecutor(THREADS)
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def accept(self, order: Order) -> None:
        """Take an order on; a repeated one is not begun again."""
        with self._lock:
            # failure handling: begin
            if order.id in self._known:
                return
            # failure handling: end
            self._known.add(order.id)
        self._log(order, "accepted")
        self._threads.submit(self._run, order)

    def close(self) -> None:
        """Wait until everything that was taken on has ended."""
        self._threads.shutdown()

    def _run(self, order: Order) -> None:
        # failure handling: begin
        try:
            ended = fulfil(self._errands, order)
        except (Refused, Unanswered) as error:
            ended = f"stalled {error}"  # an undo, or what follows the charge, gave up: somebody has to look at it
        # failure handling: end
        self._log(order, ended)

    def _log(self, order: Order, what: str) -> None:
        with self._lock:  # or lines of two threads would run into one another
            print(order.id, what, flush=True)


@click.command()
@click.option("--port", type=int, required=True)
def main(port: int) -> None:
    """Serve until the process ends."""
    print("up", flush=True)
    serve(port, SingleServer(Errands(Services())).accept)


if __name__ == "__main__":
    main()
