"""A saga function that does not come to rest: a play cuts it off as a coordinator does, and ends stalled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

import pytest

from saga import Context, StallReason, Status, saga
from saga.core.errors import ReplayMismatch
from saga.engine.client import Saga
from saga.testing import Played, play, record, replay
from tests.unit.steps import charge, look, stock

# A thread ends what hangs: SIGALRM is what is tested.
pytestmark = [pytest.mark.usefixtures("own_declarations", "soon"), pytest.mark.timeout(30, method="thread")]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off after a moment, not after `saga_turn_seconds`."""
    monkeypatch.setattr(import_module("saga.testing.memory"), "TURN_SECONDS", 0.1)


def loop() -> None:
    while True:
        pass


def loop_through_exceptions() -> None:
    while True:
        with suppress(Exception):
            time.sleep(1)


def loop_through_everything() -> None:
    while True:
        with suppress(BaseException):
            time.sleep(1)


def named(function: Callable[[Context, int], int]) -> Saga[int, int]:
    return saga("restless")(function)


LOOPS = [loop, loop_through_exceptions, loop_through_everything]


@pytest.mark.parametrize("never_rests", LOOPS)
def test_a_function_that_never_comes_to_rest_stalls_its_run(never_rests: Callable[[], None]) -> None:
    def function(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        never_rests()
        return n

    ended = play(named(function), 3)

    assert (ended.status, ended.stall_reason) == (Status.STALLED, StallReason.SAGA_BUG)
    assert "had not come to rest after 0.1 s" in ended.reason
    assert ended.effects == ("steps.stock",)


def test_a_child_that_never_comes_to_rest_stalls_and_its_parent_waits() -> None:
    def function(ctx: Context, n: int) -> int:
        loop()
        return n

    child = named(function)

    @saga("patient")
    def patient(ctx: Context, n: int) -> int:
        return ctx.child(child, n)

    assert play(patient, 3).status is Status.RUNNING


@pytest.mark.parametrize("never_rests", LOOPS)
def test_a_function_that_never_leaves_memory_holds_up_no_play(never_rests: Callable[[], None]) -> None:
    def function(ctx: Context, n: int) -> int:
        try:
            ctx.run(stock, n)
            return ctx.run(charge, n + 1)
        except BaseException:
            never_rests()
            raise

    played = play(named(function), 3, crash_at="turn.committed StepSucceeded steps.stock#1")

    assert (played.status, played.result) == (Status.COMPLETED, 40)


def test_a_function_that_asks_on_whatever_it_is_told_holds_up_no_play() -> None:
    def function(ctx: Context, n: int) -> int:
        while True:
            with suppress(BaseException):
                return ctx.run(stock, n)

    assert play(named(function), 3, crash_at="turn.committed RunStarted").result == 4


def test_a_function_that_loops_on_its_way_out_is_undone() -> None:
    def function(ctx: Context, n: int) -> int:
        try:
            ctx.run(stock, n)
            return ctx.run(charge, n)
        finally:
            loop()

    assert play(named(function), 3, cancel_after=1).status is Status.COMPENSATED


def test_what_comes_to_rest_after_all_goes_on() -> None:
    def function(ctx: Context, n: int) -> int:
        with suppress(BaseException):
            loop()
        return ctx.run(look, n)

    assert play(named(function), 3).result == 3


@pytest.mark.parametrize("never_rests", LOOPS)
def test_a_history_is_not_followed_by_code_that_never_comes_to_rest(never_rests: Callable[[], None]) -> None:
    def function(ctx: Context, n: int) -> int:
        return ctx.run(stock, n)

    def restless(ctx: Context, n: int) -> int:
        ctx.run(stock, n)
        never_rests()
        return n

    history = record(play(named(function), 3))

    with pytest.raises(ReplayMismatch, match="had not come to rest"):
        replay(named(restless), history)


def test_a_play_in_another_thread_cuts_nothing_off_and_plays_all_the_same() -> None:
    def function(ctx: Context, n: int) -> int:
        time.sleep(0.2)
        return ctx.run(look, n)

    played: list[Played] = []
    declared = named(function)
    thread = threading.Thread(target=lambda: played.append(play(declared, 3)))
    thread.start()
    thread.join()

    assert [one.result for one in played] == [3]
