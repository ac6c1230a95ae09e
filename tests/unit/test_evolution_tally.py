"""What is counted of an approach: its own word where the ledgers bear it out, and the ledgers where it has none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from demo_shop.evidence import Evidence, Opinion
from demo_shop.evolution.approaches import said
from demo_shop.evolution.tally import Tally, count
from demo_shop.services.catalogue import SERVICES
from demo_shop.services.ledger import Effect, Record, Undo

ORDER = "order-1"
KNOWN = [Opinion("completed"), Opinion("compensated"), Opinion("charge")]


def ledgers(done: Iterable[str] = (), *, undone: Iterable[str] = (), twice: Iterable[str] = ()) -> dict[str, Record]:
    made = {}
    for name in SERVICES:
        effects = [Effect(1.0, ORDER, f"{name}-key")] * (name in done) + [Effect(1.5, ORDER, "again")] * (name in twice)
        undos = [Undo(2.0, ORDER, f"{name}-undo", f"{name}-key")] * (name in undone)
        made[name] = replace(Record(), effects=tuple(effects), undos=tuple(undos))
    return made


def counted(
    records: dict[str, Record], opinion: Opinion | None, *, planted: bool = False, in_flight: bool = True
) -> Tally:
    evidence = Evidence(
        accepted={ORDER: "checkout"},
        ledgers=records,
        opinions={} if opinion is None else {ORDER: opinion},
        planted=frozenset({ORDER}) if planted else frozenset(),
        asked=frozenset({ORDER}),
    )
    return count(evidence, in_flight={ORDER} if in_flight else ())


def wrong(tally: Tally) -> tuple[int, int, int]:
    return tally.lost, tally.doubled, tally.half_done


def test_an_order_done_in_full_is_consistent_and_recovered_if_a_kill_met_it() -> None:
    met, unmet = (counted(ledgers(SERVICES), Opinion("completed"), in_flight=met) for met in (True, False))

    assert wrong(met) == wrong(unmet) == (0, 0, 0)
    assert (met.in_flight, met.recovered) == (1, 1)
    assert (unmet.in_flight, unmet.recovered) == (0, 0)


@pytest.mark.parametrize("opinion", [None, Opinion("charge")])
def test_an_order_without_any_effect_and_end_is_lost(opinion: Opinion | None) -> None:
    tally = counted(ledgers(), opinion)

    assert wrong(tally) == (1, 0, 0)
    assert tally.recovered == 0


@pytest.mark.parametrize("opinion", [None, *KNOWN, Opinion("stalled", "nobody knows")])
def test_an_order_with_some_of_its_effects_is_half_done_whatever_the_approach_says(opinion: Opinion | None) -> None:
    tally = counted(ledgers(["stock", "payments"]), opinion)

    assert wrong(tally) == (0, 0, 1)
    assert tally.recovered == 0


@pytest.mark.parametrize("opinion", [None, Opinion("mail")])
def test_of_an_order_that_nobody_knows_the_end_of_the_ledgers_tell(opinion: Opinion | None) -> None:
    in_full = counted(ledgers(SERVICES), opinion)
    undone = counted(ledgers(["stock", "payments"], undone=["stock", "payments"]), opinion)

    assert wrong(in_full) == wrong(undone) == (0, 0, 0)
    assert in_full.recovered == undone.recovered == 1


def test_an_order_that_was_refused_at_once_is_consistent_if_the_approach_knows_it() -> None:
    assert wrong(counted(ledgers(), Opinion("compensated"))) == (0, 0, 0)


def test_an_order_that_ended_otherwise_than_the_approach_says_is_half_done() -> None:
    assert wrong(counted(ledgers(SERVICES), Opinion("compensated"))) == (0, 0, 1)
    assert wrong(counted(ledgers(["stock"], undone=["stock"]), Opinion("completed"))) == (0, 0, 1)


def test_a_second_charge_is_doubled_and_a_second_mail_is_told_beside() -> None:
    charged = counted(ledgers(SERVICES, twice=["payments"]), Opinion("completed"))
    mailed = counted(ledgers(SERVICES, twice=["mail"]), Opinion("completed"))

    assert wrong(charged) == (0, 1, 0)
    assert charged.recovered == 0
    assert (wrong(mailed), mailed.mail_doubles) == ((0, 0, 0), 1)


def test_an_order_whose_undo_is_refused_for_good_may_stand_before_a_person() -> None:
    tally = counted(ledgers(["stock"]), Opinion("stalled", "refused"), planted=True)

    assert wrong(tally) == (0, 0, 0)
    assert (tally.stalled, tally.recovered) == (1, 1)


def test_a_planted_order_that_nobody_tells_of_is_half_done() -> None:
    assert wrong(counted(ledgers(["stock"]), None, planted=True)) == (0, 0, 1)


def test_a_restarted_server_remembers_the_ends_in_its_log_and_nothing_that_was_in_hand() -> None:
    log = ["up", "a accepted", "b accepted", "a completed", "up", "c accepted", "d accepted", "d stalled van is full"]

    ended, in_hand = said(log)

    assert ended == {"a": Opinion("completed"), "d": Opinion("stalled", "van is full")}
    assert in_hand == {"c"}
