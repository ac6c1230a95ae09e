"""What goes wrong between the engine and its stores in a simulated process, by a seeded chance for each call.

`Timeout`: not executed, and no answer. `ExecuteAndTimeout`: executed, and no answer. `Unavailable`: the connection is
refused before anything was sent. It wraps statements; it must not know what they mean.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg

from saga.engine.store.failures import CommitUnknown
from saga.engine.store.membership import Membership
from saga.engine.store.reaping import Reaping
from saga.engine.store.turning import Turning
from saga.engine.store.working import Working


class Fault(StrEnum):
    """How a call fails."""

    TIMEOUT = "timeout"
    EXECUTE_AND_TIMEOUT = "execute_and_timeout"
    UNAVAILABLE = "unavailable"


#: (class, method, whether no answer means an unknown commit)
_COORDINATOR: tuple[tuple[type[Any], str, bool], ...] = (
    (Turning, "take", False),
    (Turning, "events_of", False),
    (Turning, "commit", True),
    (Turning, "read_heads", False),
    (Turning, "task_ids", False),
    (Membership, "register", True),
    (Membership, "beat", False),
    (Membership, "acquire", True),
    (Membership, "owned", False),
    (Membership, "messages_after", False),
    (Membership, "republished", False),
    (Membership, "release", False),
    (Membership, "bury", False),
    (Reaping, "reap_lost", False),
)
_WORKER: tuple[tuple[type[Any], str, bool], ...] = (
    (Working, "claim", True),
    (Working, "renew", False),
    (Working, "record_outcome", True),
    (Working, "record_late", False),
)


@dataclass(frozen=True, slots=True)
class Faults:
    """Chances, from 0 to 1."""

    lost: float = 0.0  #: a message is lost
    doubled: float = 0.0  #: a message comes three times
    store: float = 0.0  #: a call to Postgres fails

    def wrap_coordinator(self, rng: random.Random) -> None:
        """Let the statements of a coordinator in this process fail."""
        self._wrap(_COORDINATOR, rng)

    def wrap_worker(self, rng: random.Random) -> None:
        """Let the statements of a worker in this process fail."""
        self._wrap(_WORKER, rng)

    def _wrap(self, methods: tuple[tuple[type[Any], str, bool], ...], rng: random.Random) -> None:
        if not self.store:
            return
        for owner, name, commits in methods:
            setattr(owner, name, failing(getattr(owner, name), lambda: self._choose(rng), commits=commits))

    def _choose(self, rng: random.Random) -> Fault | None:
        return rng.choice(list(Fault)) if rng.random() < self.store else None


def failing(
    method: Callable[..., Any], choose: Callable[[], Fault | None], *, commits: bool = False
) -> Callable[..., Any]:
    """Wrap a statement so that it fails as `choose` says; `commits`: no answer is an unknown commit."""

    def call(self: Any, connection: psycopg.Connection[Any], *args: Any, **options: Any) -> Any:
        fault = choose()
        if fault is None:
            return method(self, connection, *args, **options)
        if fault is Fault.EXECUTE_AND_TIMEOUT:
            method(self, connection, *args, **options)
        if fault is not Fault.UNAVAILABLE:
            connection.close()
        message = f"injected: {fault} of {method.__name__}"
        if commits:
            raise CommitUnknown(message)
        raise psycopg.OperationalError(message)

    return call
