"""The verdict on planted evidence: each thing that can be wrong with an order is found, and a good run passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from demo_shop.evidence import Evidence, Opinion
from demo_shop.services.catalogue import SERVICES
from demo_shop.services.ledger import Effect, Record, Request, Undo
from demo_shop.verdict import Verdict, Wrong, judge

Ledgers = dict[str, Record]

COMPLETED, COMPENSATED, STALLED = (
    Opinion("completed"),
    Opinion("compensated"),
    Opinion("stalled", "compensation_gave_up"),
)


def done(ledgers: Ledgers, order: str, *services: str, at: float = 1.0, key: str = "") -> None:
    for name in services:
        kind, record = SERVICES[name], ledgers[name]
        key_there = key or f"{order}-{name}"
        ledgers[name] = replace(
            record,
            requests=(*record.requests, Request(at, kind.action.name, order, key_there)),
            effects=(*record.effects, Effect(at, order, key_there)),
        )


def undone(ledgers: Ledgers, order: str, *services: str, at: float = 2.0, key: str = "") -> None:
    for name in services:
        kind, record = SERVICES[name], ledgers[name]
        key_there = key or f"{order}-{name}-undo"
        ledgers[name] = replace(
            record,
            requests=(*record.requests, Request(at, kind.undo.name, order, key_there)),
            undos=(*record.undos, Undo(at, order, key_there, f"{order}-{name}")),
        )


def good_run() -> tuple[Ledgers, dict[str, Opinion]]:
    """Three completed orders, two compensated: enough for the shares, and too few for coverage to be asked for."""
    ledgers = {name: Record() for name in SERVICES}
    for order in ("a", "b", "c"):
        done(ledgers, order, *SERVICES)
    for order in ("x", "y"):
        done(ledgers, order, "stock", "payments")
        undone(ledgers, order, "payments", "stock")
    return ledgers, {"a": COMPLETED, "b": COMPLETED, "c": COMPLETED, "x": COMPENSATED, "y": COMPENSATED}


def judged(
    ledgers: Ledgers, opinions: Mapping[str, Opinion], planted: frozenset[str] = frozenset(), also: tuple[str, ...] = ()
) -> Verdict:
    accepted = dict.fromkeys([*opinions, *also], "checkout")
    return judge(Evidence(accepted, ledgers, opinions, planted, asked=frozenset(accepted)))


def wrongs(verdict: Verdict) -> list[tuple[str, Wrong]]:
    return [(found.order, found.wrong) for found in verdict.findings]


def test_a_good_run_has_no_complaints() -> None:
    ledgers, opinions = good_run()

    verdict = judged(ledgers, opinions)

    assert verdict.complaints == ()
    assert verdict.findings == ()
    assert (verdict.orders, verdict.completed, verdict.compensated, verdict.stalled) == (5, 3, 2, 0)


def test_an_accepted_order_that_the_engine_does_not_know_is_lost() -> None:
    ledgers, opinions = good_run()

    verdict = judged(ledgers, opinions, also=("gone",))

    assert wrongs(verdict) == [("gone", Wrong.LOST)]
    assert verdict.lost == 1
    assert "1 lost" in verdict.complaints


def test_a_run_that_never_ended_is_lost() -> None:
    ledgers, opinions = good_run()
    done(ledgers, "slow", "stock")

    verdict = judged(ledgers, {**opinions, "slow": Opinion("running")})

    assert wrongs(verdict) == [("slow", Wrong.LOST)]


def test_a_second_effect_under_another_key_is_doubled() -> None:
    ledgers, opinions = good_run()
    done(ledgers, "a", "payments", key="another")

    verdict = judged(ledgers, opinions)

    assert wrongs(verdict) == [("a", Wrong.DOUBLED)]
    assert verdict.doubled_effects == 1


def test_a_second_refund_is_doubled() -> None:
    ledgers, opinions = good_run()
    undone(ledgers, "x", "payments", key="another")

    verdict = judged(ledgers, opinions)

    assert verdict.doubled_effects == 1
    assert "1 doubled" in verdict.complaints


def test_a_second_mail_is_counted_and_is_no_complaint() -> None:
    ledgers, opinions = good_run()
    done(ledgers, "a", "mail")

    verdict = judged(ledgers, opinions)

    assert verdict.mail_doubles == 1
    assert verdict.doubled_effects == 0
    assert verdict.complaints == ()


@pytest.mark.parametrize("missing", list(SERVICES))
def test_a_completed_order_that_lacks_an_effect_is_half_done(missing: str) -> None:
    ledgers, opinions = good_run()
    done(ledgers, "h", *(set(SERVICES) - {missing}))

    verdict = judged(ledgers, {**opinions, "h": COMPLETED})

    assert wrongs(verdict) == [("h", Wrong.HALF_DONE)]
    assert verdict.half_done == 1


@pytest.mark.parametrize("standing", list(SERVICES))
def test_a_compensated_order_with_an_effect_in_force_is_half_done(standing: str) -> None:
    ledgers, opinions = good_run()
    done(ledgers, "h", standing)

    verdict = judged(ledgers, {**opinions, "h": COMPENSATED})

    assert wrongs(verdict) == [("h", Wrong.HALF_DONE)]


def test_an_order_undone_in_full_that_the_engine_calls_completed_is_half_done() -> None:
    ledgers, opinions = good_run()

    verdict = judged(ledgers, {**opinions, "x": COMPLETED})

    assert wrongs(verdict) == [("x", Wrong.HALF_DONE)]


def test_an_effect_after_its_undo_is_late() -> None:
    ledgers, opinions = good_run()
    undone(ledgers, "l", "shipping", at=1.0)
    done(ledgers, "l", "shipping", at=2.0)

    verdict = judged(ledgers, {**opinions, "l": COMPENSATED})

    assert (("l", Wrong.LATE)) in wrongs(verdict)
    assert verdict.late_effects == 1


def test_a_mail_after_its_apology_is_late_although_keys_mean_nothing_there() -> None:
    ledgers, opinions = good_run()
    undone(ledgers, "l", "mail", at=1.0)
    done(ledgers, "l", "mail", at=2.0)

    verdict = judged(ledgers, {**opinions, "l": COMPENSATED})

    assert verdict.late_effects == 1
    assert verdict.complaints


def test_a_stall_that_nobody_planted_is_found_with_its_reason() -> None:
    ledgers, opinions = good_run()

    verdict = judged(ledgers, {**opinions, "s": STALLED})

    assert wrongs(verdict) == [("s", Wrong.UNPLANTED_STALL)]
    assert "compensation_gave_up" in verdict.findings[0].detail


def test_a_planted_stall_is_as_it_should_be() -> None:
    ledgers, opinions = good_run()
    done(ledgers, "s", "stock")

    verdict = judged(ledgers, {**opinions, "s": STALLED}, planted=frozenset({"s"}))

    assert verdict.complaints == ()
    assert (verdict.stalled, verdict.stalled_planted) == (1, 1)


def test_a_planted_stall_that_did_not_happen_is_a_complaint() -> None:
    ledgers, opinions = good_run()

    verdict = judged(ledgers, opinions, planted=frozenset({"x"}))

    assert verdict.complaints == ("0 stalled, expected the 1 planted ones",)


def test_effects_that_nobody_asked_for_are_found() -> None:
    ledgers, opinions = good_run()
    done(ledgers, "ghost", "payments")

    verdict = judged(ledgers, opinions)

    assert wrongs(verdict) == [("ghost", Wrong.UNASKED)]
    assert verdict.complaints == ("1 unasked",)


def test_requests_beyond_the_first_of_a_key_are_counted_and_lookups_are_not() -> None:
    ledgers, opinions = good_run()
    again = (Request(3.0, "charge", "a", "a-payments"), Request(3.0, "find_charge", "a", "a-payments")) * 2
    ledgers["payments"] = replace(ledgers["payments"], requests=ledgers["payments"].requests + again)

    verdict = judged(ledgers, opinions)

    assert verdict.duplicate_requests == 2
    assert verdict.complaints == ()


def test_shares_and_coverage_that_fall_short_are_complaints() -> None:
    ledgers = {name: Record() for name in SERVICES}
    opinions = {f"o{number}": COMPENSATED for number in range(40)}

    verdict = judged(ledgers, opinions)

    assert "only 0 of 40 completed, expected half" in verdict.complaints
    assert "find_charge was asked for by 0 orders, expected 1" in verdict.complaints
    assert set(verdict.hits) == {
        "release",
        "refund",
        "find_charge",
        "cancel",
        "find_parcel",
        "apologise",
        "find_mail",
    }


def test_a_run_without_orders_is_not_good() -> None:
    assert "no order was accepted" in judged({name: Record() for name in SERVICES}, {}).complaints
