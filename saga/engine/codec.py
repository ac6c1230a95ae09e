"""Values to JSON text and back, by the types that steps and sagas declare (pydantic's TypeAdapter). It does no I/O."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NotRequired, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_json
from typing_extensions import TypedDict, is_typeddict

from saga.core.definition import AnyStep, SagaDefinition, Step, place_of
from saga.core.errors import DecodeFailed, DefinitionError, ValueRefused
from saga.core.signals import Signal, Update
from saga.engine.lookalikes import allows_none, refuse_look_alikes

#: Bytes that a step's input, a step's result, a saga's input and a saga's result may have each: 1 MiB.
VALUE_BYTES_MAX = 1_048_576


class Value:
    """One declared type: `dump` and `load` JSON text. `where` names it in errors."""

    def __init__(self, annotation: Any, where: str) -> None:
        self.where = where
        refuse_look_alikes(annotation, where)
        config = None if _has_own_config(annotation) else ConfigDict(ser_json_inf_nan="constants")
        try:
            self.adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=config)
        except (PydanticUserError, NameError, TypeError) as error:
            raise DefinitionError(
                f"{where} has a type that cannot be stored ({annotation!r}): {str(error).splitlines()[0]}; "
                "use dataclasses, pydantic models or plain JSON types"
            ) from error

    def dump(self, value: Any) -> str:
        """Return the value as JSON text.

        Raises:
            ValueRefused: it does not fit its type, cannot be read back, or is larger than VALUE_BYTES_MAX.
        """
        try:
            raw = self.adapter.dump_json(value, warnings="error")
            if len(raw) > VALUE_BYTES_MAX:
                raise ValueRefused(
                    f"{self.where} is {len(raw)} bytes as JSON; the limit is {VALUE_BYTES_MAX}: "
                    "store it elsewhere, pass its key"
                )
            if b"null" in raw and _has_no_number(self.adapter.dump_python(value)):
                raise ValueRefused(
                    f"{self.where} has NaN or an infinity inside a class with fields, "
                    "which JSON would read back as null: pass None, or leave the value out"
                )
            self.adapter.validate_json(raw)
        except ValidationError as error:
            raise ValueRefused(f"{self.where} could not be read back once stored: {_problems(error)}") from None
        except ValueRefused:
            raise
        except Exception as error:  # a value's own code may raise anything; the attempt's outcome must not get lost
            kind = type(value).__name__
            raise ValueRefused(
                f"{self.where} got a value of type {kind} that does not fit its declared type ({type(error).__name__})"
            ) from None
        return raw.decode()

    def load(self, text: str) -> Any:
        """Read JSON text.

        Raises:
            DecodeFailed: it does not fit the type this code declares.
        """
        try:
            return self.adapter.validate_json(text)
        except ValidationError as error:
            raise DecodeFailed(f"{self.where} as stored does not fit this code: {_problems(error)}") from None
        except Exception as error:  # a type's own code may raise anything
            raise DecodeFailed(
                f"{self.where} as stored cannot be made by this code: {type(error).__name__}: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class StepTypes:
    """What a step takes and returns. `result` is None for a step that returns nothing."""

    inputs: Value  #: all of them, as one JSON object by parameter name
    signature: inspect.Signature
    result: Value | None


@dataclass(frozen=True, slots=True)
class SagaTypes:
    """What a saga takes and returns. `result` is None for a saga that returns nothing."""

    input: Value
    result: Value | None


@dataclass(frozen=True, slots=True)
class SignalTypes:
    """What a signal carries. `answer` is None for one that is no update."""

    value: Value
    answer: Value | None


class JsonCodec:
    """The codec of all definitions of an application; types are resolved at first use and kept."""

    def __init__(self) -> None:
        self._steps: dict[AnyStep, StepTypes] = {}
        self._sagas: dict[SagaDefinition, SagaTypes] = {}
        self._signals: dict[Signal[Any], SignalTypes] = {}

    def step(self, step: AnyStep) -> StepTypes:
        """Return the types of a step.

        Raises:
            DefinitionError: a type is missing, unresolvable or not storable; or a companion does not fit its action.
        """
        declared = step.declared
        known = self._steps.get(declared)
        if known is None:
            known = self._steps[declared] = _step_types(declared)
        return known

    def saga(self, saga: SagaDefinition) -> SagaTypes:
        """Return the types of a saga.

        Raises:
            DefinitionError: a type is missing, unresolvable or cannot be stored, or it does not take (ctx, input).
        """
        known = self._sagas.get(saga)
        if known is None:
            known = self._sagas[saga] = _saga_types(saga)
            for signal in saga.signals:
                self.signal(signal)
        return known

    def signal(self, signal: Signal[Any]) -> SignalTypes:
        """Return the types of a signal.

        Raises:
            DefinitionError: a type cannot be stored.
        """
        known = self._signals.get(signal)
        if known is None:
            value = Value(signal.carries, f"the value of signal {signal.name}")
            answer = Value(signal.answer, f"the answer of update {signal.name}") if isinstance(signal, Update) else None
            known = self._signals[signal] = SignalTypes(value, answer)
        return known

    def encode_signal(self, signal: Signal[Any], value: Any) -> str:
        """Return a signal's value as JSON text. Raises ValueRefused."""
        return self.signal(signal).value.dump(value)

    def decode_signal(self, signal: Signal[Any], text: str) -> Any:
        """Read a signal's value. Raises DecodeFailed."""
        return self.signal(signal).value.load(text)

    def encode_answer(self, update: Update[Any, Any], value: Any) -> str:
        """Return an update's answer as JSON text. Raises ValueRefused."""
        answer = self.signal(update).answer
        assert answer is not None
        return answer.dump(value)

    def decode_answer(self, update: Update[Any, Any], text: str) -> Any:
        """Read an update's answer. Raises DecodeFailed."""
        answer = self.signal(update).answer
        assert answer is not None
        return answer.load(text)

    def encode_plain(self, value: Any, what: str, bytes_max: int) -> str:
        """Return any value as JSON text, for people to look at: it is read back as plain JSON.

        Raises:
            ValueRefused: it is not JSON, no dataclass and no model, or larger than `bytes_max`.
        """
        try:
            raw = to_json(value, inf_nan_mode="constants")
        except Exception as error:  # a value's own code may raise anything
            raise ValueRefused(f"{what} cannot be stored: {type(error).__name__}: {error}") from None
        if len(raw) > bytes_max:
            raise ValueRefused(f"{what} is {len(raw)} bytes as JSON; the limit is {bytes_max}: show less of it")
        return raw.decode()

    def encode_input(self, step: AnyStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return a step's arguments as one JSON object by parameter name.

        Raises:
            ValueRefused: an argument does not fit its type, or all of them are larger than VALUE_BYTES_MAX.
        """
        types_of = self.step(step)
        try:
            bound = types_of.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ValueRefused(f"step {step.name}{types_of.signature}: {error}") from None
        bound.apply_defaults()
        return types_of.inputs.dump(bound.arguments)

    def decode_arguments(self, step: AnyStep, text: str) -> dict[str, Any]:
        """Read a step's arguments, in the order of its parameters; one that was added since gets its default.

        Raises:
            DecodeFailed: one without a default is missing, one is superfluous, or does not fit its type.
        """
        types_of = self.step(step)
        arguments: dict[str, Any] = types_of.inputs.load(text)
        parameters = types_of.signature.parameters.values()
        return {p.name: arguments.get(p.name, p.default) for p in parameters}

    def encode_result(self, step: AnyStep, value: Any) -> str:
        """Return a step's result as JSON text. Raises ValueRefused."""
        result = self.step(step).result
        if result is None:
            if value is not None:
                raise ValueRefused(f"step {step.name} is declared `-> None` and returned a {type(value).__name__}")
            return "null"
        if value is None:
            raise ValueRefused(f"step {step.name} returned None, which its return type does not allow")
        return result.dump(value)

    def decode_result(self, step: AnyStep, text: str) -> Any:
        """Read a step's result. Raises DecodeFailed."""
        result = self.step(step).result
        return None if result is None else result.load(text)

    def encode_output(self, saga: SagaDefinition, value: Any) -> str:
        """Return a saga's result as JSON text. Raises ValueRefused."""
        result = self.saga(saga).result
        if result is None:
            return "null"
        return result.dump(value)

    def decode_output(self, saga: SagaDefinition, text: str) -> Any:
        """Read a saga's result. Raises DecodeFailed."""
        result = self.saga(saga).result
        return None if result is None else result.load(text)

    def encode_saga_input(self, saga: SagaDefinition, value: Any) -> str:
        """Return a saga's input as JSON text. Raises ValueRefused."""
        return self.saga(saga).input.dump(value)

    def decode_input(self, saga: SagaDefinition, text: str) -> Any:
        """Read a saga's input. Raises DecodeFailed."""
        return self.saga(saga).input.load(text)


def _hints(function: Callable[..., Any], what: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (AttributeError, NameError, TypeError) as error:
        raise DefinitionError(
            f"{what} ({place_of(function)}): its type hints cannot be resolved: {error}; "
            "import the types at module level, not under TYPE_CHECKING"
        ) from error


def _parameters(function: Callable[..., Any], what: str) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                f"{what} ({place_of(function)}): parameter {parameter} is not allowed; write plain named parameters, "
                "which are stored by name"
            )
    return parameters


def _step_types(step: AnyStep) -> StepTypes:
    what = f"step {step.name}"
    hints = _hints(step.function, what)
    parameters = _parameters(step.function, what)
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name not in hints:
            raise DefinitionError(
                f"{what} ({place_of(step.function)}): parameter {parameter.name!r} has no type; "
                "it is stored by its type"
            )
        hint = hints[parameter.name]
        refuse_look_alikes(hint, f"input {parameter.name!r} of {what}")
        fields[parameter.name] = hint if parameter.default is inspect.Parameter.empty else NotRequired[hint]
    given = TypedDict("given", fields)  # type: ignore[misc]
    given.__pydantic_config__ = ConfigDict(ser_json_inf_nan="constants", extra="forbid")  # type: ignore[attr-defined]
    inputs = Value(given, f"the input of {what}")
    returns = hints.get("return")
    result = None
    if isinstance(step, Step):
        if returns in (Any, object) or allows_none(returns):
            raise DefinitionError(
                f"{what} ({place_of(step.function)}) returns {returns}: None has a meaning of its own to compensations "
                "(nobody knows whether it landed) and probes (no trace); return a type of your own for `nothing found`"
            )
        result = Value(returns, f"the result of {what}")
    extra = 1 if result is not None else 0
    if step.compensation is not None:
        _check_count(step.compensation, f"{what}: its compensation", len(parameters) + extra, bool(extra))
    if step.probe_function is not None:
        _check_count(step.probe_function, f"{what}: its probe", len(parameters), False)
    return StepTypes(inputs, inspect.signature(step.function), result)


def _check_count(function: Callable[..., Any], what: str, expected: int, with_result: bool) -> None:
    parameters = _parameters(function, what)
    if len(parameters) != expected:
        first = "the result (or None), then " if with_result else ""
        raise DefinitionError(
            f"{what} {function.__name__} ({place_of(function)}) takes {len(parameters)} parameters; "
            f"expected {expected}: {first}the inputs of the action in their order"
        )


def _saga_types(saga: SagaDefinition) -> SagaTypes:
    what = f"saga {saga.name}"
    hints = _hints(saga.function, what)
    parameters = _parameters(saga.function, what)
    if len(parameters) != 2:
        raise DefinitionError(
            f"{what} ({place_of(saga.function)}) takes {len(parameters)} parameters; "
            "expected (ctx: Context, input: YourType)"
        )
    given = parameters[1].name
    if given not in hints or "return" not in hints:
        raise DefinitionError(f"{what} ({place_of(saga.function)}): annotate its input and its return type")
    result = None
    if hints["return"] is not type(None):
        result = Value(hints["return"], f"the result of {what}")
    return SagaTypes(Value(hints[given], f"the input of {what}"), result)


def _has_own_config(annotation: Any) -> bool:
    if not isinstance(annotation, type):
        return False
    return issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation) or is_typeddict(annotation)


def _has_no_number(plain: Any) -> bool:
    """Say whether NaN or an infinity is anywhere in a value made of plain containers."""
    if isinstance(plain, float):
        return not math.isfinite(plain)
    if isinstance(plain, dict):
        return any(map(_has_no_number, plain.values()))
    return isinstance(plain, (list, tuple, set, frozenset)) and any(map(_has_no_number, plain))


def _problems(error: ValidationError) -> str:
    """Say what did not fit and where, without the values."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'value'}: {problem['msg']}"
        for problem in error.errors(include_input=False, include_url=False, include_context=False)[:5]
    )
