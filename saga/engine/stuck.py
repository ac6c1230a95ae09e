"""Which steps of a stalled run are stuck, and what an operator may settle them with. It reads a log and sends nothing.

It is a courtesy to whoever asks: what becomes of an act is for the turn that takes it to decide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from saga.core.definition import VoidStep
from saga.core.errors import ValueRefused
from saga.core.events import Direction, Event, taken_back
from saga.core.fold import apply
from saga.core.pinned import ChildLink
from saga.core.remains import remains_of
from saga.core.state import State
from saga.engine.registry import Definitions
from saga.engine.shapes import load


def fold(run: UUID, events: Iterable[Event], log_of: Callable[[UUID], Iterable[Event]]) -> State:
    """Return where a run stands by its log. `log_of` reads another's: of the child that it undoes, of earlier undos."""
    log = tuple(events)
    undone = taken_back(json.loads(log[0].payload or "{}")) if log else ()
    state = State(run)
    if undone:
        state = remains_of(undone[0][0], (event for one, _ in undone for event in log_of(one)))
    for event in log:
        apply(state, event)
    return state


def occurrence_of(state: State, address: str, step: str) -> str:
    """Return the occurrence of a stuck step by its name, with or without its number.

    Raises:
        ValueRefused: it is not stuck, or the name fits several; the message lists what is stuck.
    """
    stuck = list(dict.fromkeys(state.tokens[token][0].occurrence for token in state.stuck))
    fitting = [one for one in stuck if step in (one, one.rpartition("#")[0])]
    if len(fitting) == 1:
        return fitting[0]
    there = f"stuck: {', '.join(stuck)}" if stuck else "no step of it is stuck"
    if state.suspended is not None:
        there += f"; the run as a whole is stalled ({state.suspended}): retry it without a step"
    problem = "fits several" if fitting else "is not stuck"
    raise ValueRefused(f"step {step!r} of run {address} {problem}; {there}")


def result_of(state: State, definitions: Definitions, occurrence: str, given: str | None) -> str:
    """Return the result of a stuck step or child, as JSON text, from what the operator says it is.

    What is not defined here is taken at the operator's word.

    Raises:
        ValueRefused: the result does not fit the step, is missing, or is given where there can be none.
    """
    tracks = [track for step, track in map(state.tokens.__getitem__, state.stuck) if step.occurrence == occurrence]
    if all(track.direction is Direction.COMPENSATION for track in tracks):
        return _none(given, f"{occurrence}: its undo is stuck, and an undo has no result")
    codec, link = definitions.codec, state.steps[occurrence].link
    saga = definitions.find(link.saga, link.version) if isinstance(link, ChildLink) else None
    step = definitions.steps.get(occurrence.rpartition("#")[0])
    if saga is not None:
        declared = codec.saga(saga).result
    elif step is not None:
        declared = None if isinstance(step, VoidStep) else codec.step(step).result
    else:
        return _as_given(occurrence, given)
    if declared is None:
        return _none(given, f"{occurrence} returns nothing")
    if given is None:
        raise ValueRefused(
            f"{occurrence}: its action is stuck, and the saga goes on with its result: "
            "say it with --result, or in code result=, as JSON"
        )
    value: Any = load(declared, given, "the result", f"step {occurrence}")
    if saga is not None:
        return codec.encode_output(saga, value)
    assert step is not None
    return codec.encode_result(step, value)


def _none(given: str | None, why: str) -> str:
    if given is not None:
        raise ValueRefused(f"{why}: leave the result out")
    return "null"


def _as_given(occurrence: str, given: str | None) -> str:
    try:
        return "null" if given is None else json.dumps(json.loads(given))
    except ValueError as error:
        raise ValueRefused(f"the result of {occurrence} is not JSON: {error}") from None
