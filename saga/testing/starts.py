"""What a test can see of a start that no coordinator takes: the input that was sent. It reads, and sends nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from saga.core.errors import UnknownRun
from saga.core.events import EventKind
from saga.core.outcome import json_after
from saga.engine.client import Saga
from saga.engine.installation import current_installation

In = TypeVar("In")


def started(saga: Saga[In, Any], id: str, /, *, session: Any = None, connection: Any = None) -> In:
    """Return the input with which a run was started, and which no coordinator has taken yet.

    With `session=` (SQLAlchemy) or `connection=` (SQLAlchemy, psycopg, Django's) it looks from within that transaction.

    Raises:
        UnknownRun: nobody started it, or not in this transaction.
    """
    installation = current_installation()
    target = session if session is not None else connection
    found: AbstractContextManager[Any] = (
        installation.database.connection() if target is None else nullcontext(_psycopg(target))
    )
    with found as reader:
        arrivals = installation.reading.pending_arrivals(reader, saga.name, id)
    for arrival in arrivals:
        if arrival.kind == EventKind.RUN_STARTED:
            given: In = installation.codec.decode_input(saga, json_after(arrival.payload or "", "input"))
            return given
    raise UnknownRun(f"nobody started {saga.name}/{id}, as far as this transaction can see")


def _psycopg(target: Any) -> Any:
    """Return the psycopg connection that a Session, a SQLAlchemy Connection or Django's connection stands on."""
    if hasattr(target, "ensure_connection"):  # Django
        target.ensure_connection()
        return target.connection
    if callable(getattr(target, "connection", None)):  # a Session
        target = target.connection()
    pooled = getattr(target, "connection", None)
    return target if pooled is None else pooled.driver_connection
