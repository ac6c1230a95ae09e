"""One service over HTTP: it records each request, plays the order's script, and answers from its ledger.

It must not know who asks, nor anything of the other services.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from demo_shop.services.catalogue import Operation, ServiceKind
from demo_shop.services.ledger import Ledger, Undone
from demo_shop.services.switches import Fault, FaultKind, Script

#: A request body above this many bytes is refused.
BODY_BYTES_MAX = 64 * 1024

_NO_SCRIPT = Script()


class ServiceServer(ThreadingHTTPServer):
    """A service that listens on 127.0.0.1. A thread serves each connection; only the ledger makes them take turns."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, kind: ServiceKind, ledger: Ledger, scripts: Mapping[str, Script], *, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.kind = kind
        self.ledger = ledger
        self.scripts = scripts

    @property
    def url(self) -> str:
        """Where the service can be reached."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(kind: ServiceKind, path: Path, scripts: Mapping[str, Script]) -> Iterator[str]:
    """Serve from a thread of this process, on a free port, and give the URL."""
    ledger = Ledger(path, honours_keys=kind.honours_keys)
    server = ServiceServer(kind, ledger, scripts)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        ledger.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one write for head and body: two would wait for a delayed ACK
    server: ServiceServer

    def do_POST(self) -> None:
        kind = self.server.kind
        operations = {kind.action.path: kind.action, kind.undo.path: kind.undo}
        operation = operations.get(self.path)
        body = self._body()  # first of all: what is left unread would be taken for the next request
        if operation is None:
            return self._answer(404, {"error": f"{kind.name} has no {self.path}; it has {', '.join(operations)}"})
        order, key = body.get("order"), self.headers.get("Idempotency-Key")
        if not isinstance(order, str) or not key:
            return self._answer(400, {"error": "expected a JSON object with `order`, and an Idempotency-Key header"})
        fault = self._arrive(operation.name, order, key)
        if fault is not None and fault.kind is FaultKind.SERVER_ERROR:
            return self._answer(500, {"error": "out of order"})
        if fault is not None and fault.kind is FaultKind.REFUSE:
            return self._answer(operation.refusal_status, {"error": operation.refusal})
        status, answer = self._perform(operation, order, key, body)
        if fault is not None and fault.kind is FaultKind.REPLY_LOST:
            time.sleep(fault.seconds)
            self.close_connection = True
            return None
        return self._answer(status, answer)

    def do_GET(self) -> None:
        kind, ledger = self.server.kind, self.server.ledger
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        lookups = {
            kind.action.path: (kind.find_action, ledger.find_effect),
            kind.undo.path: (kind.find_undo, ledger.find_undo),
        }
        name, look = lookups.get(url.path, (None, ledger.find_effect))
        if name is None or "order" not in query:
            return self._answer(400, {"error": f"{kind.name} expects a path that it knows, and ?order="})
        fault = self._arrive(name, query["order"], query.get("key"))
        found = None if fault is not None and fault.kind is FaultKind.BLIND else look(query["order"], query.get("key"))
        if found is None:
            return self._answer(404, {"error": "no trace"})
        return self._answer(200, found)

    def _arrive(self, operation: str, order: str, key: str | None) -> Fault | None:
        nth = self.server.ledger.record_request(operation, order, key)
        script = self.server.scripts.get(order, _NO_SCRIPT)
        time.sleep(script.latency_seconds)
        return script.fault_at(operation, nth)

    def _perform(self, operation: Operation, order: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        kind, ledger = self.server.kind, self.server.ledger
        if operation is kind.undo:
            return 200, ledger.record_undo(order, key, str(body.get("action_key", "")))
        try:
            echoed = {name: body.get(name) for name in kind.echoed}
            return 201, ledger.record_effect(order, key, kind.reference, echoed)
        except Undone:
            return 409, {"error": "already undone"}

    def _body(self) -> dict[str, Any]:
        written = self.headers.get("Content-Length", "0")
        length = int(written) if written.isdecimal() else BODY_BYTES_MAX + 1
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            return {}
        try:
            body = json.loads(self.rfile.read(length))
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    def _answer(self, status: int, body: Mapping[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing: the ledger is the log."""
