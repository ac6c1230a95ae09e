"""How a service tells the shop something of its own accord: a POST that is repeated until the shop has answered.

Each event has an id that stays the same when it is told again. It must not know what the shop makes of it.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

#: Seconds that the shop has to answer, between two tries, and after which nobody tries any more.
ANSWER_SECONDS = 5.0
AGAIN_SECONDS = 0.2
PATIENCE_SECONDS = 30.0


class Caller:
    """Calls one shop, from as many threads as there are things to tell."""

    def __init__(self, hooks_url: str) -> None:
        self._address = urlsplit(hooks_url).netloc

    def tell(self, path: str, body: Mapping[str, Any], *, event: str) -> bool:
        """Tell something and wait for the answer; say whether the shop took it. A refusal (4xx) is an answer too."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            try:
                status = self._post(path, body, event)
            except (OSError, http.client.HTTPException) as error:
                print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            else:
                if status < 500:
                    return status < 300
            time.sleep(AGAIN_SECONDS)
        return False

    def tell_later(self, after_seconds: float, path: str, body: Mapping[str, Any], *, event: str) -> None:
        """Tell something after so many seconds, in a thread of its own that nobody waits for."""
        timer = threading.Timer(after_seconds, self.tell, args=(path, body), kwargs={"event": event})
        timer.daemon = True
        timer.start()

    def _post(self, path: str, body: Mapping[str, Any], event: str) -> int:
        connection = http.client.HTTPConnection(self._address, timeout=ANSWER_SECONDS)
        try:
            headers = {"Content-Type": "application/json", "Idempotency-Key": event}
            connection.request("POST", path, json.dumps(dict(body)), headers)
            reply = connection.getresponse()
            reply.read()
            return reply.status
        finally:
            connection.close()
