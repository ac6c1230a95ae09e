"""Saga functions in the memory of a play, with a coordinator's patience: what does not come to rest is cut off.

It knows one execution at a time, and nothing of what happens on the stage. SIGALRM works in the main thread only; in
other threads nothing is cut off.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from greenlet import getcurrent

from saga.core.events import Event, EventKind
from saga.core.execution import Blocked, Execution, Input
from saga.core.lifecycle import StallReason
from saga.engine.alarm import deadline
from saga.engine.installation import DEFAULTS

#: Seconds that a saga function has to come to rest.
TURN_SECONDS: float = DEFAULTS["saga_turn_seconds"]

#: What survived its eviction, or was left where it looped: referenced for ever, or it would be thrown at again.
_survivors: list[Execution] = []


@contextmanager
def cut_off() -> Iterator[None]:
    """Throw Blocked into a saga function that has not come to rest after TURN_SECONDS.

    One that caught it and has not come to rest after as long again is left where it stands: whatever is thrown at it
    would be caught, too. A coordinator is lost there, and the run is stalled by its heirs.

    Raises:
        Blocked: it struck outside the function, or the function was left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    home = getcurrent()
    thrown: list[Blocked] = []
    with deadline(TURN_SECONDS):
        throw = signal.getsignal(signal.SIGALRM)
        assert callable(throw)

        def tick(number: int, frame: FrameType | None) -> None:
            try:
                throw(number, frame)
            except Blocked as blocked:
                thrown.append(blocked)
                if len(thrown) > 1 and getcurrent() is not home:
                    home.switch()
                raise

        signal.signal(signal.SIGALRM, tick)
        yield
    if len(thrown) > 1:
        raise Blocked(str(thrown[0]))


def bring_back(execution: Execution, log: Iterable[Event]) -> str:
    """Replay a log, and return why the run cannot go on; empty where it can."""
    try:
        with cut_off():
            execution.replay(log)
    except Blocked as blocked:
        keep(execution)
        return f"{blocked} ({StallReason.SAGA_BUG})"
    if execution.broken is None:
        return ""
    at = execution.state.at
    assert at is not None
    execution.stall_broken(Input(EventKind.RETRY_REQUESTED, at), at)
    stall = json.loads(execution.take().events[-1].payload or "{}")
    return f"{stall['message']} ({stall['reason']})"


def let_go(execution: Execution) -> None:
    """Throw a saga function out of memory."""
    try:
        with cut_off():
            dropped = execution.drop()
    except Blocked:
        dropped = False
    if not dropped:
        keep(execution)


def keep(execution: Execution) -> None:
    """Never collect an execution whose function may still stand somewhere in a loop."""
    _survivors.append(execution)
