"""`saga cancel`, `terminate`, `retry` and `resolve`: what an operator asks of a run. A coordinator does it, in a turn.

What the log says already is looked at first, as a courtesy: whether an act still fits is the turn's to decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from saga.cli.diagnosis import START_A_COORDINATOR
from saga.cli.group import Invocation, argument, command, option

if TYPE_CHECKING:
    from saga.core.state import State

_RUN = {"metavar": "SAGA/KEY"}


@command(
    "cancel",
    options=[argument("run", **_RUN)],
    help="Ask for a run to be undone. Past its pivot it only goes forward, and this is refused.",
)
def cancel_command(invocation: Invocation, *, run: str) -> None:
    """Send a cancel, unless the log says that it would be refused."""
    from saga.core.errors import RunEnded, ValueRefused

    state = _state(invocation, run, or_none=True)
    if state is not None and state.ended is None:
        if state.pivoted:
            raise ValueRefused(
                f"run {run} is past its pivot: from there it only goes forward; `saga terminate {run} --yes` ends it "
                "where it stands and undoes nothing"
            )
        if state.undoing:
            raise RunEnded(f"run {run} is being undone already ({state.cause})")
    invocation.application.handle(run).cancel()
    _asked(invocation, run, "cancel")


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
    state = _state(invocation, run)
    assert state is not None
    occurrence = None if step is None else _stuck(state, run, step)
    invocation.application.handle(run).retry(occurrence)
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
    state = _state(invocation, run)
    assert state is not None
    occurrence = _stuck(state, run, step)
    text = _result(invocation, state, occurrence, result)
    invocation.application.handle(run).resolve(occurrence, evidence=evidence, result=text)
    _asked(invocation, run, "resolve", step=occurrence)


def _state(invocation: Invocation, run: str, *, or_none: bool = False) -> State | None:
    """Fold a run's log; None where its start waits for a turn and that will do."""
    from saga.cli.application import split_address
    from saga.core.state import State

    application = invocation.application
    saga, key = split_address(run)
    with application.connection() as connection:
        if or_none and application.reading.find(connection, saga, key) is None:
            return None
        found = application.need(connection, run)
        state = State(found.row.id)
        for event, _ in application.reading.events(connection, found.row.id):
            state.apply(event)
    return state


def _stuck(state: State, run: str, step: str) -> str:
    """Return the occurrence of a stuck step by its name, with or without its number.

    Raises:
        ValueRefused: it is not stuck, or the name fits several; the message lists what is stuck.
    """
    from saga.core.errors import ValueRefused

    stuck = list(dict.fromkeys(state.tokens[token][0].occurrence for token in state.stuck))
    fitting = [one for one in stuck if step in (one, one.rpartition("#")[0])]
    if len(fitting) == 1:
        return fitting[0]
    there = f"stuck: {', '.join(stuck)}" if stuck else "no step of it is stuck"
    if state.suspended is not None:
        there += f"; the run as a whole is stalled ({state.suspended}): `saga retry {run}` without --step"
    problem = "fits several" if fitting else "is not stuck"
    raise ValueRefused(f"step {step!r} of run {run} {problem}; {there}")


def _result(invocation: Invocation, state: State, occurrence: str, given: str | None) -> str | None:
    """Check the result that an operator gives for a stuck action against its declared type."""
    from saga.cli.given import load, read_text
    from saga.core.definition import VoidStep
    from saga.core.errors import ValueRefused
    from saga.core.events import Direction

    tracks = [track for step, track in map(state.tokens.__getitem__, state.stuck) if step.occurrence == occurrence]
    if all(track.direction is Direction.COMPENSATION for track in tracks):
        if given is not None:
            raise ValueRefused(f"{occurrence}: its undo is stuck, and an undo has no result: leave --result out")
        return None
    installation = invocation.application.installation
    name = occurrence.rpartition("#")[0]
    step = installation.definitions.steps.get(name)
    if step is None:
        return None if given is None else read_text(given, "--result")
    if isinstance(step, VoidStep):
        if given is not None:
            raise ValueRefused(f"{occurrence} returns nothing: leave --result out")
        return None
    if given is None:
        raise ValueRefused(
            f"{occurrence}: its action is stuck, and the saga goes on with its result: say it with --result, as JSON"
        )
    declared = installation.codec.step(step).result
    assert declared is not None
    value: Any = load(declared, read_text(given, "--result"), "--result", f"step {name}")
    encoded: str = installation.codec.encode_result(step, value)
    return encoded


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
