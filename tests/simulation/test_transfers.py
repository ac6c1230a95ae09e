"""Money moved between hot accounts while workers and coordinators are killed, frozen and cut off: none is made or lost.

The seed is printed; SAGA_TEST_SEEDS names others.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import saga.core.policy
from saga.cli.embedded import Database, Servers
from saga.core.definition import SagaDefinition
from saga.core.lifecycle import Status
from saga.engine.client import Handle, start_run
from tests.simulation.faults import Faults
from tests.simulation.transfers import (
    ACCOUNTS,
    BANK,
    BANK_VARIABLE,
    OPENING_CENTS,
    SAGAS,
    STEPS,
    Transfer,
    transfer_by_service,
    transfer_money,
)
from tests.simulation.world import World

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SEEDS = [int(seed) for seed in os.environ.get("SAGA_TEST_SEEDS", "11").split(",")]
CHAOS_SECONDS = 4.0
TRANSFERS = 50


@pytest.fixture
def world(database: Database, broker_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world with a bank, and without any process yet."""
    made = World(database, broker_url, tmp_path / "world", seed=request.param, sagas=SAGAS, steps=STEPS)
    made.owner.execute(BANK)
    for name in ACCOUNTS:
        made.owner.execute("INSERT INTO public.account VALUES (%s, %s)", (name, OPENING_CENTS))
    yield made
    made.close()


def _planned(world: World) -> list[Transfer]:
    """Draw transfers; some are refused over there, and some are far beyond any cover."""
    rng = world.random
    planned = []
    for _ in range(TRANSFERS):
        source, target = rng.sample(ACCOUNTS, 2)
        cents = 3 * OPENING_CENTS + 1 if rng.random() < 0.1 else rng.randint(1, OPENING_CENTS // 4)
        planned.append(Transfer(source, target, cents, refused=rng.random() < 0.15))
    return planned


def _start(world: World, definition: SagaDefinition, key: str, transfer: Transfer) -> Handle[Any]:
    text = world.installation.codec.encode_saga_input(definition, transfer)
    handle = start_run(world.installation, definition, key, text)
    world.accepted.add(handle.address)
    return handle


def _strike(world: World, servers: Servers, frozen: dict[str, float], now: float) -> str:
    rng = world.random
    what = rng.choice(("kill worker", "kill worker", "kill coordinator", "freeze", "terminate"))
    match what:
        case "kill worker":
            world.kill(rng.choice(("w1", "w2", "w3")))
        case "kill coordinator":
            world.kill(rng.choice(("c1", "c2")))
        case "freeze":
            name = rng.choice(("w1", "w2", "w3"))
            world.freeze(name)
            frozen[name] = now + rng.choice((0.3, 3.5))  # the second is beyond the lease of its claim
        case "terminate":
            with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
                superuser.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND random() < 0.5 "
                    "AND application_name LIKE 'saga%%'",
                    (world.database.name,),
                )
    return what


@pytest.mark.parametrize("definition", [transfer_money, transfer_by_service], ids=["transactional", "token-keeping"])
@pytest.mark.parametrize("world", SEEDS, indirect=True)
def test_money_is_conserved_on_hot_accounts_under_chaos(
    world: World, servers: Servers, definition: SagaDefinition, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {world.seed}: run it again with SAGA_TEST_SEEDS={world.seed}")
    monkeypatch.setenv(BANK_VARIABLE, world.database.url)
    # Chaos loses more attempts than a worker's life does: a run that counts as poison by them would be no finding.
    world.plant = lambda: setattr(saga.core.policy, "LOST_MAX", 100)
    faults = Faults(lost=0.03, doubled=0.05, store=0.01)
    for name in ("c1", "c2"):
        world.coordinator(name, faults)
    for name in ("w1", "w2", "w3"):
        world.worker(name, faults)
    world.until_ready()
    planned = _planned(world)

    handles: list[Handle[Any]] = []
    frozen: dict[str, float] = {}
    struck: Counter[str] = Counter()
    began = time.monotonic()
    next_strike = began + 0.3
    while (now := time.monotonic()) < began + CHAOS_SECONDS or len(handles) < TRANSFERS:
        while len(handles) < TRANSFERS * (now - began) / (CHAOS_SECONDS * 0.8) and len(handles) < TRANSFERS:
            number = len(handles)
            handles.append(_start(world, definition, f"seed-{world.seed}-{number}", planned[number]))
            if world.random.random() < 0.1:
                handles[-1].cancel()
        if now >= next_strike:
            next_strike = now + world.random.uniform(0.2, 0.5)
            struck[_strike(world, servers, frozen, now)] += 1
        for name, until in list(frozen.items()):
            if now >= until:
                world.thaw(name)
                del frozen[name]
        world.wait(lambda: any(world.ended(handle) for handle in handles[-3:]), seconds=0.02)
    world.thaw()
    found = world.audit(seconds=40)

    print(f"seed {world.seed}: {dict(struck)}")
    assert not found, f"seed {world.seed}\n" + "\n".join(map(str, found)) + "\n" + world.told()
    expected = dict.fromkeys(ACCOUNTS, OPENING_CENTS)
    ends = Counter(handle.status() for handle in handles)
    for handle, transfer in zip(handles, planned, strict=True):
        if handle.status() is Status.COMPLETED:
            expected[transfer.source] -= transfer.cents
            expected[transfer.target] += transfer.cents
    held: dict[str, int] = dict(world.owner.execute("SELECT name, cents FROM public.account").fetchall())
    assert held == expected, f"I23, seed {world.seed}"
    assert sum(held.values()) == OPENING_CENTS * len(ACCOUNTS)
    assert ends[Status.COMPLETED] > 10
    assert ends[Status.COMPENSATED] > 5
