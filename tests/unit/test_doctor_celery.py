"""What the doctor refuses, and advises, in the settings of Celery and in how its workers run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saga.cli.doctor.celery_settings import CHECKS, CeleryFacts, StepTask
from saga.cli.doctor.examination import Examination
from saga.cli.fleet import WorkerNode

HEALTHY = CeleryFacts(
    transport_options={
        "visibility_timeout": 3600,
        "socket_timeout": 10,
        "socket_keepalive": True,
        "ack_emulation": False,
    },
    queues=frozenset({"shop"}),
    tasks=(StepTask("payments.charge_card", 65.0, 65.0), StepTask("payments.refund_card", None, None)),
    workers=(WorkerNode("w1", ("shop",), "celery.concurrency.prefork:TaskPool", 4, 4),),
)


def refused(facts: CeleryFacts) -> dict[str, str]:
    return {found.code: found.found for check in CHECKS if (found := check.examine(facts)) is not None}


def without(option: str) -> CeleryFacts:
    return replace(HEALTHY, transport_options={k: v for k, v in HEALTHY.transport_options.items() if k != option})


def worker(pool: str = "prefork", concurrency: int = 4, prefetch: int = 4) -> CeleryFacts:
    return replace(HEALTHY, workers=(WorkerNode("w2", ("shop",), pool, concurrency, prefetch),))


def test_healthy_settings_pass() -> None:
    assert refused(HEALTHY) == {}


@pytest.mark.parametrize("content", ["pickle", "yaml", "application/x-python-serialize"])
def test_content_that_runs_code_is_refused(content: str) -> None:
    assert refused(replace(HEALTHY, accept_content=("json", content))) == {"D01": f"accept_content has {content}"}


def test_workers_that_do_not_accept_json_are_refused() -> None:
    assert refused(replace(HEALTHY, accept_content=("msgpack",))) == {"D02": "accept_content is ['msgpack']"}


@pytest.mark.parametrize("serializer", ["pickle", "yaml"])
def test_a_serializer_of_code_is_refused(serializer: str) -> None:
    assert refused(replace(HEALTHY, task_serializer=serializer)) == {"D03": f"task_serializer is {serializer}"}


def test_eager_mode_is_refused() -> None:
    assert list(refused(replace(HEALTHY, task_always_eager=True))) == ["D04"]


@pytest.mark.parametrize("multiplier", [0, 2, 4])
def test_a_prefetch_multiplier_above_one_is_refused(multiplier: int) -> None:
    assert list(refused(replace(HEALTHY, worker_prefetch_multiplier=multiplier))) == ["D05"]


def test_any_multiplier_passes_where_prefetch_is_disabled() -> None:
    assert refused(replace(HEALTHY, worker_prefetch_multiplier=4, worker_disable_prefetch=True)) == {}


def test_a_running_worker_that_reserves_ahead_is_refused_whatever_the_settings_say() -> None:
    assert refused(worker(concurrency=2, prefetch=8)) == {"D05": "running workers reserve ahead: w2 takes 8 for 2"}


def test_a_visibility_timeout_that_a_step_outlasts_is_refused() -> None:
    facts = replace(HEALTHY, tasks=(StepTask("video.render", 7205.0, 7205.0),))

    assert refused(facts) == {"D06": "visibility_timeout is 3600 s, the longest hard limit of a step 7205 s"}


def test_the_visibility_timeout_must_be_above_the_limit_and_not_equal() -> None:
    facts = replace(HEALTHY, tasks=(StepTask("video.render", 3600.0, 3600.0),))

    assert list(refused(facts)) == ["D06"]


def test_sockets_without_a_timeout_are_refused() -> None:
    assert list(refused(without("socket_timeout"))) == ["D07"]


def test_sockets_without_keepalive_are_refused() -> None:
    assert list(refused(without("socket_keepalive"))) == ["D08"]


def test_retry_on_timeout_is_refused() -> None:
    options = {**HEALTHY.transport_options, "retry_on_timeout": True}

    assert list(refused(replace(HEALTHY, transport_options=options))) == ["D09"]


def test_options_of_redis_are_not_asked_of_other_brokers() -> None:
    assert refused(replace(HEALTHY, transport="py-amqp", transport_options={})) == {}


def test_a_cold_shutdown_without_grace_is_refused() -> None:
    assert list(refused(replace(HEALTHY, worker_soft_shutdown_timeout=0.0))) == ["D10"]


@pytest.mark.parametrize("pool", ["threads", "gevent", "eventlet", "solo"])
def test_a_pool_without_time_limits_is_refused(pool: str) -> None:
    assert refused(replace(HEALTHY, worker_pool=pool)) == {"D11": f"worker_pool is {pool}"}


@pytest.mark.parametrize("pool", ["celery.concurrency.thread:TaskPool", "celery.concurrency.gevent:TaskPool"])
def test_a_running_pool_without_time_limits_is_refused(pool: str) -> None:
    assert refused(worker(pool)) == {"D11": f"running workers have no time limits: w2 ({pool})"}


def test_priorities_are_refused() -> None:
    assert list(refused(replace(HEALTHY, priorities=("task_queue_max_priority",)))) == ["D12"]


@pytest.mark.parametrize(
    "task",
    [
        StepTask("a.b", 65.0, 10.0),
        StepTask("a.b", None, 10.0),
        StepTask("a.b", 65.0, 65.0, serializer="pickle"),
        StepTask("a.b", 65.0, 65.0, acks_late=False),
        StepTask("a.b", 65.0, 65.0, ignore_result=False),
    ],
)
def test_annotations_that_change_a_steps_task_are_refused(task: StepTask) -> None:
    assert refused(replace(HEALTHY, tasks=(task,))) == {"D13": "task_annotations change a.b"}


@pytest.mark.parametrize("facts", [without("ack_emulation"), replace(without("ack_emulation"), workers=())])
def test_needless_copies_of_messages_are_advised_against_where_there_are_only_steps(facts: CeleryFacts) -> None:
    assert list(refused(facts)) == ["D14"]


@pytest.mark.parametrize(
    "facts",
    [
        replace(without("ack_emulation"), other_tasks=("shop.report",)),
        replace(
            without("ack_emulation"),
            workers=(WorkerNode("w1", ("mail", "shop"), "celery.concurrency.prefork:TaskPool", 4, 4),),
        ),
        replace(without("ack_emulation"), transport="py-amqp"),
    ],
    ids=["other tasks", "other queues", "other broker"],
)
def test_copies_of_messages_are_left_to_other_tasks(facts: CeleryFacts) -> None:
    assert refused(facts) == {}


def test_advice_is_no_refusal() -> None:
    examination = Examination()

    examination.examine(CHECKS, without("ack_emulation"))

    assert [finding.code for finding in examination.advised] == ["D14"]
    assert examination.refused == []
