"""A list of steps as a saga function: each parameter is matched by type with the input or an earlier result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from saga.core.context import Context
from saga.core.definition import AnyStep, place_of
from saga.core.errors import DefinitionError


def compose(name: str, given: type[Any], steps: Sequence[AnyStep]) -> Callable[[Context, Any], Any]:
    """Return a saga function that runs the steps in order and returns the last result.

    Raises:
        DefinitionError: there are no steps, or a parameter's type matches nothing before it, or more than one thing.
    """
    if not steps:
        raise DefinitionError(f"sequence {name!r} has no steps")
    for step in steps:
        if not isinstance(step, AnyStep):
            raise DefinitionError(f"sequence {name!r} got {step!r}: expected functions decorated with @step")
    sources: list[tuple[Any, str]] = [(given, "the input")]
    wiring: list[list[int]] = []
    returns: Any = None
    for step in steps:
        hints = _hints(name, step)
        wiring.append(
            [
                _source(name, step, parameter, hints, sources)
                for parameter in inspect.signature(step.function).parameters
            ]
        )
        returns = hints.get("return")
        sources.append((returns, f"the result of {step.name}"))

    def function(ctx: Context, given: Any) -> Any:
        values = [given]
        for step, indices in zip(steps, wiring, strict=True):
            values.append(ctx.run(step, *(values[index] for index in indices)))  # type: ignore[call-overload]
        return values[-1]

    function.__name__ = function.__qualname__ = name
    function.__annotations__ = {"ctx": Context, "given": given, "return": returns}
    return function


def _hints(name: str, step: AnyStep) -> dict[str, Any]:
    try:
        return get_type_hints(step.function)
    except (AttributeError, NameError, TypeError) as error:
        raise DefinitionError(
            f"sequence {name!r}: the type hints of step {step.name} ({place_of(step.function)}) cannot be resolved: "
            f"{error}; import the types at module level, before the sequence"
        ) from error


def _source(name: str, step: AnyStep, parameter: str, hints: dict[str, Any], sources: list[tuple[Any, str]]) -> int:
    wanted = hints.get(parameter)
    matches = [index for index, (offered, _) in enumerate(sources) if _fits(offered, wanted)]
    if len(matches) == 1:
        return matches[0]
    found = "nothing" if not matches else " and ".join(sources[index][1] for index in matches)
    raise DefinitionError(
        f"sequence {name!r}: parameter {parameter!r} of step {step.name} ({place_of(step.function)}) "
        f"has type {wanted}, which fits {found} before it; expected exactly one: "
        "give the values types of their own, or write the saga as a function"
    )


def _fits(offered: Any, wanted: Any) -> bool:
    if offered == wanted:
        return True
    return isinstance(offered, type) and isinstance(wanted, type) and issubclass(offered, wanted)
