"""A check: what it refuses, why, and the line to paste. It knows no setting, and who runs it hands it the facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a check found, for people."""

    code: str
    area: str
    found: str
    because: str
    paste: str


@dataclass(frozen=True, slots=True)
class Check(Generic[F]):
    """One refusal. `find` gets the facts of its area and returns what is wrong with them, or None."""

    code: str
    area: str
    refuses: str
    because: str
    paste: str
    find: Callable[[F], str | None]

    def examine(self, facts: F) -> Refusal | None:
        """Return the refusal, or None where nothing is wrong."""
        found = self.find(facts)
        return None if found is None else Refusal(self.code, self.area, found, self.because, self.paste)


class Checks(Generic[F]):
    """The checks of one area, in the order of their codes."""

    def __init__(self, area: str) -> None:
        self.area = area
        self._checks: list[Check[F]] = []

    def __iter__(self) -> Iterator[Check[F]]:
        return iter(self._checks)

    def refuse(
        self, code: str, refuses: str, *, because: str, paste: str
    ) -> Callable[[Callable[[F], str | None]], Callable[[F], str | None]]:
        """Register the function below as a check."""

        def register(find: Callable[[F], str | None]) -> Callable[[F], str | None]:
            self._checks.append(Check(code, self.area, refuses, because, paste, find))
            return find

        return register
