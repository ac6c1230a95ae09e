"""What happens to a run from outside while it is played: signals, at a time or when the run waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from saga.core.signals import Signal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """A signal in a script. Use `send` to write one."""

    signal: Signal[Any]
    value: Any
    at: timedelta | None  #: after the start; None: once the run waits for it


def send(signal: Signal[T], value: T, /, *, at: float | timedelta | None = None) -> Sent:
    """Script a signal of a play: it arrives once the run waits for it, or `at` a time after the start.

    `at` is a timedelta, or seconds.
    """
    return Sent(signal, value, timedelta(seconds=at) if isinstance(at, int | float) else at)
