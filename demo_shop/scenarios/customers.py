"""The customers of a process: they start its runs at the shop's desk, cancel some, and ask how they ended.

They know the desk and nothing behind it: neither services nor the engine.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from types import TracebackType

import httpx

from demo_shop.scenarios.audit import Told
from demo_shop.scenarios.scenario import PlannedRun

#: Seconds that the desk has to answer, between two tries, and after which a customer gives up.
ANSWER_SECONDS = 5.0
AGAIN_SECONDS = 0.2
PATIENCE_SECONDS = 30.0


class Customers:
    """All customers of one process."""

    def __init__(self, desk_url: str, process: str) -> None:
        self._client = httpx.Client(base_url=desk_url, timeout=ANSWER_SECONDS)
        self._process = process
        self.accepted: list[PlannedRun] = []

    def __enter__(self) -> Customers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def start(self, run: PlannedRun) -> None:
        """Start a run; the same key again makes no second one, so an unknown answer is asked again.

        Raises:
            httpx.HTTPError: the desk would not have it.
        """
        self._ask("POST", f"/runs/{self._process}/{run.key}", dict(run.given)).raise_for_status()
        self.accepted.append(run)

    def cancel(self, key: str) -> None:
        """Ask for a run to be cancelled.

        Raises:
            httpx.HTTPError: the desk refused.
        """
        self._ask("POST", f"/cancels/{self._process}/{key}", {}).raise_for_status()

    def ask(self, keys: Collection[str]) -> dict[str, Told]:
        """Ask how runs stand; one that nobody knows is left out.

        Raises:
            httpx.HTTPError: the desk refused.
        """
        told = {}
        for key in keys:
            reply = self._ask("GET", f"/runs/{self._process}/{key}")
            if reply.status_code != httpx.codes.NOT_FOUND:
                said = reply.raise_for_status().json()
                told[key] = Told(said["status"], said.get("result"), said.get("cause", ""), said.get("reason", ""))
        return told

    def _ask(self, method: str, path: str, body: object | None = None) -> httpx.Response:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                reply = self._client.request(method, path, json=body)
            except httpx.TransportError:
                if time.monotonic() > until:
                    raise
            else:
                if reply.status_code < 500 or time.monotonic() > until:
                    return reply
            time.sleep(AGAIN_SECONDS)
