"""The services of rides, loans and deliveries over HTTP: whom they could send, what they tell, and their steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo_shop.jsonhttp import JsonHandler, JsonServer
from demo_shop.services import caller
from demo_shop.services.ledger import Record, read_ledger
from demo_shop.services.partners import DRIVERS, EVERY_SERVICE
from demo_shop.services.server import ServiceServer
from demo_shop.services.switches import Call, Fault, FaultKind, Script, read_scripts, write_scripts
from demo_shop.waiting import wait_for
from saga import Abort
from tasks import billing, couriers, drivers, kitchen, lending, payments, signing
from tasks.service import Service
from tasks.values import Bill, Charge, Filing, LoanApplication, MealOrder, RideRequest
from tests.integration.shop import ACTION, UNDO, attempt, serving

REQUEST = RideRequest("o1", "rosa", 1_450)
APPLICATION = LoanApplication("o1", "Theo Brandt", 1_200_000)
ORDER = MealOrder("o1", "lena", "ramen", 1_890)
BILL = Bill("o1", 1_450)

ACCEPTS = Call("offer", "/hooks/ride/{order}/answer", {"accepts": True}, about="ada", before_reply=True)


@dataclass(slots=True)
class Shop:
    """A shop that writes down what it is told, and answers as it is told to."""

    url: str
    told: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


@pytest.fixture
def shop() -> Iterator[Shop]:
    class Handler(JsonHandler):
        def post(self, body: dict[str, Any]) -> None:
            opened.told.append((self.path, self.headers["Idempotency-Key"], body))
            self.answer(opened.statuses.pop(0) if opened.statuses else 202, {})

    with serving(JsonServer(0, Handler)) as url:
        opened = Shop(url)
        yield opened


@contextmanager
def drivers_with(script: Script, folder: Path, shop: Shop) -> Iterator[httpx.Client]:
    with (
        serving(ServiceServer(DRIVERS, folder / "drivers", {"o1": script}, hooks_url=shop.url)) as url,
        httpx.Client(base_url=url, timeout=10) as client,
    ):
        yield client


def offer(client: httpx.Client, driver: str, key: str = "k1") -> httpx.Response:
    return client.post("/offers", json={"order": "o1", "driver": driver}, headers={"Idempotency-Key": key})


def test_a_call_before_the_reply_has_reached_the_shop_when_the_reply_comes(shop: Shop, tmp_path: Path) -> None:
    with drivers_with(Script(calls=(ACCEPTS,)), tmp_path, shop) as client:
        offer(client, "ada")

        said = {"order": "o1", "reference": "of-1", "driver": "ada", "accepts": True}
        assert shop.told == [("/hooks/ride/o1/answer", "drivers:offer:ada:1", said)]


def test_a_call_after_the_reply_follows_it(shop: Shop, tmp_path: Path) -> None:
    after = Call("offer", "/hooks/ride/{order}/answer", {"accepts": False}, after_seconds=0.05)

    with drivers_with(Script(calls=(after,)), tmp_path, shop) as client:
        assert offer(client, "ada").status_code == 201
        wait_for(lambda: shop.told, what="the shop to be told", seconds=10)


def test_only_what_a_call_is_about_is_followed_by_it(shop: Shop, tmp_path: Path) -> None:
    with drivers_with(Script(calls=(ACCEPTS,)), tmp_path, shop) as client:
        offer(client, "ben")

    assert shop.told == []


def test_a_repeated_request_is_followed_by_the_same_event(shop: Shop, tmp_path: Path) -> None:
    with drivers_with(Script(calls=(ACCEPTS,)), tmp_path, shop) as client:
        offer(client, "ada")
        offer(client, "ada")

    assert [event for _, event, _ in shop.told] == ["drivers:offer:ada:1"] * 2
    assert len({str(said) for _, _, said in shop.told}) == 1


def test_the_shop_is_told_again_until_it_answers(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "AGAIN_SECONDS", 0.01)
    shop.statuses = [503, 503, 409]  # a refusal is an answer

    with drivers_with(Script(calls=(ACCEPTS,)), tmp_path, shop) as client:
        offer(client, "ada")

    assert len(shop.told) == 3


def test_a_refusal_may_be_about_one_of_several_and_is_followed_by_no_call(shop: Shop, tmp_path: Path) -> None:
    refused = Fault("offer", FaultKind.REFUSE, times=None, about="ada")

    with drivers_with(Script(faults=(refused,), calls=(ACCEPTS,)), tmp_path, shop) as client:
        statuses = [offer(client, "ada").status_code, offer(client, "ben", "k2").status_code]

    assert statuses == [409, 201]
    assert shop.told == []
    assert [effect.subject for effect in read_ledger(tmp_path / "drivers").effects] == ["ben"]


def test_scripts_with_calls_survive_their_file(tmp_path: Path) -> None:
    faults = (Fault("offer", FaultKind.REFUSE, times=None, about="ada"),)
    scripts = {"o1": Script(0.25, faults, calls=(ACCEPTS,), roster=("ada", "ben"))}

    write_scripts(tmp_path / "scripts.json", scripts)

    assert read_scripts(tmp_path / "scripts.json") == scripts


# -- their steps ---------------------------------------------------------------------------------------------------

Opener = Callable[..., Callable[[str], Record]]


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """All services with the given faults; gives a way to read their ledgers."""
    with ExitStack() as stack:

        def open_services(*faults: Fault) -> Callable[[str], Record]:
            for name, kind in EVERY_SERVICE.items():
                scripts = {"o1": Script(faults=faults, roster=("ada", "ben"))}
                url = stack.enter_context(serving(ServiceServer(kind, tmp_path / name, scripts)))
                monkeypatch.setenv(kind.variable, url)
            return lambda name: read_ledger(tmp_path / name)

        yield open_services
        for module in (couriers, drivers, kitchen, lending, payments, signing):
            for service in vars(module).values():
                if isinstance(service, Service):
                    service.close()


def test_each_action_lands_once_at_its_service_and_each_undo_names_what_it_undoes(services: Opener) -> None:
    ledger = services()
    filed = Filing("o1", "x")

    with attempt():
        charge = billing.charge_bill(BILL)
        done = (
            drivers.offer_ride(REQUEST, "ada"),
            lending.register_application(APPLICATION),
            lending.check_credit(APPLICATION),
            lending.open_case(APPLICATION, filed),
            lending.hold_funds(APPLICATION),
            signing.send_documents(APPLICATION),
            kitchen.order_meal(ORDER),
            couriers.assign_courier(ORDER, "ada"),
        )
    with attempt(UNDO):
        billing.refund_bill(None, BILL)
        drivers.withdraw_offer(None, REQUEST, "ada")
        lending.close_application(None, APPLICATION)
        lending.retract_inquiry(None, APPLICATION)
        lending.close_case(None, APPLICATION, filed)
        lending.free_funds(None, APPLICATION)
        signing.void_documents(None, APPLICATION)
        kitchen.unorder_meal(None, ORDER)
        couriers.relieve_courier(None, ORDER, "ada")

    assert charge == Charge("o1", "ch-1", 1_450, key=str(ACTION))
    assert [made.reference for made in done] == ["of-1", "ap-1", "cr-1", "ca-1", "fu-1", "do-1", "ki-1", "as-1"]
    undone = ("payments", "drivers", "register", "bureau", "officers", "treasury", "signing", "kitchen", "couriers")
    for name in undone:
        assert [effect.key for effect in ledger(name).effects] == [str(ACTION)]
        assert [(undo.key, undo.action_key) for undo in ledger(name).undos] == [(str(UNDO), str(ACTION))]


def test_what_stands_behind_a_pivot_lands_once(services: Opener) -> None:
    ledger = services()

    with attempt():
        drivers.confirm_trip(REQUEST, "ada")
        lending.pay_out(APPLICATION)
        lending.pay_out(APPLICATION)
        signing.remind(APPLICATION, Filing("o1", "do-1"), 2)

    assert {name: len(ledger(name).effects) for name in ("trips", "bank", "notices")} == {
        "trips": 1,
        "bank": 1,
        "notices": 1,
    }
    assert ledger("notices").effects[0].subject == "2"


def test_a_charge_is_given_back_by_its_key_long_after_its_step(services: Opener) -> None:
    ledger = services()
    with attempt():
        charge = billing.charge_bill(BILL)

    with attempt(UNDO):
        billing.refund_charge(charge)

    assert [(undo.key, undo.action_key) for undo in ledger("payments").undos] == [(str(UNDO), str(ACTION))]


def test_whoever_is_near_by_is_named_in_the_services_order(services: Opener) -> None:
    services()

    assert drivers.find_drivers(REQUEST) == ["ada", "ben"]
    assert couriers.find_couriers(ORDER) == ["ada", "ben"]


def test_a_refusal_aborts_with_the_services_words(services: Opener) -> None:
    services(Fault("check", FaultKind.REFUSE), Fault("assign", FaultKind.REFUSE))

    with attempt(), pytest.raises(Abort, match="insolvent"):
        lending.check_credit(APPLICATION)
    with attempt(), pytest.raises(Abort, match="the courier has other plans"):
        couriers.assign_courier(ORDER, "ada")
