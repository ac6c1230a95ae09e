"""Killing parts of a running system on purpose, and saying what was lost with them. It must not know who asks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import dataclass

import redis


@dataclass(frozen=True, slots=True)
class LostMessage:
    """A message that a flush took away: its task id, which is the step's token, and the task's name."""

    task_id: str
    name: str


def kill_group(leader_pid: int) -> None:
    """Send SIGKILL to a process and to all of its group: a worker node with its children, as a lost machine would.

    A group that has ended already is nothing to complain of.

    Raises:
        PermissionError: the group is another user's.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader_pid, signal.SIGKILL)


def queued_messages(client: redis.Redis, queue: str) -> list[LostMessage]:
    """Return what waits in a queue of Redis, the next one to be delivered first.

    Raises:
        redis.RedisError: the broker does not answer.
    """
    return _read(client.lrange(queue, 0, -1))  # type: ignore[arg-type]


def flush_broker(client: redis.Redis, queue: str) -> list[LostMessage]:
    """Empty the whole broker with FLUSHALL and return what waited in the queue, read in the same transaction.

    Raises:
        redis.RedisError: the broker does not answer.
    """
    with client.pipeline(transaction=True) as pipeline:
        pipeline.lrange(queue, 0, -1)
        pipeline.flushall()
        waiting, _ = pipeline.execute()
    return _read(waiting)


def _read(bodies: list[bytes]) -> list[LostMessage]:
    # Celery pushes on the left and workers pop from the right.
    headers = [json.loads(body)["headers"] for body in reversed(bodies)]
    return [LostMessage(str(header["id"]), str(header["task"])) for header in headers]
