"""What the outside services of a test did, in an SQLite file of their own: evidence that no kill can touch.

It must not know the engine: it is told tokens, and an action that it honours is applied once for each.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, run TEXT NOT NULL, step TEXT NOT NULL,
    direction TEXT NOT NULL, token TEXT NOT NULL, action TEXT NOT NULL, attempt INTEGER NOT NULL,
    given TEXT NOT NULL, honours INTEGER NOT NULL, pid INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS entry_action ON entry (action, kind);
CREATE UNIQUE INDEX IF NOT EXISTS entry_honoured ON entry (token) WHERE kind IN ('applied', 'undone') AND honours = 1;
"""


class Kind(StrEnum):
    """What a service wrote down."""

    ATTEMPTED = "attempted"  #: it was called, nothing is done yet
    APPLIED = "applied"  #: the action took effect
    UNDONE = "undone"  #: the undo was accepted, whether or not there was anything to undo
    REFUSED = "refused"  #: an action came after its undo


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a service; `token` is the attempt's own, `action` that of the action it does, undoes or looks for."""

    run: str
    step: str
    direction: str
    token: str
    action: str
    attempt: int
    given: str = ""
    honours: bool = True  #: the service stores the token with the effect, and remembers what was undone


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger; ids are in the order of writing."""

    id: int
    kind: Kind
    call: Call
    pid: int


class Ledger:
    """The file. It is opened for each call, so it may be used before and after any fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as connection:
            connection.executescript(_TABLES)

    def attempted(self, call: Call) -> None:
        """Write down that a function was called."""
        with self._open() as connection:
            _write(connection, Kind.ATTEMPTED, call)

    def apply(self, call: Call) -> bool:
        """Do an action; False: refused, for it was undone before. A token that is honoured is applied once."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if call.honours and _has(connection, Kind.UNDONE, call.action):
                _write(connection, Kind.REFUSED, call)
                applied = False
            else:
                if not (call.honours and _has(connection, Kind.APPLIED, call.action)):
                    _write(connection, Kind.APPLIED, call)
                applied = True
            connection.execute("COMMIT")
            return applied

    def undo(self, call: Call) -> None:
        """Undo an action, or remember that it must not come any more."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            known = connection.execute(
                "SELECT 1 FROM entry WHERE kind = 'undone' AND token = ? AND honours = 1", (call.token,)
            ).fetchone()
            if known is None:
                _write(connection, Kind.UNDONE, call)
            connection.execute("COMMIT")

    def was_applied(self, action: str) -> bool:
        """Say whether there is a trace of an action: what a probe asks."""
        with self._open() as connection:
            return _has(connection, Kind.APPLIED, action)

    def entries(self, *, run: str | None = None, step: str | None = None, kind: Kind | None = None) -> list[Entry]:
        """Return what was written, in order."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT id, kind, pid, run, step, direction, token, action, attempt, given, honours "
                "FROM entry ORDER BY id"
            ).fetchall()
        found = [Entry(row[0], Kind(row[1]), _call_of(row), row[2]) for row in rows]
        return [
            entry
            for entry in found
            if run in (None, entry.call.run) and step in (None, entry.call.step) and kind in (None, entry.kind)
        ]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = OFF")
            yield connection
        finally:
            connection.close()


def _call_of(row: tuple[Any, ...]) -> Call:
    run, step, direction, token, action, attempt, given, honours = row[3:]
    return Call(run, step, direction, token, action, attempt, given, bool(honours))


def _write(connection: sqlite3.Connection, kind: Kind, call: Call) -> None:
    connection.execute(
        "INSERT INTO entry (kind, run, step, direction, token, action, attempt, given, honours, pid) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            kind,
            call.run,
            call.step,
            call.direction,
            call.token,
            call.action,
            call.attempt,
            call.given,
            int(call.honours),
            os.getpid(),
        ),
    )


def _has(connection: sqlite3.Connection, kind: Kind, action: str) -> bool:
    found = connection.execute("SELECT 1 FROM entry WHERE kind = ? AND action = ? LIMIT 1", (kind, action)).fetchone()
    return found is not None
