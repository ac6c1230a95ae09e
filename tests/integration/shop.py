"""What the tests of the shop share: its servers in threads of the test's own process, and the attempt of a step."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from demo_shop.jsonhttp import JsonServer
from saga.core.current import Attempt, attempt_now

#: The tokens of an action and of its undo.
ACTION, UNDO = uuid.UUID(int=1), uuid.UUID(int=2)


@contextmanager
def serving(server: JsonServer) -> Iterator[str]:
    """Serve while the block runs, and give the URL."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def attempt(token: uuid.UUID = ACTION) -> Iterator[None]:
    """Make the block an attempt of a step, at its action or, with that token, at its undo."""
    before = attempt_now.set(Attempt(token, ACTION, 1, "a saga/o1", "a step"))
    try:
        yield
    finally:
        attempt_now.reset(before)
