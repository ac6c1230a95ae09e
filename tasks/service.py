"""How a step talks to an outside service: one HTTP client per process, with timeouts and the step's token.

It must not know what any service does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from saga import Abort, current

#: Seconds; together well below every step's time limit, so that a step ends in an error of its own and not in a kill.
CONNECT_TIMEOUT_SECONDS = 0.5
READ_TIMEOUT_SECONDS = 1.5

#: The statuses with which the shop's services say "no, and nothing has happened".
REFUSALS = frozenset({402, 409})  # failure handling


@dataclass(slots=True)
class Service:
    """An outside service at the URL that an environment variable names. Its connections are made after the fork."""

    name: str
    variable: str
    _client: httpx.Client | None = field(default=None, repr=False)
    _process: int = field(default=0, repr=False)

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """Ask for an effect under the token of the running step.

        Raises:
            Abort: the service refused, and so nothing has happened there.
            httpx.HTTPError: anything else went wrong; whether the effect landed is unknown.
        """
        reply = self._open().post(path, json=dict(body), headers={"Idempotency-Key": current.token})
        # failure handling: begin
        if reply.status_code in REFUSALS:
            raise Abort(str(reply.json()["error"]))
        # failure handling: end
        return reply.raise_for_status()

    def find(self, path: str, **query: str) -> Any | None:
        """Look for a trace of an effect; None is "no trace now".

        Raises:
            httpx.HTTPError: the service gave no answer.
        """
        reply = self._open().get(path, params=query)
        return None if reply.status_code == 404 else reply.raise_for_status().json()

    def list_names(self, path: str, **query: str) -> list[str]:
        """Ask whom the service could send.

        Raises:
            httpx.HTTPError: the service gave no answer.
        """
        reply = self._open().get(path, params=query).raise_for_status()
        return [str(name) for name in reply.json()["names"]]

    def close(self) -> None:
        """Close this process's connections; the next request makes new ones."""
        if self._client is not None and self._process == os.getpid():
            self._client.close()
        self._client = None

    def _open(self) -> httpx.Client:
        if self._client is None or self._process != os.getpid():
            url = os.environ.get(self.variable)
            if not url:
                raise RuntimeError(
                    f"no address for the {self.name} service: set {self.variable}, such as http://127.0.0.1:8001"
                )
            timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
            self._client = httpx.Client(base_url=url, timeout=timeout)
            self._process = os.getpid()
        return self._client
