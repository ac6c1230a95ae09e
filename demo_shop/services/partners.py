"""The services of the rides, the loans and the food deliveries as data. It must not know HTTP, ledgers or sagas.

Those that stand behind the pivot of a process have an undo too, so that a ledger shows when one is asked for.
"""

from __future__ import annotations

from demo_shop.services.catalogue import SERVICES, Operation, ServiceKind

DRIVERS = ServiceKind(
    name="drivers",
    reference="of",
    action=Operation("offer", "/offers", "the driver has gone home"),
    undo=Operation("withdraw", "/withdrawals", "the driver is on the way"),
    echoed=("driver",),
    subject="driver",
    roster="/drivers",
)
TRIPS = ServiceKind(
    name="trips",
    reference="tr",
    action=Operation("confirm", "/trips", "no such trip"),
    undo=Operation("call_off", "/call-offs", "the trip has begun"),
    echoed=("driver",),
)

REGISTER = ServiceKind(
    name="register",
    reference="ap",
    action=Operation("register", "/applications", "no such person"),
    undo=Operation("close", "/closures", "the file is locked"),
)
BUREAU = ServiceKind(
    name="bureau",
    reference="cr",
    action=Operation("check", "/checks", "insolvent"),
    undo=Operation("retract", "/retractions", "the inquiry is archived"),
)
OFFICERS = ServiceKind(
    name="officers",
    reference="ca",
    action=Operation("open_case", "/cases", "no officer is in charge"),
    undo=Operation("close_case", "/case-closures", "the case is archived"),
)
TREASURY = ServiceKind(
    name="treasury",
    reference="fu",
    action=Operation("hold", "/holds", "no funds are left"),
    undo=Operation("free", "/releases", "the books are closed"),
    echoed=("amount_cents",),
)
SIGNING = ServiceKind(
    name="signing",
    reference="do",
    action=Operation("send_documents", "/envelopes", "no such address"),
    undo=Operation("void", "/voids", "the envelope is sealed"),
)
NOTICES = ServiceKind(
    name="notices",
    reference="no",
    action=Operation("notify", "/notices", "no such address"),
    undo=Operation("recall", "/recalls", "it was read"),
    subject="number",
)
BANK = ServiceKind(
    name="bank",
    reference="po",
    action=Operation("pay_out", "/payouts", "no such account"),
    undo=Operation("call_back", "/call-backs", "the money is gone"),
    echoed=("amount_cents",),
)

KITCHEN = ServiceKind(
    name="kitchen",
    reference="ki",
    action=Operation("order", "/orders", "the kitchen is closed"),
    undo=Operation("unorder", "/cancellations", "the meal is on the stove"),
)
COURIERS = ServiceKind(
    name="couriers",
    reference="as",
    action=Operation("assign", "/assignments", "the courier has other plans"),
    undo=Operation("relieve", "/reliefs", "the courier is on the way"),
    echoed=("courier",),
    subject="courier",
    roster="/couriers",
)

PAYMENTS = SERVICES["payments"]
RIDE_SERVICES = (PAYMENTS, DRIVERS, TRIPS)
LOAN_SERVICES = (REGISTER, BUREAU, OFFICERS, TREASURY, SIGNING, NOTICES, BANK)
FOOD_SERVICES = (PAYMENTS, KITCHEN, COURIERS)

EVERY_SERVICE = {kind.name: kind for kind in (*SERVICES.values(), *RIDE_SERVICES, *LOAN_SERVICES, *FOOD_SERVICES)}
