"""`saga signal`: tell a run something that its saga declares. It checks the value by its type, and sends what fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from saga.cli.diagnosis import START_A_COORDINATOR
from saga.cli.group import Invocation, argument, command, option

if TYPE_CHECKING:
    from saga.cli.application import Application
    from saga.core.definition import SagaDefinition
    from saga.core.signals import Signal


@command(
    "signal",
    options=[
        argument("run", metavar="SAGA/KEY"),
        argument("name"),
        argument("value", metavar="JSON|-|@FILE"),
        option("--id", "id", help="Sent again with the same id it counts once; without it, every sending counts."),
        option(
            "--timeout", type=float, default=30.0, show_default=True, help="Seconds to wait for an update's answer."
        ),
    ],
    help="Send a signal to a run. An update too: its answer is waited for and printed.",
)
def signal_command(
    invocation: Invocation,
    *,
    run: str,
    name: str,
    value: str,
    id: str | None,
    timeout: float,
) -> None:
    """Check the value by the declared type of the signal and send it."""
    from saga.cli.application import split_address
    from saga.cli.given import read_text
    from saga.core.signals import Update
    from saga.engine.client import Handle
    from saga.engine.shapes import load

    application = invocation.application
    codec = application.installation.codec
    definition = _definition(application, run)
    signal = _declared(definition, name)
    told = load(codec.signal(signal).value, read_text(value, "the value"), "the value", f"signal {name}")
    saga, key = split_address(run)
    handle: Handle[Any] = Handle(application.installation, saga, key, definition=definition)
    id = id or str(uuid4())
    output = invocation.output
    document: dict[str, Any] = {"run": run, "signal": name, "id": id}
    if isinstance(signal, Update):
        answer = codec.encode_answer(signal, handle.update(signal, told, id=id, timeout=timeout))
        output.document({**document, "answer": json.loads(answer)})
        output.line(answer)
        return
    handle.send(signal, told, id=id)
    with application.connection() as connection:
        living = any(one.alive for one in application.reading.coordinators(connection))
    output.document({**document, "coordinator_runs": living})
    output.line(f"sent {name} to {run} (id {id})")
    if not living:
        output.note(START_A_COORDINATOR)


def _definition(application: Application, run: str) -> SagaDefinition:
    """Return the saga of a run in the run's version; that of a start which waits for a turn counts too.

    Raises:
        UnknownRun: there is no such run.
        UnknownSaga: this application does not define that version.
    """
    from saga.cli.application import split_address
    from saga.core.events import EventKind

    saga, key = split_address(run)
    with application.connection() as connection:
        looked = application.reading.look(connection, saga, key)
        starts = [arrival for arrival in looked.waiting if arrival.kind == EventKind.RUN_STARTED]
        if starts:
            version = int(json.loads(starts[0].payload or "{}")["version"])
        else:
            version = application.need(connection, run).row.version
    return application.installation.definitions.saga(saga, version)


def _declared(definition: SagaDefinition, name: str) -> Signal[Any]:
    """Return the signal of a saga by its name.

    Raises:
        UnknownSignal: it declares none of this name; the message lists those that it does.
    """
    from saga.core.errors import UnknownSignal

    for signal in definition.signals:
        if signal.name == name:
            return signal
    known = ", ".join(signal.name for signal in definition.signals) or "none"
    raise UnknownSignal(
        f"saga {definition.name} version {definition.version} declares no signal {name!r}; it declares: {known}"
    )
