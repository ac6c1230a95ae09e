"""Mistakes in a definition: each is an error that says what was wrong and what to write instead."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery, shared_task

from saga import Context, DefinitionError, Retry, SagaError, saga, sequence, step
from saga.core import inside
from saga.core.current import current
from saga.core.definition import AnyStep
from saga.core.events import EventKind
from saga.engine import registry
from saga.engine.codec import JsonCodec
from saga.engine.registry import Definitions
from saga.testing import attempt
from tests.unit.steps import charge, mail, stock

pytestmark = pytest.mark.usefixtures("own_declarations")


def plain(n: int) -> int:
    return n


def undo(result: int | None, n: int) -> None: ...


class Shop:
    def undo(result: int | None, n: int) -> None: ...  # type: ignore[misc] # noqa: N805

    def method(self, n: int) -> int:
        return n

    @staticmethod
    def static(n: int) -> int:
        return n


def bound(self: Any, n: int) -> int:
    return n


def unannotated(n: int):  # type: ignore[no-untyped-def] # noqa: ANN201
    return n


def generator(n: int) -> Iterator[int]:
    yield n


@shared_task(name="guards.celery_task")  # type: ignore[untyped-decorator]
def celery_task(n: int) -> int:
    return n


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: step(Shop.method), "a worker has no instance"),
        (lambda: step(Shop.static), "a worker has no instance"),
        (lambda: step(staticmethod(plain)), "plain function"),
        (lambda: step(bound), "`raise RetryLater(after=…)` stands for self.retry"),
        (lambda: step(celery_task), "remove @task"),
        (lambda: step(stock), "a function is one step only"),
        (lambda: step(unannotated), "has no return annotation: write `-> None`"),
        (lambda: step(generator), "return its values as a list"),
        (lambda: step(functools.partial(plain, 1)), "no name of its own"),
        (lambda: step(7), "plain function"),  # type: ignore[call-overload]
        (lambda: step(name="a.probe")(plain), "give another name="),
        (lambda: step(name="a", aliases=("b.compensate",))(plain), "give another name="),
        (lambda: step(name="x" * 201)(plain), "1 to 200 printable characters"),
        (lambda: step(name="a\nb")(plain), "1 to 200 printable characters"),
        (lambda: step(timeout=0)(plain), "timeout=0: expected seconds above 0"),
        (lambda: step(deadline=-1)(plain), "deadline=-1: expected seconds above 0"),
        (lambda: step(timeout=float("nan"))(plain), "expected seconds above 0"),
        (lambda: stock.compensate(undo), "has two compensations"),
        (lambda: _probed_twice(), "has two probes"),
        (lambda: stock.with_options(timeout=1).compensate(undo), "write @stock.compensate on the step itself"),
        (lambda: stock.with_options(timeout=1).probe(plain), "write @stock.probe on the step itself"),
        (lambda: step(name="g.m")(plain).compensate(Shop.undo), "a worker has no instance"),
        (lambda: stock.delay(1), "inside a saga write ctx.run(stock, …), in a test call stock(…)"),
        (lambda: stock.apply_async((1,)), "sent by its run's coordinator, never by hand"),
        (lambda: stock.s(1), "sent by its run's coordinator, never by hand"),
        (lambda: stock.si(1), "sent by its run's coordinator, never by hand"),
        (lambda: stock.signature((1,)), "sent by its run's coordinator, never by hand"),
        (lambda: mail.delay(1), "ctx.run(mail, …)"),
        (lambda: saga(_saga), 'write @saga("_saga")'),  # type: ignore[arg-type]
        (lambda: saga("a/b")(_saga), "without a slash"),
        (lambda: saga("x" * 201)(_saga), "1 to 200"),
        (lambda: saga("a", version=0)(_saga), "version=0: expected 1 or more"),
        (lambda: saga("a", timeout=0)(_saga), "timeout=0: expected seconds above 0"),
        (lambda: saga("a", timeout=float("inf"))(_saga), "at most ten years"),
        (lambda: saga("a")(_async_saga), "write a plain `def`"),
        (lambda: saga("a")(_yielding_saga), "write a plain `def`"),
        (lambda: Retry(attempts=0), "attempts=0"),
        (lambda: Retry(first_seconds=-1), "first_seconds=-1"),
        (lambda: Retry(first_seconds=float("nan")), "first_seconds=nan"),
        (lambda: Retry(max_seconds=float("inf")), "max_seconds=inf"),
        (lambda: Retry(factor=0.5), "factor=0.5"),
        (lambda: Retry(factor=1e9), "factor=1000000000.0"),
        (lambda: Retry(jitter=2), "jitter=2"),
    ],
)
def test_a_mistake_is_refused_with_what_to_write_instead(declare: Callable[[], object], says: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        declare()

    assert says in str(refused.value)


def _probed_twice() -> None:
    made = step(name="guards.twice")(plain)
    made.probe(plain)
    made.probe(plain)


def _saga(ctx: Context, n: int) -> int:
    return n


async def _async_saga(ctx: Context, n: int) -> int:
    return n


def _yielding_saga(ctx: Context, n: int) -> Iterator[int]:
    yield n


# -- calling a step ------------------------------------------------------------------------------------------------


def test_outside_a_saga_a_step_is_its_plain_function() -> None:
    assert stock(3) == 4
    assert stock.__name__ == "stock"
    assert stock.__wrapped__(3) == 4


def test_inside_a_saga_a_step_is_not_called() -> None:
    inside.enter()
    try:
        with pytest.raises(DefinitionError, match=r"write ctx.run\(stock, …\)"):
            stock(3)
    finally:
        inside.leave()


def test_a_step_prints_with_its_undo() -> None:
    assert repr(stock) == "<step steps.stock <- unstock>"


def test_current_outside_a_step_says_how_to_test_one() -> None:
    with pytest.raises(SagaError, match=r"saga.testing.attempt\(\)"):
        _ = current.token


def test_current_inside_an_attempt_knows_its_token() -> None:
    with attempt(run="checkout/order-7", number=2) as running:
        assert current.token == str(running.token) == current.action_token
        assert (current.attempt, current.run, current.fenced) == (2, "checkout/order-7", False)
        with pytest.raises(SagaError, match="transactional=True"):
            _ = current.connection


def test_options_for_one_call_leave_the_step_as_it_was() -> None:
    changed = stock.with_options(timeout=3, retry=Retry(attempts=1))

    assert (changed.policy.timeout_seconds, changed.policy.retry.attempts) == (3, 1)
    assert stock.policy.timeout_seconds == 60
    assert changed.name == stock.name
    assert changed.declared is stock


def test_timeout_none_is_no_limit_and_unwritten_is_the_default() -> None:
    assert step(timeout=None, name="guards.none")(plain).policy.timeout_seconds is None
    assert charge.with_options(deadline=5).policy.timeout_seconds == 60


# -- names ---------------------------------------------------------------------------------------------------------


def test_two_steps_of_one_name_are_refused_with_both_places() -> None:
    step(name="guards.same")(plain)
    step(name="guards.same")(lambda_like)

    with pytest.raises(DefinitionError) as refused:
        Definitions(JsonCodec()).refresh()
    assert str(refused.value).count("test_guards.py:") == 2


def test_an_alias_that_another_step_has_as_its_name_is_refused() -> None:
    step(name="guards.new", aliases=("guards.old",))(plain)
    step(name="guards.old")(lambda_like)

    with pytest.raises(DefinitionError, match=r"two steps are named 'guards.old'"):
        Definitions(JsonCodec()).refresh()


def test_two_sagas_of_one_name_and_version_are_refused_and_another_version_is_not() -> None:
    saga("guards")(_saga)
    saga("guards", version=2)(_other_saga)
    definitions = Definitions(JsonCodec())
    definitions.refresh()
    assert definitions.saga("guards").version == 2
    assert definitions.saga("guards", 1).version == 1

    saga("guards", version=2)(_saga)
    with pytest.raises(DefinitionError, match="two sagas are named 'guards' version 2"):
        Definitions(JsonCodec()).refresh()


def test_an_unknown_saga_is_refused_with_those_that_there_are() -> None:
    saga("guards")(_saga)
    definitions = Definitions(JsonCodec())
    definitions.refresh()

    with pytest.raises(SagaError, match="guards version 1"):
        definitions.saga("gaurds")
    assert definitions.find("guards", 7) is None


def test_the_build_tells_the_files_that_definitions_are_written_in() -> None:
    def build(*steps: AnyStep) -> str:
        registry._steps[:] = steps
        registry._sagas.clear()
        saga("guards")(_saga)
        definitions = Definitions(JsonCodec())
        definitions.refresh()
        return definitions.build

    assert build() == build() != build(stock)


def test_code_that_knows_another_event_is_another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    # It could go on with a run whose log this code cannot read, though the sagas are the same.
    before = Definitions(JsonCodec()).build
    monkeypatch.setattr(registry, "EventKind", [*EventKind, "Teleported"])

    assert Definitions(JsonCodec()).build != before


def test_a_mistake_in_types_is_found_when_the_application_finalises() -> None:
    from saga import install

    app = install(Celery("guards", broker="memory://", set_as_current=False), database="postgresql://nowhere/none")
    step(name="guards.untyped")(untyped_parameter)

    with pytest.raises(DefinitionError, match="parameter 'n' has no type"):
        app.finalize()


def untyped_parameter(n) -> int:  # type: ignore[no-untyped-def] # noqa: ANN001
    return 1


def lambda_like(n: int) -> int:
    return n


def _other_saga(ctx: Context, n: int) -> int:
    return n + 1


# -- sequences -----------------------------------------------------------------------------------------------------


@dataclass
class Order:
    n: int


@dataclass
class Payment:
    reference: str


@dataclass
class CardPayment(Payment): ...


@step
def pay(order: Order) -> CardPayment:
    return CardPayment("p")


@step
def parcel(order: Order, payment: Payment) -> float:
    return 1.0


@step
def again(order: Order) -> Payment:
    return Payment("q")


@step
def stranger(date: bytes) -> int:
    return 1


def test_a_sequence_wires_each_parameter_to_the_one_thing_that_fits() -> None:
    made = sequence("listed", Order, pay, parcel)

    assert made.name == "listed"
    assert made.function.__annotations__["return"] is float


def test_a_parameter_that_nothing_fits_is_refused() -> None:
    with pytest.raises(
        DefinitionError, match=r"parameter 'date' of step test_guards.stranger .* fits nothing before it"
    ):
        sequence("listed", Order, pay, stranger)


def test_a_parameter_that_two_things_fit_is_refused_with_both() -> None:
    with pytest.raises(DefinitionError, match=r"test_guards.pay and the result of test_guards.again"):
        sequence("listed", Order, pay, again, parcel)


def test_a_sequence_without_steps_is_refused() -> None:
    with pytest.raises(DefinitionError, match="has no steps"):
        sequence("listed", Order)
