"""Signals and updates as an application declares them: what may be sent to a run from outside, by name and type."""

from __future__ import annotations

import json
from typing import Any, Generic, TypeVar, overload

from saga.core.errors import DefinitionError

T = TypeVar("T")
Answer = TypeVar("Answer")


class Signal(Generic[T]):
    """Something that a run can be told while it runs: `paid = Signal("paid", Payment)`.

    Declare it with `@saga(…, signals=[paid])`, wait for it with `ctx.wait_signal(paid)`, send it with
    `handle.send(paid, payment)`. Values are stored as the step inputs are, by their type.
    """

    @overload
    def __init__(self, name: str, carries: type[T], /) -> None: ...
    @overload
    def __init__(self, name: str, carries: Any, /) -> None: ...
    def __init__(self, name: str, carries: Any, /) -> None:
        if not 1 <= len(name) <= 100 or not name.isprintable():
            raise DefinitionError(f"signal name {name!r}: expected 1 to 100 printable characters")
        self.name = name
        self.carries = carries

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} {self.name}>"


class Update(Signal[T], Generic[T, Answer]):
    """A signal whose sender gets an answer: `move: Update[Address, Receipt] = Update("move", Address, Receipt)`.

    The saga waits for it as for a signal, gets a `Request`, and answers or refuses it; `handle.update(move, address)`
    returns the answer.
    """

    def __init__(self, name: str, carries: Any, answer: Any, /) -> None:
        super().__init__(name, carries)
        self.answer = answer


def signal_payload(name: str, value: str) -> str:
    """Return the payload of a signal's arrival; `value` is JSON text, and stands last, byte for byte."""
    return f'{{"signal":{json.dumps(name)},"value":{value}}}'
