"""What can be stored and what cannot: values come back as they went in, or are refused before anything is sent."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union
from uuid import UUID

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel
from typing_extensions import TypedDict

from saga import Abort, Context, DecodeFailed, DefinitionError, RetryLater, ValueRefused
from saga.core.definition import AnyStep, SagaDefinition, make_step
from saga.core.events import Direction, EventKind
from saga.core.outcome import companion_input
from saga.engine.codec import VALUE_BYTES_MAX, JsonCodec, Value
from saga.engine.outcomes import Ended, run_attempt

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers

pytestmark = pytest.mark.usefixtures("own_declarations")


@dataclass
class Order:
    id: str
    cents: int


@dataclass
class Weight:
    grams: float | None


@dataclass
class Fragile:
    n: int

    def __post_init__(self) -> None:
        if self.n == 7:
            raise KeyError("seven")


@dataclass
class Cash:
    cents: int


@dataclass
class Card:
    cents: int
    number: str = ""


@dataclass
class TaggedCash:
    kind: Literal["cash"]
    cents: int


@dataclass
class TaggedCard:
    kind: Literal["card"]
    cents: int


@dataclass
class SameTag:
    kind: Literal["card"]
    cents: int
    more: int = 0


@dataclass
class Basket:
    paid: Cash | Card


class Fields(TypedDict):
    cents: int


class Model(BaseModel):
    cents: int


@dataclass
class Unresolved:
    n: OnlyForCheckers


@dataclass
class Tree:
    n: int
    below: list[Tree]


class Color(enum.StrEnum):
    RED = "red"


# -- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 7),
        (str, "a\x00b ü 🙂"),
        (float, 1e300),
        (float, math.inf),
        (list[int], [1, 2]),
        (Order, Order("x", 3)),
        (Model, Model(cents=3)),
        (dict[str, Order], {"a": Order("x", 3)}),
        (Tree, Tree(1, [Tree(2, [])])),
        (datetime.datetime, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (UUID, UUID(int=1)),
        (Color, Color.RED),
        (TaggedCash | TaggedCard, TaggedCard("card", 3)),
        (int | str, "7"),
        (int | float, 7.0),
        (Order | None, None),
        (tuple[int, str], (1, "a")),
    ],
)
def test_a_value_comes_back_as_it_went_in(annotation: Any, value: Any) -> None:
    codec = Value(annotation, "it")

    back = codec.load(codec.dump(value))

    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back_where_it_can() -> None:
    assert math.isnan(Value(float, "it").load(Value(float, "it").dump(math.nan)))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "7"),
        (int, 7.0),
        (str, 7),
        (Order, {"id": "x", "cents": 3}),
        (Order, Order("x", "3")),  # type: ignore[arg-type]
        (Order, Cash(3)),
        (Order, None),
        (list[int], (1, 2)),
        (list[int], ["1"]),
        (Literal["a"], "b"),
        (str, "\ud800"),
        (bytes, b"\xff"),
        (Weight, Weight(math.nan)),
        (Weight, Weight(-math.inf)),
        (decimal.Decimal, decimal.Decimal("NaN")),
        (Any, object()),
        (dict[str, Any], {"a": print}),
    ],
)
def test_a_value_that_would_not_come_back_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(ValueRefused, match="it "):
        Value(annotation, "it").dump(value)


def test_a_value_larger_than_its_limit_is_refused_and_at_the_limit_it_is_not() -> None:
    text = Value(str, "the result of step a.b")
    assert len(text.dump("x" * (VALUE_BYTES_MAX - 2))) == VALUE_BYTES_MAX

    with pytest.raises(ValueRefused, match="the limit is 1048576: store it elsewhere, pass its key"):
        text.dump("x" * (VALUE_BYTES_MAX - 1))


def test_an_endless_value_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(ValueRefused):
        Value(list[Any], "it").dump(endless)


def test_whatever_a_values_own_code_raises_is_a_refusal() -> None:
    broken = Fragile(1)
    broken.n = 7

    with pytest.raises(ValueRefused, match="KeyError"):
        Value(Fragile, "it").dump(broken)
    with pytest.raises(DecodeFailed, match="KeyError"):
        Value(Fragile, "it").load('{"n":7}')


@pytest.mark.parametrize("text", ["{", '"x"', '{"id":"x"}', '{"id":"x","cents":"many"}', "null"])
def test_json_that_does_not_fit_this_code_is_not_decoded_and_its_values_are_not_shown(text: str) -> None:
    with pytest.raises(DecodeFailed, match="does not fit this code") as refused:
        Value(Order, "it").load(text)

    assert "many" not in str(refused.value)


# -- types ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "annotation",
    [
        Cash | Card,
        Union[Card, Cash],  # noqa: UP007
        Cash | Fields,
        Cash | Model,
        TaggedCard | SameTag,
        Cash | dict[str, int],
        list[Cash | Card],
        dict[str, Cash | Card],
        Annotated[Cash | Card, "x"],
        Basket,
        list[Basket],
        str | UUID,
        str | datetime.date,
        str | decimal.Decimal,
        str | Color,
        bytes | str,
        list[int] | tuple[int, ...],
        set[int] | list[int],
    ],
)
def test_unions_of_look_alikes_need_something_to_tell_them_apart(annotation: Any) -> None:
    with pytest.raises(DefinitionError, match=r"look alike as JSON.*kind: Literal"):
        Value(annotation, "it")


@pytest.mark.parametrize(
    "annotation",
    [TaggedCash | TaggedCard, Cash | Tree, int | str, Cash | None, dict[str, int] | list[int], bool | int],
)
def test_unions_that_json_can_tell_apart_are_allowed(annotation: Any) -> None:
    Value(annotation, "it")


@pytest.mark.parametrize(
    "annotation", [Callable[[int], int], type, Iterator[int], 3, print, Unresolved, list[Unresolved]]
)
def test_a_type_that_cannot_be_stored_is_a_definition_error(annotation: Any) -> None:
    with pytest.raises(DefinitionError):
        Value(annotation, "it")


def made(function: Callable[..., Any], *, compensation: Any = None, probe: Any = None) -> AnyStep:
    step = make_step(
        function, name="a.b", aliases=(), retry=None, timeout=None, deadline=None, heartbeat=None, transactional=False
    )
    step.compensation, step.probe_function = compensation, probe
    return step


def starred(n: int, *more: int) -> int:
    return n


def keyworded(n: int, **more: int) -> int:
    return n


def keyword_only(n: int, *, m: int) -> int:
    return n


def untyped(n) -> int:  # type: ignore[no-untyped-def] # noqa: ANN001
    return 1


def unresolvable(n: OnlyForCheckers) -> int:
    return 1


def maybe(n: int) -> int | None:
    return n


def optional(n: int) -> Optional[int]:  # noqa: UP045
    return n


def annotated_maybe(n: int) -> Annotated[int | None, "x"]:
    return n


def literal_none(n: int) -> Literal[1, None]:
    return 1


def anything(n: int) -> Any:
    return n


def good(n: int) -> int:
    return n


def void(n: int) -> None: ...


def one(n: int) -> None: ...


def two(result: int | None, n: int) -> None: ...


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (lambda: made(starred), "write plain named parameters"),
        (lambda: made(keyworded), "write plain named parameters"),
        (lambda: made(keyword_only), "write plain named parameters"),
        (lambda: made(untyped), "parameter 'n' has no type"),
        (lambda: made(unresolvable), "not under TYPE_CHECKING"),
        (lambda: made(maybe), "None has a meaning of its own"),
        (lambda: made(optional), "None has a meaning of its own"),
        (lambda: made(annotated_maybe), "None has a meaning of its own"),
        (lambda: made(literal_none), "None has a meaning of its own"),
        (lambda: made(anything), "None has a meaning of its own"),
        (lambda: made(good, compensation=one), "expected 2: the result (or None), then the inputs of the action"),
        (lambda: made(void, compensation=two), "expected 1: the inputs of the action"),
        (lambda: made(good, probe=two), "expected 1: the inputs of the action"),
    ],
)
def test_a_step_whose_types_cannot_work_is_refused_with_its_place(step: Callable[[], AnyStep], says: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        JsonCodec().step(step())

    assert says in str(refused.value)
    assert "test_codec.py:" in str(refused.value)


def no_input(ctx: Context) -> int:
    return 1


def no_types(ctx: Context, n) -> int:  # type: ignore[no-untyped-def] # noqa: ANN001
    return 1


def no_return(ctx: Context, n: int):  # type: ignore[no-untyped-def] # noqa: ANN201
    return 1


@pytest.mark.parametrize(
    ("function", "says"),
    [(no_input, "expected (ctx: Context, input: YourType)"), (no_types, "annotate"), (no_return, "annotate")],
)
def test_a_saga_takes_ctx_and_one_typed_input(function: Callable[..., Any], says: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        JsonCodec().saga(SagaDefinition(function, name="a"))

    assert says in str(refused.value)


# -- arguments -----------------------------------------------------------------------------------------------------


def wide(order: Order, n: int = 5, note: str = "") -> int:
    return n


def test_arguments_are_stored_by_name_with_their_defaults() -> None:
    codec, step = JsonCodec(), made(wide)

    text = codec.encode_input(step, (Order("x", 1),), {"note": "hi"})

    assert text == '{"order":{"id":"x","cents":1},"n":5,"note":"hi"}'
    assert list(codec.decode_arguments(step, text).values()) == [Order("x", 1), 5, "hi"]


def test_a_parameter_that_was_added_since_gets_its_default_and_shifts_no_other() -> None:
    text = '{"note":"hi","order":{"id":"x","cents":1}}'

    assert list(JsonCodec().decode_arguments(made(wide), text).values()) == [Order("x", 1), 5, "hi"]


@pytest.mark.parametrize("text", ['{"n":5}', '{"order":{"id":"x","cents":1},"gone":1}'])
def test_arguments_that_this_code_lacks_or_does_not_know_are_not_decoded(text: str) -> None:
    with pytest.raises(DecodeFailed):
        JsonCodec().decode_arguments(made(wide), text)


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1,), {}), ((Order("x", 1), "two"), {}), ((Order("x", 1),), {"other": 1})]
)
def test_arguments_that_do_not_fit_are_refused(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueRefused, match=r"step a\.b"):
        JsonCodec().encode_input(made(wide), args, kwargs)


# -- one attempt ---------------------------------------------------------------------------------------------------


def ran(
    function: Any, direction: Direction = Direction.ACTION, *, action: Any = good, result: str | None = "7"
) -> Ended:
    given = '{"n":3}' if direction is Direction.ACTION else companion_input(UUID(int=1), '{"n":3}', result)
    step = made(function if direction is Direction.ACTION else action)
    return run_attempt(step, direction, given, JsonCodec(), function=function)


def raises(error: BaseException) -> Callable[..., Any]:
    def function(*_: Any) -> int:
        raise error

    return function


def test_an_attempt_ends_in_the_row_of_the_table_that_it_should() -> None:
    assert ran(lambda n: n, action=good, direction=Direction.PROBE).value == "[3]"
    assert ran(good) == Ended(EventKind.STEP_SUCCEEDED, "3")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "action", "compensation", "probe"),
    [
        (Abort("no"), EventKind.STEP_FAILED, EventKind.STEP_FAILED, EventKind.STEP_UNKNOWN),
        (RetryLater(3), EventKind.STEP_POSTPONED, EventKind.STEP_POSTPONED, EventKind.STEP_POSTPONED),
        (ValueError("x"), EventKind.STEP_UNKNOWN, EventKind.STEP_UNKNOWN, EventKind.STEP_UNKNOWN),
        (SystemExit(1), EventKind.STEP_UNKNOWN, EventKind.STEP_UNKNOWN, EventKind.STEP_UNKNOWN),
        (KeyboardInterrupt(), EventKind.STEP_UNKNOWN, EventKind.STEP_UNKNOWN, EventKind.STEP_UNKNOWN),
        (Unprintable(), EventKind.STEP_UNKNOWN, EventKind.STEP_UNKNOWN, EventKind.STEP_UNKNOWN),
    ],
)
def test_an_exception_ends_each_direction_as_the_table_says(
    error: BaseException, action: EventKind, compensation: EventKind, probe: EventKind
) -> None:
    step, codec = made(good), JsonCodec()

    def kind(direction: Direction, given: str) -> EventKind:
        return run_attempt(step, direction, given, codec, function=raises(error)).kind

    companion = companion_input(UUID(int=1), '{"n":3}', None)
    assert kind(Direction.ACTION, '{"n":3}') is action
    assert kind(Direction.COMPENSATION, companion) is compensation
    assert kind(Direction.PROBE, companion) is probe


def test_an_exception_of_a_transactional_step_is_rolled_back_but_its_probe_is_not() -> None:
    step = make_step(
        good, name="a.b", aliases=(), retry=None, timeout=None, deadline=None, heartbeat=None, transactional=True
    )
    companion = companion_input(UUID(int=1), '{"n":3}', None)

    kinds = [
        run_attempt(step, direction, given, JsonCodec(), function=raises(ValueError())).kind
        for direction, given in (
            (Direction.ACTION, '{"n":3}'),
            (Direction.COMPENSATION, companion),
            (Direction.PROBE, companion),
        )
    ]

    assert kinds == [EventKind.STEP_ROLLED_BACK, EventKind.STEP_ROLLED_BACK, EventKind.STEP_UNKNOWN]


@pytest.mark.parametrize("where", ["decode_arguments", "encode_result"])
@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), SystemExit()])
def test_what_strikes_around_the_function_is_unknown_too(
    monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    codec = JsonCodec()
    monkeypatch.setattr(codec, where, raises(error))

    ended = run_attempt(made(good), Direction.ACTION, '{"n":3}', codec)

    assert (ended.kind, ended.error) == (EventKind.STEP_UNKNOWN, error)


def test_a_result_that_cannot_be_stored_is_refused_not_failed() -> None:
    for value in ("seven", None, 7.5):
        assert (
            run_attempt(
                made(good), Direction.ACTION, '{"n":3}', JsonCodec(), function=lambda n, value=value: value
            ).kind
            is EventKind.STEP_REFUSED
        )
    assert (
        run_attempt(made(void), Direction.ACTION, '{"n":3}', JsonCodec(), function=good).kind is EventKind.STEP_REFUSED
    )


def test_an_input_that_does_not_fit_is_not_run() -> None:
    called: list[int] = []

    for given in ('{"n":"three"}', "{", '{"n":3,"m":4}'):
        assert (
            run_attempt(made(good), Direction.ACTION, given, JsonCodec(), function=called.append).kind
            is EventKind.STEP_NOT_RUN
        )
    assert run_attempt(made(good), Direction.PROBE, "{}", JsonCodec()).kind is EventKind.STEP_NOT_RUN
    assert called == []


def test_a_compensation_gets_the_result_or_none_and_then_the_inputs() -> None:
    got: list[Any] = []
    step = made(good)

    for result in ("7", None):
        given = companion_input(UUID(int=1), '{"n":3}', result)
        run_attempt(step, Direction.COMPENSATION, given, JsonCodec(), function=lambda *args: got.append(args))
    run_attempt(
        made(void),
        Direction.COMPENSATION,
        companion_input(UUID(int=1), '{"n":3}', "null"),
        JsonCodec(),
        function=lambda *args: got.append(args),
    )

    assert got == [(7, 3), (None, 3), (3,)]


def test_a_probe_answers_with_a_result_or_with_no_trace() -> None:
    companion = companion_input(UUID(int=1), '{"n":3}', None)

    def answer(step: AnyStep, value: Any) -> tuple[EventKind, str]:
        ended = run_attempt(step, Direction.PROBE, companion, JsonCodec(), function=lambda n: value)
        return ended.kind, ended.value

    assert answer(made(good), 7) == (EventKind.STEP_SUCCEEDED, "[7]")
    assert answer(made(good), None) == (EventKind.STEP_SUCCEEDED, "null")
    assert answer(made(good), "x")[0] is EventKind.STEP_UNKNOWN
    assert answer(made(void), True) == (EventKind.STEP_SUCCEEDED, "[null]")
    assert answer(made(void), False) == (EventKind.STEP_SUCCEEDED, "null")
    assert answer(made(void), None)[0] is EventKind.STEP_UNKNOWN


def test_async_functions_are_awaited() -> None:
    async def later(n: int) -> int:
        return n + 1

    assert ran(later) == Ended(EventKind.STEP_SUCCEEDED, "4")
