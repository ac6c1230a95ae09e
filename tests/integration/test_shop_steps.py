"""The shop's steps against its services: what they send, what they take for a refusal, and what they leave unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from demo_shop.services.catalogue import SERVICES
from demo_shop.services.ledger import Record, read_ledger
from demo_shop.services.server import ServiceServer
from demo_shop.services.switches import Fault, FaultKind, Script
from saga import Abort
from tasks import mail, payments, shipping, stock
from tasks.values import Order, Parcel, Payment, Receipt, Reservation
from tests.integration.shop import ACTION, UNDO, attempt, serving

ORDER = Order(id="order-1", email="a@example.com", sku="cup", quantity=2, total_cents=1_400)
RESERVATION = Reservation("order-1", "rs-1", "cup", 2)

Shop = Callable[..., Callable[[str], Record]]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """All four services with the given faults; gives a way to read their ledgers."""
    with ExitStack() as stack:

        def open_shop(*faults: Fault) -> Callable[[str], Record]:
            for name, kind in SERVICES.items():
                scripts = {ORDER.id: Script(faults=faults)}
                url = stack.enter_context(serving(ServiceServer(kind, tmp_path / name, scripts)))
                monkeypatch.setenv(kind.variable, url)
            return lambda name: read_ledger(tmp_path / name)

        yield open_shop
        for service in (payments.psp, stock.warehouse, shipping.courier, mail.postbox):
            service.close()


def test_each_action_returns_what_its_service_answered(shop: Shop) -> None:
    shop()

    with attempt():
        done = (
            stock.reserve_stock(ORDER),
            payments.charge_card(ORDER),
            shipping.book_parcel(ORDER, RESERVATION),
            mail.send_receipt(ORDER),
        )

    assert done == (
        RESERVATION,
        Payment("order-1", "ch-1", 1_400),
        Parcel("order-1", "pc-1"),
        Receipt("order-1", "ml-1"),
    )


def test_each_undo_tells_the_service_which_action_it_undoes(shop: Shop) -> None:
    ledger = shop()

    with attempt(UNDO):
        stock.release_stock(None, ORDER)
        payments.refund_card(None, ORDER)
        shipping.cancel_parcel(None, ORDER, RESERVATION)
        mail.apologise(None, ORDER)

    for name in SERVICES:
        assert [(undo.key, undo.action_key) for undo in ledger(name).undos] == [(str(UNDO), str(ACTION))]
    with attempt(), pytest.raises(Abort, match="already undone"):
        payments.charge_card(ORDER)


def test_a_probe_finds_what_landed_and_nothing_else(shop: Shop) -> None:
    shop()
    with attempt():
        nothing = (
            payments.find_charge(ORDER),
            shipping.find_parcel(ORDER, RESERVATION),
            mail.find_receipt(ORDER),
        )
        charged, booked, sent = (
            payments.charge_card(ORDER),
            shipping.book_parcel(ORDER, RESERVATION),
            mail.send_receipt(ORDER),
        )

    assert nothing == (None, None, None)
    with attempt():
        assert payments.find_charge(ORDER) == charged
        assert shipping.find_parcel(ORDER, RESERVATION) == booked
        assert mail.find_receipt(ORDER) == sent


def test_a_declined_card_aborts_with_the_services_words(shop: Shop) -> None:
    shop(Fault("charge", FaultKind.REFUSE))

    with attempt(), pytest.raises(Abort, match="card declined"):
        payments.charge_card(ORDER)


@pytest.mark.parametrize("kind", [FaultKind.SERVER_ERROR, FaultKind.REPLY_LOST])
def test_any_other_trouble_is_left_unknown(shop: Shop, kind: FaultKind) -> None:
    ledger = shop(Fault("charge", kind))

    with attempt(), pytest.raises(httpx.HTTPError):
        payments.charge_card(ORDER)

    assert len(ledger("payments").effects) == (1 if kind is FaultKind.REPLY_LOST else 0)


def test_an_apology_is_not_repeated_by_its_second_attempt(shop: Shop) -> None:
    ledger = shop(Fault("apologise", FaultKind.REPLY_LOST))

    with attempt(UNDO):
        with pytest.raises(httpx.HTTPError):
            mail.apologise(None, ORDER)
        mail.apologise(None, ORDER)

    assert len(ledger("mail").undos) == 1


def test_a_service_without_an_address_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_PAYMENTS_URL", raising=False)

    with attempt(), pytest.raises(RuntimeError, match="set SHOP_PAYMENTS_URL"):
        payments.charge_card(ORDER)
