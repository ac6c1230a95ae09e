"""How many connections the whole fleet may open, as arithmetic, against what Postgres has; and poolers between."""

from __future__ import annotations

import os
from dataclasses import dataclass

from saga.cli.doctor.celery_settings import CeleryFacts
from saga.cli.doctor.check import Checks
from saga.cli.doctor.postgres import PostgresFacts
from saga.engine.installation import Installation

#: A coordinator's at the most: turns, doorbell, beat, upkeep, and one while it publishes again what another left.
PER_COORDINATOR = 5
#: A client process': SQLAlchemy's pool of 5 with an overflow of 5.
PER_CLIENT = 10


@dataclass(frozen=True, slots=True)
class Fleet:
    """What runs at the most, and what each worker child may open; `available` None: Postgres did not say."""

    coordinators: int = 2
    worker_children: int = 8
    clients: int = 4
    long_steps: bool = False  #: some step outlasts its first lease, and renews it over a second connection
    transactional_steps: bool = False  #: some step is handed a connection, which its process then keeps
    available: int | None = 97
    pooled: bool = False
    pgbouncer_set: bool = False

    @property
    def per_worker_child(self) -> int:
        """The connections of one worker child at the most."""
        return 1 + self.long_steps + self.transactional_steps

    @property
    def maximum(self) -> int:
        """The connections of the whole fleet at the most."""
        return (
            self.coordinators * PER_COORDINATOR
            + self.worker_children * self.per_worker_child
            + self.clients * PER_CLIENT
        )

    def arithmetic(self) -> list[str]:
        """Return the sum, a line a term."""
        parts = (
            ["1"] + ["1 for long steps"] * self.long_steps + ["1 for transactional steps"] * self.transactional_steps
        )
        per_child = parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"
        against = "which Postgres did not tell" if self.available is None else f"of {self.available} that Postgres has"
        return [
            f"{self.coordinators} coordinators x {PER_COORDINATOR} = {self.coordinators * PER_COORDINATOR}",
            f"{self.worker_children} worker children x {per_child} = {self.worker_children * self.per_worker_child}",
            f"{self.clients} client processes x {PER_CLIENT} (their pool) = {self.clients * PER_CLIENT}",
            f"at the most {self.maximum}, {against}",
        ]


def look(
    installation: Installation,
    celery: CeleryFacts,
    postgres: PostgresFacts,
    *,
    coordinators: int | None,
    worker_children: int | None,
    clients: int,
) -> Fleet:
    """Count the fleet: as told, else as what answers now, else as one worker of this machine and two coordinators."""
    from saga.engine.renewing import LEASE_SECONDS_MAX

    running = sum(worker.concurrency for worker in celery.workers)
    one_worker = int(installation.app.conf.worker_concurrency or os.cpu_count() or 1)
    limits = [task.hard_limit_seconds for task in celery.tasks]
    known = postgres.silence is None
    return Fleet(
        coordinators=coordinators if coordinators is not None else max(postgres.living_coordinators, 2),
        worker_children=worker_children if worker_children is not None else running or one_worker,
        clients=clients,
        long_steps=any(limit is None or limit > LEASE_SECONDS_MAX for limit in limits),
        transactional_steps=any(step.transactional for step in installation.definitions.steps.values()),
        available=postgres.connections_available if known else None,
        pooled=postgres.pooled,
        pgbouncer_set=postgres.pgbouncer_set,
    )


CHECKS: Checks[Fleet] = Checks("connections")

CHECKS.refuse(
    "D50",
    "a fleet that may open more connections than Postgres has",
    lambda fleet: (
        f"the fleet may open {fleet.maximum} connections, Postgres has {fleet.available}"
        if fleet.available is not None and not fleet.pooled and fleet.maximum > fleet.available
        else None
    ),
    because="whoever comes too late is refused: workers stop acknowledging, and a coordinator that restarts cannot",
    paste="ALTER SYSTEM SET max_connections = 300;  -- and restart; or fewer children, or pgbouncer for workers",
)

CHECKS.refuse(
    "D51",
    "a pooler between, without `saga_pgbouncer`",
    lambda fleet: (
        "the database's URL leads to a pooler, and saga_pgbouncer is off"
        if fleet.pooled and not fleet.pgbouncer_set
        else None
    ),
    because="a pooler in transaction mode mixes up what belongs to a session: start-up options and prepared statements",
    paste="app.conf.saga_pgbouncer = True  # for workers and clients; coordinators need Postgres itself: they LISTEN",
)
