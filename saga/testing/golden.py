"""Golden histories: the log of a real run, kept in a file, against today's code. No step runs, nothing is sent."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from saga.core.definition import SagaDefinition, place_of
from saga.core.errors import ReplayMismatch
from saga.core.events import EventKind
from saga.core.execution import Execution
from saga.engine.client import Handle
from saga.engine.codec import JsonCodec
from saga.engine.history import History, from_json, to_json
from saga.testing.play import Played
from saga.testing.stage import why_broken


def record(run: Handle[Any] | Played) -> str:
    """Return a run's log as JSON text, to be kept in a file and given to `replay`.

    Raises:
        UnknownRun: there is no such run, or no coordinator has taken its start yet.
    """
    if isinstance(run, Played):
        saga, _, key = run.address.partition("/")
        return to_json(History(saga, key, run.run, run.events))
    return to_json(History(run.saga, run.key, run._need().row.id, tuple(run.history())))


def replay(saga: SagaDefinition, history: str) -> None:
    """Check that this code asks for the same steps, in the same order, as the history does.

    What the engine decided by itself (retries, probes, the undo) is not decided again; so a run that was undone is
    checked up to where it turned round.

    Raises:
        ReplayMismatch: it asks for something else, or cannot read what is stored; the message says where.
        DecodeFailed: the text is no history.
    """
    recorded = from_json(history)
    if (recorded.saga, recorded.version) != (saga.name, saga.version):
        raise ReplayMismatch(
            f"the history of {recorded.address} is one of saga {recorded.saga} version {recorded.version}; this is "
            f"{saga.name} version {saga.version}: replay it with the definition of its own version"
        )
    execution = Execution(recorded.run, recorded.key, saga, JsonCodec())
    execution.replay(takewhile(lambda event: event.kind is not EventKind.RUN_COMPENSATING, recorded.events))
    if execution.broken is not None:
        raise ReplayMismatch(
            f"saga {saga.name} version {saga.version} ({place_of(saga.function)}) does not follow the history of "
            f"{recorded.address}: {why_broken(execution)}. Runs like it would stall: give the change a new version, "
            "or keep the old steps for them"
        )
    execution.drop()
