"""The audit of scenarios on planted evidence: what can be wrong with a run is found, and a good run passes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from demo_shop.chaos import Kill, KillKind
from demo_shop.report import write_json
from demo_shop.scenarios.audit import Audit, Told, audit
from demo_shop.scenarios.loans import LOAN
from demo_shop.scenarios.meals import FOOD
from demo_shop.scenarios.report import Outcome, print_outcome, summary
from demo_shop.scenarios.rides import RIDE
from demo_shop.scenarios.scenario import Moment, PlannedRun, Process, Scenario, cancelled, completed, failed, plan
from demo_shop.services.ledger import Effect, Record, Undo
from demo_shop.services.switches import Script
from demo_shop.verdict import Wrong

KEY = "ride-01"
MATCHED = {"answer": "Matched", "driver": "ada", "trip": "tr-1"}
TOLD = Told("completed", MATCHED)


def ledger(*effects: tuple[str, str], undone: tuple[str, ...] = (), key: str = KEY, undone_at: float = 2.0) -> Record:
    """Write effects, each as its key and subject, and undo some by their keys."""
    return Record(
        effects=tuple(Effect(1.0, key, name, subject) for name, subject in effects),
        undos=tuple(Undo(undone_at, key, f"undo of {name} {n}", name) for n, name in enumerate(undone)),
    )


def good_ledgers() -> dict[str, Record]:
    """Ada was matched after ben, whose offer was withdrawn."""
    return {
        "payments": ledger(("pay", "")),
        "drivers": ledger(("o1", "ben"), ("o2", "ada"), undone=("o1",)),
        "trips": ledger(("trip", "")),
    }


def audited(
    ledgers: Mapping[str, Record],
    told: Told | None = TOLD,
    *,
    expected: Scenario | None = None,
    moment: Moment | None = None,
    process: Process = RIDE,
) -> Audit:
    scenario = expected or Scenario("matched", completed("Matched", driver="ada"), Script())
    runs = [PlannedRun(KEY, scenario, {})]
    heard = {} if told is None else {KEY: told}
    return audit(process, runs, told=heard, cancelled={KEY: moment} if moment else {}, ledgers=ledgers)


def wrongs(found: Audit) -> list[Wrong]:
    return [finding.wrong for finding in found.findings]


def test_a_run_that_ended_as_it_should_has_no_findings() -> None:
    assert wrongs(audited(good_ledgers())) == []


def test_a_run_that_the_client_hears_nothing_of_is_lost() -> None:
    found = audited(good_ledgers(), None)

    assert Wrong.LOST in wrongs(found)
    assert found.count(Wrong.LOST) == 1


def test_a_run_that_is_still_going_is_lost() -> None:
    assert Wrong.LOST in wrongs(audited(good_ledgers(), Told("running")))


def test_a_stalled_run_is_never_as_it_should_be() -> None:
    found = audited(good_ledgers(), Told("stalled", reason="a bug"))

    assert Wrong.UNPLANTED_STALL in wrongs(found)
    assert found.statuses["stalled"] == 1


@pytest.mark.parametrize("missing", ["payments", "drivers", "trips"])
def test_an_answer_without_one_of_its_effects_is_half_done(missing: str) -> None:
    ledgers = good_ledgers()
    del ledgers[missing]

    assert wrongs(audited(ledgers)) == [Wrong.HALF_DONE]


def test_an_offer_that_still_stands_beside_the_one_accepted_is_half_done() -> None:
    ledgers = {**good_ledgers(), "drivers": ledger(("o1", "ben"), ("o2", "ada"))}

    found = audited(ledgers)

    assert wrongs(found) == [Wrong.HALF_DONE]
    assert "drivers should show ['ada']" in found.findings[0].detail


def test_another_driver_than_the_answer_names_is_half_done() -> None:
    ledgers = {**good_ledgers(), "drivers": ledger(("o1", "ben"), ("o2", "ada"), undone=("o2",))}

    assert wrongs(audited(ledgers)) == [Wrong.HALF_DONE]


def test_a_second_effect_about_the_same_subject_is_doubled() -> None:
    ledgers = {**good_ledgers(), "trips": ledger(("trip", ""), ("trip again", ""))}

    found = audited(ledgers)

    assert Wrong.DOUBLED in wrongs(found)
    assert found.doubled_effects == 1


def test_offers_to_several_drivers_are_not_doubles_but_a_second_one_to_the_same_driver_is() -> None:
    twice = ledger(("o1", "ben"), ("o2", "ada"), ("o3", "ada"), undone=("o1", "o3"))

    assert wrongs(audited({**good_ledgers(), "drivers": twice})) == [Wrong.DOUBLED]


def test_an_effect_after_its_undo_is_late() -> None:
    late = ledger(("o1", "ben"), ("o2", "ada"), undone=("o1",), undone_at=0.5)

    found = audited({**good_ledgers(), "drivers": late})

    assert wrongs(found) == [Wrong.LATE]
    assert found.late_effects == 1


def test_an_undone_run_with_an_effect_in_force_is_half_done() -> None:
    scenario = Scenario("cancelled", cancelled(Moment.WAIT), Script())
    told = Told("compensated", cause="cancelled")

    found = audited({"payments": ledger(("pay", ""))}, told, expected=scenario, moment=Moment.WAIT)

    assert wrongs(found) == [Wrong.HALF_DONE]


def test_reminders_may_stand_after_an_undo_and_must_be_those_of_the_answer_otherwise() -> None:
    reminded = {"notices": ledger(("n1", "1"))}
    undone = Told("compensated", cause="failed", reason="not signed")
    funded = Told("completed", {"answer": "Funded", "reminders": 0})
    scenario = Scenario("never signed", failed("not signed"), Script())
    once = {name: ledger((name, "")) for name in ("register", "bureau", "officers", "treasury", "signing", "bank")}

    assert wrongs(audited(reminded, undone, expected=scenario, process=LOAN)) == []
    signed = Scenario("signed", completed("Funded", reminders=0), Script())
    assert wrongs(audited({**once, **reminded}, funded, expected=signed, process=LOAN)) == [Wrong.HALF_DONE]


@pytest.mark.parametrize(
    "told",
    [
        Told("completed", {**MATCHED, "driver": "ben"}),
        Told("compensated", cause="failed", reason="card declined"),
    ],
    ids=["another answer", "another end"],
)
def test_an_end_that_the_scenario_does_not_say_is_unexpected(told: Told) -> None:
    assert Wrong.UNEXPECTED in wrongs(audited(good_ledgers(), told))


def test_the_reason_of_a_failure_must_be_the_one_that_was_planted() -> None:
    scenario = Scenario("declined", failed("card declined"), Script())

    found = audited({}, Told("compensated", cause="failed", reason="no such host"), expected=scenario)

    assert wrongs(found) == [Wrong.UNEXPECTED]
    assert "no such host" in found.findings[0].detail


def test_a_cancel_must_have_met_the_run_where_the_scenario_says() -> None:
    scenario = Scenario("cancelled", cancelled(Moment.WAIT), Script())
    told = Told("compensated", cause="cancelled")

    assert wrongs(audited({}, told, expected=scenario, moment=Moment.WAIT)) == []
    assert wrongs(audited({}, told, expected=scenario, moment=Moment.STEP)) == [Wrong.UNEXPECTED]
    assert wrongs(audited({}, told, expected=scenario)) == [Wrong.UNEXPECTED]


def test_effects_of_a_run_that_nobody_started_are_found() -> None:
    ledgers = {**good_ledgers(), "payments": ledger(("pay", ""), key="ghost")}

    assert Wrong.UNASKED in wrongs(audited(ledgers))


@pytest.mark.parametrize("process", [RIDE, LOAN, FOOD], ids=lambda process: process.name)
def test_the_scenarios_of_a_process_have_names_and_keys_of_their_own(process: Process) -> None:
    runs = plan(process)

    assert 8 <= len(runs) <= 12
    assert len({run.key for run in runs}) == len({run.scenario.name for run in runs}) == len(runs)


def outcome(ledgers: Mapping[str, Record]) -> Outcome:
    kill = Kill(KillKind.WORKER, "worker", 0.0, claims=1)
    idle = Kill(KillKind.COORDINATOR, "coordinator", 0.0)
    return Outcome("ride", audited(ledgers), [kill, idle], wall_seconds=1.26)


def test_the_figures_are_written_as_json(tmp_path: Path) -> None:
    path = tmp_path / "made" / "ride.json"

    write_json(path, summary(outcome(good_ledgers())))

    written = json.loads(path.read_text())
    assert {name: written[name] for name in ("process", "runs", "completed", "compensated", "stalled")} == {
        "process": "ride",
        "runs": 1,
        "completed": 1,
        "compensated": 0,
        "stalled": 0,
    }
    assert (written["lost"], written["doubled_effects"], written["half_done"]) == (0, 0, 0)
    assert written["kills"] == {"worker": 1}
    assert written["scenarios"] == [
        {
            "key": KEY,
            "scenario": "matched",
            "expected": "completed: Matched, driver ada",
            "status": "completed",
            "result": MATCHED,
            "ok": True,
        }
    ]


def printed(shown: Outcome) -> str:
    text = io.StringIO()
    print_outcome(Console(file=text, width=200), shown)
    return text.getvalue()


def test_what_is_wrong_is_printed_and_makes_the_outcome_bad() -> None:
    ledgers = good_ledgers()
    del ledgers["trips"]
    bad, good = outcome(ledgers), outcome(good_ledgers())

    assert (bad.good, good.good) == (False, True)
    assert "ride-01: half done: completed, but trips should show ['']" in printed(bad)
    assert "BAD" in printed(bad)
    assert "GOOD" in printed(good)


def test_a_complaint_alone_makes_the_outcome_bad() -> None:
    complained = Outcome("ride", audited(good_ledgers()), [], 1.0, complaints=["only 1 of 2 kills met work in flight"])

    assert not complained.good
    assert "only 1 of 2 kills" in printed(complained)
