"""Sagas that wait, for signals, time, children and locks, over the steps of `application`, whose processes serve them.

They know nothing of the tests that start them.
"""

from __future__ import annotations

from saga import Abort, ChildFailed, Context, Signal, SignalTimeout, StepFailed, Update, saga
from tests.integration.application import Order, book, charge, confirm, notify, reserve

answer = Signal("answer", str)
count: Update[int, int] = Update("count", int, int)


@saga("asking", signals=[answer, count])
def asking(ctx: Context, order: Order) -> list[str]:
    """A step, then a human's answer, as long as it takes, then another step."""
    ctx.set_attributes(mood=order.moods.get("reserve", ""), asked=True)
    ctx.run(reserve, order)
    ctx.set_state({"waits for": "answer"})
    said = ctx.wait_signal(answer)
    ctx.run(confirm, order)
    return [said]


@saga("counting", signals=[count])
def counting(ctx: Context, order: Order) -> int:
    """Adds up what it is sent, until that is nothing."""
    total = 0
    while True:
        request = ctx.wait_signal(count)
        if request.value < 0:
            request.refuse("only what is positive counts")
            continue
        total += request.value
        request.answer(total)
        if request.value == 0:
            return total


@saga("impatient", signals=[answer])
def impatient(ctx: Context, order: Order) -> str:
    """Asks again and again, each time for so long."""
    seconds = float(order.moods.get("patience", "0.5"))
    for _ in range(3):
        try:
            return ctx.wait_signal(answer, timeout=seconds)
        except SignalTimeout:
            ctx.run(notify, order)
    return "nobody"


@saga("sleepy")
def sleepy(ctx: Context, order: Order) -> list[str]:
    """Sleeps between two steps; tells when it fell asleep and woke."""
    ctx.run(reserve, order)
    began = ctx.now()
    ctx.sleep(float(order.moods.get("sleep", "0.5")))
    return [began.isoformat(), ctx.now().isoformat()]


@saga("leg")
def leg(ctx: Context, order: Order) -> str:
    """A child: two steps, and a pivot between them if that is its mood."""
    seat = ctx.run(reserve, order)
    if "pivot" in order.moods:
        ctx.pivot()
    ctx.run(charge, order, seat)
    return seat


@saga("journey")
def journey(ctx: Context, order: Order) -> str:
    """A parent: a child, then a step that may fail."""
    seat = ctx.child(leg, order)
    ctx.run(confirm, order)
    return seat


@saga("tolerant")
def tolerant(ctx: Context, order: Order) -> str:
    """A parent that has another way when its child fails."""
    try:
        return ctx.child(leg, order)
    except ChildFailed as failed:
        ctx.run(notify, order)
        return failed.reason


@saga("parting", signals=[answer])
def parting(ctx: Context, order: Order) -> str:
    """A parent that returns before its children."""
    ctx.start_child(asking, order, close="abandon", id=f"{ctx.key}-abandoned")
    ctx.start_child(asking, order, close="cancel", id=f"{ctx.key}-cancelled")
    ctx.run(confirm, order)
    return "gone"


@saga("exclusive", signals=[answer])
def exclusive(ctx: Context, order: Order) -> str:
    """Holds a lock while it waits for an answer."""
    ctx.lock(order.moods["lock"], wait=order.moods.get("wait") != "no", timeout=60)
    ctx.run(reserve, order)
    return ctx.wait_signal(answer)


@saga("trying", signals=[answer])
def trying(ctx: Context, order: Order) -> str:
    """Takes a lock if it can be had in time, and says so."""
    try:
        ctx.lock(order.moods["lock"], timeout=0.5)
    except StepFailed as taken:
        return taken.reason
    return "had it"


@saga("expedition")
def expedition(ctx: Context, order: Order) -> str:
    """A parent whose child is a parent, after a step of its own; it may think better of it afterwards."""
    ctx.run(notify, order)
    seat = ctx.child(journey, order)
    if order.moods.get("expedition") == "abort":
        raise Abort("after all not")
    return seat


@saga("convoy")
def convoy(ctx: Context, order: Order) -> list[str]:
    """Three children at once, then a step."""
    seats = ctx.gather(*[ctx.start_child(leg, order) for _ in range(3)])
    ctx.run(confirm, order)
    return list(seats)


@saga("pressed")
def pressed(ctx: Context, order: Order) -> str:
    """A child against time, and another way when it is too slow."""
    child = ctx.start_child(leg, order)
    if ctx.first(child, ctx.timer(float(order.moods.get("press", "0.3")))) is child:
        return child.result()
    return ctx.run(reserve, order)


@saga("regretful")
def regretful(ctx: Context, order: Order) -> str:
    """Goes back to a save-point when the first way fails, steps, child and all, and takes another."""
    seat = ctx.run(reserve, order)
    savepoint = ctx.savepoint()
    try:
        ctx.run(notify, order)
        ctx.child(leg, order)
        ctx.run(confirm, order)
    except StepFailed:
        ctx.rollback(savepoint)
    return ctx.run(book, order, seat)


SAGAS = (
    asking,
    counting,
    impatient,
    sleepy,
    leg,
    journey,
    tolerant,
    parting,
    exclusive,
    trying,
    expedition,
    convoy,
    pressed,
    regretful,
)
