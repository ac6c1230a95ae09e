"""The shop's services in memory: what stands in their books after a play, by the rules that they keep over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from demo_shop.services.catalogue import Operation, ServiceKind
from demo_shop.services.ledger import Effect, Record, Undo
from demo_shop.services.partners import EVERY_SERVICE
from saga import Abort, current
from tasks.service import Service

#: What the services would call an action that they refuse.
Refused = tuple[str, str]


@dataclass(slots=True)
class Books:
    """The ledgers of all services. `refused` are the operations that they refuse, each with its subject."""

    free: tuple[str, ...] = ("ada", "ben", "cleo")
    refused: frozenset[Refused] = frozenset()
    ledgers: dict[str, Record] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget all."""
        self.ledgers.clear()

    def post(self, service: Service, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """Stand for `Service.post`."""
        kind = EVERY_SERVICE[service.name]
        if path == kind.undo.path:
            self._write(kind, undo=Undo(0.0, body["order"], current.token, body["action_key"]))
            return _reply({})
        assert path == kind.action.path, f"{kind.name} has no {path}"
        return self._act(kind, kind.action, body)

    def list_names(self, service: Service, path: str, **query: str) -> list[str]:
        """Stand for `Service.list_names`."""
        return list(self.free)

    def _act(self, kind: ServiceKind, action: Operation, body: Mapping[str, Any]) -> httpx.Response:
        about = str(body[kind.subject]) if kind.subject else ""
        if (action.name, about) in self.refused:
            raise Abort(action.refusal)
        known = self.ledgers.get(kind.name, Record())
        if any(undo.action_key == current.token for undo in known.undos):
            raise Abort("already undone")
        if all(effect.key != current.token for effect in known.effects):
            self._write(kind, effect=Effect(0.0, body["order"], current.token, about))
        return _reply({"order": body["order"], "reference": kind.reference, **{n: body.get(n) for n in kind.echoed}})

    def _write(self, kind: ServiceKind, *, effect: Effect | None = None, undo: Undo | None = None) -> None:
        known = self.ledgers.get(kind.name, Record())
        undos = known.undos
        if undo is not None and all(undo.key != there.key for there in undos):
            undos = (*undos, undo)
        self.ledgers[kind.name] = Record((), (*known.effects, effect) if effect else known.effects, undos)


def _reply(body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(201, json=body, request=httpx.Request("POST", "http://service"))
