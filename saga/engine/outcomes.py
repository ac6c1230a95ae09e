"""One attempt at one function of a step: decode, call, and turn whatever it ends in into one frozen value.

It knows the table of outcomes; it does not know who asked, nor where the outcome is recorded.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from billiard.common import terminate_handler_fired

from saga.core.definition import AnyStep, Step
from saga.core.errors import Abort, DecodeFailed, RetryLater, ValueRefused, describe
from saga.core.events import Direction, EventKind
from saga.engine.codec import JsonCodec

_loops: dict[int, asyncio.AbstractEventLoop] = {}


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended: the event's kind, its value as JSON text, and the exception if there was one."""

    kind: EventKind
    value: str
    error: BaseException | None = None


Call = Callable[..., Any]


def function_of(step: AnyStep, direction: Direction) -> Call | None:
    """Return the function of a step that serves a direction, or None where it was not declared."""
    match direction:
        case Direction.ACTION:
            return step.function
        case Direction.COMPENSATION:
            return step.compensation
        case Direction.PROBE:
            return step.probe_function


def run_attempt(
    step: AnyStep, direction: Direction, given: str, codec: JsonCodec, *, function: Call | None = None
) -> Ended:
    """Run one attempt on its stored input (JSON text).

    Nothing is raised: SystemExit and KeyboardInterrupt come back as an unknown outcome too. `function` stands for the
    declared one, in tests.
    """
    try:
        return _attempt(step, direction, given, codec, function or function_of(step, direction))
    except BaseException as error:  # a time limit or a shutdown strikes anywhere, not in the function only
        return unknown(step, direction, error)


def unknown(step: AnyStep, direction: Direction, error: BaseException) -> Ended:
    """Return how an attempt ended in whose middle this struck: what landed nobody knows, or it is rolled back."""
    rolled_back = step.transactional and direction is not Direction.PROBE
    return Ended(EventKind.STEP_ROLLED_BACK if rolled_back else EventKind.STEP_UNKNOWN, _said(error), error)


def _attempt(step: AnyStep, direction: Direction, given: str, codec: JsonCodec, function: Call | None) -> Ended:
    try:
        if function is None:
            raise DecodeFailed(f"step {step.name} has no {direction} in this code")
        arguments = _arguments(step, direction, given, codec)
    except DecodeFailed as error:
        return Ended(EventKind.STEP_NOT_RUN, json.dumps(describe(error)), error)
    try:
        value = _call(function, arguments)
    except Abort as error:
        if direction is Direction.PROBE:
            return Ended(EventKind.STEP_UNKNOWN, _said(TypeError("Abort in a probe: return None for no trace")), error)
        return Ended(EventKind.STEP_FAILED, _said(error), error)
    except RetryLater as error:
        return Ended(EventKind.STEP_POSTPONED, json.dumps(error.after_seconds), error)
    return _returned(step, direction, value, codec)


def _returned(step: AnyStep, direction: Direction, value: Any, codec: JsonCodec) -> Ended:
    if direction is Direction.COMPENSATION:
        return Ended(EventKind.STEP_SUCCEEDED, "null")
    try:
        if direction is Direction.PROBE:
            return Ended(EventKind.STEP_SUCCEEDED, _probed(step, value, codec))
        return Ended(EventKind.STEP_SUCCEEDED, codec.encode_result(step, value))
    except ValueRefused as error:
        kind = EventKind.STEP_UNKNOWN if direction is Direction.PROBE else EventKind.STEP_REFUSED
        return Ended(kind, _said(error), error)


def _probed(step: AnyStep, value: Any, codec: JsonCodec) -> str:
    if isinstance(step, Step):
        return "null" if value is None else f"[{codec.encode_result(step, value)}]"
    if not isinstance(value, bool):
        raise ValueRefused(
            f"the probe of {step.name} returned {type(value).__name__}; a step `-> None` is probed by a bool"
        )
    return "[null]" if value else "null"


def _arguments(step: AnyStep, direction: Direction, given: str, codec: JsonCodec) -> list[Any]:
    if direction is Direction.ACTION:
        return list(codec.decode_arguments(step, given).values())
    parts = json.loads(given)
    arguments = list(codec.decode_arguments(step, json.dumps(parts["input"])).values())
    if direction is Direction.PROBE or not isinstance(step, Step):
        return arguments
    result = codec.decode_result(step, json.dumps(parts["result"])) if parts["known"] else None
    return [result, *arguments]


def _call(function: Call, arguments: list[Any]) -> Any:
    value = function(*arguments)
    return _loop().run_until_complete(value) if inspect.iscoroutine(value) else value


def _loop() -> asyncio.AbstractEventLoop:
    """Return this process's event loop for async steps; a forked child makes its own."""
    loop = _loops.get(os.getpid())
    if loop is None:
        loop = _loops[os.getpid()] = asyncio.new_event_loop()
    return loop


def _said(error: BaseException) -> str:
    said = describe(error)
    if isinstance(error, SystemExit) and terminate_handler_fired():  # its code is the number of a signal, in disguise
        said["message"] = "its worker was shut down in mid-step"
    return json.dumps(said)
