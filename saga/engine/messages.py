"""What goes to the broker: tokens and numbers, never a payload. It knows Celery's own message format, and no runs.

On Redis a whole batch is one pipeline of LPUSHes; on any other broker each message goes through Celery's `send_task`.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from celery import Celery
from kombu.connection import Connection as BrokerConnection

from saga.core.attempts import GRACE_SECONDS
from saga.engine.records import TaskMessage

#: Messages of one pipeline.
PIPELINE_MAX = 500
#: What stands for "no limit" where Celery would put another in its place: ten years.
UNLIMITED_SECONDS = 10 * 365 * 86_400

_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Broker:
    """Publishes attempts and counts queues, over one connection of its own; used by one thread.

    `timeout_seconds` bounds every answer of a Redis broker; without it, the application's transport options do.
    """

    def __init__(self, app: Celery, *, timeout_seconds: float | None = None) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds
        self._connection: BrokerConnection | None = None
        self._channel: Any = None
        self._is_redis: bool | None = None
        self._templates: dict[str, dict[str, Any]] = {}

    @property
    def pipelines(self) -> bool:
        """Whether a batch is one pipeline, with a bound on its answer: so on Redis, and only there."""
        if self._is_redis is None:
            self._is_redis = self._app.connection_for_write().transport.driver_type == "redis"
        return self._is_redis

    def publish(self, messages: Sequence[TaskMessage]) -> None:
        """Put messages into their queues; when it returns, the broker has them all.

        Raises:
            Exception: whatever the transport raises: any number of them may be in the queues, so publish all again.
        """
        channel = self._open()
        if self.pipelines:
            for start in range(0, len(messages), PIPELINE_MAX):
                self._push(channel, messages[start : start + PIPELINE_MAX])
        else:
            for message in messages:
                self._send(message)

    def counts(self, queues: Iterable[str]) -> dict[str, int]:
        """Return how many messages wait in each queue; a queue that does not exist yet has none.

        Raises:
            Exception: whatever the transport raises.
        """
        channel = self._open()
        found: dict[str, int] = {}
        for queue in queues:
            try:
                found[queue] = channel.queue_declare(queue=queue, passive=True).message_count
            except (*channel.connection.client.channel_errors, KeyError):
                found[queue] = 0
        return found

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with suppress(Exception):  # it is being given up because it is broken
                connection.release()  # type: ignore[no-untyped-call]

    def _open(self) -> Any:
        if self._connection is None:
            options = dict(self._app.conf.broker_transport_options)
            if self._timeout_seconds is not None:
                options |= {"socket_timeout": self._timeout_seconds, "socket_connect_timeout": self._timeout_seconds}
            self._connection = self._app.connection_for_write(transport_options=options)
            self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._timeout_seconds or 5)
            self._channel = self._connection.default_channel
        return self._channel

    def _push(self, channel: Any, messages: Sequence[TaskMessage]) -> None:
        with channel.conn_or_acquire() as client:
            pipeline = client.pipeline(transaction=False)
            for message in messages:
                pipeline.lpush(message.queue, self._wire(message))
            pipeline.execute()

    def _wire(self, message: TaskMessage) -> str:
        template = self._templates.get(message.name)
        if template is None:
            template = self._templates[message.name] = dict(
                self._app.amqp.as_task_v2(
                    "", message.name, ignore_result=True, argsrepr="()", kwargsrepr="{}", origin="saga"
                ).headers
            )
        token = str(message.token)
        given = _arguments(message)
        body = json.dumps([[], given, _EMBED], separators=(",", ":")).encode()
        headers = {
            **template,
            "id": token,
            "root_id": str(message.run),
            "parent_id": None,
            "kwargsrepr": repr(given),
            "timelimit": self._limits(message),
        }
        return json.dumps(
            {
                "body": base64.b64encode(body).decode(),
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": headers,
                "properties": {
                    "correlation_id": token,
                    "reply_to": "",
                    "delivery_mode": 2,
                    "delivery_info": {"exchange": "", "routing_key": message.queue},
                    "priority": 0,
                    "body_encoding": "base64",
                    "delivery_tag": str(uuid.uuid4()),
                },
            },
            separators=(",", ":"),
        )

    def _send(self, message: TaskMessage) -> None:
        hard, soft = self._limits(message)
        # send_task never runs anything here, not even in eager mode: a coordinator must not run steps.
        self._app.send_task(
            message.name,
            kwargs=_arguments(message),
            task_id=str(message.token),
            root_id=str(message.run),
            queue=message.queue,
            time_limit=hard,
            soft_time_limit=soft,
            serializer="json",
            ignore_result=True,
            connection=self._connection,
        )

    def _limits(self, message: TaskMessage) -> tuple[float | None, float | None]:
        """Return the hard and the soft limit of an attempt.

        Celery reads a missing one as "that of the task", which is its step's as declared, or the application's. So a
        step without a limit gets one that nobody lives to see; yet only where it must, for a worker keeps such a timer
        in memory until it is due.
        """
        hard = message.limit_seconds
        if hard is not None:
            return hard, max(hard - GRACE_SECONDS, 0.001)
        task = self._app.tasks.get(message.name)
        if task is not None and not task.time_limit and not task.soft_time_limit:
            return None, None
        return UNLIMITED_SECONDS, UNLIMITED_SECONDS


def queue_of(app: Celery, task: str) -> str:
    """Return the queue that Celery's routes give to a task."""
    route = app.amqp.router.route({}, task, args=(), kwargs={})
    queue = route.get("queue")
    return str(getattr(queue, "name", queue) or app.conf.task_default_queue)


def _arguments(message: TaskMessage) -> dict[str, Any]:
    return {"idempotency_key": str(message.token), "run": message.run_label, "attempt": message.attempt}
