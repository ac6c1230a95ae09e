"""What the doctor refuses about Postgres, as a session of the application's role sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saga.cli.doctor.postgres import CHECKS, PostgresFacts

HEALTHY = PostgresFacts()


def refused(facts: PostgresFacts) -> dict[str, str]:
    return {found.code: found.found for check in CHECKS if (found := check.examine(facts)) is not None}


def test_a_healthy_postgres_passes() -> None:
    assert refused(HEALTHY) == {}


def test_an_application_without_a_database_is_refused() -> None:
    assert refused(PostgresFacts(url=None, silence="no database is set")) == {"D30": "no database is set"}


def test_a_database_that_does_not_answer_is_refused() -> None:
    assert refused(PostgresFacts(silence="connection refused")) == {"D31": "connection refused"}


def test_a_postgres_older_than_14_is_refused() -> None:
    assert refused(replace(HEALTHY, version=13)) == {"D32": "the server is Postgres 13"}
    assert refused(replace(HEALTHY, version=14)) == {}


def test_fsync_off_is_refused() -> None:
    assert refused(replace(HEALTHY, fsync="off")) == {"D33": "fsync is off"}


def test_synchronous_commit_off_is_refused() -> None:
    assert refused(replace(HEALTHY, synchronous_commit="off")) == {"D34": "synchronous_commit is off"}


@pytest.mark.parametrize("value", ["on", "local", "remote_write", "remote_apply"])
def test_every_other_synchronous_commit_passes(value: str) -> None:
    assert refused(replace(HEALTHY, synchronous_commit=value)) == {}


def test_full_page_writes_off_is_refused() -> None:
    assert refused(replace(HEALTHY, full_page_writes="off")) == {"D35": "full_page_writes is off"}


def test_another_default_isolation_is_refused() -> None:
    facts = replace(HEALTHY, default_isolation="serializable")

    assert refused(facts) == {"D36": "default_transaction_isolation is serializable"}


def test_tables_that_do_not_fit_the_code_are_refused() -> None:
    assert refused(replace(HEALTHY, schema_problem="the tables are missing")) == {"D37": "the tables are missing"}


def test_a_superuser_is_refused_once_and_not_for_its_rights_too() -> None:
    facts = replace(HEALTHY, role="postgres", superuser=True, event_rights=("UPDATE",))

    assert refused(facts) == {"D38": "the role postgres is a superuser"}


def test_a_role_that_may_change_the_log_is_refused() -> None:
    facts = replace(HEALTHY, event_rights=("UPDATE", "DELETE"))

    assert refused(facts) == {"D39": "the role app may UPDATE, DELETE the table event"}


def test_a_session_that_may_only_read_is_refused() -> None:
    assert list(refused(replace(HEALTHY, read_only=True))) == ["D40"]


def test_a_server_without_autovacuum_is_refused() -> None:
    assert refused(replace(HEALTHY, autovacuum="off")) == {"D41": "autovacuum is off"}


def test_a_database_in_another_encoding_is_refused() -> None:
    assert refused(replace(HEALTHY, encoding="SQL_ASCII")) == {"D42": "the database is encoded in SQL_ASCII"}
