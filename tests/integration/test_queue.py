"""What the broker may deliver: duplicates, messages in any order, forged, malformed and oversize ones (F16)."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest

from saga.core.events import EventKind
from saga.core.lifecycle import Status
from saga.engine.messages import Broker
from saga.engine.records import TaskMessage
from tests.integration.application import patient, trip
from tests.integration.fleet import Fleet, kinds

pytestmark = [pytest.mark.chaos]


def _message(token: uuid.UUID, name: str, *, run: str = "trip/forged", attempt: int = 1) -> TaskMessage:
    return TaskMessage(1, token, attempt, uuid.uuid4(), run, name, "celery", 7.0)


def _wire(fleet: Fleet, message: TaskMessage) -> dict[str, Any]:
    wired: dict[str, Any] = json.loads(Broker(fleet.app)._wire(message))
    return wired


def _push(fleet: Fleet, *raw: str | bytes) -> None:
    with fleet.broker() as client:
        client.lpush("celery", *raw)


@pytest.mark.parametrize(
    ("task", "moods"),
    [
        ("application.charge", {}),
        ("application.charge.compensate", {"confirm": "abort"}),
        ("application.charge.probe", {"charge": "fail_once"}),
    ],
)
def test_f16_doubled_messages_of_an_attempt_run_it_once(audited: Fleet, task: str, moods: dict[str, str]) -> None:
    workers = [audited.nodes["w1"], audited.nodes["w2"]]
    handle = audited.start(trip, f"f16-double-{task}", reserve="gate:f16" + task, **moods)
    audited.reached("f16" + task)
    with audited.broker() as client:
        client.config_resetstat()
    # Whatever is published from now on is published ten times more, by a consumer that puts back what it sees.
    audited.open("f16" + task)
    seen: set[str] = set()

    def doubled() -> bool:
        with audited.broker() as client:
            for raw in client.lrange("celery", 0, -1):
                _push(audited, raw)
        for event in handle.history():
            key = f"{event.token}:{event.attempt}"
            wanted = event.kind in (
                EventKind.ACTION_SCHEDULED,
                EventKind.COMPENSATION_SCHEDULED,
                EventKind.PROBE_SCHEDULED,
                EventKind.ATTEMPT_SCHEDULED,
            )
            if wanted and key not in seen and event.token is not None:
                seen.add(key)
                name = task if event.kind is not EventKind.ACTION_SCHEDULED else "application.confirm"
                message = _message(event.token, name, run=handle.address, attempt=event.attempt or 1)
                for _ in range(10):
                    _push(audited, json.dumps(_wire(audited, message)))
        return audited.status(handle) in (Status.COMPLETED, Status.COMPENSATED)

    audited.until(doubled, "it ends")
    audited.until(lambda: audited.queued() == 0, "the duplicates are consumed")
    assert all(node.lives for node in workers)


def test_f16_reordered_messages_change_nothing(audited: Fleet) -> None:
    workers = [audited.nodes["w1"], audited.nodes["w2"]]
    audited.freeze(*workers)
    handles = [audited.start(trip, f"f16-order-{number}") for number in range(10)]
    audited.until(lambda: audited.queued() >= 6, "messages wait")

    with audited.broker() as client:
        waiting: list[Any] = client.lrange("celery", 0, -1)
        for raw in waiting[::2]:
            client.lrem("celery", 1, raw)
            client.rpush("celery", raw)
    audited.thaw(*workers)

    for handle in handles:
        audited.ends(handle, Status.COMPLETED)


def test_f16_forged_and_malformed_messages_are_dropped_and_the_workers_live(audited: Fleet) -> None:
    pids = [audited.nodes[name].pid for name in ("w1", "w2")]
    victim = audited.start(patient, "f16-forged", crawl="gate:f16-forged")
    audited.reached("f16-forged")
    open_token = next(e.token for e in victim.history() if e.key == "application.crawl#1")
    assert open_token is not None
    honest = _wire(audited, _message(uuid.uuid4(), "application.charge"))
    wrong: list[Any] = [
        _wire(audited, _message(uuid.uuid4(), "application.charge")),  # a token that nobody gave out
        _wire(audited, _message(open_token, "application.charge", run=victim.address)),  # claimed by another delivery
        _wire(audited, _message(open_token, "application.crawl", run=victim.address, attempt=2)),  # no such attempt
        _wire(audited, _message(uuid.uuid4(), "application.nothing")),  # no such task
        {**honest, "body": base64.b64encode(b"[[], {}, {}]").decode()},  # no arguments
        {**honest, "body": base64.b64encode(b'[["x"], {"idempotency_key": 7}, {}]').decode()},
        {**honest, "body": base64.b64encode(b"not json").decode()},
        {
            **honest,
            "body": base64.b64encode(b"\x80\x04K\x01.").decode(),
            "content-type": "application/x-python-serialize",
        },
        {**honest, "body": base64.b64encode(b"[[], {}, {}]" + b" " * 5_000_000).decode()},  # oversize
        {**honest, "headers": {}},
    ]
    _push(audited, *[json.dumps(message) for message in wrong])

    audited.until(lambda: audited.queued() == 1, "all are consumed but the one that is under way")
    audited.open("f16-forged")

    history = audited.ends(victim, Status.COMPLETED)
    assert EventKind.ATTEMPT_SCHEDULED not in kinds(history)
    assert [audited.nodes[name].pid for name in ("w1", "w2")] == pids
    assert all(audited.nodes[name].lives for name in ("w1", "w2"))
    assert audited.ledger.entries(run="trip/forged") == []


def test_the_teams_own_tasks_run_beside_the_sagas(audited: Fleet) -> None:
    audited.app.send_task("team.plain", args=["beside"], task_id="team-1")

    audited.until(
        lambda: any("team.plain[team-1] succeeded" in audited.nodes[name].said() for name in ("w1", "w2")), "it runs"
    )
