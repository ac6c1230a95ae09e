"""What the workers say of themselves through the broker, within bounded time. It knows no run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Seconds to wait for the broker, and for the answers of all workers to one question.
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 1.0


class BrokerSilent(Exception):
    """Raised when the broker cannot be reached; the text says which and why."""


@dataclass(frozen=True, slots=True)
class WorkerNode:
    """A running Celery worker: how it runs tasks, and how many it takes at once and ahead."""

    name: str
    queues: tuple[str, ...]
    pool: str
    concurrency: int
    prefetch: int


@contextmanager
def broker_connection(app: Any) -> Iterator[Any]:
    """Lend a connection to the application's broker.

    Raises:
        BrokerSilent: it cannot be reached in a few seconds.
    """
    options = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": CONNECT_SECONDS + ANSWER_SECONDS,
    }
    connection = None
    try:
        connection = app.connection_for_write(connect_timeout=CONNECT_SECONDS)
        if connection.transport.driver_type == "redis":
            connection.transport_options = {**connection.transport_options, **options}
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_SECONDS)
    except Exception as error:  # whatever a broker's driver raises
        shown = connection.as_uri() if connection is not None else "the broker"
        if connection is not None:
            connection.release()
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BrokerSilent(f"the broker {shown} does not answer: {said}") from error
    try:
        yield connection
    finally:
        connection.release()


def active_queues(app: Any, connection: Any) -> dict[str, tuple[str, ...]]:
    """Return the queues that each answering worker consumes.

    Raises:
        BrokerSilent: the broker went away.
    """
    answers = _ask(app, connection, "active_queues")
    return {name: tuple(sorted(queue["name"] for queue in queues)) for name, queues in answers.items()}


def registered_tasks(app: Any, connection: Any) -> dict[str, frozenset[str]]:
    """Return the names of the tasks that each answering worker knows.

    Raises:
        BrokerSilent: the broker went away.
    """
    answers = _ask(app, connection, "registered")
    return {name: frozenset(line.partition(" ")[0] for line in tasks) for name, tasks in answers.items()}


def worker_nodes(app: Any, connection: Any) -> list[WorkerNode]:
    """Return the answering workers with their pools.

    Raises:
        BrokerSilent: the broker went away.
    """
    queues = active_queues(app, connection)
    if not queues:
        return []
    nodes = []
    for name, stats in sorted(_ask(app, connection, "stats").items()):
        pool = stats.get("pool", {})
        nodes.append(
            WorkerNode(
                name=name,
                queues=queues.get(name, ()),
                pool=str(pool.get("implementation", "")),
                concurrency=int(pool.get("max-concurrency") or 1),
                prefetch=int(stats.get("prefetch_count") or 0),
            )
        )
    return nodes


def _ask(app: Any, connection: Any, question: str) -> dict[str, Any]:
    inspect = app.control.inspect(timeout=ANSWER_SECONDS, connection=connection)
    try:
        answers: dict[str, Any] | None = getattr(inspect, question)()
    except Exception as error:  # whatever a broker's driver raises
        raise BrokerSilent(f"the broker went away: {type(error).__name__}") from error
    return answers or {}
