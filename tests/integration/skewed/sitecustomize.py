"""Puts the wall clock of a process off by SAGA_TEST_CLOCK_OFF seconds, for whatever Python code asks for the time.

With this folder first on PYTHONPATH, Python runs it before anything else; what is forked inherits it. It must not touch
the monotonic clock, which no wall clock moves.
"""

from __future__ import annotations

import datetime as datetimes
import os
import time
from typing import Any

_OFF_SECONDS = float(os.environ.get("SAGA_TEST_CLOCK_OFF", "0"))
_time, _time_ns = time.time, time.time_ns


class _AnyDatetime(type):
    """Lets every real datetime count as one of the class below."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Datetime)


_Datetime = datetimes.datetime


class _OffDatetime(_Datetime, metaclass=_AnyDatetime):
    @classmethod
    def now(cls, tz: datetimes.tzinfo | None = None) -> Any:
        return _Datetime.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return _Datetime.fromtimestamp(time.time(), datetimes.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
        return _Datetime.fromtimestamp(time.time(), None)


if _OFF_SECONDS:
    time.time = lambda: _time() + _OFF_SECONDS
    time.time_ns = lambda: _time_ns() + round(_OFF_SECONDS * 1_000_000_000)
    datetimes.datetime = _OffDatetime  # type: ignore[misc]
