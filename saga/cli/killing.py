"""`saga chaos kill`: end a part of a running system on purpose, to see the rest go on.

It kills what `saga dev` runs, and anything else only with --yes-i-mean-it. What it killed it does not start again.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saga.cli.dev import FOLDER, STATE_FILE
from saga.cli.group import Invocation, SagaGroup, argument, command, option
from saga.core.errors import ConfigurationError

if TYPE_CHECKING:
    from saga.cli.application import Application

_TERMINATE_OTHERS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
"""


@command(
    "kill",
    options=[
        argument("part", type=click.Choice(["worker", "coordinator", "broker", "database"])),
        option(
            "--pid",
            type=click.IntRange(2),
            help="The worker's or coordinator's process, where `saga dev` does not run.",
        ),
        option("--yes-i-mean-it", "meant", is_flag=True, help="Also where it is not `saga dev` that runs."),
    ],
    help="SIGKILL a worker or a coordinator, crash the broker with all its messages, or stop the database hard.\n\n"
    "Outside `saga dev`, with --yes-i-mean-it: a process group by --pid; the broker is emptied with FLUSHALL; every "
    "other session of the database's role is terminated.",
)
def kill_command(invocation: Invocation, *, part: str, pid: int | None, meant: bool) -> None:
    """Kill one part and say what was lost with it."""
    application = invocation.application
    state = _dev(application)
    if state is not None:
        application.app.conf.saga_database_url = state["database_url"]
    held = _held(application)
    if pid is not None and part in ("broker", "database"):
        raise click.UsageError(f"--pid names a process of a worker or coordinator; the {part} is found by its URL")
    if state is not None and pid is None:
        killed = _kill_in_dev(state, part)
    elif not meant:
        why = (
            "no `saga dev` of this application runs in this folder"
            if state is None
            else "--pid is no part of `saga dev`"
        )
        raise ConfigurationError(
            f"{why}: refused to kill the {part} of what may be in use; start `saga dev`, or say --yes-i-mean-it"
        )
    elif part in ("worker", "coordinator"):
        killed = _kill_process(part, pid)
    elif part == "broker":
        killed = _flush(application)
    else:
        killed = _cut_off(application)
    output = invocation.output
    output.document({"killed": part, **killed, "held": held})
    output.line(f"killed the {part}: {killed['how']}")
    for name, count in held.items():
        output.line(f"  {name.replace('_', ' ')} at that moment: {count}")


def chaos_group() -> SagaGroup:
    """Make the group of one command; `saga chaos` alone shows its help."""
    return SagaGroup("chaos", {"kill": __name__}, help="End parts of a running system on purpose.")


chaos_command = chaos_group()


def _dev(application: Application) -> dict[str, Any] | None:
    """Return what `saga dev` wrote, if it runs here and is this application's."""
    path = Path(FOLDER / STATE_FILE)
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        os.kill(state["pid"], 0)
    except (OSError, ValueError, KeyError):
        return None
    return state if state.get("app") == application.named else None


def _held(application: Application) -> dict[str, int]:
    """Count what is in flight; a database that does not answer holds nothing that can be counted."""
    from saga.core.errors import SagaError

    try:
        with application.connection() as connection:
            depths = application.reading.depths(connection)
    except SagaError:
        return {}
    return {
        "claims": sum(depth.count for depth in depths.claimed.values()),
        "unclaimed_tasks": sum(depth.count for depth in depths.unclaimed.values()),
        "arrivals": sum(depth.count for depth in (depths.arrivals, depths.starts) if depth is not None),
    }


def _kill_in_dev(state: dict[str, Any], part: str) -> dict[str, Any]:
    from saga.cli.chaos import kill_group

    if part in ("worker", "coordinator"):
        found = int(state["children"][part])
        kill_group(found)
        return {"how": f"SIGKILL to its process group {found}", "pid": found}
    server = state["servers"].get(part)
    if server is None:
        raise ConfigurationError(f"the {part} of this `saga dev` is a server of your own, which is not ours to stop")
    # Postgres' own crash: no checkpoint, no goodbye. The broker keeps nothing on disk, so SIGKILL loses every message.
    number = signal.SIGQUIT if part == "database" else signal.SIGKILL
    os.kill(int(server), number)
    return {"how": f"{number.name} to process {server}", "pid": int(server)}


def _kill_process(part: str, pid: int | None) -> dict[str, Any]:
    from saga.cli.chaos import kill_group

    if pid is None:
        raise click.UsageError(f"say which {part}: --pid PID, the leader of its process group")
    try:
        leader = os.getpgid(pid)
    except ProcessLookupError:
        raise ConfigurationError(f"there is no process {pid} on this machine") from None
    if leader != pid or leader == os.getpgrp():
        raise ConfigurationError(
            f"process {pid} does not lead a group of its own (its group is {leader}): others would die with it; "
            "give the leader's pid, or kill it by hand"
        )
    try:
        kill_group(pid)
    except PermissionError:
        raise ConfigurationError(f"process {pid} is another user's: run this as its owner") from None
    return {"how": f"SIGKILL to its process group {pid}", "pid": pid}


def _flush(application: Application) -> dict[str, Any]:
    import redis

    from saga.cli.chaos import flush_broker

    conf = application.app.conf
    url = conf.broker_write_url or ""
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError("only a Redis broker can be emptied from here: stop another one by hand")
    client = redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=5)
    try:
        lost = flush_broker(client, str(conf.task_default_queue))
    except redis.RedisError as error:
        raise ConfigurationError(f"the broker does not answer: {error}") from error
    finally:
        client.close()
    return {"how": f"FLUSHALL, with {len(lost)} messages in queue {conf.task_default_queue}", "messages": len(lost)}


def _cut_off(application: Application) -> dict[str, Any]:
    with application.connection() as connection:
        count = int(connection.execute(_TERMINATE_OTHERS).fetchall()[0][0])
    return {"how": f"terminated {count} other sessions of its role", "sessions": count}
