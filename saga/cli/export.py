"""`saga export`: the log of one run as JSON, for a test to replay. It reads, and changes nothing."""

from __future__ import annotations

import json

from saga.cli.group import Invocation, argument, command


@command(
    "export",
    options=[argument("run", metavar="SAGA/KEY")],
    help="Print the log of a run as JSON, inputs and results included: a history for saga.testing.replay.",
)
def export_command(invocation: Invocation, *, run: str) -> None:
    """Read a run's log and print it as it stands."""
    from saga.cli.application import split_address
    from saga.engine.history import history_of, to_json

    application = invocation.application
    with application.connection() as connection:
        id = application.need(connection, run).row.id
        history = history_of(*split_address(run), id, lambda one: application.reading.log(connection, one))
    text = to_json(history)
    # As it stands, passwords too: with three stars in it, it would not be what was stored.
    invocation.output.document(json.loads(text), secrets=True)
    invocation.output.line(text.rstrip("\n"), secrets=True)
