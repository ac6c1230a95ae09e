"""Which run is found guilty of its coordinators' deaths, by what they noted in the shard, death after death."""

from __future__ import annotations

from uuid import UUID, uuid4

from saga.engine.store.connect import Connection
from saga.engine.suspicion import DEATHS_ALONE_MAX, Suspicion

from .world import World

SHARD = 0


class Line:
    """One shard and its owners, each of which dies before the next comes."""

    def __init__(self, world: World, connection: Connection) -> None:
        self.world = world
        self.connection = connection
        self.me: UUID = uuid4()
        self.heir()

    def heir(self) -> Suspicion:
        """Let the owner die, and the next one take the shard."""
        membership = self.world.membership
        self.connection.execute("UPDATE saga.coordinator SET dead_at = clock_timestamp() WHERE dead_at IS NULL")
        self.me = self.world.coordinator(self.connection)
        membership.acquire(self.connection, self.me, 1, 0)
        self.suspicion = Suspicion(membership, self.me)
        self.suspicion.came(self.connection, membership.owned(self.connection, self.me).values())
        return self.suspicion

    def tries(self, run: UUID) -> None:
        """Note a run as the one that is tried next."""
        self.suspicion.tries(self.connection, run, SHARD)

    def acquits(self) -> None:
        """Find that all that was there has been tried."""
        self.suspicion.acquit(self.connection, [SHARD])


def test_the_first_heir_goes_on_as_always_and_the_second_is_careful(world: World, connection: Connection) -> None:
    line = Line(world, connection)
    assert not line.suspicion
    first = line.heir()
    assert first
    assert not first.careful
    assert line.heir().careful


def test_a_run_is_guilty_after_three_deaths_in_a_row_under_it_alone(world: World, connection: Connection) -> None:
    line, run = Line(world, connection), uuid4()
    line.heir()
    for _ in range(DEATHS_ALONE_MAX):
        assert not line.heir().guilty(run, SHARD)
        line.tries(run)

    assert line.heir().guilty(run, SHARD)
    assert not line.suspicion.guilty(uuid4(), SHARD)


def test_whoever_dies_later_does_not_die_of_a_run_that_was_survived(world: World, connection: Connection) -> None:
    line, run = Line(world, connection), uuid4()
    line.heir()
    for _ in range(DEATHS_ALONE_MAX + 1):
        line.heir()
        line.tries(run)
        line.suspicion.survived(connection)

    assert not line.heir().guilty(run, SHARD)


def test_a_run_that_takes_two_turns_of_one_owner_has_one_death_on_its_hands(
    world: World, connection: Connection
) -> None:
    line, run = Line(world, connection), uuid4()
    line.heir()
    line.heir()
    line.tries(run)
    line.heir()
    for _ in range(DEATHS_ALONE_MAX):
        line.tries(run)
        line.suspicion.survived(connection)
    line.tries(run)

    assert not line.heir().guilty(run, SHARD)


def test_the_suspect_is_tried_before_the_others(world: World, connection: Connection) -> None:
    line, run, other = Line(world, connection), uuid4(), uuid4()
    line.heir()
    line.heir()
    line.tries(run)

    assert list(line.heir().first({other: SHARD, run: SHARD})) == [run, other]


def test_an_acquitted_shard_begins_anew(world: World, connection: Connection) -> None:
    line, run = Line(world, connection), uuid4()
    line.heir()
    line.heir()
    line.tries(run)
    line.acquits()
    assert not line.suspicion

    heir = line.heir()

    assert heir
    assert not heir.careful
