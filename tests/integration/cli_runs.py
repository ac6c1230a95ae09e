"""How the tests call the commands, in this process or as processes of their own, and wait for what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from click.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parents[2]
APP = "tests.integration.cli_app"


def environment(database_url: str | None, broker_url: str | None) -> dict[str, str]:
    """The environment of a process that uses these servers, and no others."""
    kept = {k: v for k, v in os.environ.items() if k not in ("SAGA_DATABASE_URL", "CELERY_BROKER_URL")}
    kept |= {"SAGA_DATABASE_URL": database_url} if database_url else {}
    return kept | ({"CELERY_BROKER_URL": broker_url} if broker_url else {})


def refused_for_its_role(database_url: str) -> list[str]:
    """What `doctor` refuses a connection for: a server that the environment names may know nobody but a superuser."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    return ["D38"] if row == (True,) else []


def run(
    *arguments: str, env: Mapping[str, str], app: str | None = APP, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `celery -A app saga …` to its end."""
    command = [sys.executable, "-m", "celery", *(["-A", app] if app else []), "saga", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=env, input=given, capture_output=True, text=True, check=False, timeout=60
    )


class Commands:
    """The commands in this process, on one application."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def call(self, *arguments: str, given: str | None = None) -> Result:
        """Run a command to its end."""
        from celery.bin.base import CLIContext

        from saga.cli import saga

        context = CLIContext(app=self.app, no_color=True, workdir=None)
        return CliRunner().invoke(saga, list(arguments), obj=context, input=given)

    def json(self, *arguments: str, given: str | None = None, exit_code: int = 0) -> Any:
        """Run a command with --json and return its document."""
        result = self.call(*arguments, "--json", given=given)
        assert result.exit_code == exit_code, (result.output, result.exception)
        return json.loads(result.stdout)

    def error(self, *arguments: str, exit_code: int = 1) -> str:
        """Run a command that fails, and return its message; nothing is on standard output."""
        result = self.call(*arguments)
        assert result.exit_code == exit_code, (result.output, result.exception)
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return result.stderr


def use_servers(database_url: str | None, broker_url: str | None) -> None:
    """Point the application in this process at other servers: what it made of its settings before is forgotten."""
    from saga.engine.installation import installation_of
    from tests.integration.cli_app import app

    app.conf.saga_database_url = database_url
    app.conf.broker_url = broker_url
    installation_of(app)._database = None


def eventually(look: Callable[[], Any], wanted: Callable[[Any], bool], seconds: float = 30.0) -> Any:
    """Look again and again until what is seen is what is wanted, and return it."""
    until = time.monotonic() + seconds
    while True:
        seen = look()
        if wanted(seen):
            return seen
        assert time.monotonic() < until, f"after {seconds} s it is still {seen}"
        time.sleep(0.05)


@contextmanager
def process(*command: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process beside the block, and end it with it."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
