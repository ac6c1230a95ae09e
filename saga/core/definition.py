"""Steps and sagas as their authors declare them.

It checks what can be seen in a declaration; it runs and stores nothing.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, Generic, Never, ParamSpec, TypeVar, overload

from saga.core import inside
from saga.core.errors import DefinitionError
from saga.core.retry import COMPENSATION_RETRY, Retry
from saga.core.signals import Signal

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that one attempt may take when nothing else is written.
TIMEOUT_SECONDS = 60.0
#: Seconds that a run's timeout may be at most: ten years.
RUN_TIMEOUT_SECONDS_MAX = 10 * 365 * 86_400
#: Seconds after which a compensation gives up and the run stalls: 72 hours.
COMPENSATION_DEADLINE_SECONDS = 72 * 3600.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How one function of a step is attempted, in seconds; pinned in the log when its first attempt is scheduled."""

    retry: Retry = Retry()
    timeout_seconds: float | None = TIMEOUT_SECONDS  #: for one attempt
    deadline_seconds: float | None = None  #: for all attempts together
    heartbeat_seconds: float | None = None  #: between two beats; the attempt that misses one is lost

    def __post_init__(self) -> None:
        if not isinstance(self.retry, Retry):
            raise DefinitionError(f"retry={self.retry!r}: expected a policy, such as retry=Retry(attempts=3)")
        for name, seconds in (
            ("timeout", self.timeout_seconds),
            ("deadline", self.deadline_seconds),
            ("heartbeat", self.heartbeat_seconds),
        ):
            if seconds is not None and not 0 < seconds <= 365 * 86_400:
                raise DefinitionError(f"{name}={seconds!r}: expected seconds above 0 and at most a year, or None")


class _Unset:
    """Marks an option that was not written, where None has a meaning of its own."""


_UNSET = _Unset()
Seconds = float | None | _Unset


def _changed(policy: Policy, retry: Retry | None, timeout: Seconds, deadline: Seconds, heartbeat: Seconds) -> Policy:
    changes: dict[str, Any] = {}
    if retry is not None:
        changes["retry"] = retry
    if not isinstance(timeout, _Unset):
        changes["timeout_seconds"] = timeout
    if not isinstance(deadline, _Unset):
        changes["deadline_seconds"] = deadline
    if not isinstance(heartbeat, _Unset):
        changes["heartbeat_seconds"] = heartbeat
    return replace(policy, **changes)


def function_name(function: Callable[..., Any]) -> str:
    """Return `payments.charge_card` for `shop.payments.charge_card`; a script's file stem stands for `__main__`."""
    module = function.__module__
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(file).stem if file else "main"
    return f"{module.rpartition('.')[2]}.{function.__name__}"


def place_of(function: Callable[..., Any]) -> str:
    """Return where a function is written, as `file:line`."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def _check_function(function: Any, what: str) -> None:
    if isinstance(function, (staticmethod, classmethod)) or not callable(function):
        raise DefinitionError(f"{what} on {function!r}: write it on a plain function at the top of a module")
    if isinstance(function, AnyStep):
        raise DefinitionError(f"{what} over the step {function.name!r}: a function is one step only")
    if hasattr(function, "delay") and hasattr(function, "apply_async"):
        raise DefinitionError(
            f"{what} over a Celery task ({getattr(function, 'name', function)!r}): remove @task; "
            f"{what} registers its own tasks"
        )
    if not hasattr(function, "__qualname__"):
        raise DefinitionError(f"{what} on {function!r}: it has no name of its own; write it on a plain function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(
            f"{what} on the generator {function.__qualname__} ({place_of(function)}): return its values as a list"
        )
    owner = function.__qualname__.rpartition(".")[0]
    if owner and not owner.endswith("<locals>"):
        raise DefinitionError(
            f"{what} on the method {function.__qualname__} ({place_of(function)}): "
            "a worker has no instance to call it on; "
            "write a plain function and pass what it needs as its input"
        )
    parameters = list(inspect.signature(function).parameters)
    if parameters[:1] == ["self"]:
        raise DefinitionError(
            f"{what} on {function.__qualname__}(self, …): steps are not bound tasks; "
            "`saga.current` has the token and the attempt, and `raise RetryLater(after=…)` stands for self.retry"
        )


class AnyStep:
    """What every step is: a name, an action, and what was declared beside it. Use the `step` decorator to make one."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        aliases: tuple[str, ...],
        policy: Policy,
        transactional: bool,
    ) -> None:
        self.function = function
        self.name = name
        self.aliases = aliases
        self.policy = policy
        self.transactional = transactional
        self.compensation: Callable[..., Any] | None = None
        self.compensation_policy = Policy(
            retry=COMPENSATION_RETRY,
            timeout_seconds=policy.timeout_seconds,
            deadline_seconds=COMPENSATION_DEADLINE_SECONDS,
        )
        self.probe_function: Callable[..., Any] | None = None
        self.declared: AnyStep = self  #: the step as its decorator made it; `with_options` copies point back to it
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        back = f" <- {self.compensation.__name__}" if self.compensation else ""
        return f"<step {self.name}{back}>"

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if inside.saga_function():
            raise DefinitionError(
                f"{self.name}(…) was called inside a saga function: write ctx.run({self.__name__}, …), "
                "or ctx.start(…) to go on while it runs"
            )
        return self.function(*args, **kwargs)

    def _add_compensation(
        self,
        function: Callable[..., Any],
        retry: Retry | None,
        timeout: Seconds,
        deadline: Seconds,
        heartbeat: Seconds,
    ) -> None:
        self._check_declared("compensate")
        _check_function(function, f"@{self.__name__}.compensate")
        if self.compensation is not None:
            raise DefinitionError(
                f"step {self.name} has two compensations: {place_of(self.compensation)} and {place_of(function)}"
            )
        self.compensation = function
        self.compensation_policy = _changed(self.compensation_policy, retry, timeout, deadline, heartbeat)

    def _add_probe(self, function: Callable[..., Any]) -> None:
        self._check_declared("probe")
        _check_function(function, f"@{self.__name__}.probe")
        if self.probe_function is not None:
            raise DefinitionError(
                f"step {self.name} has two probes: {place_of(self.probe_function)} and {place_of(function)}"
            )
        self.probe_function = function

    def _check_declared(self, what: str) -> None:
        if self.declared is not self:
            raise DefinitionError(
                f"step {self.name}: .{what} on what with_options returned: "
                f"write @{self.__name__}.{what} on the step itself"
            )

    def _copy_with(self, retry: Retry | None, timeout: Seconds, deadline: Seconds, heartbeat: Seconds) -> Any:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.policy = _changed(self.policy, retry, timeout, deadline, heartbeat)
        return copy

    def _refuse(self, written: str) -> Never:
        raise DefinitionError(
            f"{self.name}{written}: a step is sent by its run's coordinator, never by hand; "
            f"inside a saga write ctx.run({self.__name__}, …), in a test call {self.__name__}(…)"
        )

    def delay(self, *args: Any, **kwargs: Any) -> Never:
        """Refuse: steps are not sent by hand."""
        self._refuse(".delay(…)")

    def apply_async(self, *args: Any, **kwargs: Any) -> Never:
        """Refuse: steps are not sent by hand."""
        self._refuse(".apply_async(…)")

    def s(self, *args: Any, **kwargs: Any) -> Never:
        """Refuse: steps are no signatures; a saga function takes the place of a canvas."""
        self._refuse(".s(…)")

    si = s
    signature = s


class Step(AnyStep, Generic[P, R]):
    """A step whose action returns a value."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the action as the plain function it is, for unit tests.

        Raises:
            DefinitionError: called inside a saga function.
        """
        return self._call(*args, **kwargs)  # type: ignore[no-any-return]

    @overload
    def compensate(
        self, function: Callable[Concatenate[R | None, P], Any], /
    ) -> Callable[Concatenate[R | None, P], Any]: ...
    @overload
    def compensate(
        self,
        /,
        *,
        retry: Retry | None = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
        heartbeat: float | None = ...,
    ) -> Callable[[Callable[Concatenate[R | None, P], Any]], Callable[Concatenate[R | None, P], Any]]: ...
    def compensate(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        retry: Retry | None = None,
        timeout: Seconds = _UNSET,
        deadline: Seconds = _UNSET,
        heartbeat: Seconds = _UNSET,
    ) -> Any:
        """Declare the function that undoes the action; it gets the result and the inputs.

        The result is None where nobody knows whether the action landed. Its defaults: no cap on attempts,
        and 72 hours after which the run stalls in front of an operator.
        """
        return _declare(self, function, retry, timeout, deadline, heartbeat)

    def probe(self, function: Callable[P, R | None], /) -> Callable[P, R | None]:
        """Declare the function that looks for a trace of the action; None says "no trace now" and permits a retry."""
        self._add_probe(function)
        return function

    def with_options(
        self,
        *,
        retry: Retry | None = None,
        timeout: Seconds = _UNSET,
        deadline: Seconds = _UNSET,
        heartbeat: Seconds = _UNSET,
    ) -> Step[P, R]:
        """Return the same step with other options for one call site; seconds."""
        return self._copy_with(retry, timeout, deadline, heartbeat)  # type: ignore[no-any-return]


class VoidStep(AnyStep, Generic[P]):
    """A step whose action returns nothing: its compensation takes the inputs only, and its probe returns a bool."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call the action as the plain function it is, for unit tests.

        Raises:
            DefinitionError: called inside a saga function.
        """
        self._call(*args, **kwargs)

    @overload
    def compensate(self, function: Callable[P, Any], /) -> Callable[P, Any]: ...
    @overload
    def compensate(
        self,
        /,
        *,
        retry: Retry | None = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
        heartbeat: float | None = ...,
    ) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...
    def compensate(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        retry: Retry | None = None,
        timeout: Seconds = _UNSET,
        deadline: Seconds = _UNSET,
        heartbeat: Seconds = _UNSET,
    ) -> Any:
        """Declare the function that undoes the action; it gets the inputs.

        Its defaults: no cap on attempts, and 72 hours after which the run stalls in front of an operator.
        """
        return _declare(self, function, retry, timeout, deadline, heartbeat)

    def probe(self, function: Callable[P, bool], /) -> Callable[P, bool]:
        """Declare the function that says whether there is a trace of the action; False permits a retry."""
        self._add_probe(function)
        return function

    def with_options(
        self,
        *,
        retry: Retry | None = None,
        timeout: Seconds = _UNSET,
        deadline: Seconds = _UNSET,
        heartbeat: Seconds = _UNSET,
    ) -> VoidStep[P]:
        """Return the same step with other options for one call site; seconds."""
        return self._copy_with(retry, timeout, deadline, heartbeat)  # type: ignore[no-any-return]


def _declare(
    step: AnyStep,
    function: Callable[..., Any] | None,
    retry: Retry | None,
    timeout: Seconds,
    deadline: Seconds,
    heartbeat: Seconds,
) -> Any:
    def declare(function: F) -> F:
        step._add_compensation(function, retry, timeout, deadline, heartbeat)
        return function

    return declare if function is None else declare(function)


def make_step(
    function: Callable[..., Any],
    *,
    name: str | None,
    aliases: tuple[str, ...],
    retry: Retry | None,
    timeout: float | None,
    deadline: float | None,
    heartbeat: float | None,
    transactional: bool,
) -> AnyStep:
    """Build a step from a function; whether it returns something is read from its annotation.

    Raises:
        DefinitionError: the function cannot be a step, or has no return annotation.
    """
    _check_function(function, "@step")
    returns = inspect.signature(function).return_annotation
    if returns is inspect.Signature.empty:
        raise DefinitionError(
            f"step {function.__qualname__} ({place_of(function)}) has no return annotation: "
            "write `-> None` or the type it returns; its result is stored and read again by that type"
        )
    name = name or function_name(function)
    for taken in (name, *aliases):
        if not 1 <= len(taken) <= 200 or not taken.isprintable() or taken.endswith((".compensate", ".probe")):
            raise DefinitionError(
                f"step name {taken!r} ({place_of(function)}): "
                "expected 1 to 200 printable characters that do not end in `.compensate` or `.probe`, "
                "which are the names of the Celery tasks beside an action; give another name="
            )
    cls: type[AnyStep] = VoidStep if returns in (None, "None") else Step
    policy = Policy(
        retry=retry or Retry(), timeout_seconds=timeout, deadline_seconds=deadline, heartbeat_seconds=heartbeat
    )
    return cls(function, name=name, aliases=aliases, policy=policy, transactional=transactional)


class SagaDefinition:
    """A saga: a name, a version, a function that composes steps; `timeout_seconds` bounds a run up to its pivot."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        version: int = 1,
        timeout_seconds: float | None = None,
        signals: Sequence[Signal[Any]] = (),
    ) -> None:
        if not name or "/" in name or len(name) > 200 or not name.isprintable():
            raise DefinitionError(f"saga name {name!r}: expected 1 to 200 printable characters without a slash")
        if version < 1:
            raise DefinitionError(f"saga {name}: version={version}: expected 1 or more")
        if timeout_seconds is not None and not 0 < timeout_seconds <= RUN_TIMEOUT_SECONDS_MAX:
            raise DefinitionError(
                f"saga {name}: timeout={timeout_seconds}: expected seconds above 0 and at most ten years, or None"
            )
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(inspect.unwrap(function)):
            raise DefinitionError(
                f"saga {name} ({place_of(function)}) is an async or generator function: write a plain `def`; "
                "ctx.start(…) and ctx.gather(…) run steps side by side"
            )
        self.function = function
        self.name = name
        self.version = version
        self.timeout_seconds = timeout_seconds
        self.signals = tuple(signals)
        for signal in self.signals:
            if not isinstance(signal, Signal):
                raise DefinitionError(f"saga {name}: signals got {signal!r}: expected Signal(…) or Update(…)")
        names = [signal.name for signal in self.signals]
        if len(set(names)) < len(names):
            raise DefinitionError(f"saga {name}: two of its signals share a name: {sorted(names)}")

    def __repr__(self) -> str:
        return f"<saga {self.name} version {self.version}>"
