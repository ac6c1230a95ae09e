"""The README's code, copied into a folder and run there: the checkout on a real worker and coordinator, once undone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from saga.cli import COMMANDS, embedded
from saga.cli import saga as commands
from tests.integration.blocks import ROOT, python_blocks, run_python, write_files

README = ROOT / "README.md"
STOP_SECONDS = 15.0

PLACE = {
    "with_sqlalchemy": """
import os
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from with_sqlalchemy import Order, place
engine = create_engine(os.environ["ORDERS_DATABASE_URL"])
with Session(engine) as session:
    place(session, Order("1", "tea", 1200))
""",
    "with_django": """
import os
from django.conf import settings
from sqlalchemy import make_url
url = make_url(os.environ["ORDERS_DATABASE_URL"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.database,
            "USER": url.username,
            "PASSWORD": url.password,
            "HOST": url.host,
            "PORT": url.port,
        }
    }
)
from with_django import Order, connection, place
try:
    place(Order("1", "tea", 1200))
finally:
    connection.close()
""",
    "with_fastapi": """
from fastapi.testclient import TestClient
from with_fastapi import api
with TestClient(api) as client:
    reply = client.post("/orders", json={"id": "1", "sku": "tea", "total_cents": 1200})
    assert (reply.status_code, reply.json()) == (200, {"run": "checkout/order-1"}), reply.text
""",
}


@dataclass(slots=True)
class Services:
    """The outside services of the README: each key has one effect; gold is declined; one reply gets lost."""

    effects: dict[str, tuple[str, str]] = field(default_factory=dict)  #: (path, order) by key
    withheld: set[str] = field(default_factory=set)  #: orders whose first charge lands and is answered by an error
    requests: list[tuple[str, str]] = field(default_factory=list)

    def seen(self, order: str) -> list[str]:
        """Return the paths of an order's effects, in order."""
        return [path for path, its_order in self.effects.values() if its_order == order]

    def post(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        """Answer a request under a key."""
        order = str(body["id"])
        self.requests.append((path, order))
        if path == "/charges" and body["sku"] == "gold":
            return 402, {"error": "declined"}
        self.effects.setdefault(key, (path, order))
        if path == "/charges" and order in self.withheld:
            self.withheld.remove(order)
            return 500, {"error": "landed, but the reply is lost"}
        return 200, {"reference": f"{path[1:]}-{order}"}


@contextmanager
def serving(services: Services) -> Iterator[str]:
    """Serve the services on a free port and return their URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(*services.post(self.path, str(self.headers["Idempotency-Key"]), body))

        def do_GET(self) -> None:
            found = services.effects.get(self.path.rpartition("/")[2])
            self._answer(404 if found is None else 200, {} if found is None else {"reference": "found by the probe"})

        def _answer(self, status: int, value: dict[str, str]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="services")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def running(folder: Path, environment: dict[str, str], *commands: list[str]) -> Iterator[None]:
    """Keep `celery -A shop …` commands running; their logs are in the folder."""
    processes = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"process-{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "celery", "-A", "shop", *command],
                        cwd=folder,
                        env={**os.environ, **environment},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def order_py(order: str, sku: str) -> str:
    """Return the README's client with another order in it."""
    block = next(block for block in python_blocks(README) if block.startswith("# order.py"))
    changed = block.replace('id="7", sku="tea"', f'id="{order}", sku="{sku}"')
    assert changed != block or (order, sku) == ("7", "tea")
    return changed


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_checkout_of_the_readme_completes_and_is_undone(
    tmp_path: Path, empty_database: embedded.Database, servers: embedded.Servers, broker_url: str
) -> None:
    write_files(README, tmp_path)
    services = Services(withheld={"8"})
    with serving(services) as url:
        environment = {
            "SAGA_DATABASE_URL": empty_database.url,
            "CELERY_BROKER_URL": broker_url,
            "SHOP_SERVICES_URL": url,
        }
        role = ["--grant-to", servers.application_role] if servers.application_role else []
        upgraded = run_python(
            "-m", "celery", "-A", "shop", "saga", "upgrade", "--database", empty_database.owner_url, *role,
            folder=tmp_path, environment=environment,
        )  # fmt: skip
        assert upgraded.returncode == 0, upgraded.stderr
        with running(tmp_path, environment, ["worker", "-c", "2"], ["saga", "coordinator"]):
            plain = run_python("order.py", folder=tmp_path, environment=environment)
            again = run_python("order.py", folder=tmp_path, environment=environment)
            lost = run_python("-c", order_py("8", "tea"), folder=tmp_path, environment=environment)
            declined = run_python("-c", order_py("9", "gold"), folder=tmp_path, environment=environment)

    assert plain.stdout == "Done(reference='parcels-7')\n", plain.stderr
    assert again.stdout == plain.stdout, again.stderr
    assert services.seen("7") == ["/reservations", "/charges", *sorted(services.seen("7")[2:])]
    assert sorted(services.seen("7")) == ["/charges", "/parcels", "/receipts", "/reservations"]
    assert lost.returncode == 0, lost.stderr
    assert services.requests.count(("/charges", "8")) == 1, "the probe finds the charge, so it is not asked again"
    assert declined.returncode != 0
    assert "RunFailed: run checkout/order-9 ended compensated (failed)" in declined.stderr
    assert services.seen("9") == ["/reservations", "/releases"]


@pytest.mark.parametrize("recipe", sorted(PLACE))
def test_a_recipe_of_the_readme_starts_a_run_with_the_order_or_not_at_all(
    recipe: str, tmp_path: Path, database: embedded.Database
) -> None:
    write_files(README, tmp_path)
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute("CREATE TABLE orders (id text PRIMARY KEY)")
        owner.execute("GRANT ALL ON orders TO PUBLIC")
        environment = {
            "SAGA_DATABASE_URL": database.url,
            "ORDERS_DATABASE_URL": database.url.replace("postgresql://", "postgresql+psycopg://"),
            "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
            "SHOP_SERVICES_URL": "http://127.0.0.1:1",
        }

        first = run_python(
            "-W", "ignore::ResourceWarning", "-c", PLACE[recipe], folder=tmp_path, environment=environment
        )
        second = run_python(
            "-W", "ignore::ResourceWarning", "-c", PLACE[recipe], folder=tmp_path, environment=environment
        )

        assert first.returncode == 0, first.stderr
        assert second.returncode != 0
        assert "UniqueViolation" in second.stderr, "the second order breaks the caller's own transaction"
        started = owner.execute("SELECT saga, key FROM saga.inbox").fetchall()
    assert started == [("checkout", "order-1")]


def test_every_file_of_the_readme_is_run_here() -> None:
    named = {block.splitlines()[0].removeprefix("# ") for block in python_blocks(README)}

    assert named == {"shop.py", "order.py", *(f"{recipe}.py" for recipe in PLACE)}


def test_every_command_of_the_readme_exists() -> None:
    table = README.read_text().partition("\n## Commands\n")[2].partition("\n## ")[0]
    documented = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]

    assert set(documented) == set(COMMANDS)
    for name in documented:
        command = commands.get_command(commands.make_context("saga", ["--help"], resilient_parsing=True), name)
        assert command is not None
