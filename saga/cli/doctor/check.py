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

    def refuse(
        self, code: str, refuses: str, *, because: str, paste: str
    ) -> Callable[[Callable[[F], str | None]], Callable[[F], str | None]]:
        """Register the function below as a check that refuses."""
        return self._register(code, refuses, because, paste, advice=False)

    def advise(
        self, code: str, advises: str, *, because: str, paste: str
    ) -> Callable[[Callable[[F], str | None]], Callable[[F], str | None]]:
        """Register the function below as a check that advises; it never fails an examination."""
        return self._register(code, advises, because, paste, advice=True)

    def _register(
        self, code: str, what: str, because: str, paste: str, *, advice: bool
    ) -> Callable[[Callable[[F], str | None]], Callable[[F], str | None]]:
        def register(find: Callable[[F], str | None]) -> Callable[[F], str | None]:
            self._checks.append(Check(code, self.area, what, because, paste, find, advice))
            return find

        return register
