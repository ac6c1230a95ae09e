"""`saga doctor`: what is unsafe here, why, and the line to paste. It prints an examination, and changes nothing."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from saga.cli.group import EXIT_REFUSED, Invocation, command, option


@command(
    "doctor",
    options=[
        option("--coordinators", type=click.IntRange(0), help="Coordinators at the most; else those that run, or 2."),
        option(
            "--workers",
            "worker_children",
            type=click.IntRange(0),
            help="Worker children at the most; else as they run.",
        ),
        option(
            "--clients",
            type=click.IntRange(0),
            default=1,
            show_default=True,
            help="Processes that start runs, at most.",
        ),
    ],
    help="Check the settings of Celery, broker, Postgres and the fleet. Exits with 1 when it refuses any.",
)
def doctor_command(
    invocation: Invocation, *, coordinators: int | None, worker_children: int | None, clients: int
) -> None:
    """Examine the application and print what is refused and advised."""
    from saga.cli.doctor.examination import every_check, examine

    found = examine(
        invocation.application.installation, coordinators=coordinators, worker_children=worker_children, clients=clients
    )
    output = invocation.output
    output.document(
        {
            "refused": [asdict(finding) for finding in found.refused],
            "advised": [asdict(finding) for finding in found.advised],
            "passed": found.passed,
            "not_checked": found.skipped,
            "connections": {
                "maximum": found.fleet.maximum,
                "available": found.fleet.available,
                "arithmetic": found.fleet.arithmetic(),
            },
        }
    )
    for style, findings in (("red", found.refused), ("yellow", found.advised)):
        for finding in findings:
            advice = "advice: " if findings is found.advised else ""
            output.line(f"{finding.code}  {finding.area}: {advice}{finding.found}", style=style)
            output.line(f"     {finding.because}")
            output.line(f"     {finding.paste}", style="cyan")
    names = {check.code: check.refuses for check in every_check()}
    for code, why in found.skipped.items():
        output.line(f"{code}  not checked ({names[code]}): {why}", style="yellow")
    output.line("connections")
    for line in found.fleet.arithmetic():
        output.line(f"     {line}")
    output.line(
        f"{len(found.refused)} refused, {len(found.advised)} advised, {len(found.passed)} passed, "
        f"{len(found.skipped)} not checked"
    )
    if found.refused:
        sys.exit(EXIT_REFUSED)
