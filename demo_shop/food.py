"""Delivering a meal: what restaurant and couriers may say, what comes of it, and the saga.

It must not know services, processes or faults.
"""

from __future__ import annotations

from dataclasses import dataclass

from saga import Abort, Context, Signal, SignalTimeout, StepFailed, saga
from tasks.billing import charge_bill, refund_charge
from tasks.couriers import assign_courier, find_couriers
from tasks.kitchen import order_meal
from tasks.values import Bill, MealOrder


@dataclass(frozen=True, slots=True)
class KitchenAnswer:
    """Whether the restaurant cooks the meal, and why not."""

    cooks: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PickUp:
    """A courier has the meal."""

    courier: str


@dataclass(frozen=True, slots=True)
class Handover:
    """How the way to the customer ended."""

    arrived: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The customer has the meal."""

    brought_by: str


@dataclass(frozen=True, slots=True)
class Refunded:
    """The meal was lost on its way, and the customer has the money back."""

    fetched_by: str
    reason: str


kitchen_answer = Signal("kitchen_answer", KitchenAnswer)
pick_up = Signal("pick_up", PickUp)
handover = Signal("handover", Handover)


@saga("food", signals=[kitchen_answer, pick_up, handover])
def food(ctx: Context, order: MealOrder) -> Delivered | Refunded:
    """Charge, have it cooked, have it fetched, have it brought. Up to the pick-up, whatever goes wrong is undone."""
    charge = ctx.run(charge_bill, Bill(order.id, order.total_cents))
    ctx.run(order_meal, order)
    kitchen = ctx.wait_signal(kitchen_answer, timeout=order.confirm_within_seconds)  # silence undoes the run
    if not kitchen.cooks:
        raise Abort(f"the restaurant will not cook: {kitchen.reason}")
    courier = have_it_fetched(ctx, order)
    ctx.pivot()  # from here on nothing is undone, but much can be made good
    try:
        end = ctx.wait_signal(handover, timeout=order.deliver_within_seconds)
    except SignalTimeout:
        end = Handover(arrived=False, reason="nobody has heard of it since")
    if end.arrived:
        return Delivered(courier)
    ctx.run(refund_charge, charge)
    return Refunded(courier, end.reason)


def have_it_fetched(ctx: Context, order: MealOrder) -> str:
    """Send one free courier after another, until one has the meal; who refuses or does not come is passed over."""
    for courier in ctx.run(find_couriers, order):
        before_the_assignment = ctx.savepoint()
        try:
            ctx.run(assign_courier, order, courier)
            while ctx.wait_signal(pick_up, timeout=order.pick_up_within_seconds).courier != courier:
                continue  # the late word of one who was relieved
            return courier
        except StepFailed:
            continue
        except SignalTimeout:
            ctx.rollback(before_the_assignment)
    raise Abort("no courier has fetched it")
