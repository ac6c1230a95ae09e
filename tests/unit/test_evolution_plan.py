"""What every approach is given: the same checkouts and kills for the same seed, and the same course of an order."""

from __future__ import annotations

import pytest

from demo_shop.evolution import flow
from demo_shop.evolution.harness import Options, plan_checkouts
from demo_shop.evolution.kills import AFTER_SECONDS, Fault, Kill, plan_kills
from demo_shop.orders import CHECKOUT


def options(orders: int = 40, kills: int = 5, seed: int = 7) -> Options:
    return Options(orders, kills, seed, patience_seconds=10)


def kills_of(chosen: Options) -> list[Kill]:
    return plan_kills(chosen.kills, plan_checkouts(chosen), seed=chosen.seed, over_seconds=chosen.over_seconds)


@pytest.mark.parametrize("count", [1, 2, 12, 200])
@pytest.mark.parametrize("seed", [1, 7])
def test_as_many_checkouts_are_planned_as_were_asked_for(count: int, seed: int) -> None:
    planned = plan_checkouts(options(count, seed=seed))

    assert len({order.order.id for order in planned}) == count
    assert {(order.saga, order.cancels_after_seconds) for order in planned} == {(CHECKOUT, None)}
    starts = [order.starts_after_seconds for order in planned]
    assert starts == sorted(starts)


def test_the_same_seed_plans_the_same_orders_and_kills() -> None:
    assert plan_checkouts(options()) == plan_checkouts(options())
    assert kills_of(options()) == kills_of(options())
    assert kills_of(options()) != kills_of(options(seed=8))


@pytest.mark.parametrize("seed", range(5))
def test_of_five_kills_two_are_of_a_process_and_the_first_is(seed: int) -> None:
    faults = [kill.fault for kill in kills_of(options(seed=seed))]

    assert faults[0] is Fault.PROCESS
    assert sorted(faults) == sorted([*Fault, Fault.PROCESS])


def test_a_kill_strikes_shortly_after_an_order_has_come_in() -> None:
    chosen = options()
    starts = [order.starts_after_seconds for order in plan_checkouts(chosen)]

    for kill in kills_of(chosen):
        assert any(AFTER_SECONDS[0] <= kill.at_seconds - start <= AFTER_SECONDS[1] for start in starts)


def test_no_kills_are_planned_if_none_are_asked_for() -> None:
    assert kills_of(options(kills=0)) == []


def test_an_order_goes_on_from_errand_to_errand_and_back_if_one_is_refused_or_unanswered() -> None:
    def course(*went: str) -> list[str]:
        errands = [flow.FIRST]
        for result in went:
            errands.append(flow.after(errands[-1], result))
        return errands

    assert course("done", "done", "done", "done") == ["reserve", "charge", "book", "mail", "completed"]
    assert course("refused") == ["reserve", "compensated"]
    assert course("unanswered", "done") == ["reserve", "release", "compensated"]
    assert course("done", "refused", "done") == ["reserve", "charge", "release", "compensated"]
    assert course("done", "unanswered", "done", "done") == ["reserve", "charge", "refund", "release", "compensated"]


@pytest.mark.parametrize("errand", ["book", "mail", "refund", "release"])
def test_what_cannot_go_on_nor_back_stands_before_a_person(errand: str) -> None:
    assert flow.after(errand, "refused") == flow.after(errand, "unanswered") == flow.STALLED
