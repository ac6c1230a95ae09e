"""What is measured: sagas of no-op steps, Celery's chain of the same, and single no-op tasks. It measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery import chain, shared_task

from benchmarks.finish import mark
from saga import Context, Signal, saga, step

#: Marks: the last step or task of a saga has run; a saga has ended (for a chain these are one and the same moment).
LAST_STEP = "last"
ENDED = "ended"
#: Marks of a measurement of waiting: so many runs were made, took a signal, saw a timer fire, in one commit.
STARTED = "started"
SIGNALLED = "signalled"
FIRED = "fired"

#: Steps of a saga in the main comparison.
STEPS = 4

Small = dict[str, int]


@step
def first(number: int) -> Small:
    """Do nothing."""
    return {"number": number, "step": 1}


@first.compensate
def undo_first(result: Small | None, number: int) -> None:
    """Undo nothing."""


@step
def second(given: Small) -> Small:
    """Do nothing."""
    return {"number": given["number"], "step": 2}


@second.compensate
def undo_second(result: Small | None, given: Small) -> None:
    """Undo nothing."""


@step
def third(given: Small) -> Small:
    """Do nothing."""
    return {"number": given["number"], "step": 3}


@third.compensate
def undo_third(result: Small | None, given: Small) -> None:
    """Undo nothing."""


@step
def fourth(given: Small) -> Small:
    """Do nothing, and say when."""
    mark(LAST_STEP, given["number"])
    return {"number": given["number"], "step": 4}


@fourth.compensate
def undo_fourth(result: Small | None, given: Small) -> None:
    """Undo nothing."""


@saga("four")
def four(ctx: Context, number: int) -> Small:
    """Four sequential steps, each with the result of the one before."""
    return ctx.run(fourth, ctx.run(third, ctx.run(second, ctx.run(first, number))))


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of so many steps."""

    number: int
    steps: int


@saga("long")
def long(ctx: Context, stretch: Stretch) -> int:
    """As many sequential steps as it is told."""
    for _ in range(stretch.steps):
        ctx.run(first, stretch.number)
    return stretch.steps


ping: Signal[int] = Signal("ping", int)


@saga("waiting", signals=[ping])
def waiting(ctx: Context, number: int) -> int:
    """Wait for signals until one says that it is enough."""
    while ctx.wait_signal(ping) >= 0:
        pass
    return number


@saga("timed")
def timed(ctx: Context, due_at: datetime) -> None:
    """Sleep until a time."""
    ctx.sleep(due_at)


def _link(number: int, place: int) -> Small:
    if place == STEPS:
        mark(LAST_STEP, number)
        mark(ENDED, number)
    return {"number": number, "step": place}


def _first_link(number: int) -> Small:
    return _link(number, 1)


def _next_link(given: Small) -> Small:
    return _link(given["number"], given["step"] + 1)


def _noop(number: int) -> Small:
    if number % STEPS == 0:
        mark(ENDED, number // STEPS)
    return {"number": number}


_OPTIONS: dict[str, Any] = {"acks_late": True, "ignore_result": True, "serializer": "json"}
first_link = shared_task(name="chain.first", **_OPTIONS)(_first_link)
next_link = shared_task(name="chain.next", **_OPTIONS)(_next_link)
noop = shared_task(name="chain.noop", **_OPTIONS)(_noop)


def send_chain(number: int) -> None:
    """Send one chain of four."""
    chain(first_link.s(number), *(next_link.s() for _ in range(STEPS - 1))).apply_async()
