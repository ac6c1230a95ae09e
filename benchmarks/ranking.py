"""Percentiles and spreads of measured values, none of them made up between two. It knows no record."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def percentile(values: Sequence[float], part: float) -> float:
    """Return the measured value below which this part of the values lies."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, round(part * (len(ranked) - 1)))]


def spread(values: Iterable[float], *, digits: int = 1) -> str:
    """Return the median with the smallest and the largest in brackets."""
    found = list(values)
    if not found:
        return "-"
    middle = f"{statistics.median(found):.{digits}f}"
    return middle if len(found) == 1 else f"{middle} ({min(found):.{digits}f} to {max(found):.{digits}f})"
