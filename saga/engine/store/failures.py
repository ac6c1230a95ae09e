"""What a failed commit means to the turn that asked for it. It knows SQLSTATEs and nothing of runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.errors import Diagnostic

from saga.core.errors import SagaError
from saga.engine.store.connect import Connection

#: A wait for a synchronous standby that was cut off ends in success and one of these warnings: cancelled, terminated.
_CUT_OFF_WAITS = frozenset({"01000", "57P01"})

#: The compare-and-sets, and the timeouts of a lock and of a statement. The class 40 (deadlocks) means the same.
_SUPERSEDED = frozenset({"SG001", "55P03", "57014"})


class StoreFailure(SagaError):
    """The root of what a statement's failure can mean; `sqlstate` and `constraint` say what Postgres called it."""

    def __init__(self, message: str, sqlstate: str | None = None, constraint: str | None = None) -> None:
        super().__init__(message, sqlstate, constraint)
        self.sqlstate = sqlstate
        self.constraint = constraint

    def __str__(self) -> str:
        parts = [f"SQLSTATE {self.sqlstate}"] if self.sqlstate else []
        parts += [f"constraint {self.constraint}"] if self.constraint else []
        return f"{self.args[0]} ({', '.join(parts)})" if parts else str(self.args[0])


class Fenced(StoreFailure):
    """Raised when this coordinator is buried: nothing was written, and the process must exit."""


class Superseded(StoreFailure):
    """Raised when the batch is behind the database, or lost against a lock: nothing was written, so take again."""


class BatchRefused(StoreFailure):
    """Raised when a value cannot be stored: nothing was written; halve the batch, and stall the run left alone."""


class CommitUnknown(StoreFailure):
    """Raised when nobody knows whether it was committed; look with P10 before anything depends on it."""


@contextmanager
def watch_replication(connection: Connection) -> Iterator[None]:
    """Raise when a commit inside returned without its synchronous standby.

    Postgres reports such a commit as a success with a warning only; a fail-over would then forget it.

    Raises:
        CommitUnknown: the wait for the standby was cancelled.
    """
    cut_off: list[tuple[str, str]] = []

    def notice(diagnostic: Diagnostic) -> None:
        # Read at once: libpq frees the notice when this returns.
        if diagnostic.sqlstate in _CUT_OFF_WAITS:
            cut_off.append((diagnostic.sqlstate, diagnostic.message_primary or ""))

    connection.add_notice_handler(notice)
    try:
        yield
    finally:
        connection.remove_notice_handler(notice)
    for sqlstate, message in cut_off:
        raise CommitUnknown(f"committed here but maybe not on the synchronous standby: {message}", sqlstate)


def failure_of(error: Exception) -> StoreFailure:
    """Say what an error out of the commit call means; the caller raises it from the error."""
    if not isinstance(error, psycopg.Error):
        return BatchRefused(f"the batch could not be sent: {error}")
    state = error.sqlstate
    constraint = error.diag.constraint_name if state else None
    message = str(error).partition("\n")[0]
    if state == "SG002":
        return Fenced(message, state)
    if state is None:
        # Without a SQLSTATE the server said nothing: psycopg refused the value itself, or the connection is gone.
        refused = isinstance(error, psycopg.DataError)
        return BatchRefused(message) if refused else CommitUnknown(message or type(error).__name__)
    if state in _SUPERSEDED or state.startswith("40") or (state == "23505" and constraint == "event_pkey"):
        return Superseded(message, state, constraint)
    if state[:2] in {"22", "23", "54"}:
        return BatchRefused(message, state, constraint)
    return CommitUnknown(message, state, constraint)
