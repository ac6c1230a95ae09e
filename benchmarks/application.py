"""Makes the Celery application that is measured, for the harness and its processes. It measures nothing."""

from __future__ import annotations

from typing import Any

from celery import Celery

from benchmarks import workload  # noqa: F401 - declares the steps, sagas and tasks
from saga import install
from saga.engine.installation import installation_of

#: Celery's settings, the same for every system under measurement; they are written into each record.
SETTINGS: dict[str, Any] = {
    "worker_prefetch_multiplier": 1,
    "task_serializer": "json",
    "accept_content": ["json"],
    "broker_connection_retry_on_startup": True,
}
#: Coordinators of a measurement read these from their environment.
CACHE_VARIABLE = "BENCH_CACHE_RUNS"
LEASE_VARIABLE = "BENCH_LEASE_SECONDS"
DATABASE_VARIABLE = "BENCH_DATABASE_URL"
#: What is marked on the finish line: only ends (default), `waiting`, or `hops`.
MARKS_VARIABLE = "BENCH_MARKS"
#: Set where kombu shall not emulate acknowledgements.
NO_ACKS_VARIABLE = "BENCH_NO_ACKS"


def make(
    *,
    database: str,
    broker: str,
    cache_runs: int | None = None,
    lease_seconds: float | None = None,
    acks: bool = True,
) -> Celery:
    """Make the application, and make it the current one."""
    app = Celery("benchmarks", broker=broker)
    app.conf.update(SETTINGS)
    if not acks:
        app.conf.broker_transport_options = {"ack_emulation": False}
    install(app, database=database)
    if cache_runs is not None:
        app.conf.saga_cache_runs = cache_runs
    if lease_seconds is not None:
        app.conf.saga_lease_seconds = lease_seconds
    app.set_default()
    app.set_current()
    app.finalize()
    return app


def close(app: Celery) -> None:
    """Let go of an application and its database; the broker's connections are kombu's, and serve the next one."""
    installation_of(app).database.engine(autocommit=True).dispose()
    app.close()
