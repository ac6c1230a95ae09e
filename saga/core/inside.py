"""Whether this thread runs a saga function right now. It owns one flag and knows nobody who sets it."""

from __future__ import annotations

import threading

_here = threading.local()


def saga_function() -> bool:
    """Say whether the caller is a saga function (or something it called)."""
    return getattr(_here, "inside", False)


def enter() -> None:
    """Note that control passes to a saga function."""
    _here.inside = True


def leave() -> None:
    """Note that control came back from a saga function."""
    _here.inside = False
