"""The orders that a seed draws: the same for the same seed, and enough of each fate for the coverage to hold."""

from __future__ import annotations

from collections import Counter

import pytest

from demo_shop.orders import FATES, WITHHELD_SECONDS, plan_orders, scripts_of
from demo_shop.services.catalogue import SERVICES
from demo_shop.services.switches import Fault, FaultKind, Script
from tasks.service import READ_TIMEOUT_SECONDS


def test_the_same_seed_plans_the_same_orders() -> None:
    assert plan_orders(200, seed=7, over_seconds=60) == plan_orders(200, seed=7, over_seconds=60)
    assert plan_orders(200, seed=7, over_seconds=60) != plan_orders(200, seed=8, over_seconds=60)


@pytest.mark.parametrize("seed", range(5))
def test_every_fate_gets_its_share_whatever_the_seed(seed: int) -> None:
    planned = plan_orders(200, seed=seed, over_seconds=60)

    dealt = Counter(order.fate for order in planned)

    assert dealt == {fate.name: fate.share for fate in FATES}


@pytest.mark.parametrize("count", [1, 7, 20, 199, 1000])
def test_as_many_orders_are_planned_as_were_asked_for(count: int) -> None:
    planned = plan_orders(count, seed=1, over_seconds=10)

    assert len({order.order.id for order in planned}) == count
    starts = [order.starts_after_seconds for order in planned]
    assert starts == sorted(starts)
    assert all(0 <= start <= 10 for start in starts)
    assert scripts_of(planned).keys() == {order.order.id for order in planned}


def test_faults_name_operations_that_exist() -> None:
    operations = {
        operation
        for service in SERVICES.values()
        for operation in (service.action.name, service.undo.name, service.find_action)
    }

    assert {fault.operation for fate in FATES for fault in fate.faults} <= operations


def test_a_withheld_reply_outlasts_the_clients_patience() -> None:
    assert WITHHELD_SECONDS > READ_TIMEOUT_SECONDS


def test_faults_meet_the_first_requests_only_and_in_the_order_they_are_written() -> None:
    script = Script(faults=(Fault("release", FaultKind.SERVER_ERROR), Fault("release", FaultKind.REPLY_LOST, times=2)))

    met = [script.fault_at("release", nth) for nth in (1, 2, 3)]

    assert [fault and fault.kind for fault in met] == [FaultKind.SERVER_ERROR, FaultKind.REPLY_LOST, None]
    assert script.fault_at("charge", 1) is None


def test_no_orders_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one order"):
        plan_orders(0, seed=1, over_seconds=60)
