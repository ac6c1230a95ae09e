"""What may befall a ride. It must not know how runs are started, killed or judged.

Where a run has short time limits, whoever answers in time answers before the service's reply, so that no kill can make
an answer late; where there is time, people take some.
"""

from __future__ import annotations

from typing import Any

from demo_shop.scenarios.scenario import Answer, Moment, Process, Scenario, cancelled, completed, failed
from demo_shop.services.partners import RIDE_SERVICES
from demo_shop.services.switches import Call, Fault, FaultKind, Script

#: Seconds that every request takes, that a driver thinks, and that a driver has where silence is part of the story.
LATENCY_SECONDS = 0.15
THINKING_SECONDS = 0.5
SILENCE_SECONDS = 0.8

NEAR_BY = ("ada", "ben", "cleo")


def _says(driver: str, accepts: bool, **when: Any) -> Call:
    body = {"driver": driver, "accepts": accepts}
    return Call("offer", "/hooks/ride/{order}/answer", body, about=driver, **when)


def _script(*calls: Call, near_by: tuple[str, ...] = NEAR_BY, faults: tuple[Fault, ...] = ()) -> Script:
    return Script(LATENCY_SECONDS, faults=faults, calls=calls, roster=near_by)


def _at_once(driver: str, *, accepts: bool = True) -> Call:
    return _says(driver, accepts, before_reply=True)


def _after_a_while(driver: str, *, accepts: bool = True) -> Call:
    return _says(driver, accepts, after_seconds=THINKING_SECONDS)


_CANCEL = "/cancels/ride/{order}"
_ADA_TOO_LATE = Call(
    "withdraw", "/hooks/ride/{order}/answer", {"driver": "ada", "accepts": True}, about="ada", before_reply=True
)
_IMPATIENT = {"answer_within_seconds": SILENCE_SECONDS}

SCENARIOS = (
    Scenario("accepted after a while", completed("Matched", driver="ada"), _script(_after_a_while("ada"))),
    Scenario("nobody answers", completed("NobodyFree", drivers_asked=3), _script(), given=_IMPATIENT),
    Scenario("accepted at once", completed("Matched", driver="ada"), _script(_at_once("ada"))),
    Scenario(
        "rejected, then accepted",
        completed("Matched", driver="ben"),
        _script(_after_a_while("ada", accepts=False), _after_a_while("ben")),
    ),
    Scenario("the rider cancels in a wait", cancelled(Moment.WAIT), _script(), cancels_when_waiting=True),
    Scenario(
        "the rider cancels in a step",
        cancelled(Moment.STEP),
        _script(Call("offer", _CANCEL, before_reply=True)),
    ),
    Scenario(
        "silence, then accepted",
        completed("Matched", driver="ben"),
        _script(_at_once("ben")),
        given=_IMPATIENT,
    ),
    Scenario(
        "accepted after the offer was withdrawn",
        completed("Matched", driver="ben"),
        _script(_ADA_TOO_LATE, _at_once("ben")),
        given=_IMPATIENT,
    ),
    Scenario(
        "rejected by all",
        completed("NobodyFree", drivers_asked=2),
        _script(
            _after_a_while("ada", accepts=False),
            _at_once("ben", accepts=False),
            near_by=("ada", "ben"),
        ),
    ),
    Scenario("nobody near by", completed("NobodyFree", drivers_asked=0), _script(near_by=())),
    Scenario(
        "the rider cancels too late",
        completed("Matched", driver="ada", cancelled=Moment.STEP),
        _script(_at_once("ada"), Call("confirm", _CANCEL, before_reply=True)),
    ),
    Scenario(
        "the rider's card is declined",
        failed("card declined"),
        _script(faults=(Fault("charge", FaultKind.REFUSE, times=None),)),
    ),
)


def in_force(answer: Answer | None) -> dict[str, tuple[str, ...]]:
    """Say what must stand: for a match the fare, the one offer that was accepted and the trip, else nothing."""
    if answer is None or answer["answer"] == "NobodyFree":
        return {}
    return {"payments": ("",), "drivers": (answer["driver"],), "trips": ("",)}


RIDE = Process(
    name="ride",
    services=RIDE_SERVICES,
    given={"rider": "rosa", "fare_cents": 1_450},
    scenarios=SCENARIOS,
    in_force=in_force,
)
