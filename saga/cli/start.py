"""`saga start`: one run of a saga by hand. It sends what a client would, and nothing where the input does not fit."""

from __future__ import annotations

from saga.cli.diagnosis import START_A_COORDINATOR
from saga.cli.group import Invocation, argument, command, option


@command(
    "start",
    options=[
        argument("saga"),
        option("--id", "key", required=True, metavar="KEY", help="The business key: the run's name for ever."),
        option(
            "--input", "given", required=True, metavar="JSON|-|@FILE", help="The saga's input: JSON, stdin or a file."
        ),
        option("--version", type=int, help="The saga's version; without it, its newest."),
    ],
    help="Start a run of a saga. Starting it again with the same input is the same run.",
)
def start_command(invocation: Invocation, *, saga: str, key: str, given: str, version: int | None) -> None:
    """Check the input and send the start."""
    from saga.cli.given import read_text
    from saga.core.address import check_key
    from saga.engine.client import start_run
    from saga.engine.shapes import load

    application = invocation.application
    installation = application.installation
    definition = installation.definitions.saga(saga, version)
    check_key(key)
    text = read_text(given, "--input")
    what = f"saga {definition.name} version {definition.version}"
    value = load(installation.codec.saga(definition).input, text, "--input", what)
    text = installation.codec.encode_saga_input(definition, value)
    with application.connection() as connection:
        existed = application.reading.find(connection, definition.name, key) is not None
        handle = start_run(installation, definition, key, text)
        living = any(one.alive for one in application.reading.coordinators(connection))
    output = invocation.output
    output.document(
        {"run": handle.address, "version": definition.version, "existed": existed, "coordinator_runs": living}
    )
    output.line(handle.address)
    if existed:
        output.note("it was started before, with this input: nothing was sent")
    elif not living:
        output.note(START_A_COORDINATOR)
