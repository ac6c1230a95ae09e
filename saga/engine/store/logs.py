"""Stored events as the core knows them, and what is said of a log that holds others. It runs no statement.

Newer code may have written a log in a rolling deploy, or before one was taken back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from saga.core.errors import DecodeFailed
from saga.core.events import Event, EventKind
from saga.core.lifecycle import Cause, StallReason

#: Kinds whose payload has a word of a closed set, in this field.
_WORDS: dict[EventKind, tuple[str, type[StrEnum]]] = {
    EventKind.RUN_STALLED: ("reason", StallReason),
    EventKind.RUN_COMPENSATING: ("cause", Cause),
}


class UnreadableLogs(DecodeFailed):
    """Raised when logs hold what this code does not know: `runs` says whose, and what it is.

    Nothing may be decided about these runs here, and nothing that arrives for them may be taken: newer code can.
    """

    def __init__(self, runs: Mapping[UUID, str]) -> None:
        super().__init__(dict(runs))
        self.runs = dict(runs)

    def __str__(self) -> str:
        return "; ".join(self.runs.values())


def event_of(row: Sequence[Any]) -> Event:
    """Make an event of run, seq, kind, at, token, attempt, claimant, key, payload.

    Raises:
        UnreadableLogs: this code does not know its kind, or a word in it.
    """
    try:
        kind = EventKind(row[2])
        if kind in _WORDS:
            field, words = _WORDS[kind]
            words(json.loads(row[8] or "{}").get(field))
    except ValueError as error:
        raise UnreadableLogs(
            {
                row[0]: f"run {row[0]}: event {row[1]} ({row[2]}) is one that this code does not know ({error}); newer "
                "code has written it, and can go on with it"
            }
        ) from error
    return Event(row[1], kind, row[3], row[4], row[5], row[6], row[7], row[8])
