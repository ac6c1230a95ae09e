"""The decorators `step`, `saga` and `sequence`. They declare; an application checks and registers when it finalises."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from saga.core.context import Context
from saga.core.definition import TIMEOUT_SECONDS, AnyStep, Step, VoidStep, function_name, make_step
from saga.core.errors import DefinitionError
from saga.core.retry import Retry
from saga.core.sequence import compose
from saga.core.signals import Signal
from saga.engine.client import Saga
from saga.engine.registry import declare_saga, declare_step

P = ParamSpec("P")
In = TypeVar("In")
Out = TypeVar("Out")
R = TypeVar("R")


# `-> None` is also a `-> R`, so that the overloads overlap; the first that fits is taken, and that is the one meant.
class StepDecorator(Protocol):
    """Makes a `VoidStep` of a function `-> None`, a `Step` of any other; `async def` counts by what it awaits to."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, None]], /) -> VoidStep[P]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, None], /) -> VoidStep[P]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...


@overload
def step(function: Callable[P, Coroutine[Any, Any, None]], /) -> VoidStep[P]: ...  # type: ignore[overload-overlap]
@overload
def step(function: Callable[P, None], /) -> VoidStep[P]: ...  # type: ignore[overload-overlap]
@overload
def step(function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = ...,
    aliases: tuple[str, ...] = ...,
    retry: Retry | None = ...,
    timeout: float | None = ...,
    deadline: float | None = ...,
    heartbeat: float | None = ...,
    transactional: bool = ...,
) -> StepDecorator: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    aliases: tuple[str, ...] = (),
    retry: Retry | None = None,
    timeout: float | None = TIMEOUT_SECONDS,
    deadline: float | None = None,
    heartbeat: float | None = None,
    transactional: bool = False,
) -> Any:
    """Declare a function as a step's action.

    `timeout` is seconds for one attempt (None: no limit), `deadline` seconds for all of them; `name` defaults to the
    last part of the module and the function; `aliases` are its former names. With `heartbeat`, in seconds, an attempt
    that does not call `saga.current.heartbeat()` in time is lost, and the next one gets the progress that it told. A
    `transactional` step gets a SQLAlchemy connection in `saga.current.connection`, whose commit also records the
    outcome.

    Raises:
        DefinitionError: the function cannot be a step.
    """

    def declare(action: Callable[..., Any]) -> AnyStep:
        made = make_step(
            action,
            name=name,
            aliases=aliases,
            retry=retry,
            timeout=timeout,
            deadline=deadline,
            heartbeat=heartbeat,
            transactional=transactional,
        )
        declare_step(made)
        return made

    return declare if function is None else declare(function)


class SagaDecorator(Protocol):
    """Makes a `Saga` of a function that takes (ctx, input)."""

    def __call__(self, function: Callable[[Context, In], Out], /) -> Saga[In, Out]: ...


def saga(
    name: str | None = None,
    /,
    *,
    version: int = 1,
    timeout: float | None = None,
    signals: Sequence[Signal[Any]] = (),
) -> SagaDecorator:
    """Declare a function that composes steps as a saga.

    `name` defaults to the function's; runs keep the `version` they were started with; `timeout` is seconds after which
    a run that has not passed its pivot is undone; `signals` are what may be sent to its runs.

    Raises:
        DefinitionError: the name, version, timeout or signals cannot be; or it stands on something else than a plain
            function.
    """
    if callable(name):
        raise DefinitionError(
            f'@saga without a name on {getattr(name, "__name__", name)}: write @saga("{_named(name)}")'
        )

    def declare(function: Callable[[Context, In], Out], /) -> Saga[In, Out]:
        made: Saga[In, Out] = Saga(
            function,
            name=name or function.__name__,
            version=version,
            timeout_seconds=timeout,
            signals=signals,
        )
        declare_saga(made)
        return made

    return declare


def sequence(
    name: str,
    given: type[In],
    /,
    *steps: Step[..., Any] | VoidStep[...],
    version: int = 1,
    timeout: float | None = None,
) -> Saga[In, Any]:
    """Declare a saga that is a plain list of steps.

    Each takes what it needs, by type, from the input and the earlier results. The run's result is the last step's.

    Raises:
        DefinitionError: a parameter's type matches nothing that came before it, or more than one thing.
    """
    made: Saga[In, Any] = Saga(compose(name, given, steps), name=name, version=version, timeout_seconds=timeout)
    declare_saga(made)
    return made


def _named(function: Callable[..., Any]) -> str:
    return function_name(function).rpartition(".")[2]
