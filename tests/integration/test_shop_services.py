"""The shop's outside services over HTTP: what they promise to the steps, and what they deliberately do not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from demo_shop.services.catalogue import SERVICES
from demo_shop.services.ledger import Record, read_ledger
from demo_shop.services.server import ServiceServer
from demo_shop.services.switches import Fault, FaultKind, Script, read_scripts, write_scripts
from tests.integration.shop import serving

Opened = tuple[httpx.Client, Path]
Opener = Callable[..., Opened]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    with ExitStack() as stack:

        def open_service(name: str, **scripts: Script) -> Opened:
            path = tmp_path / f"{name}.sqlite"
            url = stack.enter_context(serving(ServiceServer(SERVICES[name], path, scripts)))
            return stack.enter_context(httpx.Client(base_url=url, timeout=2)), path

        yield open_service


def charge(client: httpx.Client, key: str = "k1", order: str = "o1") -> httpx.Response:
    return client.post("/charges", json={"order": order, "amount_cents": 500}, headers={"Idempotency-Key": key})


def refund(client: httpx.Client, key: str = "u1", action_key: str = "k1") -> httpx.Response:
    body = {"order": "o1", "action_key": action_key}
    return client.post("/refunds", json=body, headers={"Idempotency-Key": key})


def test_the_same_key_twice_is_one_effect_and_one_answer(opened: Opener) -> None:
    client, ledger = opened("payments")

    first, second = charge(client), charge(client)

    assert first.status_code == 201
    assert first.json() == second.json() == {"order": "o1", "reference": "ch-1", "amount_cents": 500}
    record = read_ledger(ledger)
    assert [effect.key for effect in record.effects] == ["k1"]
    assert [request.key for request in record.requests] == ["k1", "k1"]


def test_many_threads_with_one_key_make_one_effect(opened: Opener) -> None:
    client, ledger = opened("payments")
    answers: list[str] = []

    threads = [threading.Thread(target=lambda: answers.append(charge(client).text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 8
    assert len(set(answers)) == 1
    assert len(read_ledger(ledger).effects) == 1


def test_a_charge_after_its_refund_is_refused_also_when_it_never_landed(opened: Opener) -> None:
    client, ledger = opened("payments")

    undone = refund(client)
    late = charge(client)

    assert undone.json() == {"order": "o1", "landed": False}
    assert (late.status_code, late.json()) == (409, {"error": "already undone"})
    assert read_ledger(ledger).effects == ()


def test_a_refund_asked_twice_is_one_refund(opened: Opener) -> None:
    client, ledger = opened("payments")
    charge(client)

    answers = [refund(client).json(), refund(client).json()]

    assert answers == [{"order": "o1", "landed": True}] * 2
    assert [(undo.key, undo.action_key) for undo in read_ledger(ledger).undos] == [("u1", "k1")]


@pytest.mark.parametrize("seconds", [0.0, 0.3], ids=["closed at once", "withheld beyond the read timeout"])
def test_an_effect_whose_reply_was_lost_is_visible_to_the_probe(opened: Opener, seconds: float) -> None:
    script = Script(faults=(Fault("charge", FaultKind.REPLY_LOST, seconds=seconds),))
    client, ledger = opened("payments", o1=script)
    client.timeout = httpx.Timeout(0.2)

    with pytest.raises(httpx.TransportError):
        charge(client)

    assert len(read_ledger(ledger).effects) == 1
    found = client.get("/charges", params={"order": "o1", "key": "k1"})
    assert found.json() == charge(client).json()


def test_a_server_error_leaves_nothing_behind_and_heals_after_its_times(opened: Opener) -> None:
    client, ledger = opened("payments", o1=Script(faults=(Fault("charge", FaultKind.SERVER_ERROR, times=2),)))

    statuses = [charge(client).status_code, charge(client).status_code]
    nothing = client.get("/charges", params={"order": "o1", "key": "k1"})

    assert statuses == [500, 500]
    assert nothing.status_code == 404
    assert read_ledger(ledger).effects == ()
    assert charge(client).status_code == 201


def test_refusals_answer_as_each_operation_says(opened: Opener) -> None:
    faults = (Fault("charge", FaultKind.REFUSE, times=None), Fault("refund", FaultKind.REFUSE, times=None))
    client, ledger = opened("payments", o1=Script(faults=faults))

    declined, stuck = charge(client), refund(client)

    assert (declined.status_code, declined.json()["error"]) == (402, "card declined")
    assert (stuck.status_code, stuck.json()["error"]) == (409, "the card's account is closed")
    assert charge(client, key="k2", order="o2").status_code == 201
    record = read_ledger(ledger)
    assert [effect.order for effect in record.effects] == ["o2"]
    assert record.undos == ()


def test_a_blind_lookup_finds_nothing_although_the_effect_is_there(opened: Opener) -> None:
    client, ledger = opened("payments", o1=Script(faults=(Fault("find_charge", FaultKind.BLIND, times=None),)))
    charge(client)

    found = client.get("/charges", params={"order": "o1", "key": "k1"})

    assert found.status_code == 404
    assert len(read_ledger(ledger).effects) == 1


def test_the_mail_service_ignores_keys_so_mails_double(opened: Opener) -> None:
    client, ledger = opened("mail")

    for _ in range(2):
        client.post("/mails", json={"order": "o1", "to": "a@b"}, headers={"Idempotency-Key": "k1"})
    for _ in range(2):
        body = {"order": "o1", "to": "a@b", "action_key": "k1"}
        client.post("/apologies", json=body, headers={"Idempotency-Key": "u1"})

    record = read_ledger(ledger)
    assert [effect.key for effect in record.effects] == ["k1", "k1"]
    assert [undo.key for undo in record.undos] == ["u1", "u1"]
    assert client.get("/mails", params={"order": "o1"}).json()["reference"] == "ml-1"
    assert client.get("/apologies", params={"order": "o1"}).status_code == 200
    assert client.get("/apologies", params={"order": "o2"}).status_code == 404


def test_requests_that_make_no_sense_are_refused_and_change_nothing(opened: Opener) -> None:
    client, ledger = opened("stock")

    without_key = client.post("/reservations", json={"order": "o1"})
    without_order = client.post("/reservations", json=["o1"], headers={"Idempotency-Key": "k1"})
    not_json = client.post("/reservations", content=b"{", headers={"Idempotency-Key": "k1"})
    elsewhere = client.post("/charges", json={"order": "o1"}, headers={"Idempotency-Key": "k1"})
    no_probe = client.get("/reservations", params={"order": "o1"})

    assert [reply.status_code for reply in (without_key, without_order, not_json)] == [400, 400, 400]
    assert elsewhere.status_code == 404
    assert no_probe.status_code == 400
    assert read_ledger(ledger) == Record()


def test_a_service_is_a_process_that_says_where_it_listens_and_stops_on_sigterm(tmp_path: Path) -> None:
    ledger, scripts = tmp_path / "stock.sqlite", tmp_path / "scripts.json"
    write_scripts(scripts, {"o1": Script(faults=(Fault("reserve", FaultKind.REFUSE, times=None),))})
    command = [sys.executable, "-m", "demo_shop.services", "stock", "--ledger", str(ledger), "--scripts", str(scripts)]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            reply = httpx.post(f"{url}/reservations", json={"order": "o1"}, headers={"Idempotency-Key": "k1"})
        finally:
            process.terminate()
        code = process.wait(timeout=10)

    assert (reply.status_code, reply.json()) == (409, {"error": "sold out"})
    assert code == 0
    assert len(read_ledger(ledger).requests) == 1


def test_scripts_survive_their_file(tmp_path: Path) -> None:
    scripts = {
        "o1": Script(latency_seconds=0.25, faults=(Fault("charge", FaultKind.REPLY_LOST, times=None, seconds=2.5),)),
        "o2": Script(),
    }

    write_scripts(tmp_path / "scripts.json", scripts)

    assert read_scripts(tmp_path / "scripts.json") == scripts
