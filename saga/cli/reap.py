"""`saga reap`: one pass over what the dead left, by hand. Every coordinator does the same each second."""

from __future__ import annotations

import time
from typing import Any

import click

from saga.cli.diagnosis import START_A_COORDINATOR
from saga.cli.group import Invocation, command, option
from saga.cli.output import Output, moment


@command(
    "reap",
    options=[
        option("--once", is_flag=True, help="One pass; the coordinators do it for ever."),
        option("--dry-run", is_flag=True, help="Show what a pass would find, and touch nothing."),
    ],
    help="Look for what the dead left behind. Find lost claims, dead coordinators and lost messages, as every "
    "coordinator does by itself; --dry-run only looks.",
)
def reap_command(invocation: Invocation, *, once: bool, dry_run: bool) -> None:
    """Look, and without --dry-run reap."""
    if not once and not dry_run:
        raise click.UsageError("say --once for one pass, or --once --dry-run to look: coordinators reap for ever")
    application = invocation.application
    with application.connection() as connection:
        found = _look(application, connection)
        done: dict[str, Any] = {}
        if not dry_run:
            done = _reap(application, connection, invocation.output)
        living = found["coordinators_living"]
    output = invocation.output
    output.document({"dry_run": dry_run, "found": found, "reaped": done or None})
    if output.json:
        return
    _print(output, found)
    if done:
        output.line(
            f"reaped {done['claims']} claim(s), buried {done['coordinators']} coordinator(s), "
            f"published {done['messages']} message(s) again"
        )
    if not living:
        output.note(START_A_COORDINATOR)


def _look(application: Any, connection: Any) -> dict[str, Any]:
    from saga.engine.store.reaping import Reaping

    reading = application.reading
    lost = Reaping(application.installation.schema).lost_preview(connection)
    coordinators = reading.coordinators(connection)
    messages, silence = _lost_messages(application, connection)
    return {
        "lost_claims": [
            {
                "run": claim.run_label,
                "task": claim.name,
                "attempt": claim.attempt,
                "idempotency_key": claim.token,
                "queue": claim.queue,
                "claimed_at": claim.claimed_at,
                "lease_until": claim.lease_until,
            }
            for claim in lost
        ],
        "dead_coordinators": [
            {"id": one.id, "lease_until": one.lease_until, "shards": len(one.shards)}
            for one in coordinators
            if not one.alive
        ],
        "lost_messages": messages,
        "broker": silence,
        "coordinators_living": sum(one.alive for one in coordinators),
    }


def _lost_messages(application: Any, connection: Any) -> tuple[list[dict[str, Any]], str | None]:
    """Compare our unclaimed tasks with the broker's counts (P18); beside them, why the broker could not be asked."""
    from saga.cli.fleet import BrokerSilent, broker_connection
    from saga.engine.messages import Broker
    from saga.engine.store.reaping import Reaping

    unclaimed = Reaping(application.installation.schema).unclaimed_by_queue(connection)
    if not unclaimed:
        return [], None
    try:
        with broker_connection(application.app):
            pass
    except BrokerSilent as error:
        return [], str(error)
    broker = Broker(application.app)
    try:
        counts = broker.counts(unclaimed)
    except Exception as error:  # whatever a broker's driver raises
        return [], f"the broker's queues could not be counted: {type(error).__name__}"
    finally:
        broker.close()
    return [
        {"queue": queue, "unclaimed": count, "in_broker": counts.get(queue, 0), "missing": count - counts.get(queue, 0)}
        for queue, count in sorted(unclaimed.items())
        if count > counts.get(queue, 0)
    ], None


def _reap(application: Any, connection: Any, output: Output) -> dict[str, Any]:
    from saga.engine.messages import Broker
    from saga.engine.records import SHARDS
    from saga.engine.store.membership import Membership
    from saga.engine.store.reaping import Reaping

    installation = application.installation
    grace = float(installation.app.conf.saga_lease_seconds)
    reaping, membership = Reaping(installation.schema), Membership(installation.schema)
    before = {one["queue"] for one in _lost_messages(application, connection)[0]}
    # After an outage every lease has run out: only a connection older than a lease may call anybody dead.
    output.note(f"waiting {grace:g} s, until this connection is old enough to tell a death from an outage")
    time.sleep(grace + 0.5)
    buried = [
        one
        for one in membership.expired(connection, grace_seconds=grace)
        if membership.bury(connection, one, grace_seconds=grace)
    ]
    claims = 0
    while taken := reaping.reap_lost(connection, range(SHARDS), grace_seconds=grace):
        claims += taken
    messages = 0
    for one in _lost_messages(application, connection)[0]:
        if one["queue"] in before:  # twice running: it is no message on its way
            again = reaping.oldest_unclaimed(connection, one["queue"], min(one["missing"], 2_000))
            broker = Broker(application.app)
            try:
                broker.publish(again)
            finally:
                broker.close()
            messages += len(again)
    return {"claims": claims, "coordinators": len(buried), "messages": messages}


def _print(output: Output, found: dict[str, Any]) -> None:
    if found["lost_claims"]:
        rows = [
            [one["run"], one["task"], str(one["attempt"]), moment(one["claimed_at"]), moment(one["lease_until"])]
            for one in found["lost_claims"]
        ]
        output.table(["run", "task", "attempt", "claimed", "lease ran out"], rows, title="claims whose lease ran out")
    if found["dead_coordinators"]:
        rows = [[str(one["id"]), moment(one["lease_until"]), str(one["shards"])] for one in found["dead_coordinators"]]
        output.table(["coordinator", "lease ran out", "shards"], rows, title="coordinators to bury")
    if found["lost_messages"]:
        rows = [
            [one["queue"], *(str(one[name]) for name in ("unclaimed", "in_broker", "missing"))]
            for one in found["lost_messages"]
        ]
        output.table(["queue", "unclaimed", "in the broker", "missing"], rows, title="messages that the broker lost")
    if found["broker"]:
        output.note(found["broker"])
    if not any(found[name] for name in ("lost_claims", "dead_coordinators", "lost_messages")):
        output.line("nothing to reap")
