"""A worker that could claim nothing refuses to start and says what to do; one whose Postgres is only away waits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from saga.cli.embedded import Database
from tests.integration.cli_runs import APP, ROOT, environment, eventually, process

WORKER = ["celery", "-A", APP, "worker", "-P", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat"]


def refused(database_url: str | None, broker_url: str, **others: str) -> str:
    """Start a worker that is to end by itself, and return what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", *WORKER],
        cwd=ROOT,
        env={**environment(database_url, broker_url), **others},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert "ready." not in ended.stdout + ended.stderr
    assert ended.stderr.count("this worker cannot run steps: ") == 1
    return ended.stderr


def take_rights(database: Database) -> None:
    with psycopg.connect(database.owner_url) as owner:
        owner.execute("REVOKE ALL ON ALL TABLES IN SCHEMA saga FROM PUBLIC")
        role = psycopg.conninfo.conninfo_to_dict(database.url)["user"]
        assert role is not None
        owner.execute(sql.SQL("REVOKE ALL ON saga.alembic_version FROM {}").format(sql.Identifier(str(role))))


def make_newer(database: Database) -> None:
    with psycopg.connect(database.owner_url) as owner:
        owner.execute("UPDATE saga.alembic_version SET version_num = '9999'")


def test_a_worker_without_a_database_refuses_to_start(broker_url: str) -> None:
    said = refused(None, broker_url)

    assert "no database is set: pass install(app, database='postgresql://…')" in said
    assert "saga_database_url" in said


def test_a_worker_with_a_database_of_another_kind_refuses_to_start(broker_url: str) -> None:
    assert "saga_database_url is one of sqlite; expected postgresql://…" in refused("sqlite:///shop.db", broker_url)


def test_a_worker_without_the_tables_refuses_to_start(empty_database: Database, broker_url: str) -> None:
    said = refused(empty_database.url, broker_url)

    assert "the tables are missing: no schema 'saga' of saga in database" in said
    assert "run `celery -A <app> saga upgrade`" in said


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(make_newer, "newer than this code"), (take_rights, "saga upgrade --grant-to")],
    ids=["newer tables", "no rights"],
)
def test_a_worker_with_tables_that_it_cannot_use_refuses_to_start(
    database: Database, broker_url: str, spoil: Callable[[Database], None], says: str
) -> None:
    if database.url == database.owner_url:
        pytest.skip("SAGA_DATABASE_URL names one role, which owns the tables too")
    spoil(database)

    assert says in refused(database.url, broker_url)


def test_a_worker_whose_postgres_is_away_starts_and_waits(broker_url: str, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    nowhere = environment("postgresql://app:s3cret@127.0.0.1:1/shop", broker_url)

    with process(*WORKER, "-l", "INFO", env=nowhere, log=log) as worker:
        eventually(log.read_text, lambda said: "ready." in said or worker.poll() is not None)
        said = log.read_text()

    assert worker.returncode == 0
    assert "Postgres does not answer (OperationalError): steps wait until it does" in said
    assert "s3cret" not in said


def test_a_worker_of_an_application_without_sagas_needs_no_database(broker_url: str, tmp_path: Path) -> None:
    (tmp_path / "plain_app.py").write_text(
        "import os\nfrom celery import Celery\nimport saga\n"
        "app = Celery('plain', broker=os.environ['CELERY_BROKER_URL'])\n"
    )
    log = tmp_path / "worker.log"
    alone = {**environment(None, broker_url), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [argument if argument != APP else "plain_app" for argument in WORKER]

    with process(*command, "-l", "INFO", env=alone, log=log) as worker:
        eventually(log.read_text, lambda said: "ready." in said or worker.poll() is not None)

    assert worker.returncode == 0
    assert "cannot run steps" not in log.read_text()
