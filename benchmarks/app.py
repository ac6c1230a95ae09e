"""The application as workers and coordinators of a measurement load it, from their environment."""

import os

from celery import signals

from benchmarks.application import (
    CACHE_VARIABLE,
    DATABASE_VARIABLE,
    LEASE_VARIABLE,
    MARKS_VARIABLE,
    NO_ACKS_VARIABLE,
    make,
)
from benchmarks.finish import mark
from saga.engine.crashpoints import Point, arm

_cache_runs = os.environ.get(CACHE_VARIABLE)
_lease_seconds = os.environ.get(LEASE_VARIABLE)
app = make(
    database=os.environ[DATABASE_VARIABLE],
    broker=os.environ["CELERY_BROKER_URL"],
    cache_runs=int(_cache_runs) if _cache_runs else None,
    lease_seconds=float(_lease_seconds) if _lease_seconds else None,
    acks=not os.environ.get(NO_ACKS_VARIABLE),
)


def _mark_point(point: Point, detail: str) -> None:
    mark(point.value, detail.replace(" ", "+") or "-")


def _mark_received(**_: object) -> None:
    mark("main.received")


if os.environ.get(MARKS_VARIABLE) == "hops":
    arm(_mark_point)
    signals.task_received.connect(_mark_received, weak=False)
