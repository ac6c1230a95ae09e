"""Rides, loans and deliveries in memory: what comes of each, when, and what a kill at any boundary leaves."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from demo_shop import food as food_module
from demo_shop import loan as loan_module
from demo_shop import ride as ride_module
from demo_shop.food import Delivered, Handover, KitchenAnswer, PickUp, Refunded, food, handover, kitchen_answer, pick_up
from demo_shop.loan import Decision, Funded, Signature, decision, loan, signature
from demo_shop.ride import Matched, NobodyFree, OfferAnswer, answer, ride
from demo_shop.scenarios.audit import Told, audit
from demo_shop.scenarios.loans import LOAN
from demo_shop.scenarios.meals import FOOD
from demo_shop.scenarios.rides import RIDE
from demo_shop.scenarios.scenario import Expected, PlannedRun, Process, Scenario
from demo_shop.services.switches import Script
from saga import Saga, Status
from saga.testing import Played, every_crash_point, play, send
from tasks.service import Service
from tasks.values import LoanApplication, MealOrder, RideRequest
from tests.plays.books import Books

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "processes.md"
#: A process is one readable function; what it calls in its module counts.
LINES_MAX = 40

REQUEST = RideRequest("ride-1", "rosa", 1_450)
APPLICATION = LoanApplication("loan-1", "Theo Brandt", 1_200_000)
ORDER = MealOrder("food-1", "lena", "ramen", 1_890)

APPROVED = send(decision, Decision("Ms Okafor", approved=True))
SIGNED = send(signature, Signature("Theo Brandt"))
COOKS = send(kitchen_answer, KitchenAnswer(cooks=True))


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    kept = Books()
    monkeypatch.setattr(Service, "post", lambda *given: kept.post(*given))
    monkeypatch.setattr(Service, "list_names", lambda *given, **query: kept.list_names(*given, **query))
    return kept


def says(driver: str, accepts: bool, *, at: float | None = None) -> Any:
    return send(answer, OfferAnswer(driver, accepts), at=at)


def assert_in_force(process: Process, key: str, played: Played, books: Books) -> None:
    """Hold a play against the books, as the audit of the real runs does."""
    found = dict(asdict(played.result), answer=type(played.result).__name__) if played.result is not None else None
    expected = Expected(played.status, cause=played.cause or "")
    run = PlannedRun(key, Scenario("a play", expected, Script()), {})
    told = {key: Told(played.status, found, played.cause or "", played.reason)}
    judged = audit(process, [run], told=told, cancelled={}, ledgers=books.ledgers)
    assert judged.findings == ()


# -- how they read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [ride_module, loan_module, food_module], ids=lambda module: module.__name__)
def test_a_process_is_one_readable_function(module: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    first_lines = [min([node.lineno, *(mark.lineno for mark in node.decorator_list)]) for node in functions]
    lines = sum((node.end_lineno or 0) - first + 1 for node, first in zip(functions, first_lines, strict=True))

    assert lines <= LINES_MAX
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]


def test_the_document_shows_each_function_as_it_is() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    sources = [Path(module.__file__ or "").read_text() for module in (ride_module, loan_module, food_module)]
    desk = (DOCUMENT.parent.parent / "demo_shop" / "desk.py").read_text()

    for block, source in zip(blocks, [*sources, desk], strict=True):
        assert block.strip() in source
    for block, source in zip(blocks, sources, strict=False):
        assert block.strip() == source[source.index("@saga(") :].strip()


# -- rides ---------------------------------------------------------------------------------------------------------


def test_a_driver_who_accepts_gets_the_ride(books: Books) -> None:
    played = play(ride, REQUEST, signals=[says("ada", True)])

    assert played.result == Matched("ada", "tr")
    assert_in_force(RIDE, "ride-1", played, books)


def test_the_next_driver_is_asked_after_a_no(books: Books) -> None:
    played = play(ride, REQUEST, signals=[says("ada", False), says("ben", True)])

    assert played.result == Matched("ben", "tr")
    assert played.elapsed < timedelta(seconds=30)
    assert played.effects.count("drivers.offer_ride.compensate") == 1
    assert_in_force(RIDE, "ride-1", played, books)


def test_that_nobody_answers_is_an_answer_after_thirty_seconds_each(books: Books) -> None:
    played = play(ride, REQUEST)

    assert played.status is Status.COMPLETED
    assert played.result == NobodyFree(3)
    assert played.elapsed == timedelta(seconds=90)
    assert_in_force(RIDE, "ride-1", played, books)


def test_the_word_of_a_driver_whose_offer_was_withdrawn_is_passed_over_and_gives_no_more_time(books: Books) -> None:
    books.free = ("ada", "ben")

    played = play(ride, REQUEST, signals=[says("ada", True, at=45)])

    assert played.result == NobodyFree(2)
    assert played.elapsed == timedelta(seconds=60)
    assert_in_force(RIDE, "ride-1", played, books)


def test_a_rider_can_cancel_while_a_driver_thinks(books: Books) -> None:
    played = play(ride, REQUEST, cancel_after=timedelta(seconds=40))

    assert played.status is Status.COMPENSATED
    assert played.elapsed == timedelta(seconds=40)
    assert_in_force(RIDE, "ride-1", played, books)


def test_nobody_near_by_costs_nothing(books: Books) -> None:
    books.free = ()

    played = play(ride, REQUEST)

    assert played.result == NobodyFree(0)
    assert_in_force(RIDE, "ride-1", played, books)


# -- loans ---------------------------------------------------------------------------------------------------------


def test_a_loan_takes_days_and_a_reminder_for_each_day_without_a_signature(books: Books) -> None:
    decided = send(decision, Decision("Ms Okafor", approved=True), at=timedelta(days=3))
    signed = send(signature, Signature("Theo Brandt"), at=timedelta(days=5, hours=1))

    played = play(loan, APPLICATION, signals=[decided, signed])

    assert played.result == Funded("po", "Ms Okafor", reminders=2)
    assert played.elapsed == timedelta(days=5, hours=1)
    assert_in_force(LOAN, "loan-1", played, books)


def test_documents_that_nobody_signs_undo_the_loan_after_the_last_reminder(books: Books) -> None:
    played = play(loan, APPLICATION, signals=[APPROVED])

    assert played.status is Status.COMPENSATED
    assert played.reason == "not signed after 5 reminders"
    assert played.elapsed == timedelta(days=6)
    assert_in_force(LOAN, "loan-1", played, books)


def test_a_declined_loan_leaves_nothing_on_file(books: Books) -> None:
    played = play(loan, APPLICATION, signals=[send(decision, Decision("Ms Okafor", approved=False, reason="no"))])

    assert played.reason == "declined by Ms Okafor: no"
    assert played.effects[-3:] == (
        "lending.open_case.compensate",
        "lending.check_credit.compensate",
        "lending.register_application.compensate",
    )
    assert_in_force(LOAN, "loan-1", played, books)


def test_an_insolvent_applicant_is_never_put_before_an_officer(books: Books) -> None:
    books.refused = frozenset({("check", "")})

    played = play(loan, APPLICATION)

    assert played.status is Status.COMPENSATED
    assert "lending.open_case" not in played.effects


def test_an_applicant_can_withdraw_after_a_month_of_silence(books: Books) -> None:
    played = play(loan, APPLICATION, cancel_after=timedelta(days=30))

    assert (played.status, played.cause) == (Status.COMPENSATED, "cancelled")
    assert played.elapsed == timedelta(days=30)
    assert_in_force(LOAN, "loan-1", played, books)


# -- deliveries ----------------------------------------------------------------------------------------------------


def fetched_and_brought(courier: str, *, arrived: bool = True) -> Sequence[Any]:
    return send(pick_up, PickUp(courier)), send(handover, Handover(arrived, "" if arrived else "dropped"))


def test_a_meal_is_delivered(books: Books) -> None:
    played = play(food, ORDER, signals=[COOKS, *fetched_and_brought("ada")])

    assert played.result == Delivered("ada")
    assert_in_force(FOOD, "food-1", played, books)


def test_an_order_that_the_restaurant_lets_lapse_is_refunded_after_ten_minutes(books: Books) -> None:
    played = play(food, ORDER)

    assert played.status is Status.COMPENSATED
    assert played.elapsed == timedelta(minutes=10)
    assert_in_force(FOOD, "food-1", played, books)


def test_a_courier_who_refuses_and_one_who_does_not_come_are_passed_over(books: Books) -> None:
    books.refused = frozenset({("assign", "ada")})
    late = send(pick_up, PickUp("ben"), at=timedelta(minutes=31))
    fetched = send(pick_up, PickUp("cleo"), at=timedelta(minutes=40))

    played = play(food, ORDER, signals=[COOKS, late, fetched, send(handover, Handover(arrived=True))])

    assert played.result == Delivered("cleo")
    assert_in_force(FOOD, "food-1", played, books)


def test_without_a_courier_the_meal_is_ordered_off_and_refunded(books: Books) -> None:
    books.refused = frozenset({("assign", courier) for courier in books.free})

    played = play(food, ORDER, signals=[COOKS])

    assert played.reason == "no courier has fetched it"
    assert played.effects[-2:] == ("kitchen.order_meal.compensate", "billing.charge_bill.compensate")
    assert_in_force(FOOD, "food-1", played, books)


def test_a_meal_that_is_lost_behind_the_pivot_is_refunded_by_a_step(books: Books) -> None:
    played = play(food, ORDER, signals=[COOKS, *fetched_and_brought("ada", arrived=False)])

    assert played.result == Refunded("ada", "dropped")
    assert played.effects[-1] == "billing.refund_charge"
    assert_in_force(FOOD, "food-1", played, books)


# -- kills ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("process", "saga", "given", "signals", "refused"),
    [
        (RIDE, ride, REQUEST, [says("ada", False), says("ben", True)], []),
        (RIDE, ride, REQUEST, [], []),
        (LOAN, loan, replace(APPLICATION, reminders_max=1), [APPROVED, replace(SIGNED, at=timedelta(days=1.5))], []),
        (LOAN, loan, replace(APPLICATION, reminders_max=1), [APPROVED], []),
        (FOOD, food, ORDER, [COOKS, *fetched_and_brought("cleo")], [("assign", "ada")]),
        (FOOD, food, ORDER, [COOKS, *fetched_and_brought("ada", arrived=False)], []),
    ],
    ids=["matched", "nobody free", "signed late", "never signed", "delivered", "lost on its way"],
)
def test_a_kill_at_any_boundary_leaves_just_what_the_answer_says(
    books: Books, process: Process, saga: Saga[Any, Any], given: Any, signals: Sequence[Any], refused: Sequence[Any]
) -> None:
    books.refused = frozenset(refused)

    def invariant(played: Played) -> None:
        assert played.status in (Status.COMPLETED, Status.COMPENSATED)
        assert_in_force(process, given.id, played, books)

    points = every_crash_point(saga, given, signals=signals, before=books.clear, invariant=invariant)

    assert points > 100
