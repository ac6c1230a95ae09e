"""The judgement of scenarios: what each run's client was told against its scenario, and against the services' ledgers.

It is pure: it must not read a file, a clock or a database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from demo_shop.scenarios.scenario import Answer, Moment, PlannedRun, Process
from demo_shop.services.ledger import Record
from demo_shop.trace import Trace, traces_of
from demo_shop.verdict import Finding, Wrong, judge_traces


@dataclass(frozen=True, slots=True)
class Told:
    """What a run's client was told at the end: its status, and its answer or why there is none."""

    status: str
    answer: Answer | None = None
    cause: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """One run, as it was told and as it was found."""

    run: PlannedRun
    told: Told
    findings: tuple[Finding, ...]

    @property
    def good(self) -> bool:
        """Say whether nothing is wrong with it."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class Audit:
    """What the audit found."""

    runs: tuple[Judged, ...]
    doubled_effects: int
    late_effects: int
    unasked: tuple[Finding, ...] = ()
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that is wrong."""
        return (*(found for judged in self.runs for found in judged.findings), *self.unasked)

    def count(self, wrong: Wrong) -> int:
        """Count the runs with which this is wrong."""
        return len({found.order for found in self.findings if found.wrong is wrong})


def audit(
    process: Process,
    runs: Sequence[PlannedRun],
    *,
    told: Mapping[str, Told],
    cancelled: Mapping[str, Moment],
    ledgers: Mapping[str, Record],
) -> Audit:
    """Judge the runs that were accepted; `told` and `cancelled` are by key, and a run that is not in `told` is lost."""
    traces = traces_of(ledgers, process.services)
    judged = tuple(
        _judge(process, run, told.get(run.key, Told("missing")), cancelled.get(run.key), traces[run.key])
        for run in runs
    )
    every = [trace for run in runs for trace in traces[run.key]]
    unasked = sorted(set(traces) - {run.key for run in runs})
    return Audit(
        runs=judged,
        doubled_effects=sum(trace.doubles for trace in every),
        late_effects=sum(trace.late for trace in every),
        unasked=tuple(Finding(key, Wrong.UNASKED, "the ledgers know a run that nobody started") for key in unasked),
        statuses=Counter(run.told.status for run in judged),
    )


def _judge(
    process: Process, run: PlannedRun, told: Told, cancelled: Moment | None, traces: tuple[Trace, ...]
) -> Judged:
    findings = judge_traces(run.key, traces)
    shown = ", ".join(f"{trace.service.name} {list(trace.standing)}" for trace in traces if trace.standing)
    match told.status:
        case "completed" | "compensated":
            if wrong := _not_in_force(process, told, traces):
                detail = f"{told.status}, but {wrong}; the ledgers show {shown or 'nothing'} in force"
                findings.append(Finding(run.key, Wrong.HALF_DONE, detail))
        case "stalled":
            findings.append(Finding(run.key, Wrong.UNPLANTED_STALL, told.reason))
        case status:
            findings.append(Finding(run.key, Wrong.LOST, f"still {status} at the end; in force: {shown or 'nothing'}"))
    if unlike := _unlike(run, told, cancelled):
        findings.append(Finding(run.key, Wrong.UNEXPECTED, unlike))
    return Judged(run, told, tuple(findings))


def _not_in_force(process: Process, told: Told, traces: tuple[Trace, ...]) -> str:
    """Say where the ledgers do not show what the answer says."""
    expected = process.in_force(told.answer)
    for trace in traces:
        name = trace.service.name
        if told.answer is None and name in process.indelible:
            continue
        wanted = tuple(sorted(expected.get(name, ())))
        if trace.standing != wanted:
            return f"{name} should show {list(wanted)}"
    return ""


def _unlike(run: PlannedRun, told: Told, cancelled: Moment | None) -> str:
    """Say in what the run differs from its scenario."""
    expected = run.scenario.expected
    if (told.status, told.cause) != (expected.status, expected.cause) or expected.reason not in told.reason:
        return f"{told.status} {told.cause} {told.reason}".rstrip()
    answer = told.answer or {}
    for name, value in expected.answer.items():
        if answer.get(name) != value:
            return f"its answer has {name} {answer.get(name)!r}, expected {value!r}"
    if cancelled is not expected.cancelled:
        return f"a cancel met it {cancelled.value if cancelled else 'never'}"
    return ""
