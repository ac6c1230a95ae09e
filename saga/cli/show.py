"""`saga show`: one run as a timeline, and why it does not move. It reads, and changes nothing."""

from __future__ import annotations

import json
from typing import Any

from saga.cli.diagnosis import Answers, Node, diagnose, slow_tasks
from saga.cli.group import Invocation, argument, command, option
from saga.cli.output import Output, age, moment
from saga.cli.timeline import Attempt, Entry, Happening, timeline
from saga.cli.waits import Waits, waits_of
from saga.core.pinned import ChildLink, LockLink

#: What an attempt without an answer is called where no worker runs it.
_OPEN: dict[type, str] = {ChildLink: "under way", LockLink: "in line"}


@command(
    "show",
    options=[
        argument("run", metavar="SAGA/KEY"),
        option(
            "--payloads", is_flag=True, help="Show inputs and results too; they may hold what is nobody's business."
        ),
    ],
    help="Show a run, and what it waits for. A timeline of attempts, undo, signals, timers, children and locks.",
)
def show_command(invocation: Invocation, *, run: str, payloads: bool) -> None:
    """Read everything about a run and print it."""
    from saga.cli.application import database_now, split_address
    from saga.core.address import shard_of
    from saga.core.errors import UnknownRun
    from saga.engine.records import SHARDS
    from saga.engine.stuck import fold

    application = invocation.application
    saga, key = split_address(run)
    reading = application.reading
    with application.connection() as connection, reading.snapshot(connection):
        now = database_now(connection)
        looked = reading.look(connection, saga, key)
        found = looked.found
        coordinators = reading.coordinators(connection)
        if found is None and not looked.accepted:
            raise UnknownRun(
                f"there is no run {run} in schema {application.installation.schema!r}: its start was never sent, or "
                "its transaction is not committed; `saga list` shows what there is"
            )
        id_ = found.row.id if found is not None else None
        events = reading.log(connection, id_) if id_ else []
        tasks = reading.open_tasks(connection, id_) if id_ else []
        timers = reading.timers(connection, id_) if id_ else []
        waits, open_states = Waits(), {}
        if id_:
            state = fold(id_, events, lambda undone: reading.log(connection, undone))
            waits = waits_of(state, events, reading.locks(connection, id_))
            waits = waits.standing(reading.standing(connection, (child.run for child in waits.children)))
            open_states = {one.occurrence: _OPEN[type(one.link)] for one in state.steps.values() if one.link}
        incidents = reading.incidents(connection, id_) if id_ else []
        arrivals = reading.pending_arrivals(connection, saga, key) if id_ else looked.waiting
    answers = _ask_workers(application.app) if slow_tasks(tasks, now) else None
    entries = timeline(id_, events, tasks, now, open_states) if id_ else []
    stalls = [entry for entry in entries if isinstance(entry, Happening) and entry.what == "stalled"]
    waiting = diagnose(
        found.row if found is not None else None,
        now=now,
        coordinators=coordinators,
        arrivals=arrivals,
        tasks=tasks,
        timers=timers,
        waits=waits,
        answers=answers,
        stall_message=_stall_message(stalls[-1]) if stalls else None,
        shard=shard_of(saga, key, SHARDS),
    )
    output = invocation.output
    head = _head(run, found, now)
    document: dict[str, Any] = {
        "run": head,
        "waiting": waiting,
        "timeline": [_entry(entry, payloads) for entry in entries],
        "timers": [{"name": timer.name, "due_at": timer.due_at} for timer in timers],
        "state": None if found is None else _json(found.state),
        "attributes": {} if found is None else found.attributes,
        **_waits(waits, payloads),
        "incidents": [
            {"id": one.id, "kind": one.kind, "at": one.at, "token": one.token, "attempt": one.attempt}
            | ({"payload": one.payload} if payloads else {})
            for one in incidents
        ],
    }
    if payloads and found is not None:
        texts = {"input": found.input, "result": found.result, "failure": found.failure}
        document |= {name: _json(text) for name, text in texts.items()}
    output.document(document)
    if not output.json:
        _print(output, document, entries, payloads)


def _waits(waits: Waits, payloads: bool) -> dict[str, Any]:
    """Return what is waited for, and was, for the document; what signals carried only with payloads."""
    return {
        "waits_for": [{"signal": one.signal, "wait": one.occurrence, "since": one.since} for one in waits.signals],
        "signals": [
            {"signal": one.signal, "id": one.id, "at": one.at, "state": one.state, "refused": one.refused}
            | ({"value": one.value} if payloads else {})
            for one in waits.letters
        ],
        "children": [
            {"step": one.step, "run": one.address, "undo": one.undo, "status": one.status, "reason": one.reason}
            | {"since": one.since, "open": one.open}
            for one in waits.children
        ],
        "locks": [
            {"name": one.name, "held": one.held, "holder": one.holder, "ahead": one.ahead, "since": one.since}
            for one in waits.locks
        ],
        "savepoints": [{"name": one.name, "seq": one.seq, "at": one.at} for one in waits.savepoints],
    }


def _stall_message(stall: Happening) -> str | None:
    message = (stall.detail or "").partition(": ")[2]
    return f"{stall.step}: {message}" if stall.step else message or None


def _ask_workers(app: Any) -> Answers:
    from saga.cli.fleet import BrokerSilent, active_queues, broker_connection, registered_tasks

    try:
        with broker_connection(app) as connection:
            queues = active_queues(app, connection)
            tasks = registered_tasks(app, connection) if queues else {}
    except BrokerSilent as error:
        return Answers(silence=str(error))
    return Answers(nodes=tuple(Node(name, names, tasks.get(name)) for name, names in sorted(queues.items())))


def _head(run: str, found: Any, now: Any) -> dict[str, Any]:
    if found is None:
        return {"address": run, "status": "accepted"}
    row = found.row
    failure = _json(found.failure)
    return {
        "address": run,
        "id": row.id,
        "status": row.status,
        "reason": row.reason,
        "cause": row.cause,
        "version": row.version,
        "shard": row.shard,
        "events": row.head,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "seconds": ((row.ended_at or now) - row.started_at).total_seconds(),
        "error": failure.get("message") if isinstance(failure, dict) else None,
    }


def _entry(entry: Entry, payloads: bool) -> dict[str, Any]:
    if isinstance(entry, Happening):
        return {"seq": entry.seq, "at": entry.at, "what": entry.what, "step": entry.step, "detail": entry.detail}
    shown = {
        "seq": entry.seq,
        "at": entry.at,
        "step": entry.step,
        "direction": entry.direction,
        "attempt": entry.number,
        "idempotency_key": entry.token,
        "state": entry.state,
        "queue": entry.queue,
        "queued_seconds": entry.queued_seconds,
        "ran_seconds": entry.ran_seconds,
        "worker": entry.worker,
        "error": entry.error,
        "ended_at": entry.ended_at,
    }
    if payloads:
        shown["value"] = _json(entry.value)
    return shown


def _json(text: str | None) -> Any:
    """Return the value of JSON text, or the text where it cannot be read."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def _print(output: Output, document: dict[str, Any], entries: list[Entry], payloads: bool) -> None:
    head = document["run"]
    if "id" not in head:
        output.line(f"{head['address']}  accepted, not taken by a coordinator yet")
    else:
        why = " ".join(f"({part})" for part in (head["cause"], head["reason"]) if part)
        output.line(f"{head['address']}  {head['status']} {why}".rstrip())
        output.line(
            f"version {head['version']}, started {moment(head['started_at'])}, "
            f"{'took' if head['ended_at'] else 'for'} {age(head['seconds'])}, id {head['id']}"
        )
        if head["error"]:
            output.line(f"error: {head['error']}")
    if payloads:
        for name in ("input", "result", "failure"):
            if document.get(name) is not None:
                output.line(f"{name}: {json.dumps(document[name], ensure_ascii=False)}")
    if document["attributes"]:
        output.line("attributes: " + ", ".join(f"{k}={json.dumps(v)}" for k, v in document["attributes"].items()))
    if document["state"] is not None:
        output.line(f"state: {json.dumps(document['state'], ensure_ascii=False)}")
    for line in document["waiting"]:
        output.line(f"-> {line}")
    if entries:
        begin = entries[0].at
        rows = [_row(entry, (entry.at - begin).total_seconds(), payloads) for entry in entries]
        columns = ["at", "step", "what", "try", "queued", "ran", "how", "worker", "said"]
        output.line()
        output.table(columns, rows)
    _print_waits(output, document)
    if document["incidents"]:
        output.line()
        rows = [
            [str(one["id"]), one["kind"], moment(one["at"]), str(one["token"] or "")] for one in document["incidents"]
        ]
        output.table(["incident", "kind", "at", "token"], rows, title="incidents: facts that this run could not take")


def _print_waits(output: Output, document: dict[str, Any]) -> None:
    children, locks, signals = document["children"], document["locks"], document["signals"]
    if children:
        rows = [[one["run"], one["step"], " ".join(filter(None, (one["status"], one["reason"])))] for one in children]
        output.line()
        output.table(["child", "step", "status"], rows)
    if locks:
        rows = [[one["name"], "held" if one["held"] else f"waits for {one['holder'] or 'a turn'}"] for one in locks]
        output.line()
        output.table(["lock", "state"], rows)
    if signals:
        rows = [[one["signal"], str(one["id"] or ""), moment(one["at"]), one["state"]] for one in signals]
        output.line()
        output.table(["signal", "id", "at", "state"], rows)


_WHAT = {"action": "do", "compensation": "undo", "probe": "probe"}


def _row(entry: Entry, since_seconds: float, payloads: bool) -> list[str]:
    at = f"+{since_seconds:.3f}"
    if isinstance(entry, Happening):
        return [at, entry.step or "", entry.what, "", "", "", "", "", entry.detail or ""]
    said = entry.error or (entry.value or "" if payloads else "")
    return [at, entry.step, _WHAT[entry.direction], str(entry.number), *_times(entry), entry.worker or "", said]


def _times(entry: Attempt) -> list[str]:
    queued = "" if entry.queued_seconds is None else age(entry.queued_seconds)
    ran = "" if entry.ran_seconds is None else age(entry.ran_seconds)
    return [queued, ran, entry.state]
