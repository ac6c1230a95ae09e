"""The pytest plugin: tables for a session of tests, and no start by accident where a coordinator could take it.

Every pytest session of an environment loads it, so that it must not connect to anything before a test asks for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from sqlalchemy import URL

from saga.engine import schema
from saga.engine.installation import current_installation
from saga.engine.store.connect import connect
from saga.engine.store.names import quoted
from saga.engine.store.sending import Sending


@pytest.fixture(scope="session")
def saga_database_url(request: pytest.FixtureRequest) -> str:
    """Name the Postgres of the tests: Django's test database, or the application's own. It may be overridden."""
    return _django_test_database(request) or current_installation().database.url


@pytest.fixture(scope="session")
def saga_tables(saga_database_url: str) -> Iterator[None]:
    """Make the tables, in a schema of this session's own where no coordinator looks, and drop them in the end."""
    installation = current_installation()
    settings = installation.app.conf
    before = {"database": settings.saga_database_url, "schema": settings.saga_schema}
    name = f"saga_test_{uuid.uuid4().hex[:12]}"
    schema.upgrade(saga_database_url, name)
    installation.move(database=saga_database_url, schema=name)
    yield
    for autocommit in (True, False):
        installation.database.engine(autocommit=autocommit).dispose()
    installation.move(**before)
    with connect(saga_database_url, application_name="saga-tables") as connection:
        connection.execute(f"DROP SCHEMA {quoted(name)} CASCADE".encode())


@pytest.fixture(autouse=True)
def saga_guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what a test without `saga_tables` would send, for it might reach a coordinator. It may be overridden."""
    if "saga_tables" in request.fixturenames:
        return

    def refuse(*_: Any, saga: str, key: str, kind: str, **__: Any) -> NoReturn:
        pytest.fail(
            f"this test sends {kind} to {saga}/{key}, in the database that the application is set to: add the fixture "
            "`saga_tables` to it, or override the fixture `saga_guard` where tests have coordinators of their own"
        )

    monkeypatch.setattr(Sending, "send", refuse)


def _django_test_database(request: pytest.FixtureRequest) -> str | None:
    """Let pytest-django make its test database, and return its URL; None without Django, or on another database."""
    if not request.config.pluginmanager.hasplugin("django"):
        return None
    from pytest_django.lazy_django import django_settings_is_configured

    if not django_settings_is_configured():
        return None
    from django.db import connection

    if connection.vendor != "postgresql":
        return None
    request.getfixturevalue("django_db_setup")
    settings = connection.settings_dict
    return URL.create(
        "postgresql",
        username=settings["USER"] or None,
        password=settings["PASSWORD"] or None,
        host=settings["HOST"] or None,
        port=int(settings["PORT"]) if settings["PORT"] else None,
        database=settings["NAME"],
    ).render_as_string(hide_password=False)
