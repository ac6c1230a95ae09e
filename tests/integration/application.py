"""A Celery application for the tests that kill: an order's moods say what each step does, and a ledger keeps it.

A process that serves it sets SAGA_TEST_FOLDER; the tests import the sagas only, and have an application of their own.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from celery import Celery
from sqlalchemy import text

from saga import Abort, Context, Retry, RetryLater, StepFailed, current, install, saga, step
from saga.core.errors import SagaError
from tests.arming import Armoury
from tests.ledger import Call, Ledger
from tests.pace import LEASE_SECONDS, quicken

FOLDER_VARIABLE = "SAGA_TEST_FOLDER"
#: Which code is deployed beside this: `deployed_old` or `deployed_new`.
BUILD_VARIABLE = "SAGA_TEST_BUILD"
#: Seconds that a step waits at a gate before it gives up.
GATE_SECONDS = 30.0

QUICK = Retry(attempts=3, first_seconds=0.05)


@dataclass(frozen=True)
class Order:
    """What a run is started with."""

    moods: Mapping[str, str] = field(default_factory=dict)


def folder() -> Path:
    """Where the ledger, the armed crashes and the gates of this process are."""
    return Path(os.environ[FOLDER_VARIABLE])


def pass_gate(name: str) -> None:
    """Say that a gate was reached, and wait until it is open."""
    (folder() / f"{name}.reached").touch()
    until = time.monotonic() + GATE_SECONDS
    while not (folder() / f"{name}.open").exists():
        if time.monotonic() > until:
            raise TimeoutError(f"gate {name} stayed shut for {GATE_SECONDS} s")
        time.sleep(0.01)


def _call(name: str, direction: str, given: object = "", *, honours: bool = True) -> Call:
    return Call(
        current.run,
        name,
        direction,
        current.token,
        current.action_token,
        current.attempt,
        json.dumps(given, default=str),
        honours,
    )


def act(name: str, order: Order, given: object = "") -> str:
    """Do an action as the order's mood for it says."""
    ledger = Ledger(folder() / "ledger.sqlite")
    mood = order.moods.get(name, "")
    call = _call(name, "action", given, honours=mood != "forgetful")
    ledger.attempted(call)
    if mood == "abort" or (mood == "abort_later" and call.attempt > 1):
        raise Abort(f"{name} is not to be had")
    if mood == "fail" or (mood == "fail_once" and call.attempt == 1):
        raise RuntimeError(f"{name} broke before it did anything")
    if mood.startswith("gate:") and call.attempt == 1:
        pass_gate(mood.removeprefix("gate:"))
    if mood.startswith("later:") and call.attempt == 1:
        raise RetryLater(after=float(mood.removeprefix("later:")))
    if mood == "slow":
        time.sleep(0.05)
    if mood == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if not ledger.apply(call):
        raise Abort(f"{name} was undone before it came")
    if mood == "reply_lost" and call.attempt == 1:
        raise TimeoutError(f"the reply of {name} was lost")
    if mood == "abort_later" or mood == "reply_always_lost":
        raise TimeoutError(f"the reply of {name} was lost")
    return f"{name}:{call.token[:8]}"


def undo(name: str, order: Order, given: object = "") -> None:
    """Undo an action as the order's mood for that says."""
    ledger = Ledger(folder() / "ledger.sqlite")
    call = _call(name, "compensation", given, honours=order.moods.get(name) != "forgetful")
    mood = order.moods.get(f"undo_{name}", "")
    ledger.attempted(call)
    if mood == "abort":
        raise Abort(f"{name} cannot be undone")
    if mood == "fail_once" and call.attempt == 1:
        raise RuntimeError(f"the undo of {name} broke")
    if mood.startswith("gate:") and call.attempt == 1:
        pass_gate(mood.removeprefix("gate:"))
    if mood == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    ledger.undo(call)
    if mood == "reply_lost" and call.attempt == 1:
        raise TimeoutError(f"the reply of {name}'s undo was lost")


@step(retry=QUICK, timeout=1)
def reserve(order: Order) -> str:
    return act("reserve", order)


@reserve.compensate(retry=Retry(attempts=None, first_seconds=0.05))
def release(seat: str | None, order: Order) -> None:
    undo("reserve", order, seat)


@step(retry=QUICK, timeout=1)
def charge(order: Order, seat: str) -> str:
    return act("charge", order, seat)


@charge.compensate(retry=Retry(attempts=None, first_seconds=0.05))
def refund(payment: str | None, order: Order, seat: str) -> None:
    undo("charge", order, payment)


@charge.probe
def find_charge(order: Order, seat: str) -> str | None:
    ledger = Ledger(folder() / "ledger.sqlite")
    ledger.attempted(_call("charge", "probe", seat))
    if order.moods.get("probe_charge") == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"charge:{current.action_token[:8]}" if ledger.was_applied(current.action_token) else None


@step(retry=QUICK, timeout=1)
def confirm(order: Order) -> None:
    act("confirm", order)


@confirm.compensate
def withdraw(order: Order) -> None:
    undo("confirm", order)


@step(retry=QUICK, timeout=1)
def book(order: Order, seat: str) -> str:
    return act("book", order, seat)


@book.compensate
def unbook(parcel: str | None, order: Order, seat: str) -> None:
    undo("book", order, parcel)


@step(retry=QUICK, timeout=1)
def notify(order: Order) -> None:
    act("notify", order)


@notify.compensate
def apologise(order: Order) -> None:
    undo("notify", order)


@step(retry=QUICK, timeout=None)
def crawl(order: Order) -> str:
    return act("crawl", order)


@step(retry=QUICK, timeout=None)
def drift(order: Order, seat: str) -> str:
    return act("drift", order, seat)


@drift.compensate(retry=Retry(attempts=None, first_seconds=0.05))
def anchor(drifted: str | None, order: Order, seat: str) -> None:
    undo("drift", order, drifted)


@drift.probe
def find_drift(order: Order, seat: str) -> str | None:
    Ledger(folder() / "ledger.sqlite").attempted(_call("drift", "probe", seat))
    applied = Ledger(folder() / "ledger.sqlite").was_applied(current.action_token)
    return f"drift:{current.action_token[:8]}" if applied else None


@step(retry=Retry(attempts=1), timeout=None)
def stray(order: Order) -> str:
    return act("stray", order)


@stray.compensate(retry=Retry(attempts=None, first_seconds=0.05))
def fetch_back(strayed: str | None, order: Order) -> None:
    undo("stray", order, strayed)


@step(retry=QUICK, timeout=1, transactional=True)
def post(order: Order) -> str:
    Ledger(folder() / "ledger.sqlite").attempted(_call("post", "transaction"))
    current.connection.execute(
        text("INSERT INTO public.posting (token, attempt) VALUES (:token, :attempt)"),
        {"token": current.token, "attempt": current.attempt},
    )
    if order.moods.get("post") == "fail_once" and current.attempt == 1:
        raise RuntimeError("post broke in its transaction")
    return "posted"


@post.compensate
def unpost(posted: str | None, order: Order) -> None:
    current.connection.execute(text("DELETE FROM public.posting WHERE token = :token"), {"token": current.action_token})


@saga("trip")
def trip(ctx: Context, order: Order) -> str:
    """Three steps that can go back, then two at once that cannot."""
    seat = ctx.run(reserve, order)
    ctx.run(charge, order, seat)
    ctx.run(confirm, order)
    ctx.pivot()
    parcel, _ = ctx.gather(ctx.start(book, order, seat), ctx.start(notify, order))
    return parcel


@saga("fork")
def fork(ctx: Context, order: Order) -> str:
    """Two at once that can go back, then one more."""
    seat, _ = ctx.gather(ctx.start(reserve, order), ctx.start(notify, order))
    ctx.run(confirm, order)
    return seat


@saga("fallback")
def fallback(ctx: Context, order: Order) -> str:
    """Another way when the first one failed."""
    seat = ctx.run(reserve, order)
    try:
        return ctx.run(charge, order, seat)
    except StepFailed:
        return ctx.run(book, order, seat)


@saga("patient")
def patient(ctx: Context, order: Order) -> str:
    """One step without a time limit."""
    return ctx.run(crawl, order)


@saga("unhurried")
def unhurried(ctx: Context, order: Order) -> str:
    """A step whose time limit is lifted where it is called."""
    return ctx.run(reserve.with_options(timeout=None), order)


@saga("drifting")
def drifting(ctx: Context, order: Order) -> str:
    """A step without a time limit, whose worker may be frozen for long and still come back."""
    seat = ctx.run(reserve, order)
    drifted = ctx.run(drift, order, seat)
    ctx.run(confirm, order)
    return drifted


@saga("straying")
def straying(ctx: Context, order: Order) -> str:
    """A step that nobody asks again, after one whose undo may take its time."""
    ctx.run(reserve, order)
    return ctx.run(stray, order)


@saga("racing")
def racing(ctx: Context, order: Order) -> str:
    """Two at once of which the first counts, then one more."""
    seat, told = ctx.start(reserve, order), ctx.start(crawl, order)
    winner = ctx.first(seat, told)
    ctx.run(confirm, order)
    return "seat" if winner is seat else "told"


@saga("ledgered")
def ledgered(ctx: Context, order: Order) -> str:
    """A transactional step, then one that may fail."""
    posted = ctx.run(post, order)
    ctx.run(confirm, order)
    return posted


@saga("tidy")
def tidy(ctx: Context, order: Order) -> str:
    """A function that clings to its memory: it must do nothing there when it is evicted."""
    try:
        seat = ctx.run(reserve, order)
        ctx.run(confirm, order)
        return seat
    finally:
        ctx.run(notify, order)


@saga("clinging")
def clinging(ctx: Context, order: Order) -> str:
    """A function that blocks while it is thrown out of memory."""
    seat = ctx.run(reserve, order)
    try:
        ctx.run(confirm, order)
    except BaseException:
        time.sleep(300)
        raise
    return seat


@saga("blocking")
def blocking(ctx: Context, order: Order) -> str:
    """A function that does what it must not: it blocks, loops, or takes its process with it."""
    if (folder() / "poisoned").exists() and order.moods.get("function") == "exit_in_replay":
        os._exit(7)
    seat = ctx.run(reserve, order)
    match order.moods.get("function"):
        case "sleep":
            time.sleep(300)
        case "loop":
            while True:
                pass
        case "exit":
            os._exit(7)
        case "sleep_once":  # the code is mended while the run is stalled
            if not (folder() / "mended").exists():
                time.sleep(300)
    return seat


def make_app() -> Celery:
    """Build the application of this process, whose settings its environment names."""
    importlib.import_module(f"tests.integration.deployed_{os.environ.get(BUILD_VARIABLE, 'new')}")
    importlib.import_module("tests.integration.waiting")
    importlib.import_module("tests.integration.beating")
    quicken(
        settling_seconds=float(os.environ.get("SAGA_TEST_SETTLING", "1")),
        answer_seconds=float(os.environ.get("SAGA_TEST_ANSWER", "40")),
    )
    made = Celery("killed", broker=os.environ["SAGA_TEST_BROKER"])
    made.conf.update(
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": 3600},
        saga_lease_seconds=float(os.environ.get("SAGA_TEST_LEASE", str(LEASE_SECONDS))),
        saga_turn_seconds=0.6,
        saga_cache_runs=int(os.environ.get("SAGA_TEST_CACHE", "5000")),
    )
    install(made, database=os.environ["SAGA_TEST_DATABASE"])

    @made.task(name="team.plain")  # type: ignore[untyped-decorator]
    def plain(key: str) -> str:
        return key

    Armoury(folder() / "armed").listen()
    return made


app = make_app() if FOLDER_VARIABLE in os.environ else None


def serve_coordinator() -> None:
    """Run a coordinator in this process."""
    import logging

    from saga.engine.coordinator import serve

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(process)d: %(message)s")
    if app is None:
        raise SagaError(f"{FOLDER_VARIABLE} is not set")
    serve(app)
