"""Which limits Celery's worker hands to its pool for an attempt: those that its message says, and no others."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.worker.request import Request, create_request_cls
from kombu.message import Message

from saga import step
from saga.core.attempts import GRACE_SECONDS
from saga.engine.installation import install
from saga.engine.messages import UNLIMITED_SECONDS, Broker
from saga.engine.records import TaskMessage

pytestmark = pytest.mark.usefixtures("own_declarations")


class Pool:
    """A worker's pool that only notes the limits it is given."""

    limits: tuple[float | None, float | None]

    def apply_async(self, target: Any, args: Any, *, timeout: Any, soft_timeout: Any, **_: Any) -> None:
        self.limits = (timeout, soft_timeout)


def application(*, timeout: float | None = 60.0, **settings: Any) -> Celery:
    """An application with the step `limited.wait`."""

    @step(name="limited.wait", timeout=timeout)
    def wait(number: int) -> None: ...

    app = Celery("limited", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(settings)
    install(app, database="postgresql://nobody@127.0.0.1:1/none")
    app.finalize()
    return app


def limits_in_the_worker(app: Celery, limit_seconds: float | None) -> tuple[float | None, float | None]:
    """Return the hard and the soft limit that a worker of the application gives an attempt."""
    message = TaskMessage(1, uuid4(), 1, uuid4(), "trip/1", "limited.wait", "celery", limit_seconds)
    wired = json.loads(Broker(app)._wire(message))
    body = base64.b64decode(wired["body"])
    parts = {name.replace("-", "_"): wired[name] for name in ("content-type", "content-encoding", "headers")}
    received: Any = Message(body=body, accept=["application/json"], properties=wired["properties"], **parts)  # type: ignore[no-untyped-call]
    pool, task = Pool(), app.tasks["limited.wait"]
    made = create_request_cls(Request, task, pool, "worker", None, app=app)
    request = made(received, app=app, headers=wired["headers"], body=body, decoded=False, task=task)
    request.execute_using_pool(pool)
    return pool.limits


def test_an_attempt_has_the_limits_of_its_call_site() -> None:
    assert limits_in_the_worker(application(timeout=60), 12.0) == (12.0, 12.0 - GRACE_SECONDS)


def test_an_attempt_without_a_limit_has_none_in_the_worker_either() -> None:
    assert limits_in_the_worker(application(timeout=None), None) == (None, None)


@pytest.mark.parametrize(
    ("timeout", "settings"),
    [
        (60, {}),
        (None, {"task_time_limit": 300}),
        (None, {"task_soft_time_limit": 300}),
        (None, {"task_annotations": {"*": {"time_limit": 300}}}),
    ],
    ids=["with_options(timeout=None)", "task_time_limit", "task_soft_time_limit", "task_annotations"],
)
def test_an_attempt_without_a_limit_is_cut_off_by_no_other(timeout: float | None, settings: dict[str, Any]) -> None:
    app = application(timeout=timeout, **settings)

    assert limits_in_the_worker(app, None) == (UNLIMITED_SECONDS, UNLIMITED_SECONDS)
