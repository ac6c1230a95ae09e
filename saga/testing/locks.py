"""Semantic locks on a stage: who holds a name, and who stands in line for it. What a run does then it must not know."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from saga.core.effects import RequestLock
from saga.core.events import EventKind
from saga.core.outcome import wrap


@dataclass(slots=True)
class Place:
    """A place in the line for a lock; the first one holds it."""

    run: UUID
    token: UUID
    attempt: int
    answered: UUID | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run is told about a lock that it asked for."""

    run: UUID
    kind: EventKind
    token: UUID
    attempt: int
    payload: str | None = None


@dataclass(slots=True)
class Locks:
    """The lines, by name. What has to be answered is returned by `answers`, once."""

    _lines: dict[str, list[Place]] = field(default_factory=dict)
    _refused: list[Answer] = field(default_factory=list)

    def request(self, run: UUID, asked: RequestLock) -> None:
        """Stand in line; a run that has the lock already keeps it."""
        line = self._lines.setdefault(asked.name, [])
        known = next((place for place in line if place.run == run), None)
        if known is not None:
            known.token, known.attempt = asked.token, asked.attempt
        elif line and not asked.wait:
            said = wrap('{"type":"","message":"it is held by another run"}', worker="play", ran_seconds=0.0)
            self._refused.append(Answer(run, EventKind.STEP_FAILED, asked.token, asked.attempt, said))
        else:
            line.append(Place(run, asked.token, asked.attempt))

    def withdraw(self, token: UUID) -> None:
        """Leave a line; who holds the lock keeps it."""
        for line in self._lines.values():
            for place in line[1:]:
                if place.token == token:
                    line.remove(place)
                    self._refused.append(Answer(place.run, EventKind.STEP_NEVER_STARTED, token, place.attempt))

    def release(self, run: UUID) -> None:
        """Leave every line, as holder too."""
        for name, line in self._lines.items():
            self._lines[name] = [place for place in line if place.run != run]

    def answers(self) -> list[Answer]:
        """Return what runs have to be told since the last call."""
        told, self._refused = self._refused, []
        for line in self._lines.values():
            for place in line[:1]:
                if place.answered != place.token:
                    place.answered = place.token
                    payload = wrap("null", worker="play", ran_seconds=0.0)
                    told.append(Answer(place.run, EventKind.STEP_SUCCEEDED, place.token, place.attempt, payload))
        return told
