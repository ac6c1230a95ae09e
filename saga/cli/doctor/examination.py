"""All checks on all facts, gathered once. It prints nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from saga.cli.doctor import broker, celery_settings, connections, postgres
from saga.cli.doctor.check import Check, Finding
from saga.cli.fleet import BrokerSilent, WorkerNode, broker_connection, worker_nodes
from saga.engine.installation import Installation


@dataclass(slots=True)
class Examination:
    """What was refused, what is advised, what passed, and what could not be looked at (the code, and why)."""

    refused: list[Finding] = field(default_factory=list)
    advised: list[Finding] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    fleet: connections.Fleet = field(default_factory=connections.Fleet)

    def examine(self, checks: Iterable[Check[Any]], facts: Any, *, silence: str | None = None) -> None:
        """Run checks; where the server is silent only those that say so can tell anything."""
        for check in checks:
            finding = check.examine(facts)
            if finding is not None:
                (self.advised if check.advice else self.refused).append(finding)
            elif silence is not None:
                self.skipped[check.code] = silence
            else:
                self.passed.append(check.code)


def examine(
    installation: Installation,
    *,
    coordinators: int | None = None,
    worker_children: int | None = None,
    clients: int = 1,
) -> Examination:
    """Look at everything that an application uses. A server that does not answer is a refusal, not an error."""
    broker_facts = broker.look(installation.app)
    workers: tuple[WorkerNode, ...] = ()
    if broker_facts.silence is None and broker_facts.transport not in broker.NOT_SHARED:
        try:
            with broker_connection(installation.app) as connection:
                workers = tuple(worker_nodes(installation.app, connection))
        except BrokerSilent as error:
            broker_facts = broker.BrokerFacts(broker_facts.url, broker_facts.transport, silence=str(error))
    celery_facts = celery_settings.look(installation, broker_facts.transport, workers)
    postgres_facts = postgres.look(installation)
    fleet = connections.look(
        installation,
        celery_facts,
        postgres_facts,
        coordinators=coordinators,
        worker_children=worker_children,
        clients=clients,
    )
    found = Examination(fleet=fleet)
    found.examine(celery_settings.CHECKS, celery_facts)
    found.examine(broker.CHECKS, broker_facts, silence=broker_facts.silence)
    found.examine(postgres.CHECKS, postgres_facts, silence=postgres_facts.silence)
    found.examine(connections.CHECKS, fleet, silence=postgres_facts.silence)
    return found


def every_check() -> list[Check[Any]]:
    """Return all checks in the order of their codes."""
    areas: tuple[Iterable[Check[Any]], ...] = (
        celery_settings.CHECKS,
        broker.CHECKS,
        postgres.CHECKS,
        connections.CHECKS,
    )
    return [check for area in areas for check in area]
