"""A loan's documents, and reminding of them. It must not know which saga asks for it, nor how long a signature takes.

The signature comes later, and not to the step: the signing service tells the shop, which tells the run.
"""

from __future__ import annotations

from saga import current, step
from tasks.service import Service
from tasks.values import Filing, LoanApplication

signing = Service("signing", "SHOP_SIGNING_URL")
notices = Service("notices", "SHOP_NOTICES_URL")


@step(timeout=3)
def send_documents(application: LoanApplication) -> Filing:
    """Send the documents to be signed, which is not waited for here."""
    reply = signing.post("/envelopes", {"order": application.id, "to": application.applicant})
    return Filing(**reply.json())


@send_documents.compensate
def void_documents(documents: Filing | None, application: LoanApplication) -> None:
    """Make the documents void, signed or not."""
    signing.post("/voids", {"order": application.id, "action_key": current.action_token})


@step(timeout=3)
def remind(application: LoanApplication, documents: Filing, number: int) -> Filing:
    """Remind the applicant of the documents, for the nth time. A reminder cannot be unsaid, and need not be."""
    body = {"order": application.id, "number": number, "documents": documents.reference}
    return Filing(**notices.post("/notices", body).json())
