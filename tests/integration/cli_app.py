"""A small application for the tests of the commands: its parcels meet the mishap that they name."""

from __future__ import annotations

import os
from dataclasses import dataclass

from celery import Celery

from saga import Abort, Context, Retry, Signal, Update, install, saga, step

app = Celery("shelf", broker=os.environ.get("CELERY_BROKER_URL"), set_as_current=False)
app.conf.update(
    accept_content=["json"],
    task_default_queue="shelf",
    task_routes={"cli_app.engrave": {"queue": "engraving"}},
    worker_prefetch_multiplier=1,
    worker_soft_shutdown_timeout=5.0,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600, "socket_timeout": 10, "socket_keepalive": True},
    saga_lease_seconds=3.0,
)
install(app, database=os.environ.get("SAGA_DATABASE_URL"))


@dataclass(frozen=True, slots=True)
class Wares:
    """What is to be shipped, and what goes wrong with it."""

    name: str
    grams: int
    mishap: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """Wares in their box."""

    number: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person says of a claim."""

    granted: bool


verdict = Signal("verdict", Verdict)
weight: Update[int, str] = Update("weight", int, str)


@step(retry=Retry(attempts=2, first_seconds=0.01), timeout=5)
def pack(wares: Wares) -> Box:
    """Pack."""
    if wares.mishap == "burst":
        raise RuntimeError("the box burst")
    return Box(wares.grams)


@pack.compensate(timeout=5)
def unpack(box: Box | None, wares: Wares) -> None:
    """Unpack."""
    if wares.mishap == "glued":
        raise Abort("the tape does not come off")


@step(timeout=5)
def address(wares: Wares) -> None:
    """Write the address."""
    if wares.mishap in ("nowhere", "glued"):
        raise Abort("no such address")


@step(timeout=5)
def engrave(wares: Wares) -> None:
    """Engrave; no worker of these tests does that."""


@step(retry=Retry(attempts=3, first_seconds=3600, max_seconds=3600, jitter=0), timeout=5)
def weigh(wares: Wares) -> None:
    """Weigh; the scales are never ready at once."""
    raise RuntimeError("the scales are busy")


@step(timeout=5)
def deliver(wares: Wares, box: Box) -> Box:
    """Deliver."""
    if wares.mishap == "undeliverable":
        raise Abort("nobody opens")
    return box


@saga("ship")
def ship(ctx: Context, wares: Wares) -> Box:
    """Pack, address, and past the pivot deliver."""
    box = ctx.run(pack, wares)
    ctx.run(address, wares)
    if wares.mishap == "engrave":
        ctx.run(engrave, wares)
    if wares.mishap == "weigh":
        ctx.run(weigh, wares)
    ctx.pivot()
    return ctx.run(deliver, wares, box)


@saga("box_up")
def box_up(ctx: Context, wares: Wares) -> Box:
    """Pack, and no more: it can be undone."""
    return ctx.run(pack, wares)


@saga("claim", signals=[verdict, weight])
def claim(ctx: Context, wares: Wares) -> Verdict:
    """Waits for everything that there is to wait for, one after the other."""
    ctx.set_attributes(ware=wares.name, grams=wares.grams, fragile=True)
    ctx.lock(f"ware:{wares.name}")
    ctx.savepoint()
    ctx.set_state({"waits for": "its weight"})
    request = ctx.wait_signal(weight)
    while request.value < 0:
        request.refuse("nothing weighs less than nothing")
        request = ctx.wait_signal(weight)
    request.answer(f"{request.value} g")
    ruling = ctx.wait(verdict)
    reminder = ctx.timer(86_400)
    ctx.first(ruling, reminder)
    if wares.mishap == "declined":
        ctx.child(box_up, wares)
        raise Abort("declined")
    ctx.child(ship, wares)
    return ruling.result()
