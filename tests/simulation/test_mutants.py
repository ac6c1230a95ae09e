"""The audit proves itself: it finds nothing in the engine as it is, and something in each mutant of it.

The table of which mutant which invariant caught is printed at the end (`pytest -rP`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from saga.cli.embedded import Database, Servers
from tests.audit import caught
from tests.simulation.mutants import MUTANTS, Drive, Mutant, forgotten_claim, forgotten_end, forgotten_fence, plant_sql
from tests.simulation.world import World

pytestmark = [pytest.mark.chaos, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

#: These stop Postgres, which only a server of ours may be.
STOPPING = (forgotten_claim, forgotten_fence, forgotten_end)
_table: dict[str, list[str]] = {}


@pytest.fixture
def world(database: Database, broker_url: str, tmp_path: Path) -> Iterator[World]:
    """A world without any process yet."""
    made = World(database, broker_url, tmp_path / "world")
    yield made
    made.close()


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print what caught what."""
    yield
    for name, invariants in _table.items():
        print(f"{name:<34} {' '.join(invariants)}")


@pytest.mark.parametrize("drive", list(dict.fromkeys(mutant.drive for mutant in MUTANTS)), ids=lambda d: d.__name__)
def test_the_engine_as_it_is_passes_what_brings_the_mutants_out(world: World, servers: Servers, drive: Drive) -> None:
    if servers.postgres is None and drive in STOPPING:
        pytest.skip("SAGA_DATABASE_URL names a server that is not ours to stop")

    drive(world, servers)

    found = world.audit(seconds=8)
    assert not found, "\n".join(map(str, found)) + "\n" + world.told()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_audit_finds_each_mutant(world: World, servers: Servers, mutant: Mutant) -> None:
    if servers.postgres is None and mutant.drive in STOPPING:
        pytest.skip("SAGA_DATABASE_URL names a server that is not ours to stop")
    world.plant = mutant.plant
    plant_sql(world, mutant)

    mutant.drive(world, servers)

    found = world.audit(seconds=mutant.bound_seconds)
    _table[mutant.name] = caught(found)
    assert mutant.caught_by & set(caught(found)), f"{mutant.name}: {list(map(str, found))}\n{world.told()}"
