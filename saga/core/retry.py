"""Retry policies: how often, and after how many seconds. Pure arithmetic; it must not know clocks or random sources."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

from saga.core.errors import DefinitionError

#: Seconds that any delay may be: a year.
SECONDS_MAX = 365 * 86_400
#: What a delay may grow by from one attempt to the next; its 64th power still is a float.
FACTOR_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Retry:
    """How an attempt that did not succeed is asked again.

    The delay before attempt n + 1 is `first_seconds * factor ** (n - 1)`, at most `max_seconds`, and then shortened by
    up to `jitter` (a fraction) so that runs which failed together do not return together.

    Raises:
        DefinitionError: a number is outside its range.
    """

    attempts: int | None = 5  #: attempts in all; None is no cap (only a deadline ends it)
    first_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 60.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise DefinitionError(f"Retry(attempts={self.attempts}): expected 1 or more, or None for no cap")
        for name, seconds in (("first_seconds", self.first_seconds), ("max_seconds", self.max_seconds)):
            if not 0 <= seconds <= SECONDS_MAX:
                raise DefinitionError(f"Retry({name}={seconds}): expected seconds, 0 or more and at most a year")
        if not 1 <= self.factor <= FACTOR_MAX:
            raise DefinitionError(f"Retry(factor={self.factor}): expected 1 or more and at most {FACTOR_MAX}")
        if not 0 <= self.jitter <= 1:
            raise DefinitionError(f"Retry(jitter={self.jitter}): expected a fraction between 0 and 1")

    def allows(self, attempts_used: int) -> bool:
        """Say whether another attempt may follow after this many."""
        return self.attempts is None or attempts_used < self.attempts

    def delay_seconds(self, attempts_used: int, token: UUID) -> float:
        """Return the seconds to wait after so many attempts; the jitter is derived from the token, never random."""
        exponent = min(max(attempts_used - 1, 0), 64)
        full = min(self.first_seconds * self.factor**exponent, self.max_seconds)
        seed = hashlib.sha256(token.bytes + attempts_used.to_bytes(4, "big")).digest()
        fraction = int.from_bytes(seed[:4], "big") / 2**32
        return full * (1 - self.jitter * fraction)


#: A compensation has no cap on attempts; its deadline (72 h) ends it.
COMPENSATION_RETRY = Retry(attempts=None)
