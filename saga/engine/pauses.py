"""How long is waited between two looks, or two tries. It must not know what is looked at, nor when to give up."""

from __future__ import annotations

import random
from collections.abc import Iterator


def pauses(first_seconds: float, longest_seconds: float, *, factor: float = 2.0) -> Iterator[float]:
    """Yield the seconds before each further try: longer every time, and spread, or all who wait come at once."""
    pause = first_seconds
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads what comes together, no secret
        pause = min(pause * factor, longest_seconds)
