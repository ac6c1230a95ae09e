"""How the doctor counts the connections of a fleet, and what it refuses about them."""

from __future__ import annotations

from dataclasses import replace

from saga.cli.doctor.connections import CHECKS, PER_CLIENT, PER_COORDINATOR, Fleet

FLEET = Fleet(coordinators=2, worker_children=8, clients=4, long_steps=True, available=97)


def refused(fleet: Fleet) -> dict[str, str]:
    return {found.code: found.found for check in CHECKS if (found := check.examine(fleet)) is not None}


def test_the_maximum_is_the_sum_of_what_each_process_may_open() -> None:
    assert FLEET.maximum == 2 * PER_COORDINATOR + 8 * (1 + 1) + 4 * PER_CLIENT
    assert FLEET.arithmetic() == [
        "2 coordinators x 5 = 10",
        "8 worker children x (1 + 1 for long steps) = 16",
        "4 client processes x 10 (their pool) = 40",
        "at the most 66, of 97 that Postgres has",
    ]


def test_transactional_steps_keep_a_connection_of_their_own() -> None:
    fleet = replace(FLEET, transactional_steps=True)

    assert fleet.maximum == FLEET.maximum + 8


def test_a_fleet_that_fits_exactly_passes() -> None:
    assert refused(replace(FLEET, available=66)) == {}


def test_a_fleet_larger_than_postgres_is_refused() -> None:
    assert refused(replace(FLEET, available=65)) == {"D50": "the fleet may open 66 connections, Postgres has 65"}


def test_a_postgres_that_did_not_answer_refuses_no_fleet() -> None:
    fleet = replace(FLEET, available=None)

    assert refused(fleet) == {}
    assert fleet.arithmetic()[-1] == "at the most 66, which Postgres did not tell"


def test_a_pooler_that_is_not_declared_is_refused() -> None:
    assert list(refused(replace(FLEET, pooled=True))) == ["D51"]
    assert refused(replace(FLEET, pooled=True, pgbouncer_set=True)) == {}
