"""The pytest plugin as users load it, in sessions of its own: plain pytest, and pytest-django with a real project."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from saga.cli import embedded
from tests.integration.blocks import run_python

SHOP = """
import os
from dataclasses import dataclass

from celery import Celery
from saga import Context, install, saga, step

app = Celery("shop", broker="redis://127.0.0.1:1/0")
install(app, database=os.environ["SAGA_DATABASE_URL"])


@dataclass(frozen=True)
class Order:
    id: str


@step
def pack(order: Order) -> str:
    return f"parcel {order.id}"


@saga("checkout")
def checkout(ctx: Context, order: Order) -> str:
    return ctx.run(pack, order)
"""

SETTINGS = """
import os

SECRET_KEY = "for tests only"
USE_TZ = True
INSTALLED_APPS = ["sales"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["PGDATABASE"],
        "USER": os.environ["PGUSER"],
        "PASSWORD": os.environ["PGPASSWORD"],
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
    }
}
"""

MODELS = """
from django.db import models


class Sale(models.Model):
    order = models.CharField(max_length=50, primary_key=True)
"""

PLACE = """
from django.db import connection, transaction

from sales.models import Sale
from shop import Order, checkout


def place(order: Order) -> None:
    with transaction.atomic():
        Sale.objects.create(order=order.id)
        checkout.start(order, id=f"order-{order.id}", connection=connection)
"""

WITH_DJANGO = """
import pytest
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from place import place
from saga import Status, UnknownRun
from saga.testing import play, started
from sales.models import Sale
from shop import Order, checkout


@pytest.mark.usefixtures("saga_tables")
class Places(TestCase):
    def test_1_an_order_that_is_placed_starts_its_checkout(self) -> None:
        place(Order("1"))

        given = started(checkout, "order-1", connection=connection)
        assert given == Order("1")
        assert play(checkout, given).status is Status.COMPLETED
        with pytest.raises(UnknownRun):
            started(checkout, "order-1")  # another connection sees nothing: it is not committed

    def test_2_nothing_of_another_test_is_left(self) -> None:
        assert not Sale.objects.exists()
        with pytest.raises(UnknownRun):
            started(checkout, "order-1", connection=connection)

    def test_3_a_block_that_is_rolled_back_starts_nothing(self) -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            place(Order("3"))
            1 / 0

        assert not Sale.objects.exists()
        with pytest.raises(UnknownRun):
            started(checkout, "order-3", connection=connection)


@pytest.mark.usefixtures("saga_tables")
class Commits(TransactionTestCase):
    def test_4_what_is_committed_is_seen_by_others(self) -> None:
        place(Order("4"))

        assert started(checkout, "order-4") == Order("4")


@pytest.mark.django_db
def test_5_a_plain_function_works_too(saga_tables: None) -> None:
    place(Order("5"))

    assert started(checkout, "order-5", connection=connection) == Order("5")
"""

PLAIN = """
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from saga import UnknownRun
from saga.testing import started
from shop import Order, app, checkout


@pytest.fixture
def session(saga_tables: None):
    engine = sqlalchemy.create_engine(app.conf.saga_database_url)
    with engine.connect() as connection, connection.begin() as outer:
        yield Session(connection, join_transaction_mode="create_savepoint")
        outer.rollback()
    engine.dispose()


def test_a_start_within_a_session_is_seen_there_only(session: Session) -> None:
    checkout.start(Order("1"), id="order-1", session=session)
    session.commit()

    assert started(checkout, "order-1", session=session) == Order("1")
    assert started(checkout, "order-1", connection=session.connection()) == Order("1")
    with pytest.raises(UnknownRun):
        started(checkout, "order-1")


def test_nothing_of_another_test_is_left(session: Session) -> None:
    with pytest.raises(UnknownRun):
        started(checkout, "order-1", session=session)


def test_a_start_of_its_own_stays_in_the_schema_of_this_session(saga_tables: None) -> None:
    checkout.start(Order("2"), id="order-2")

    assert started(checkout, "order-2") == Order("2")
    assert app.conf.saga_schema.startswith("saga_test_")
"""

UNGUARDED = """
from shop import Order, checkout


def view() -> None:
    try:
        checkout.start(Order("1"), id="order-1")
    except Exception:
        pass


def test_a_start_without_tables() -> None:
    view()
"""

GUARD_OVERRIDDEN = """
import pytest


@pytest.fixture
def saga_guard() -> None:
    pass
"""


def write(folder: Path, **files: str) -> None:
    for name, text in {"shop": SHOP, **files}.items():
        (folder / f"{name}.py").write_text(text)


def run_pytest(folder: Path, database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest there as a user whose role may create databases."""
    url = make_url(database_url)
    environment = {
        "SAGA_DATABASE_URL": database_url,
        "PGHOST": url.host or "",
        "PGPORT": str(url.port),
        "PGUSER": url.username or "",
        "PGPASSWORD": url.password or "",
        "PGDATABASE": url.database or "",
    }
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    return run_python(*command, *arguments, folder=folder, environment=environment)


def superuser_url(servers: embedded.Servers, database: embedded.Database) -> str:
    return make_url(servers.superuser_url).set(database=database.name).render_as_string(hide_password=False)


def schemas(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'saga%' ORDER BY 1").fetchall()
    return [name for (name,) in found]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Django project with one application."""
    write(tmp_path, settings=SETTINGS, place=PLACE, test_sales=WITH_DJANGO)
    (tmp_path / "sales").mkdir()
    (tmp_path / "sales" / "__init__.py").touch()
    (tmp_path / "sales" / "models.py").write_text(MODELS)
    return tmp_path


@pytest.mark.timeout(240)
def test_a_start_in_djangos_testcase_is_rolled_back_with_it(
    project: Path, empty_database: embedded.Database, servers: embedded.Servers
) -> None:
    url = superuser_url(servers, empty_database)

    ran = run_pytest(project, url, "--ds=settings", "test_sales.py")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "5 passed" in ran.stdout
    assert schemas(url) == [], "the application's own database was not touched"


@pytest.mark.timeout(240)
def test_a_session_of_plain_pytest_has_a_schema_of_its_own_and_leaves_nothing(
    tmp_path: Path, database: embedded.Database, servers: embedded.Servers
) -> None:
    write(tmp_path, test_plain=PLAIN)
    url = superuser_url(servers, database)

    ran = run_pytest(tmp_path, url, "test_plain.py")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
    assert schemas(url) == ["saga"]
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM saga.inbox").fetchone() == (0,)


@pytest.mark.timeout(240)
def test_a_start_in_a_test_without_tables_is_refused_whatever_catches_it(
    tmp_path: Path, database: embedded.Database
) -> None:
    write(tmp_path, test_unguarded=UNGUARDED)

    refused = run_pytest(tmp_path, database.url, "test_unguarded.py")
    write(tmp_path, conftest=GUARD_OVERRIDDEN)
    allowed = run_pytest(tmp_path, database.url, "test_unguarded.py")

    assert refused.returncode == 1
    assert "this test sends RunStarted to checkout/order-1" in refused.stdout
    assert "add the fixture `saga_tables`" in refused.stdout
    assert allowed.returncode == 0, allowed.stdout
    with psycopg.connect(database.url) as connection:
        assert connection.execute("SELECT key FROM saga.inbox").fetchall() == [("order-1",)]


def test_a_session_that_uses_no_sagas_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text("def test_other() -> None: ...\n")

    ran = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_other.py", folder=tmp_path)

    assert ran.returncode == 0, ran.stdout + ran.stderr
