"""The judgement of a run: each accepted order against the services' ledgers, and the engine's word against both.

It is pure: it must not read a file, a clock or a database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from demo_shop.evidence import Evidence, Opinion
from demo_shop.services.catalogue import SERVICES
from demo_shop.services.ledger import Record
from demo_shop.trace import Trace, traces_of

#: Of 200 orders, each undo and each probe must have been asked for by at least this many.
HITS_IN_200_MIN = 5


class Wrong(StrEnum):
    """What can be wrong with an order."""

    LOST = "lost"  # accepted, and neither completed, compensated nor stalled
    DOUBLED = "doubled"  # an effect or an undo that should be there once is there twice
    HALF_DONE = "half done"  # it ended with some of its effects, or otherwise than the engine says
    LATE = "late"  # an effect after its undo
    UNPLANTED_STALL = "unplanted stall"
    UNASKED = "unasked"  # effects of an order that the client never asked for
    UNEXPECTED = "unexpected"  # it ended otherwise than its scenario says


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, with the order it is wrong with and what the ledgers show."""

    order: str
    wrong: Wrong
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the audit found; the run was good when `complaints` is empty."""

    orders: int
    completed: int
    compensated: int
    stalled: int
    stalled_planted: int
    lost: int
    doubled_effects: int
    half_done: int
    late_effects: int
    duplicate_requests: int
    mail_doubles: int
    hits: Mapping[str, int]
    findings: tuple[Finding, ...]
    complaints: tuple[str, ...]


def judge(evidence: Evidence) -> Verdict:
    """Hold every accepted order against the ledgers; the engine's word counts only where they agree."""
    traces = traces_of(evidence.ledgers, tuple(SERVICES.values()))
    findings = [found for order in sorted(evidence.accepted) for found in _judge_order(order, evidence, traces[order])]
    statuses = Counter(evidence.opinions.get(order, Opinion("missing")).status for order in evidence.accepted)
    findings += [
        Finding(order, Wrong.UNASKED, "the ledgers know an order that the client's journal does not")
        for order in sorted(set(traces) - evidence.asked - set(evidence.accepted))
    ]
    wrong = Counter(found.wrong for found in findings)
    every = [trace for of_order in traces.values() for trace in of_order]
    hits = _hits(evidence.ledgers)
    completed, compensated = statuses["completed"], statuses["compensated"]
    planted = len(evidence.planted & set(evidence.accepted))
    return Verdict(
        orders=len(evidence.accepted),
        completed=completed,
        compensated=compensated,
        stalled=statuses["stalled"],
        stalled_planted=planted,
        lost=wrong[Wrong.LOST],
        doubled_effects=sum(trace.doubles for trace in every if trace.service.honours_keys),
        half_done=wrong[Wrong.HALF_DONE],
        late_effects=sum(trace.late for trace in every),
        duplicate_requests=_duplicate_requests(evidence.ledgers),
        mail_doubles=sum(trace.doubles for trace in every if not trace.service.honours_keys),
        hits=hits,
        findings=tuple(findings),
        complaints=(
            *_complaints_of_findings(wrong, statuses["stalled"], planted),
            *_complaints_of_coverage(len(evidence.accepted), completed, compensated, hits),
        ),
    )


def judge_traces(order: str, traces: tuple[Trace, ...]) -> list[Finding]:
    """Find what is there twice or too late, whatever the engine says of the order."""
    found = []
    for trace in traces:
        if trace.doubles and trace.service.honours_keys:
            found.append(Finding(order, Wrong.DOUBLED, f"{trace.service.name}: {trace.told}"))
        if trace.late:
            found.append(Finding(order, Wrong.LATE, f"{trace.service.name}: {trace.told}"))
    return found


def _judge_order(order: str, evidence: Evidence, traces: tuple[Trace, ...]) -> list[Finding]:
    opinion = evidence.opinions.get(order)
    found = judge_traces(order, traces)
    standing = [trace.service.name for trace in traces if trace.stands]
    shown = f"the ledgers show {', '.join(standing) or 'nothing'} in force"
    match opinion:
        case None:
            found.append(Finding(order, Wrong.LOST, f"accepted, but the engine has no run of it; {shown}"))
        case Opinion(status="completed"):
            if len(standing) != len(SERVICES):
                found.append(Finding(order, Wrong.HALF_DONE, f"completed, but {shown}"))
        case Opinion(status="compensated"):
            if standing:
                found.append(Finding(order, Wrong.HALF_DONE, f"compensated, but {shown}"))
        case Opinion(status="stalled"):
            if order not in evidence.planted:
                found.append(Finding(order, Wrong.UNPLANTED_STALL, f"stalled ({opinion.reason}); {shown}"))
        case Opinion(status=status):
            found.append(Finding(order, Wrong.LOST, f"still {status} at the end; {shown}"))
    return found


def _hits(ledgers: Mapping[str, Record]) -> dict[str, int]:
    """Count, for each undo and each probe of the steps, the orders that asked for it."""
    hits = {}
    for name, service in SERVICES.items():
        for operation in (service.undo.name, service.find_action):
            if operation is not None:
                asked = {r.order for r in ledgers.get(name, Record()).requests if r.operation == operation}
                hits[operation] = len(asked)
    return hits


def _duplicate_requests(ledgers: Mapping[str, Record]) -> int:
    """Count requests for an effect or an undo beyond the first of each key; lookups are asked as often as one likes."""
    duplicates = 0
    for name, record in ledgers.items():
        service = SERVICES[name]
        keys = Counter(
            (request.operation, request.key)
            for request in record.requests
            if request.operation in (service.action.name, service.undo.name)
        )
        duplicates += sum(count - 1 for count in keys.values())
    return duplicates


def _complaints_of_findings(wrong: Counter[Wrong], stalled: int, planted: int) -> list[str]:
    complaints = [f"{wrong[kind]} {kind.value}" for kind in Wrong if wrong[kind]]
    if stalled != planted:
        complaints.append(f"{stalled} stalled, expected the {planted} planted ones")
    return complaints


def _complaints_of_coverage(orders: int, completed: int, compensated: int, hits: Mapping[str, int]) -> list[str]:
    complaints = []
    if orders == 0:
        complaints.append("no order was accepted")
    if completed * 2 < orders:
        complaints.append(f"only {completed} of {orders} completed, expected half")
    if compensated * 5 < orders:
        complaints.append(f"only {compensated} of {orders} compensated, expected a fifth")
    hits_min = HITS_IN_200_MIN * orders // 200
    for operation, count in hits.items():
        if count < hits_min:
            complaints.append(f"{operation} was asked for by {count} orders, expected {hits_min}")
    return complaints
