"""Every place at which a process can die or freeze: one play each, and the user's invariant after it.

It knows how plays and boundaries are named, not what happens there: the stage does that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy

from saga.core.definition import SagaDefinition
from saga.core.lifecycle import Cause
from saga.engine.codec import JsonCodec
from saga.engine.crashpoints import Point
from saga.testing.cast import Replacements
from saga.testing.mishaps import MEANING, Frozen, Mishaps
from saga.testing.play import START, Played, act
from saga.testing.script import Sent


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """One play in which a process dies or freezes: where, and where the run is cancelled, if it is."""

    crash_at: str
    cancel_at: str | None = None

    def __str__(self) -> str:
        point, _, what = self.crash_at.partition(" ")
        meaning = f"{MEANING[point]} ({what})"
        if self.cancel_at is None:
            return meaning
        return f"{meaning}, in a run that is cancelled {'there' if self.cancel_at == self.crash_at else 'before'}"

    @property
    def freezes(self) -> bool:
        """Whether a worker freezes there, and acts late."""
        return self.crash_at.startswith(tuple(Frozen))

    @property
    def options(self) -> str:
        """What `play` is to be given to play it again."""
        cancel = f", cancel_at={self.cancel_at!r}" if self.cancel_at is not None else ""
        return f"crash_at={self.crash_at!r}{cancel}"


def every_crash_point(
    saga: SagaDefinition,
    given: Any,
    *,
    invariant: Callable[[Played], object],
    before: Callable[[], object] | None = None,
    replace: Replacements | None = None,
    signals: Sequence[Sent] = (),
    connection: sqlalchemy.Connection | None = None,
    now: datetime = START,
) -> int:
    """Play a run once for each place at which a process can die or freeze, with the invariant after each; say how many.

    The run is killed at each boundary; at each once more while it is also cancelled there; and at each boundary of
    its undo, cancelled as late as can be. After every kill the run is brought back from its log. Then workers freeze
    before their effect, and act when the next attempt or the undo has, or when the run has ended. `before` is called
    before each play, to empty what fakes keep. `replace`, `signals`, `connection` and `now` are as for `play`.

    Raises:
        AssertionError: the invariant does not hold; the message says at which crash point, and how to play it alone.
        ReplayMismatch: brought back from its log the saga function asked for something else.
        SagaError: as `play` does.
    """

    codec = JsonCodec()

    def attempt(mishaps: Mishaps) -> Played:
        if before is not None:
            before()
        return act(saga, given, mishaps, codec=codec, replace=replace, signals=signals, connection=connection, now=now)

    unharmed = Mishaps()
    _hold(saga, invariant, lambda: attempt(unharmed), "with no crash at all", "")
    points = [CrashPoint(name) for name in unharmed.passed]
    points += [CrashPoint(name, cancel_at=name) for name in unharmed.passed]
    points += _undo_points(attempt, unharmed.passed)
    points.sort(key=lambda point: point.freezes)  # what is easier to understand is found first
    for number, point in enumerate(points, 1):
        mishaps = Mishaps(point.crash_at, point.cancel_at)
        _hold(
            saga,
            invariant,
            lambda mishaps=mishaps: attempt(mishaps),  # type: ignore[misc]
            f"at crash point {number} of {len(points)}: {point}",
            f", {point.options}",
        )
    return len(points)


def _undo_points(attempt: Callable[[Mishaps], Played], passed: list[str]) -> list[CrashPoint]:
    """Return the boundaries behind the latest cancel that still has the run undone."""
    for name in reversed([name for name in passed if name.startswith(Point.WORKER_CLAIMED)]):
        mishaps = Mishaps(cancel_at=name)
        if attempt(mishaps).cause is Cause.CANCELLED:
            behind = mishaps.passed[mishaps.passed.index(name) + 1 :]
            return [CrashPoint(boundary, cancel_at=name) for boundary in behind]
    return []


def _hold(
    saga: SagaDefinition, invariant: Callable[[Played], object], attempt: Callable[[], Played], where: str, options: str
) -> None:
    again = f"Play it alone: play({saga.name}, …{options})"
    try:
        invariant(attempt())
    except AssertionError as error:
        raise AssertionError(f"the invariant does not hold {where}: {error}\n{again}") from error
    except Exception as error:
        error.add_note(f"This was {where}.\n{again}")
        raise
