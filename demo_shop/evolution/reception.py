"""The shop's door, the same for every approach: orders come in over HTTP, and are answered 202 once they are accepted.

It must not know what accepting an order means. An order that could not be accepted is answered 503: its customer asks
again, with the same order.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from demo_shop.jsonhttp import JsonHandler, JsonServer
from tasks.values import Order


class Reception(JsonServer):
    """Listens on a port of 127.0.0.1, and hands each order to `accept`, in a thread for each customer."""

    def __init__(self, port: int, accept: Callable[[Order], None]) -> None:
        super().__init__(port, _Handler)
        self.accept = accept


def serve(port: int, accept: Callable[[Order], None]) -> None:
    """Take orders until the process ends; `ready` is printed once they can come."""
    with Reception(port, accept) as reception:
        print("ready", flush=True)
        reception.serve_forever()


def encode_order(order: Order) -> str:
    """Return an order as JSON."""
    return json.dumps(asdict(order))


def decode_order(text: str) -> Order:
    """Return the order that `encode_order` wrote.

    Raises:
        ValueError: it is no JSON.
        TypeError: it is no order.
    """
    return Order(**json.loads(text))


class _Handler(JsonHandler):
    server: Reception

    def post(self, body: dict[str, Any]) -> None:
        try:
            order = Order(**body)
        except TypeError as error:
            return self.answer(400, {"error": str(error)})
        try:
            self.server.accept(order)
        except Exception as error:
            traceback.print_exc()
            return self.answer(503, {"error": str(error)})
        return self.answer(202, {"order": order.id})

    def get(self) -> None:
        self.answer(404, {"error": "POST an order"})
