"""Cuts off a saga function that blocks or loops; it knows neither sagas nor runs.

It uses SIGALRM, so it works in the main thread only; elsewhere it does nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from saga.core.execution import Blocked

#: A frozen process gets one signal when it goes on, however long it slept: only several mean a function that blocks.
TICKS = 4


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Throw Blocked into the block after so many seconds, and again after as many, until it gives up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ticks = 0

    def tick(_number: int, _frame: FrameType | None) -> None:
        nonlocal ticks
        ticks += 1
        if ticks % TICKS == 0:
            raise Blocked(f"it had not come to rest after {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, tick)
    around = signal.setitimer(signal.ITIMER_REAL, seconds / TICKS, seconds / TICKS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        signal.setitimer(signal.ITIMER_REAL, *around)  # that of the block around this one, if there is one
