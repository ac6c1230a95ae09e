"""The customers of a comparison: each orders at its time over HTTP, and asks again until the order is accepted.

What was asked and what was accepted is written to a file of their own before anything else happens. They must not know
which approach serves them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import httpx

from demo_shop.journal import Journal
from demo_shop.orders import PlannedOrder

#: Seconds that a customer waits for one answer, before it asks again, and before it gives up.
ANSWER_SECONDS, AGAIN_SECONDS, GIVES_UP_SECONDS = 5.0, 0.2, 60.0
#: Customers that can wait for an answer at once.
THREADS = 32


class Customers:
    """Places the planned orders; `stopping` sends everybody home."""

    def __init__(
        self, planned: Sequence[PlannedOrder], *, url: str, journal: Journal, stopping: threading.Event
    ) -> None:
        self._planned = planned
        self._url = url
        self._journal = journal
        self._stopping = stopping

    def come_in(self) -> None:
        """Open the shop now, and wait until every order was accepted or given up."""
        opened = time.monotonic()
        with (
            httpx.Client(base_url=self._url, timeout=ANSWER_SECONDS) as client,
            ThreadPoolExecutor(THREADS) as threads,
        ):
            placed = []
            for planned in self._planned:
                if self._stopping.wait(max(0.0, opened + planned.starts_after_seconds - time.monotonic())):
                    break
                placed.append(threads.submit(self._place, planned, client))
            for one in placed:
                one.result()

    def _place(self, planned: PlannedOrder, client: httpx.Client) -> None:
        self._journal.write("asked", planned)
        until = time.monotonic() + GIVES_UP_SECONDS
        while time.monotonic() < until and not self._stopping.is_set():
            try:
                if client.post("/orders", json=asdict(planned.order)).status_code == 202:
                    return self._journal.write("accepted", planned)
            except httpx.HTTPError:
                pass  # whether it was accepted is unknown, so it is asked again
            self._stopping.wait(AGAIN_SECONDS)
        return None
