"""JSON over HTTP, as the services and the shop's desk speak it. It must not know what is asked or answered."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: A request body above this many bytes is refused.
BODY_BYTES_MAX = 64 * 1024


class JsonServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1; a thread serves each connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, handler: type[JsonHandler]) -> None:
        super().__init__(("127.0.0.1", port), handler)

    @property
    def url(self) -> str:
        """Where it can be reached."""
        return f"http://127.0.0.1:{self.server_port}"

    def serve_until_signal(self) -> None:
        """Print the address, and serve until SIGTERM or SIGINT."""

        def stop(*_: object) -> None:
            # In a thread, since it waits for the loop that this handler interrupts.
            threading.Thread(target=self.shutdown, daemon=True).start()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        print(self.url, flush=True)
        self.serve_forever(poll_interval=0.1)
        self.server_close()


class JsonHandler(BaseHTTPRequestHandler):
    """Reads a request's JSON object, and answers with one."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one write for head and body: two would wait for a delayed ACK

    def do_POST(self) -> None:
        self.post(self._body())  # read first of all: what is left unread would be taken for the next request

    def do_GET(self) -> None:
        self.get()

    def post(self, body: dict[str, Any]) -> None:
        """Answer a POST; a body that is no object, or too large, is an empty one."""
        raise NotImplementedError

    def get(self) -> None:
        """Answer a GET."""
        raise NotImplementedError

    def answer(self, status: int, body: Mapping[str, Any]) -> None:
        """Answer."""
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing: ledgers and journals are the log."""

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
