"""One service's ledger: what it was asked, what it did, what it undid, in a SQLite file of its own.

It is the evidence of the audit, so it outlives every kill of the run and must not know the engine.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLES = """
-- Every request that arrived, before anything was done about it. nth counts the operation's requests for this order.
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, operation TEXT NOT NULL, order_id TEXT NOT NULL, key TEXT,
    nth INTEGER NOT NULL CHECK (nth > 0)
);
CREATE INDEX IF NOT EXISTS request_nth ON request (order_id, operation);
-- Every effect that landed, with the answer that its key gets for ever. Where an order may have several effects, the
-- subject says what each is about.
CREATE TABLE IF NOT EXISTS effect (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, order_id TEXT NOT NULL, key TEXT NOT NULL, answer TEXT NOT NULL,
    subject TEXT NOT NULL
);
-- Every undo that was accepted; action_key is the tombstone: an action of that key is refused from here on.
CREATE TABLE IF NOT EXISTS undo (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, order_id TEXT NOT NULL, key TEXT NOT NULL, action_key TEXT NOT NULL,
    answer TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS undo_action ON undo (action_key);
CREATE INDEX IF NOT EXISTS effect_order ON effect (order_id);
CREATE INDEX IF NOT EXISTS undo_order ON undo (order_id);
"""
_KEYS_HONOURED = """
CREATE UNIQUE INDEX IF NOT EXISTS effect_key ON effect (key);
CREATE UNIQUE INDEX IF NOT EXISTS undo_key ON undo (key);
"""


class Undone(Exception):
    """Raised when an action arrives after its undo."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that arrived; `at` is in seconds of Unix time."""

    at: float
    operation: str
    order: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect that landed, and what it is about where its order may have several."""

    at: float
    order: str
    key: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Undo:
    """An undo that was accepted, of the action with `action_key`."""

    at: float
    order: str
    key: str
    action_key: str


@dataclass(frozen=True, slots=True)
class Record:
    """All that one ledger says, oldest first."""

    requests: tuple[Request, ...] = ()
    effects: tuple[Effect, ...] = ()
    undos: tuple[Undo, ...] = ()


class Ledger:
    """The service's own view of its file: each method is one durable transaction."""

    def __init__(self, path: Path, *, honours_keys: bool) -> None:
        self.honours_keys = honours_keys
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_TABLES + (_KEYS_HONOURED if honours_keys else ""))

    def record_request(self, operation: str, order: str, key: str | None) -> int:
        """Note a request and return which one it is of its operation for this order, from 1."""
        with self._transaction() as connection:
            (before,) = connection.execute(
                "SELECT count(*) FROM request WHERE order_id = ? AND operation = ?", (order, operation)
            ).fetchone()
            connection.execute(
                "INSERT INTO request (at, operation, order_id, key, nth) VALUES (?, ?, ?, ?, ?)",
                (time.time(), operation, order, key, before + 1),
            )
        return int(before) + 1

    def record_effect(
        self, order: str, key: str, reference: str, answer: dict[str, Any], *, subject: str = ""
    ) -> dict[str, Any]:
        """Apply an action once for its key and return its answer, the same for ever.

        A key that was undone is refused in the same transaction. Where keys are not honoured, every call is an effect.

        Raises:
            Undone: the key was undone before.
        """
        with self._transaction() as connection:
            if self.honours_keys:
                if connection.execute("SELECT 1 FROM undo WHERE action_key = ?", (key,)).fetchone():
                    raise Undone(key)
                known = connection.execute("SELECT answer FROM effect WHERE key = ?", (key,)).fetchone()
                if known:
                    return _decoded(known[0])
            (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM effect").fetchone()
            full = {"order": order, "reference": f"{reference}-{last + 1}", **answer}
            connection.execute(
                "INSERT INTO effect (at, order_id, key, answer, subject) VALUES (?, ?, ?, ?, ?)",
                (time.time(), order, key, json.dumps(full), subject),
            )
        return full

    def record_undo(self, order: str, key: str, action_key: str) -> dict[str, Any]:
        """Undo an action once for the undo's key; the action's key is remembered even when it never landed."""
        with self._transaction() as connection:
            if self.honours_keys:
                known = connection.execute("SELECT answer FROM undo WHERE key = ?", (key,)).fetchone()
                if known:
                    return _decoded(known[0])
            landed = connection.execute("SELECT 1 FROM effect WHERE key = ?", (action_key,)).fetchone() is not None
            answer = {"order": order, "landed": landed}
            connection.execute(
                "INSERT INTO undo (at, order_id, key, action_key, answer) VALUES (?, ?, ?, ?, ?)",
                (time.time(), order, key, action_key, json.dumps(answer)),
            )
        return answer

    def find_effect(self, order: str, key: str | None) -> dict[str, Any] | None:
        """Return the answer of an effect by its key; without a key, of any effect of the order."""
        return self._find("SELECT answer FROM effect WHERE order_id = ? AND (? IS NULL OR key = ?) LIMIT 1", order, key)

    def find_undo(self, order: str, key: str | None) -> dict[str, Any] | None:
        """Return the answer of an undo by its key; without a key, of any undo of the order."""
        return self._find("SELECT answer FROM undo WHERE order_id = ? AND (? IS NULL OR key = ?) LIMIT 1", order, key)

    def _find(self, statement: str, order: str, key: str | None) -> dict[str, Any] | None:
        with self._lock:
            row = self._connection.execute(statement, (order, key, key)).fetchone()
        return None if row is None else _decoded(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def read_ledger(path: Path) -> Record:
    """Read a ledger for the audit, whether its service still runs or not.

    Raises:
        sqlite3.Error: the file is not a ledger, or cannot be read.
    """
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        requests = connection.execute("SELECT at, operation, order_id, key FROM request ORDER BY id").fetchall()
        effects = connection.execute("SELECT at, order_id, key, subject FROM effect ORDER BY id").fetchall()
        undos = connection.execute("SELECT at, order_id, key, action_key FROM undo ORDER BY id").fetchall()
    finally:
        connection.close()
    return Record(
        requests=tuple(Request(*row) for row in requests),
        effects=tuple(Effect(*row) for row in effects),
        undos=tuple(Undo(*row) for row in undos),
    )


def _decoded(text: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(text)
    return answer
