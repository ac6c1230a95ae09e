"""What the doctor refuses about the broker itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saga.cli.doctor.broker import CHECKS, BrokerFacts

HEALTHY = BrokerFacts(maxmemory_policy="noeviction", redis_version="7.2.4")


def refused(facts: BrokerFacts) -> dict[str, str]:
    return {found.code: found.found for check in CHECKS if (found := check.examine(facts)) is not None}


def test_a_healthy_broker_passes() -> None:
    assert refused(HEALTHY) == {}


def test_an_application_without_a_broker_is_refused() -> None:
    assert list(refused(BrokerFacts(url=None, silence="no broker is set"))) == ["D20"]


def test_a_broker_that_does_not_answer_is_refused() -> None:
    assert refused(BrokerFacts(silence="connection refused")) == {"D21": "connection refused"}


@pytest.mark.parametrize("transport", ["memory", "filesystem"])
def test_a_transport_that_processes_do_not_share_is_refused(transport: str) -> None:
    assert list(refused(BrokerFacts(f"{transport}://", transport))) == ["D22"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_evicts_is_refused(policy: str) -> None:
    assert refused(replace(HEALTHY, maxmemory_policy=policy)) == {"D23": f"maxmemory-policy is {policy}"}


@pytest.mark.parametrize(("version", "codes"), [("5.0.14", ["D24"]), ("6.0.20", ["D24"]), ("6.2.0", []), ("10.1", [])])
def test_a_redis_older_than_6_2_is_refused(version: str, codes: list[str]) -> None:
    assert list(refused(replace(HEALTHY, redis_version=version))) == codes
