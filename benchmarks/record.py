"""One measurement as one JSON line, with everything that is needed to judge it. It computes nothing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

from saga.cli import embedded

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("celery", "kombu", "redis", "psycopg", "sqlalchemy", "pydantic", "greenlet")


@dataclass(frozen=True, slots=True)
class Record:
    """One measurement: what, of what, in which round, with which settings, on which machine, and its values."""

    measurement: str
    system: str
    choice: str
    round: int
    settings: dict[str, Any]
    values: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


class Records:
    """Writes each record at once, so that an interrupted command has what it measured."""

    def __init__(self, path: Path, *, settings: dict[str, Any], versions: dict[str, str]) -> None:
        """Begin a new file."""
        self.path = path
        self._settings = settings
        self._versions = versions
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def add(
        self,
        measurement: str,
        *,
        system: str = "saga",
        choice: str = "-",
        round: int = 0,  # noqa: A002
        **values: Any,
    ) -> None:
        """Write one record, with the load that other people put on the machine meanwhile."""
        record = Record(measurement, system, choice, round, self._settings, values, self._versions, machine())
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def read(path: Path) -> list[Record]:
    """Read what a command wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no record.
    """
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            found.append(Record(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number} is no record of a benchmark ({error})") from error
    return found


def of(records: Iterable[Record], measurement: str) -> list[Record]:
    """Return the records of one kind of measurement."""
    return [record for record in records if record.measurement == measurement]


def machine() -> dict[str, Any]:
    """Return what is measured on, and how busy it has been in the last minute."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "processor": platform.machine(),
        "system": platform.platform(terse=True),
        "load_1_minute": round(os.getloadavg()[0], 2),
    }


def versions(servers: embedded.Servers) -> dict[str, str]:
    """Return the versions of what takes part."""
    found = {name: version(name) for name in PACKAGES}
    found["python"] = platform.python_version()
    with psycopg.connect(servers.superuser_url) as connection:
        found["postgres"] = connection.info.parameter_status("server_version") or "?"
    with redis.Redis.from_url(servers.broker_url) as client:
        info: Any = client.info("server")
        found["broker"] = f"{info.get('server_name', 'redis')} {info.get('valkey_version', info.get('redis_version'))}"
    found["commit"] = _commit()
    return found


def _commit() -> str:
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return asked.stdout.strip() or "unknown"
