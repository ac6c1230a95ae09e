"""A check: what it refuses or advises, why, and the line to paste. It knows no setting; who runs it has the facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, for people."""

    code: str
    area: str
    found: str
    because: str
    paste: str


@dataclass(frozen=True, slots=True)
class Check(Generic[F]):
    """One refusal, or one piece of advice. `find` gets the facts of its area and returns what it found, or None."""

    code: str
    area: str
    refuses: str
    because: str
    paste: str
    find: Callable[[F], str | None]
    advice: bool = False  #: nothing is wrong: something could be better

    def examine(self, facts: F) -> Finding | None:
        """Return what was found, or None where there is nothing to say."""
        found = self.find(facts)
        return None if found is None else Finding(self.code, self.area, found, self.because, self.paste)


class Checks(Generic[F]):
    """The checks of one area, in the order of their codes."""

    def __init__(self, area: str) -> None:
        self.area = area
        self._checks: list[Check[F]] = []

    def __iter__(self) -> Iterator[Check[F]]:
        return iter(self._checks)

    def refuse(self, code: str, refuses: str, find: Callable[[F], str | None], *, because: str, paste: str) -> None:
        """Add a check that refuses what `find` finds."""
        self._checks.append(Check(code, self.area, refuses, because, paste, find))

    def advise(self, code: str, advises: str, find: Callable[[F], str | None], *, because: str, paste: str) -> None:
        """Add a check that advises; it never fails an examination."""
        self._checks.append(Check(code, self.area, advises, because, paste, find, advice=True))
