"""A loan's application, credit report, case and money. It must not know which saga asks for it, nor who decides.

The officer's decision on a case comes later, and not to the step: their office tells the shop, which tells the run.
"""

from __future__ import annotations

from saga import Retry, current, step
from tasks.service import Service
from tasks.values import Filing, Funds, LoanApplication

register = Service("register", "SHOP_REGISTER_URL")
bureau = Service("bureau", "SHOP_BUREAU_URL")
officers = Service("officers", "SHOP_OFFICERS_URL")
treasury = Service("treasury", "SHOP_TREASURY_URL")
bank = Service("bank", "SHOP_BANK_URL")


@step(timeout=3)
def register_application(application: LoanApplication) -> Filing:
    """Enter the application in the register."""
    reply = register.post("/applications", {"order": application.id, "applicant": application.applicant})
    return Filing(**reply.json())


@register_application.compensate
def close_application(filing: Filing | None, application: LoanApplication) -> None:
    """Close the application."""
    register.post("/closures", {"order": application.id, "action_key": current.action_token})


@step(timeout=3)
def check_credit(application: LoanApplication) -> Filing:
    """Ask the bureau for a report; an applicant who is insolvent is refused by it."""
    reply = bureau.post("/checks", {"order": application.id, "applicant": application.applicant})
    return Filing(**reply.json())


@check_credit.compensate
def retract_inquiry(report: Filing | None, application: LoanApplication) -> None:
    """Have the inquiry struck out, since each one that is on record costs the applicant credit."""
    bureau.post("/retractions", {"order": application.id, "action_key": current.action_token})


@step(timeout=3)
def open_case(application: LoanApplication, report: Filing) -> Filing:
    """Put the application before an officer, whose decision is not waited for here."""
    reply = officers.post("/cases", {"order": application.id, "report": report.reference})
    return Filing(**reply.json())


@open_case.compensate
def close_case(case: Filing | None, application: LoanApplication, report: Filing) -> None:
    """Take the case off the officer's desk."""
    officers.post("/case-closures", {"order": application.id, "action_key": current.action_token})


@step(timeout=3)
def hold_funds(application: LoanApplication) -> Funds:
    """Keep the money back."""
    reply = treasury.post("/holds", {"order": application.id, "amount_cents": application.amount_cents})
    return Funds(**reply.json())


@hold_funds.compensate
def free_funds(funds: Funds | None, application: LoanApplication) -> None:
    """Let the money go."""
    treasury.post("/releases", {"order": application.id, "action_key": current.action_token})


@step(retry=Retry(attempts=10, first_seconds=0.5, max_seconds=10), timeout=3)
def pay_out(application: LoanApplication) -> Funds:
    """Pay the money out. It stands behind the pivot, and so has no undo."""
    reply = bank.post("/payouts", {"order": application.id, "amount_cents": application.amount_cents})
    return Funds(**reply.json())
