"""Approach 4: the checkout of `demo_shop.sagas` on this framework, behind the same door as the others.

Its workers and coordinators are those of the demo, so this is the client alone. It must not know who judges it. What is
marked is in `tasks` and in `demo_shop.sagas`: all compensations and probes, also those that only `express` needs, the
retry policies, telling a refusal from an unknown outcome, and the pivot.
"""

from __future__ import annotations

import click

from demo_shop.app import checkout
from demo_shop.evolution.reception import serve
from tasks.values import Order


def accept(order: Order) -> None:
    """Start an order's run; a repeated order is the same run."""
    checkout.start(order, id=order.id)


@click.command()
@click.option("--port", type=int, required=True)
def main(port: int) -> None:
    """Accept orders until the process ends."""
    serve(port, accept)


if __name__ == "__main__":
    main()
