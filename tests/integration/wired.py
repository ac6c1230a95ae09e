"""A fleet whose every node reaches Postgres and the broker over ways of its own, which a test can spoil.

It knows addresses. What a node does on a spoilt way is the test's to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from saga.engine.client import Handle
from tests.integration.fleet import Fleet, Node
from tests.integration.gateway import Gateway
from tests.integration.pgwire import PostgresGateway


@dataclass
class Wires:
    """The ways of each node, by its name."""

    fleet: Fleet
    databases: dict[str, PostgresGateway] = field(default_factory=dict)
    brokers: dict[str, Gateway] = field(default_factory=dict)

    def coordinator(self, name: str, **environment: str) -> Node:
        """Start a coordinator behind ways of its own."""
        return self.fleet.coordinator(name, **self._ways_of(name), **environment)

    def worker(self, name: str, *options: str, **environment: str) -> Node:
        """Start a worker behind ways of its own."""
        return self.fleet.worker(name, *options, **self._ways_of(name), **environment)

    def database_way(self, name: str) -> str:
        """Make a way to the database, and return the URL that takes it."""
        at = urlsplit(self.fleet.database.url)
        self.databases[name] = made = PostgresGateway(at.hostname or "127.0.0.1", at.port or 5432)
        return _through(at, made)

    def _ways_of(self, name: str) -> dict[str, str]:
        at = urlsplit(self.fleet.broker_url)
        self.brokers[name] = made = Gateway(at.hostname or "127.0.0.1", at.port or 6379)
        return {"SAGA_TEST_DATABASE": self.database_way(name), "SAGA_TEST_BROKER": _through(at, made)}

    def restore(self) -> None:
        """Let every way be as at the beginning."""
        for gateway in (*self.databases.values(), *self.brokers.values()):
            gateway.restore()

    def close(self) -> None:
        """End every way."""
        for gateway in (*self.databases.values(), *self.brokers.values()):
            gateway.close()


def _through(at: SplitResult, gateway: Gateway) -> str:
    user, separator, _ = at.netloc.rpartition("@")
    return at._replace(netloc=f"{user}{separator}127.0.0.1:{gateway.port}").geturl()


def all_attempts(fleet: Fleet, handle: Handle[str]) -> set[tuple[str, str, int]]:
    """Return which steps of a run were called, in which direction and at which attempt."""
    entries = fleet.ledger.entries(run=handle.address)
    return {(entry.call.step, entry.call.direction, entry.call.attempt) for entry in entries}
