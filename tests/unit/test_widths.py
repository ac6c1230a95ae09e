"""How far a take reads where what it read has to stay."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from saga.engine.records import Arrival, Place, Taken
from saga.engine.store.widths import BYTES_DOUBLED_MAX, DOUBLED_MAX, Widths

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HERE, THERE = (3, 0), (4, 0)


def taken(*places: Place, full: Iterable[Place] = (), cut: bool = False) -> Taken:
    """What a take has read: an arrival at each of these places, with the ids 0, 1, …"""
    arrivals = tuple(
        Arrival(id, shard, lane, None, "s", "k", "CancelRequested", None, None, None, None, None, NOW)
        for id, (shard, lane) in enumerate(places)
    )
    return Taken(NOW, arrivals, (), {}, more=bool(full) or cut, full=frozenset(full), cut=cut)


def test_where_most_stays_the_next_take_reads_further_whatever_moves_elsewhere() -> None:
    widths = Widths()

    assert widths.learn(taken(HERE, HERE, THERE, THERE, full=[HERE, THERE]), {2, 3})
    assert widths.limits(8) == {HERE: 16}
    assert widths.learn(taken(HERE, HERE, HERE, HERE, full=[HERE]), {3})
    assert widths.limits(8) == {HERE: 32}


def test_where_most_is_taken_or_all_was_read_nothing_changes() -> None:
    widths = Widths()

    assert not widths.learn(taken(HERE, HERE, HERE, full=[HERE]), {0, 1})
    assert not widths.learn(taken(HERE, HERE), ())
    assert widths.limits(8) == {}


def test_a_place_that_is_read_to_its_end_is_as_usual_again() -> None:
    widths = Widths()
    widths.learn(taken(HERE, THERE, full=[HERE, THERE]), ())

    assert not widths.learn(taken(HERE, HERE, THERE, full=[THERE]), {0, 1, 2})
    assert widths.limits(8) == {THERE: 16}


def test_no_limit_is_doubled_for_ever() -> None:
    widths = Widths()

    again = [widths.learn(taken(HERE, full=[HERE]), ()) for _ in range(DOUBLED_MAX + 2)]

    assert again == [True] * DOUBLED_MAX + [False] * 2
    assert widths.limits(8) == {HERE: 8 << DOUBLED_MAX}


def test_payloads_that_stay_hide_nothing_either() -> None:
    widths = Widths()

    again = [widths.learn(taken(HERE, THERE, cut=True), {1}) for _ in range(BYTES_DOUBLED_MAX + 1)]
    most = widths.bytes_max(1_000)
    widths.learn(taken(HERE, THERE), {1})

    assert again == [True] * BYTES_DOUBLED_MAX + [False]
    assert (most, widths.bytes_max(1_000)) == (8_000, 1_000)
