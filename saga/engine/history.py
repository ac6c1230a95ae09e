"""A run's log as JSON text that can be kept in a file, and back. It knows neither the database nor what a log means.

With the log of a run that undoes another goes the log of that one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from saga.core.errors import DecodeFailed
from saga.core.events import Event, EventKind, taken_back

#: The layout of the text.
LAYOUT = 1


@dataclass(frozen=True, slots=True)
class History:
    """The log of one run, and whose it is; `undoes` is that of the run that it undoes, if it does."""

    saga: str
    key: str
    run: UUID
    events: tuple[Event, ...]
    undoes: History | None = None

    @property
    def address(self) -> str:
        """`checkout/order-7`."""
        return f"{self.saga}/{self.key}"

    @property
    def version(self) -> int:
        """The saga's version that the run was started with."""
        return int(json.loads(self.events[0].payload or "{}")["version"])


def history_of(saga: str, key: str, run: UUID, log_of: Callable[[UUID], Iterable[Event]]) -> History:
    """Put together the history of a run; `log_of` reads a log."""
    events = tuple(log_of(run))
    for undone, of in taken_back(json.loads(events[0].payload or "{}"))[:1]:
        return History(saga, key, run, events, History(saga, of, undone, tuple(log_of(undone))))
    return History(saga, key, run, events)


def to_json(history: History) -> str:
    """Return a history as JSON text, one event a line, payloads byte for byte."""
    head = {"layout": LAYOUT, "saga": history.saga, "key": history.key, "run": str(history.run)}
    events = ",\n".join(f"  {json.dumps(_row(event), ensure_ascii=False)}" for event in history.events)
    undoes = "" if history.undoes is None else f', "undoes":\n{to_json(history.undoes).rstrip()}'
    return f'{json.dumps(head, ensure_ascii=False)[:-1]}, "events": [\n{events}\n]{undoes}}}\n'


def from_json(text: str) -> History:
    """Read what `to_json` wrote.

    Raises:
        DecodeFailed: it is not that, it holds a kind of event that this code does not know, or it lacks the log of the
            run that it undoes.
    """
    try:
        return _history(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DecodeFailed(
            f"this is no history of a run ({type(error).__name__}: {error}): expected what "
            "`saga export` or saga.testing.record wrote"
        ) from error


def _history(value: dict[str, Any]) -> History:
    if value["layout"] != LAYOUT:
        raise DecodeFailed(f"this history has layout {value['layout']}; this code reads layout {LAYOUT}")
    events = tuple(_event(row) for row in value["events"])
    if not events or events[0].kind is not EventKind.RUN_STARTED:
        raise DecodeFailed("this history does not begin with RunStarted: expected the whole log of a run")
    undoes = _history(value["undoes"]) if "undoes" in value else None
    for _, key in taken_back(json.loads(events[0].payload or "{}"))[:1]:
        if undoes is None:
            raise DecodeFailed(
                f"this history of {value['saga']}/{value['key']} lacks the log of the run that it undoes, "
                f"{value['saga']}/{key}: export it again"
            )
    return History(value["saga"], value["key"], UUID(value["run"]), events, undoes)


def _row(event: Event) -> dict[str, Any]:
    row: dict[str, Any] = {"seq": event.seq, "kind": event.kind.value, "at": event.at.isoformat()}
    optional = {
        "token": event.token and str(event.token),
        "attempt": event.attempt,
        "claimant": event.claimant and str(event.claimant),
        "key": event.key,
        "payload": event.payload,
    }
    return row | {name: value for name, value in optional.items() if value is not None}


def _event(row: dict[str, Any]) -> Event:
    return Event(
        seq=row["seq"],
        kind=EventKind(row["kind"]),
        at=datetime.fromisoformat(row["at"]),
        token=UUID(row["token"]) if "token" in row else None,
        attempt=row.get("attempt"),
        claimant=UUID(row["claimant"]) if "claimant" in row else None,
        key=row.get("key"),
        payload=row.get("payload"),
    )
