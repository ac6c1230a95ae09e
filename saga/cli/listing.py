"""`saga list`: the runs, newest first, a page at a time. It reads, and changes nothing."""

from __future__ import annotations

import json
import math
from typing import Any
from uuid import UUID

import click

from saga.cli.diagnosis import START_A_COORDINATOR
from saga.cli.group import Invocation, command, option
from saga.cli.output import age, moment
from saga.core.lifecycle import ENDED, Status


@command(
    "list",
    options=[
        option(
            "--status",
            "statuses",
            type=click.Choice([*(status.value for status in Status), "live"]),
            multiple=True,
            help="Only runs of this status; may be repeated. `live` is every one that has not ended.",
        ),
        option("--saga", "saga", help="Only runs of this saga."),
        option(
            "--where",
            "where",
            metavar="NAME=VALUE",
            multiple=True,
            help="Only runs with this attribute, as `ctx.set_attributes` set it; may be repeated, all must fit. "
            'The value is JSON where it can be read as such (3, true, "3"), else text.',
        ),
        option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Runs of a page."),
        option(
            "--before", type=click.UUID, metavar="ID", help="The page behind the run of this id, as `next` says it."
        ),
    ],
    help="List runs, newest first.",
)
def list_command(
    invocation: Invocation,
    *,
    statuses: tuple[str, ...],
    saga: str | None,
    where: tuple[str, ...],
    limit: int,
    before: UUID | None,
) -> None:
    """Read a page of runs and print it."""
    from saga.cli.application import database_now

    attributes = dict(_attribute(one) for one in where)
    application = invocation.application
    wanted = {status for status in statuses if status != "live"}
    if "live" in statuses:
        wanted |= {status.value for status in Status if status not in ENDED}
    with application.connection() as connection:
        reading = application.reading
        now = database_now(connection)
        rows = reading.list_runs(
            connection, status=sorted(wanted) or None, saga=saga, attributes=attributes, limit=limit, before=before
        )
        living = sum(one.alive for one in reading.coordinators(connection))
        starts = reading.depths(connection).starts
    following = rows[-1].id if len(rows) == limit else None
    runs: list[dict[str, Any]] = [
        {
            "address": f"{row.saga}/{row.key}",
            "id": row.id,
            "status": row.status,
            "reason": row.reason,
            "cause": row.cause,
            "version": row.version,
            "events": row.head,
            "started_at": row.started_at,
            "ended_at": row.ended_at,
            "seconds": ((row.ended_at or now) - row.started_at).total_seconds(),
        }
        for row in rows
    ]
    waiting = starts.count if starts is not None else 0
    output = invocation.output
    output.document({"runs": runs, "next": following, "starts_waiting": waiting, "coordinators": living})
    if output.json:
        return
    output.table(
        ["run", "status", "why", "version", "started", "for"],
        [
            [
                run["address"],
                run["status"],
                run["reason"] or run["cause"] or "",
                str(run["version"]),
                moment(run["started_at"]),
                age(run["seconds"]),
            ]
            for run in runs
        ],
    )
    if not runs:
        output.line("no runs" + (" like that" if wanted or saga or attributes or before else " yet"))
    if following is not None:
        output.note(f"more: --before {following}")
    if waiting:
        output.note(f"{waiting} start(s) wait for a coordinator to take them")
    if not living and (waiting or any(run["ended_at"] is None for run in runs)):
        output.note(START_A_COORDINATOR)


def _attribute(given: str) -> tuple[str, Any]:
    """Read `city=Berlin`; what is no JSON is text, and so is what JSON knows and an attribute cannot be."""
    name, equals, text = given.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--where {given}: expected NAME=VALUE, such as --where city=Berlin")
    try:
        value = json.loads(text)
    except ValueError:
        return name, text
    finite = not isinstance(value, float) or math.isfinite(value)
    return name, value if finite and isinstance(value, str | int | float | bool | None) else text
