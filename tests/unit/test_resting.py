"""What a coordinator knows by heart while it rests: the timers that wake it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from saga.engine.resting import SOON_SECONDS, Rest
from saga.engine.store.connect import Connection

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rest]:
    """A rest that has just looked, on a clock that stands still."""
    monkeypatch.setattr("saga.engine.resting.time.monotonic", lambda: 50.0)

    def connect() -> Connection:
        raise AssertionError("nothing is asked of Postgres here")

    made = Rest("saga", connect, threading.Event())
    made.looked(NOW, everywhere=True)
    yield made
    made.close()


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_look_ahead_says_when_to_wake(rest: Rest) -> None:
    assert rest.until_timer() == float("inf")

    rest.expect([after(3), after(1), after(2)])

    assert rest.until_timer() == 1


def test_each_look_ahead_takes_the_place_of_the_one_before(rest: Rest) -> None:
    rest.expect([after(1)])
    rest.expect([after(2)])

    assert rest.until_timer() == 2


def test_what_is_set_before_the_next_look_ahead_is_remembered_and_what_is_later_is_not(rest: Rest) -> None:
    rest.expect([after(4)])

    rest.remember([after(SOON_SECONDS + 1), after(3), after(4.5)])

    assert rest.until_timer() == 3
    rest.looked(after(3), everywhere=True)
    assert rest.until_timer() == 1


def test_a_look_at_some_shards_only_forgets_no_timer(rest: Rest) -> None:
    rest.expect([after(1)])

    rest.looked(after(2), everywhere=False)

    assert rest.until_timer() == -1
