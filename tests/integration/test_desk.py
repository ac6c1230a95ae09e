"""The shop's desk as a process: what it takes from customers and services, and what it refuses with which status."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from saga.cli import embedded

ROOT = Path(__file__).resolve().parents[2]
RIDE = {"id": "ride-1", "rider": "rosa", "fare_cents": 1_450}


@pytest.fixture
def desk(database: embedded.Database) -> Iterator[httpx.Client]:
    environment = {**os.environ, "SAGA_DATABASE_URL": database.url}
    command = [sys.executable, "-m", "demo_shop.desk"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with httpx.Client(base_url=process.stdout.readline().strip(), timeout=30) as client:
                yield client
        finally:
            process.terminate()
            assert process.wait(timeout=20) == 0


@pytest.fixture
def started(desk: httpx.Client) -> httpx.Client:
    assert desk.post("/runs/ride/ride-1", json=RIDE).status_code == 201
    return desk


def arrivals(connection: psycopg.Connection) -> list[tuple[str, str, str | None, str | None]]:
    found = connection.execute("SELECT saga, kind, dedupe, payload FROM saga.inbox ORDER BY id").fetchall()
    return [(str(row[0]), str(row[1]), row[2], row[3]) for row in found]


def test_what_a_service_tells_is_sent_to_the_run_as_its_signal(
    started: httpx.Client, connection: psycopg.Connection
) -> None:
    body = {"order": "ride-1", "reference": "of-1", "driver": "ada", "accepts": True}

    reply = started.post("/hooks/ride/ride-1/answer", json=body, headers={"Idempotency-Key": "event-1"})

    assert reply.status_code == 202
    start, told = arrivals(connection)
    assert start[:2] == ("ride", "RunStarted")
    assert told == (
        "ride",
        "SignalReceived",
        "event-1",
        '{"signal":"answer","value":{"driver":"ada","accepts":true}}',
    )


def test_a_customer_can_start_again_and_cancel(started: httpx.Client, connection: psycopg.Connection) -> None:
    again = started.post("/runs/ride/ride-1", json=RIDE)
    cancel = started.post("/cancels/ride/ride-1", json={})

    assert (again.status_code, cancel.status_code) == (201, 202)
    assert arrivals(connection)[-1][1] == "CancelRequested"


#: Path, body, the status of the answer, and a part of what it says.
SENSELESS: tuple[tuple[str, dict[str, object], int, str], ...] = (
    ("/hooks/ride/ride-1/answer", {"driver": "ada"}, 400, "accepts"),
    ("/runs/ride/ride-2", {"id": "ride-2"}, 400, "rider"),
    ("/hooks/ride/ride-1/decision", {}, 404, "ride/…/decision"),
    ("/runs/flight/f-1", {}, 404, "flight"),
    ("/hooks/ride/ride-9/answer", {"driver": "ada", "accepts": True}, 404, "ride/ride-9"),
    ("/cancels/ride/ride-9", {}, 404, "ride/ride-9"),
    ("/elsewhere", {}, 404, "/elsewhere"),
)


def test_what_makes_no_sense_is_refused_and_sends_nothing(
    started: httpx.Client, connection: psycopg.Connection
) -> None:
    replies = [started.post(path, json=body) for path, body, _, _ in SENSELESS]

    assert [reply.status_code for reply in replies] == [status for _, _, status, _ in SENSELESS]
    for reply, (_, _, _, said) in zip(replies, SENSELESS, strict=True):
        assert said in reply.json()["error"]
    assert started.get("/runs/ride/ride-9").status_code == 404
    assert len(arrivals(connection)) == 1
