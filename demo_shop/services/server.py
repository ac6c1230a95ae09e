"""One service over HTTP: it records each request, plays the order's script, answers from its ledger, and calls back.

It must not know who asks, nor anything of the other services.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from demo_shop.jsonhttp import JsonHandler, JsonServer
from demo_shop.services.caller import Caller
from demo_shop.services.catalogue import Operation, ServiceKind
from demo_shop.services.ledger import Ledger, Undone
from demo_shop.services.switches import Fault, FaultKind, Script

_NO_SCRIPT = Script()


class ServiceServer(JsonServer):
    """A service that listens on 127.0.0.1. A thread serves each connection; only the ledger makes them take turns."""

    def __init__(
        self,
        kind: ServiceKind,
        ledger: Path,
        scripts: Mapping[str, Script],
        *,
        port: int = 0,
        hooks_url: str | None = None,
    ) -> None:
        """Open the ledger, and listen on the port (0: a free one); the shop is called back at `hooks_url`."""
        super().__init__(port, _Handler)
        self.kind = kind
        self.ledger = Ledger(ledger, honours_keys=kind.honours_keys)
        self.scripts = scripts
        self.caller = None if hooks_url is None else Caller(hooks_url)

    def server_close(self) -> None:
        """Listen no more, and close the ledger."""
        super().server_close()
        self.ledger.close()


class _Handler(JsonHandler):
    server: ServiceServer

    def post(self, body: dict[str, Any]) -> None:
        kind = self.server.kind
        operations = {kind.action.path: kind.action, kind.undo.path: kind.undo}
        operation = operations.get(self.path)
        if operation is None:
            return self.answer(404, {"error": f"{kind.name} has no {self.path}; it has {', '.join(operations)}"})
        order, key = body.get("order"), self.headers.get("Idempotency-Key")
        if not isinstance(order, str) or not key:
            return self.answer(400, {"error": "expected a JSON object with `order`, and an Idempotency-Key header"})
        about = str(body.get(kind.subject)) if kind.subject in body else ""
        fault = self._arrive(operation.name, order, key, about)
        if fault is not None and fault.kind is FaultKind.SERVER_ERROR:
            return self.answer(500, {"error": "out of order"})
        if fault is not None and fault.kind is FaultKind.REFUSE:
            return self.answer(operation.refusal_status, {"error": operation.refusal})
        status, answer = self._perform(operation, order, key, body, about)
        landed = status < 300
        if landed:
            self._call_back(operation.name, order, about, answer, before_reply=True)
        if fault is not None and fault.kind is FaultKind.REPLY_LOST:
            time.sleep(fault.seconds)
            self.close_connection = True
        else:
            self.answer(status, answer)
        if landed:
            self._call_back(operation.name, order, about, answer, before_reply=False)
        return None

    def get(self) -> None:
        kind, ledger = self.server.kind, self.server.ledger
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == kind.roster and "order" in query:
            self._arrive("roster", query["order"], None)
            return self.answer(200, {"names": self._script(query["order"]).roster})
        lookups = {
            kind.action.path: (kind.find_action, ledger.find_effect),
            kind.undo.path: (kind.find_undo, ledger.find_undo),
        }
        name, look = lookups.get(url.path, (None, ledger.find_effect))
        if name is None or "order" not in query:
            return self.answer(400, {"error": f"{kind.name} expects a path that it knows, and ?order="})
        fault = self._arrive(name, query["order"], query.get("key"))
        found = None if fault is not None and fault.kind is FaultKind.BLIND else look(query["order"], query.get("key"))
        if found is None:
            return self.answer(404, {"error": "no trace"})
        return self.answer(200, found)

    def _arrive(self, operation: str, order: str, key: str | None, about: str = "") -> Fault | None:
        nth = self.server.ledger.record_request(operation, order, key)
        script = self._script(order)
        time.sleep(script.latency_seconds)
        return script.fault_at(operation, nth, about)

    def _script(self, order: str) -> Script:
        return self.server.scripts.get(order, _NO_SCRIPT)

    def _perform(
        self, operation: Operation, order: str, key: str, body: dict[str, Any], about: str
    ) -> tuple[int, dict[str, Any]]:
        kind, ledger = self.server.kind, self.server.ledger
        if operation is kind.undo:
            return 200, ledger.record_undo(order, key, str(body.get("action_key", "")))
        try:
            echoed = {name: body.get(name) for name in kind.echoed}
            return 201, ledger.record_effect(order, key, kind.reference, echoed, subject=about)
        except Undone:
            return 409, {"error": "already undone"}

    def _call_back(
        self, operation: str, order: str, about: str, answer: Mapping[str, Any], *, before_reply: bool
    ) -> None:
        caller = self.server.caller
        for number, call in self._script(order).calls_after(operation, about):
            if caller is None or call.before_reply is not before_reply:
                continue
            event = f"{self.server.kind.name}:{operation}:{about}:{number}"
            path, said = call.path.format(order=order), {**answer, **call.body}
            if before_reply:
                caller.tell(path, said, event=event)
            else:
                caller.tell_later(call.after_seconds, path, said, event=event)
