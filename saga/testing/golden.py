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
from saga.engine.history import History, from_json, history_of, to_json
from saga.testing.memory import bring_back, let_go
from saga.testing.play import Played


def record(run: Handle[Any] | Played) -> str:
    """Return a run's log as JSON text, to be kept in a file and given to `replay`.

    Raises:
        UnknownRun: there is no such run, or no coordinator has taken its start yet.
    """
    if isinstance(run, Played):
        saga, _, key = run.address.partition("/")
        return to_json(History(saga, key, run.run, run.events))
    id, reading = run._line.need().row.id, run._line.installation.reading
    return to_json(run._line.ask(lambda c: history_of(run.saga, run.key, id, lambda one: reading.log(c, one))))


def replay(saga: SagaDefinition, history: str) -> None:
    """Check that this code asks for the same steps, in the same order, as the history does.

    What the engine decided by itself (retries, probes, the undo) is not decided again; so a run that was undone is
    checked up to where it turned round. Of a run that undoes a child (`…~undo`) the child is checked.

    A saga function that blocks or loops is cut off as in a play: in the main thread only.

    Raises:
        ReplayMismatch: it asks for something else, or cannot read what is stored; the message says where.
        DecodeFailed: the text is no history, or lacks the log of the child that it undoes.
    """
    recorded = from_json(history)
    if (recorded.saga, recorded.version) != (saga.name, saga.version):
        raise ReplayMismatch(
            f"the history of {recorded.address} is one of saga {recorded.saga} version {recorded.version}; this is "
            f"{saga.name} version {saga.version}: replay it with the definition of its own version"
        )
    # A run that undoes another asks for nothing itself: what its function asked for is in the log of that one.
    asked = recorded.undoes or recorded
    execution = Execution(asked.run, asked.key, saga, JsonCodec())
    broken = bring_back(execution, takewhile(lambda event: event.kind is not EventKind.RUN_COMPENSATING, asked.events))
    if broken:
        raise ReplayMismatch(
            f"saga {saga.name} version {saga.version} ({place_of(saga.function)}) does not follow the history of "
            f"{asked.address}: {broken}. Runs like it would stall: give the change a new version, "
            "or keep the old steps for them"
        )
    let_go(execution)
