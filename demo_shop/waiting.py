"""Waiting for a condition, never longer than a bound. It must not know what is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TookTooLong(Exception):
    """Raised when a condition did not come true in time; the message says which."""


def wait_for(look: Callable[[], T], *, what: str, seconds: float, every_seconds: float = 0.05) -> T:
    """Return the first true value that `look` gives.

    Raises:
        TookTooLong: it gave none within so many seconds.
    """
    until = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() >= until:
            raise TookTooLong(f"waited {seconds:g} s for {what}")
        time.sleep(every_seconds)
