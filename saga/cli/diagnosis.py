"""Why a run does not move, from what is known of it. Pure: whoever calls asks the database and the workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from saga.cli.output import age, moment
from saga.cli.waits import Child, Lock, SignalWait, Waits
from saga.core.lifecycle import ENDED, StallReason
from saga.engine.records import Arrival, RunRow
from saga.engine.store.reading import CoordinatorRow, OpenTask, OpenTimer

#: Seconds for which a task may be unclaimed before its workers are asked for, and an arrival untaken before it is odd.
PATIENCE_SECONDS = 3.0

START_A_COORDINATOR = "no coordinator is running: start one with `celery -A <app> saga coordinator`"


@dataclass(frozen=True, slots=True)
class Node:
    """A worker that answered: the queues that it consumes, and the tasks that it knows (None: it did not say)."""

    name: str
    queues: tuple[str, ...]
    tasks: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What the workers said, or why they could not be asked."""

    nodes: tuple[Node, ...] = ()
    silence: str | None = None


def slow_tasks(tasks: Iterable[OpenTask], now: datetime) -> list[OpenTask]:
    """Return the tasks that nobody has claimed for longer than a healthy queue needs."""
    return [
        task
        for task in tasks
        if task.claimed_by is None and (now - task.created_at).total_seconds() >= PATIENCE_SECONDS
    ]


def diagnose(
    row: RunRow | None,
    *,
    now: datetime,
    coordinators: Sequence[CoordinatorRow],
    arrivals: Sequence[Arrival],
    tasks: Sequence[OpenTask],
    timers: Sequence[OpenTimer],
    waits: Waits | None = None,
    answers: Answers | None = None,
    stall_message: str | None = None,
    shard: int,
) -> list[str]:
    """Return what the run waits for, the most decisive first; nothing for a run that has ended.

    `row` is None for a run whose start no coordinator has taken. `answers` is None where no worker had to be asked.
    """
    waits = waits or Waits()
    if row is not None and row.status in ENDED:
        return []
    found: list[str] = []
    living = [one for one in coordinators if one.alive]
    if not living:
        found.append(START_A_COORDINATOR)
    elif not any(shard in one.shards for one in living):
        found.append(f"no living coordinator owns shard {shard} yet: one takes it over within the lease")
    if arrivals:
        found.append(_arrivals(arrivals, now))
    if row is not None and row.status == "stalled":
        found.append(_stalled(row, stall_message))
    slow = slow_tasks(tasks, now)
    for task in tasks:
        if task.claimed_by is not None:
            found.append(_claimed(task, now))
        elif task not in slow:
            found.append(f"{task.name} attempt {task.attempt} has just been queued on {task.queue}")
    for task in slow:
        found.append(_unclaimed(task, now, answers))
    if row is not None:
        found.extend(_signal(wait, f"{row.saga}/{row.key}", now) for wait in waits.signals)
    found.extend(_child(child, now) for child in waits.children if child.open)
    found.extend(_lock(lock, now) for lock in waits.locks if not lock.held)
    found.extend(_timer(timer, now) for timer in timers)
    return found


def _signal(wait: SignalWait, run: str, now: datetime) -> str:
    since = age((now - wait.since).total_seconds())
    return f"waiting for signal {wait.signal} since {since}: `saga signal {run} {wait.signal} JSON` sends it"


def _child(child: Child, now: datetime) -> str:
    since = age((now - child.since).total_seconds())
    what = f"the undo of its child, {child.address}" if child.undo else f"its child {child.address}"
    if child.status == "stalled":
        return f"waiting for {what}, which is stalled ({child.reason}): `saga show {child.address}` says why"
    if child.status in ENDED:
        return f"waiting for a turn: {what} has ended ({child.status})"
    return f"waiting for {what} ({child.status}) since {since}"


def _lock(lock: Lock, now: datetime) -> str:
    since = f" since {age((now - lock.since).total_seconds())}" if lock.since is not None else ""
    holder = f", held by {lock.holder}" if lock.holder is not None else ""
    before = f"; {lock.ahead} run(s) stand before it" if lock.ahead else ""
    return f"waiting for lock {lock.name}{since}{holder}{before}"


def _arrivals(arrivals: Sequence[Arrival], now: datetime) -> str:
    oldest = min(arrival.at for arrival in arrivals)
    kinds = ", ".join(dict.fromkeys(arrival.kind for arrival in arrivals))
    return f"{len(arrivals)} arrival(s) wait for a turn since {age((now - oldest).total_seconds())}: {kinds}"


def _stalled(row: RunRow, message: str | None) -> str:
    address = f"{row.saga}/{row.key}"
    said = f" ({message})" if message else ""
    match row.reason:
        case StallReason.SAGA_BUG | StallReason.REPLAY_MISMATCH:
            advice = f"deploy a saga function that fits its log, then `saga retry {address}`"
        case StallReason.NO_DEFINITION:
            advice = f"start a coordinator whose application defines {row.saga} version {row.version}"
        case StallReason.NOT_DECODED:
            advice = f"deploy workers that can decode its input, then `saga retry {address}`"
        case StallReason.LIMIT_REACHED:
            advice = f"it outgrew a limit: `saga cancel {address}` undoes it"
        case _:
            advice = (
                f"mend the cause, then `saga retry {address} --step STEP`; or settle it by hand and "
                f"`saga resolve {address} --step STEP --evidence …`"
            )
    return f"stalled: {row.reason}{said}; {advice}"


def _claimed(task: OpenTask, now: datetime) -> str:
    since = age((now - task.claimed_at).total_seconds()) if task.claimed_at is not None else "just now"
    if task.lease_until is not None and task.lease_until < now:
        return (
            f"{task.name} attempt {task.attempt}: its worker has been silent since {since}; "
            "a coordinator declares it lost and decides what follows"
        )
    until = f", its lease until {moment(task.lease_until)}" if task.lease_until is not None else ""
    return f"{task.name} attempt {task.attempt} is being run since {since}{until}"


def _unclaimed(task: OpenTask, now: datetime, answers: Answers | None) -> str:
    since = age((now - task.created_at).total_seconds())
    waits = f"{task.name} attempt {task.attempt} waits on queue {task.queue} for {since}"
    if answers is None:
        return waits
    if answers.silence is not None:
        return f"{waits}; whether a worker consumes it is not known: {answers.silence}"
    consuming = [node for node in answers.nodes if task.queue in node.queues]
    if not consuming:
        others = sorted({queue for node in answers.nodes for queue in node.queues})
        there = f"workers answer for {', '.join(others)}" if others else "no worker answers at all"
        return (
            f"no worker consumes queue {task.queue} ({there}): "
            f"start one with `celery -A <app> worker -Q {task.queue}`; {waits}"
        )
    ignorant = [node.name for node in consuming if node.tasks is not None and task.name not in node.tasks]
    if len(ignorant) == len(consuming):
        return (
            f"no worker of queue {task.queue} knows the task {task.name} ({', '.join(ignorant)}): "
            f"they drop its messages; deploy workers that import it; {waits}"
        )
    names = ", ".join(node.name for node in consuming)
    return f"{waits}; consumed by {names}: busy, or its message was lost and will be published again"


def _timer(timer: OpenTimer, now: datetime) -> str:
    what, _, occurrence = timer.name.partition(":")
    left = (timer.due_at - now).total_seconds()
    when = f"at {moment(timer.due_at)} (in {age(left)})" if left >= 0 else f"since {age(-left)}: it is due"
    if what == "timeout":
        return f"the run is undone if it has not passed its pivot {when}"
    if what == "deadline":
        return f"the deadline of {occurrence} is {when}"
    if what == "timer":
        return f"waiting for {occurrence} {when}"
    if what == "unheard":
        return f"an attempt of {occurrence} was ended with its run and may still land; its undo begins {when}"
    name = {"action": "retry", "compensation": "retry of the undo", "probe": "probe"}.get(what, what)
    return f"waiting for a {name} of {occurrence} {when}"
