"""The greenlet that runs a saga function: it switches out at each wait without an answer and is resumed by a turn.

It knows the definition and the folded state it may look at; what it asks for goes through its host, who keeps the log.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from greenlet import getcurrent, greenlet

from saga.core import inside
from saga.core.definition import AnyStep, SagaDefinition
from saga.core.errors import LimitReached, SagaError
from saga.core.events import Event, EventKind
from saga.core.signals import Signal, Update
from saga.core.state import State

#: What a saga function may ask for in one turn before it counts as a loop.
ASKS_PER_TURN_MAX = 10_000


#: JSON text, or what makes it where it is needed: a replay finds it in the log.
Payload = str | Callable[[], str] | None


class Evicted(BaseException):
    """Thrown into a saga function that is dropped from memory. Let it pass: the run goes on elsewhere, from its log."""


class Codec(Protocol):
    """Turns values into JSON text and back, by the types that definitions declare."""

    def encode_input(self, step: AnyStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str: ...
    def decode_result(self, step: AnyStep, text: str) -> Any: ...
    def encode_output(self, saga: SagaDefinition, value: Any) -> str: ...
    def decode_input(self, saga: SagaDefinition, text: str) -> Any: ...
    def encode_saga_input(self, saga: SagaDefinition, value: Any) -> str: ...
    def decode_output(self, saga: SagaDefinition, text: str) -> Any: ...
    def decode_signal(self, signal: Signal[Any], text: str) -> Any: ...
    def encode_answer(self, update: Update[Any, Any], value: Any) -> str: ...
    def encode_plain(self, value: Any, what: str, bytes_max: int) -> str: ...


class Host(Protocol):
    """What a program is run by: it appends what the program asks for, or compares it with the log."""

    state: State
    codec: Codec
    run: UUID
    key: str

    @property
    def now(self) -> datetime: ...

    @property
    def decided_at(self) -> datetime: ...

    @property
    def replaying(self) -> bool: ...

    def ask(
        self, kind: EventKind, *, key: str | None, token: UUID | None, payload: Payload, names: tuple[str, ...] = ()
    ) -> Event: ...


class Program:
    """One saga function in flight. After `advance`, `bug` holds what a function raised that it should not have."""

    def __init__(self, definition: SagaDefinition, host: Host, main: Callable[[Program], Any]) -> None:
        self.definition = definition
        self.host = host
        self.bug: BaseException | None = None
        self.finished = False
        self.dead = False
        self._asks = 0
        self._overrun: LimitReached | None = None
        self._main = main
        self._waiting: Callable[[], bool] | None = None
        self._home: greenlet | None = None
        self._greenlet = greenlet(self._run)

    @property
    def wakeable(self) -> bool:
        """What it waits for is there (or it has not begun)."""
        return not self.finished and not self.dead and (self._waiting is None or self._waiting())

    def advance(self) -> None:
        """Run the function until it waits for something that is not there, or ends."""
        self._asks = 0
        self._home = getcurrent()
        inside.enter()
        try:
            self._greenlet.switch()
        finally:
            inside.leave()

    def kill(self) -> bool:
        """Throw the function out of memory. False: it survived the throw and must be kept from being collected."""
        self.dead = True
        if self._greenlet:
            self._home = getcurrent()
            inside.enter()
            try:
                self._greenlet.throw(Evicted())
            except BaseException:  # noqa: S110 - whatever a dying function raises has no one left to hear it
                pass
            finally:
                inside.leave()
        self.bug = None  # its traceback refers to this program: left there, only the garbage collector would free it
        return not self._greenlet

    # -- called from inside the function ---------------------------------------------------------------------------

    def check_alive(self) -> None:
        """Raise when the function was evicted, at every call, whatever it caught before."""
        if self.dead:
            raise Evicted
        if getcurrent() is not self._greenlet:
            raise SagaError(
                "ctx was used outside its saga function (another thread, greenlet or run): pass values, not ctx"
            )

    def wait_until(self, satisfied: Callable[[], bool]) -> None:
        """Switch out until the state satisfies the condition."""
        self.check_alive()
        try:
            while not satisfied():
                self._waiting = satisfied
                assert self._home is not None
                self._home.switch()
                self.check_alive()
        finally:
            self._waiting = None  # it refers to this program too

    def ask(
        self,
        kind: EventKind,
        *,
        key: str | None = None,
        token: UUID | None = None,
        payload: Payload = None,
        names: tuple[str, ...] = (),
    ) -> Event:
        """Put something into the run's log, or find it there; what `payload` raises is raised, then as in a replay."""
        self.check_alive()
        self._asks += 1
        if self._asks > ASKS_PER_TURN_MAX:
            self.dead = True  # it may catch this, but not go on
            self._overrun = LimitReached(
                f"saga {self.definition.name} asked for more than {ASKS_PER_TURN_MAX} things in one turn: "
                "wait for some of them before starting more"
            )
            raise self._overrun
        return self.host.ask(kind, key=key, token=token, payload=payload, names=names)

    def _run(self) -> None:
        try:
            self._main(self)
        except Evicted:
            pass
        except BaseException as error:  # Abort and StepFailed too: before the pivot they end in a recorded failure
            self.bug = error
        self.bug = self._overrun or self.bug
        self.finished = True
