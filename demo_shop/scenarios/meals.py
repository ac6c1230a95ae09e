"""What may befall a delivery. It must not know how runs are started, killed or judged.

Where a run has short time limits, whoever answers in time answers before the service's reply, so that no kill can make
an answer late; where there is time, people take some.
"""

from __future__ import annotations

from typing import Any

from demo_shop.scenarios.scenario import Answer, Moment, Process, Scenario, cancelled, completed, failed
from demo_shop.services.partners import FOOD_SERVICES
from demo_shop.services.switches import Call, Fault, FaultKind, Script

#: Seconds that every request takes, that things take, and that somebody has where silence is part of the story.
LATENCY_SECONDS = 0.15
COOKING_SECONDS = 0.5
SILENCE_SECONDS = 0.8

FREE = ("ines", "jo")


def _script(*calls: Call, free: tuple[str, ...] = FREE, faults: tuple[Fault, ...] = ()) -> Script:
    return Script(LATENCY_SECONDS, faults=faults, calls=calls, roster=free)


def _kitchen(cooks: bool, reason: str = "", **when: Any) -> Call:
    return Call("order", "/hooks/food/{order}/kitchen_answer", {"cooks": cooks, "reason": reason}, **when)


def _picks_up(courier: str, *, operation: str = "assign", **when: Any) -> Call:
    return Call(operation, "/hooks/food/{order}/pick_up", {"courier": courier}, about=courier, **when)


def _hands_over(courier: str, *, arrived: bool = True, reason: str = "", **when: Any) -> Call:
    body = {"arrived": arrived, "reason": reason}
    return Call("assign", "/hooks/food/{order}/handover", body, about=courier, **when)


_COOKS = _kitchen(True, after_seconds=COOKING_SECONDS)
_INES_FETCHES = _picks_up("ines", after_seconds=COOKING_SECONDS)
_INES_BRINGS = _hands_over("ines", after_seconds=2 * COOKING_SECONDS)
_JO = (_picks_up("jo", before_reply=True), _hands_over("jo", after_seconds=COOKING_SECONDS))
_CANCEL = "/cancels/food/{order}"
_REFUSED = Fault("assign", FaultKind.REFUSE, times=None, about="ines")

SCENARIOS = (
    Scenario("delivered", completed("Delivered", brought_by="ines"), _script(_COOKS, _INES_FETCHES, _INES_BRINGS)),
    Scenario(
        "the restaurant lets it lapse",
        failed("kitchen_answer did not come"),
        _script(),
        given={"confirm_within_seconds": SILENCE_SECONDS},
    ),
    Scenario(
        "a courier refuses, another one comes",
        completed("Delivered", brought_by="jo"),
        _script(_COOKS, *_JO, faults=(_REFUSED,)),
    ),
    Scenario(
        "a courier does not come, another one does",
        completed("Delivered", brought_by="jo"),
        _script(_COOKS, _picks_up("ines", operation="relieve", before_reply=True), *_JO),
        given={"pick_up_within_seconds": SILENCE_SECONDS},
    ),
    Scenario("the customer cancels in a wait", cancelled(Moment.WAIT), _script(), cancels_when_waiting=True),
    Scenario(
        "the customer cancels in a step",
        cancelled(Moment.STEP),
        _script(Call("order", _CANCEL, before_reply=True)),
    ),
    Scenario(
        "the restaurant will not cook",
        failed("the restaurant will not cook"),
        _script(_kitchen(False, "the fish is off", after_seconds=COOKING_SECONDS)),
    ),
    Scenario(
        "the meal is lost on its way",
        completed("Refunded", fetched_by="ines", reason="dropped in the canal"),
        _script(
            _COOKS,
            _INES_FETCHES,
            _hands_over("ines", arrived=False, reason="dropped in the canal", after_seconds=2 * COOKING_SECONDS),
        ),
    ),
    Scenario(
        "the meal is not heard of again",
        completed("Refunded", fetched_by="ines"),
        _script(_COOKS, _INES_FETCHES),
        given={"deliver_within_seconds": SILENCE_SECONDS},
    ),
    Scenario(
        "no courier at all",
        failed("no courier has fetched it"),
        _script(_COOKS, free=("ines",), faults=(_REFUSED,)),
    ),
    Scenario(
        "the card is declined",
        failed("card declined"),
        _script(faults=(Fault("charge", FaultKind.REFUSE, times=None),)),
    ),
)


def in_force(answer: Answer | None) -> dict[str, tuple[str, ...]]:
    """Say what must stand: meal and courier, and the money unless it was given back; nothing where it was undone."""
    if answer is None:
        return {}
    if answer["answer"] == "Refunded":
        return {"kitchen": ("",), "couriers": (answer["fetched_by"],)}
    return {"kitchen": ("",), "couriers": (answer["brought_by"],), "payments": ("",)}


FOOD = Process(
    name="food",
    services=FOOD_SERVICES,
    given={"customer": "lena", "dish": "ramen", "total_cents": 1_890},
    scenarios=SCENARIOS,
    in_force=in_force,
)
