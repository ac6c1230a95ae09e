"""A run that leaves memory is freed at once: nothing of it waits for the garbage collector, which comes seldom."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from saga import Context, Signal, StepFailed
from saga.core.execution import Execution
from saga.core.program import Evicted
from tests.unit.driven import Driven, define
from tests.unit.steps import charge, ship, stock

answer = Signal("answer", str)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the collector only reference counts free anything."""
    gc.disable()
    yield
    gc.enable()


def _for_a_step(ctx: Context, n: int) -> int:
    return ctx.run(stock, n)


def _for_all_of_some(ctx: Context, n: int) -> None:
    ctx.gather(ctx.start(stock, n), ctx.start(charge, n))


def _for_the_first_of_some(ctx: Context, n: int) -> None:
    ctx.first(ctx.wait(answer), ctx.timer(3600))


def _for_the_next_of_many(ctx: Context, n: int) -> None:
    ctx.map(ship, range(10), concurrency=2)


def _for_a_signal_in_finally(ctx: Context, n: int) -> None:
    try:
        ctx.run(stock, n)
    except StepFailed:
        pass
    finally:
        ctx.wait_signal(answer)


def _for_ever(ctx: Context, n: int) -> None:
    with suppress(Evicted):
        ctx.wait_signal(answer)


def _with_a_bug(ctx: Context, n: int) -> None:
    raise ValueError(n)


WAITING = [
    _for_a_step,
    _for_all_of_some,
    _for_the_first_of_some,
    _for_the_next_of_many,
    _for_a_signal_in_finally,
    _for_ever,
]


def _evicted(run: Driven) -> weakref.ref[Execution]:
    execution = run.execution
    assert execution.drop()
    return weakref.ref(execution)


@pytest.mark.parametrize("function", WAITING)
@pytest.mark.usefixtures("no_collector")
def test_a_waiting_run_that_is_evicted_is_freed_at_once(function: Callable[[Context, int], Any]) -> None:
    run = Driven(define(function, signals=[answer]), replays=False)

    left = _evicted(run)
    del run

    assert left() is None


@pytest.mark.usefixtures("no_collector")
def test_a_run_that_ended_is_freed_at_once() -> None:
    completed = Driven(define(_for_a_step), replays=False).succeed("stock")
    failed = Driven(define(_for_a_step), replays=False).abort("stock")
    bug = Driven(define(_with_a_bug), replays=False)

    left = [_evicted(run) for run in (completed, failed, bug)]
    del completed, failed, bug

    assert [execution() for execution in left] == [None, None, None]
