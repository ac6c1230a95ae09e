"""The customers of a comparison: each orders at its time over HTTP, and asks again until the order is accepted.

What was asked and what was accepted is written to a file of their own before anything else happens. They must not know
which approach serves them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import IO

import httpx

from demo_shop.orders import PlannedOrder

#: Seconds that a customer waits for one answer, before it asks again, and before it gives up.
ANSWER_SECONDS, AGAIN_SECONDS, GIVES_UP_SECONDS = 5.0, 0.2, 60.0
#: Customers that can wait for an answer at once.
THREADS = 32


class Customers:
    """Places the planned orders; a thread waits for their times."""

    def __init__(self, planned: Sequence[PlannedOrder], *, url: str, journal: Path) -> None:
        self._planned = planned
        self._url = url
        self._path = journal
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._come_in, name="customers", daemon=True)

    @property
    def done(self) -> bool:
        """Say whether every order was accepted or given up."""
        return not self._thread.is_alive()

    def start(self) -> None:
        """Open the shop now."""
        self._thread.start()

    def stop(self) -> None:
        """Send everybody home."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _come_in(self) -> None:
        opened = time.monotonic()
        with (
            self._path.open("a") as journal,
            httpx.Client(base_url=self._url, timeout=ANSWER_SECONDS) as client,
            ThreadPoolExecutor(THREADS) as threads,
        ):
            placed = []
            for planned in self._planned:
                if self._stop.wait(max(0.0, opened + planned.starts_after_seconds - time.monotonic())):
                    break
                placed.append(threads.submit(self._place, planned, client, journal))
            wait(placed)

    def _place(self, planned: PlannedOrder, client: httpx.Client, journal: IO[str]) -> None:
        self._write(journal, "asked", planned)
        until = time.monotonic() + GIVES_UP_SECONDS
        while time.monotonic() < until and not self._stop.is_set():
            try:
                if client.post("/orders", json=asdict(planned.order)).status_code == 202:
                    return self._write(journal, "accepted", planned)
            except httpx.HTTPError:
                pass  # whether it was accepted is unknown, so it is asked again
            self._stop.wait(AGAIN_SECONDS)
        return None

    def _write(self, journal: IO[str], said: str, planned: PlannedOrder) -> None:
        entry = {"at": time.time(), "said": said, "order": planned.order.id, "saga": planned.saga}
        with self._lock:
            journal.write(json.dumps(entry) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
