"""A line to one run: what is asked of Postgres about it, and what is told to it. It knows no definitions.

Where there is no answer, the same is asked again on a new connection. Reading first is courtesy, and locks nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from saga.core.address import shard_of
from saga.core.errors import AcceptanceUnknown, DatabaseUnreachable, ResultTimeout, RunEnded, UnknownRun
from saga.core.events import EventKind
from saga.core.state import State
from saga.engine.database import Psycopg, Unanswered
from saga.engine.installation import Installation
from saga.engine.pauses import pauses
from saga.engine.records import SHARDS
from saga.engine.store.connect import answered_within
from saga.engine.store.reading import FoundRun, Look
from saga.engine.stuck import fold

T = TypeVar("T")

#: Seconds between two looks at a run that is waited for: the first, and the longest.
POLL_SECONDS = (0.005, 0.25)
#: Seconds that such a look may always take, however little is left of the caller's time.
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line to one run, by its address. It holds no connection."""

    installation: Installation
    saga: str
    key: str

    @property
    def address(self) -> str:
        """`checkout/order-7`."""
        return f"{self.saga}/{self.key}"

    def ask(self, what: Callable[[Psycopg], T]) -> T:
        """Ask Postgres; `what` may be executed more than once.

        Raises:
            DatabaseUnreachable: it does not answer.
            SchemaError: the tables are not there.
        """
        return self.installation.database.ask(what)

    def find(self) -> FoundRun | None:
        """Read the run; None: there is none, or its start is not taken yet."""
        return self.ask(lambda connection: self.installation.reading.find(connection, self.saga, self.key))

    def until(self, look: Callable[[], T | None], timeout: float, why_not: Callable[[], str]) -> T:
        """Look until there is something, for up to `timeout` seconds; an outage is waited out like anything else.

        Raises:
            ResultTimeout: there is nothing yet (with `why_not`), or Postgres does not answer.
        """
        give_up_at = time.monotonic() + timeout
        waits = pauses(*POLL_SECONDS, factor=1.5)
        while True:
            try:
                with answered_within(max(give_up_at - time.monotonic(), LOOK_SECONDS)):
                    found = look()
                    if found is not None:
                        return found
                    if time.monotonic() >= give_up_at:
                        raise ResultTimeout(why_not())
            except DatabaseUnreachable as error:
                if time.monotonic() >= give_up_at:
                    raise ResultTimeout(f"run {self.address}: Postgres does not answer") from error
            time.sleep(max(min(next(waits), give_up_at - time.monotonic()), 0.0))

    def answer(self, id: str) -> tuple[str | None, bool]:
        """Return the answer to an update, if there is one, and whether the run had ended before that was read."""
        reading = self.installation.reading

        def look(connection: Psycopg) -> tuple[str | None, bool]:
            found = reading.find(connection, self.saga, self.key)
            if found is None:
                return None, False
            return reading.answer(connection, found.row.id, id), found.row.ended_at is not None

        return self.ask(look)

    def look(self) -> Look:
        """Read the run, or else what has arrived for it."""
        return self.ask(lambda connection: self.installation.reading.look(connection, self.saga, self.key))

    def need(self) -> FoundRun:
        """Read the run.

        Raises:
            UnknownRun: there is none, or no coordinator has taken its start yet.
        """
        looked = self.look()
        if looked.found is None:
            raise UnknownRun(self.why_not(looked, 0))
        return looked.found

    def fold(self) -> State:
        """Fold the run's log.

        Raises:
            UnknownRun: there is no such run, or no coordinator has taken its start yet.
            DecodeFailed: newer code has written in it what this code does not know.
        """
        id, reading = self.need().row.id, self.installation.reading
        return self.ask(lambda c: fold(id, reading.log(c, id), lambda undone: reading.log(c, undone)))

    def tell(
        self, kind: EventKind, *, target: Any = None, dedupe: str | None = None, payload: str | None = None
    ) -> None:
        """Send something to a run that is there; in the caller's transaction (`target`) nobody looks.

        Raises:
            UnknownRun: there is no such run.
            RunEnded: it has ended.
            AcceptanceUnknown: Postgres did not answer, and it may have been accepted.
        """
        if target is None:
            looked = self.look()
            if looked.found is None and not looked.accepted:
                raise UnknownRun(self.why_not(looked, 0))
            if looked.found is not None and looked.found.row.ended_at is not None:
                status = looked.found.row.status
                raise RunEnded(f"run {self.address} has ended ({status}): nothing can be asked of it")
        self.send(kind, payload=payload, dedupe=dedupe, target=target)

    def send(
        self,
        kind: EventKind,
        *,
        payload: str | None,
        run: UUID | None = None,
        lane: int = 0,
        dedupe: str | None = None,
        target: Any = None,
    ) -> None:
        """Send something whether or not there is a run (P1).

        `dedupe` is a signal's id; for an act on a step the step's occurrence. The log keeps it as the event's key.

        Raises:
            AcceptanceUnknown: Postgres did not answer, and it may have been accepted.
        """
        sending = self.installation.sending
        values: dict[str, Any] = {
            "shard": shard_of(self.saga, self.key, SHARDS),
            "lane": lane,
            "run": run,
            "saga": self.saga,
            "key": self.key,
            "kind": kind.value,
            "dedupe": dedupe,
            "payload": payload,
        }
        if target is not None:
            sending.send(target, **values)
            return
        try:
            self.ask(lambda connection: sending.send(connection, **values))
        except Unanswered as error:
            raise AcceptanceUnknown(
                f"nobody knows whether run {self.address} got what was sent to it ({kind}): {error}; "
                f"{_again(kind, dedupe)}"
            ) from error

    def why_not(self, looked: Look, timeout: float) -> str:
        """Say why there is no run, or no end of it, after `timeout` seconds (0: at once)."""
        after = f" after {timeout:g} s" if timeout else ""
        if looked.found is not None:
            return f"run {self.address} has not ended{after}: it is {looked.found.row.status}"
        if looked.accepted:
            return f"run {self.address} is accepted but no coordinator has taken it{after}: is one running?"
        return f"there is no run {self.address}{after}: its start was never sent, or its transaction is not committed"


def _again(kind: EventKind, dedupe: str | None) -> str:
    """Say how to send the same again."""
    if kind is EventKind.RUN_STARTED:
        return "start it again with the same id: however often it is started, it is one run"
    if kind is EventKind.SIGNAL_RECEIVED:
        return f"send it again with id={dedupe!r}: however often it is sent, it counts once"
    return "look where the run stands, and ask again if nothing came of it"
