"""What may befall a loan. It must not know how runs are started, killed or judged.

Days are seconds here: the officer decides after half a second, and a reminder follows after one.
"""

from __future__ import annotations

from typing import Any

from demo_shop.scenarios.scenario import Answer, Moment, Process, Scenario, cancelled, completed, failed
from demo_shop.services.partners import LOAN_SERVICES
from demo_shop.services.switches import Call, Fault, FaultKind, Script

#: Seconds that every request takes, that a person thinks, and until a reminder where one is part of the story.
LATENCY_SECONDS = 0.1
THINKING_SECONDS = 0.5
SILENCE_SECONDS = 0.8


def _decides(approved: bool, reason: str = "", **when: Any) -> Call:
    body = {"officer": "Ms Okafor", "approved": approved, "reason": reason}
    return Call("open_case", "/hooks/loan/{order}/decision", body, **when)


def _signs(operation: str, **when: Any) -> Call:
    return Call(operation, "/hooks/loan/{order}/signature", {"signer": "Theo Brandt"}, **when)


def _script(*calls: Call, faults: tuple[Fault, ...] = ()) -> Script:
    return Script(LATENCY_SECONDS, faults=faults, calls=calls)


_APPROVES = _decides(True, after_seconds=THINKING_SECONDS)
_SIGNS = _signs("send_documents", after_seconds=THINKING_SECONDS)
_CANCEL = "/cancels/loan/{order}"
_IMPATIENT = {"remind_after_seconds": SILENCE_SECONDS, "reminders_max": 2}

SCENARIOS = (
    Scenario("approved and signed", completed("Funded", reminders=0), _script(_APPROVES, _SIGNS)),
    Scenario(
        "signed after the second reminder",
        completed("Funded", reminders=2),
        _script(_APPROVES, _signs("notify", about="2", before_reply=True)),
        given=_IMPATIENT,
    ),
    Scenario("never signed", failed("not signed after 2 reminders"), _script(_APPROVES), given=_IMPATIENT),
    Scenario(
        "signed after a reminder",
        completed("Funded", reminders=1),
        _script(_APPROVES, _signs("notify", about="1", before_reply=True)),
        given=_IMPATIENT,
    ),
    Scenario("withdrawn while the officer thinks", cancelled(Moment.WAIT), _script(), cancels_when_waiting=True),
    Scenario(
        "declined by the officer",
        failed("declined by Ms Okafor"),
        _script(_decides(False, "the income is not steady", after_seconds=THINKING_SECONDS)),
    ),
    Scenario(
        "withdrawn while the documents are sent",
        cancelled(Moment.STEP),
        _script(_APPROVES, Call("send_documents", _CANCEL, before_reply=True)),
    ),
    Scenario(
        "decided before anybody waits for it",
        completed("Funded", reminders=0),
        _script(_decides(True, before_reply=True), _signs("send_documents", before_reply=True)),
    ),
    Scenario("insolvent", failed("insolvent"), _script(faults=(Fault("check", FaultKind.REFUSE, times=None),))),
    Scenario(
        "the bank errs behind the pivot",
        completed("Funded", reminders=0),
        _script(_APPROVES, _SIGNS, faults=(Fault("pay_out", FaultKind.SERVER_ERROR, times=2),)),
    ),
    Scenario(
        "withdrawn too late",
        completed("Funded", reminders=0, cancelled=Moment.STEP),
        _script(_APPROVES, _SIGNS, Call("pay_out", _CANCEL, before_reply=True)),
    ),
)


def in_force(answer: Answer | None) -> dict[str, tuple[str, ...]]:
    """Say what must stand: for a loan that was paid out all that was filed, and its reminders; else nothing."""
    if answer is None:
        return {}
    once = ("register", "bureau", "officers", "treasury", "signing", "bank")
    reminders = tuple(str(number) for number in range(1, answer["reminders"] + 1))
    return {**dict.fromkeys(once, ("",)), "notices": reminders}


LOAN = Process(
    name="loan",
    services=LOAN_SERVICES,
    given={"applicant": "Theo Brandt", "amount_cents": 1_200_000},
    scenarios=SCENARIOS,
    in_force=in_force,
    indelible=frozenset({"notices"}),  # what was read cannot be unsaid
)
