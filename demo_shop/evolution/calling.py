"""How the hand-made approaches ask the services: one HTTP client a process, timeouts, keys, and repeats.

It has the limits of `tasks.service`, so that no approach waits longer than another. It must not know any approach.
What is marked: telling "no" from "nobody knows", and the repeats.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from demo_shop.services.catalogue import SERVICES
from tasks.service import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, REFUSALS

T = TypeVar("T")

#: The waits between two attempts, in seconds, as in `tasks`.
FIRST_SECONDS, MAX_SECONDS, JITTER = 0.5, 10.0, 0.2


# failure handling: begin
class Refused(Exception):
    """Raised when a service said no: nothing has happened there."""


class Unanswered(Exception):
    """Raised when all attempts are used up: nobody knows what has happened there."""


# failure handling: end


class Services:
    """The outside services at the addresses that the environment names; threads may share it."""

    def __init__(self) -> None:
        timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
        self._clients = {
            name: httpx.Client(base_url=os.environ[kind.variable], timeout=timeout) for name, kind in SERVICES.items()
        }

    def post(self, service: str, path: str, body: Mapping[str, Any], *, key: str) -> dict[str, Any]:
        """Ask for an effect under a key.

        Raises:
            Refused: the service said no.
            httpx.HTTPError: anything else went wrong; whether the effect landed is unknown.
        """
        reply = self._clients[service].post(path, json=dict(body), headers={"Idempotency-Key": key})
        # failure handling: begin
        if reply.status_code in REFUSALS:
            raise Refused(str(reply.json()["error"]))
        # failure handling: end
        answer: dict[str, Any] = reply.raise_for_status().json()
        return answer

    def has(self, service: str, path: str, *, order: str) -> bool:
        """Say whether there is a trace of an effect for an order.

        Raises:
            httpx.HTTPError: the service gave no answer.
        """
        reply = self._clients[service].get(path, params={"order": order})
        return reply.status_code != 404 and bool(reply.raise_for_status())


# failure handling: begin
def ask(call: Callable[[], T], *, attempts: int) -> T:
    """Call until there is an answer, with growing waits between the attempts.

    Raises:
        Refused: the service said no at once.
        Unanswered: no attempt was answered; or an earlier one may have landed, and a later one was refused.
    """
    error: Exception | None = None
    for attempt in range(attempts):
        if attempt:
            wait = min(FIRST_SECONDS * 2 ** (attempt - 1), MAX_SECONDS)
            time.sleep(wait * (1 - JITTER * random.random()))
        try:
            return call()
        except Refused as refused:
            if error is None:
                raise
            error = refused
            break
        except httpx.HTTPError as unknown:
            error = unknown
    raise Unanswered(str(error)) from error


# failure handling: end
