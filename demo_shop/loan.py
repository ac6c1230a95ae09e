"""Granting a loan: what an officer and an applicant may say, what comes of it, and the saga.

It must not know services, processes or faults.
"""

from __future__ import annotations

from dataclasses import dataclass

from saga import Abort, Context, Signal, SignalTimeout, saga
from tasks.lending import check_credit, hold_funds, open_case, pay_out, register_application
from tasks.signing import remind, send_documents
from tasks.values import LoanApplication


@dataclass(frozen=True, slots=True)
class Decision:
    """What an officer decided, and why."""

    officer: str
    approved: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Signature:
    """The applicant signed."""

    signer: str


@dataclass(frozen=True, slots=True)
class Funded:
    """The money was paid out, after so many reminders to sign."""

    payout: str
    officer: str
    reminders: int


decision = Signal("decision", Decision)
signature = Signal("signature", Signature)


@saga("loan", signals=[decision, signature])
def loan(ctx: Context, application: LoanApplication) -> Funded:
    """Check, let a person decide, have it signed, pay out. Whatever ends it before the pay-out undoes what was done."""
    ctx.run(register_application, application)
    report = ctx.run(check_credit, application)
    ctx.run(open_case, application, report)
    decided = ctx.wait_signal(decision)  # a person's; it may take days
    if not decided.approved:
        raise Abort(f"declined by {decided.officer}: {decided.reason}")
    ctx.run(hold_funds, application)
    documents = ctx.run(send_documents, application)
    for reminders in range(application.reminders_max + 1):
        if reminders:
            ctx.run(remind, application, documents, reminders)
        try:
            ctx.wait_signal(signature, timeout=application.remind_after_seconds)
            break
        except SignalTimeout:
            continue
    else:
        raise Abort(f"not signed after {application.reminders_max} reminders")
    ctx.pivot()  # the applicant can withdraw up to here: handle.cancel()
    paid = ctx.run(pay_out, application)
    return Funded(paid.reference, decided.officer, reminders)
