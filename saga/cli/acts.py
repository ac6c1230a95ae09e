"""`saga cancel`, `terminate`, `retry` and `resolve`: what an operator asks of a run. A coordinator does it, in a turn.

What the log says already is looked at first, as a courtesy: whether an act still fits is the turn's to decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from saga.cli.diagnosis import START_A_COORDINATOR
from saga.cli.group import Invocation, argument, command, option

if TYPE_CHECKING:
    from saga.cli.application import Application
    from saga.core.state import State
    from saga.engine.database import Psycopg

_RUN = {"metavar": "SAGA/KEY"}


@command(
    "cancel",
    options=[argument("run", **_RUN)],
    help="Ask for a run to be undone. Past its pivot it only goes forward, and this is refused.",
)
def cancel_command(invocation: Invocation, *, run: str) -> None:
    """Send a cancel, unless the log says that it would be refused."""
    from saga.core.errors import RunEnded, ValueRefused

    application = invocation.application
    with application.connection() as connection:
        state = _state(application, connection, run)
    if state is not None and state.ended is None:
        if state.pivoted:
            raise ValueRefused(
                f"run {run} is past its pivot: from there it only goes forward; `saga terminate {run} --yes` ends it "
                "where it stands and undoes nothing"
            )
        if state.undoing:
            raise RunEnded(f"run {run} is being undone already ({state.cause})")
    application.handle(run).cancel()
    _asked(invocation, run, "cancel")


def _state(application: Application, connection: Psycopg, run: str) -> State | None:
    """Fold a run's log; None where its start waits for a turn, or there is none."""
    from saga.cli.application import split_address
    from saga.engine.stuck import fold

    reading = application.reading
    found = reading.find(connection, *split_address(run))
    if found is None:
        return None
    id_ = found.row.id
    return fold(id_, reading.log(connection, id_), lambda undone: reading.log(connection, undone))


@command(
    "terminate",
    options=[
        argument("run", **_RUN),
        option("--yes", is_flag=True, help="Yes: nothing is undone, what its steps did stays."),
    ],
    help="End a run where it stands. Nothing is undone: what its steps did stays.",
)
def terminate_command(invocation: Invocation, *, run: str, yes: bool) -> None:
    """Send a terminate, once that was confirmed."""
    if not yes:
        raise click.UsageError(
            f"terminate ends {run} where it stands and undoes nothing: what its steps did stays. "
            "Say --yes if that is meant; `saga cancel` undoes a run"
        )
    invocation.application.handle(run).terminate()
    _asked(invocation, run, "terminate")


_STEP_HELP = "The stuck step, such as payments.charge_card#1; the number may be left out where only one is stuck."


@command(
    "retry",
    options=[argument("run", **_RUN), option("--step", help=_STEP_HELP + " Without it, all of them.")],
    help="Let a stalled run go on. Its stuck steps get their attempts again.",
)
def retry_command(invocation: Invocation, *, run: str, step: str | None) -> None:
    """Send a retry of all stuck steps, or of one."""
    application = invocation.application
    with application.connection() as connection:
        application.need(connection, run)
    occurrence = application.handle(run).retry(step)
    _asked(invocation, run, "retry", step=occurrence)


@command(
    "resolve",
    options=[
        argument("run", **_RUN),
        option("--step", required=True, help=_STEP_HELP),
        option("--evidence", required=True, help="Who looked where and saw what; it is kept in the log."),
        option(
            "--result", metavar="JSON|-|@FILE", help="What the action returned, when it is an action that is stuck."
        ),
    ],
    help="Settle a stuck step by hand. Its undo as done, or its action as done with --result.",
)
def resolve_command(invocation: Invocation, *, run: str, step: str, evidence: str, result: str | None) -> None:
    """Send an operator's evidence for a stuck step."""
    from saga.cli.given import read_text

    application = invocation.application
    with application.connection() as connection:
        application.need(connection, run)
    text = None if result is None else read_text(result, "--result")
    occurrence = application.handle(run).resolve(step, evidence=evidence, result=text)
    _asked(invocation, run, "resolve", step=occurrence)


def _asked(invocation: Invocation, run: str, act: str, *, step: str | None = None) -> None:
    application = invocation.application
    with application.connection() as connection:
        living = any(one.alive for one in application.reading.coordinators(connection))
    output = invocation.output
    output.document({"run": run, "asked": act, "step": step, "coordinator_runs": living})
    of = f" of {step}" if step else ""
    output.line(f"asked for {act}{of}: {run}; `saga show {run}` tells what became of it")
    if not living:
        output.note(START_A_COORDINATOR)
