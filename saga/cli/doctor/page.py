"""docs/doctor.md, written from the checks: `python -m saga.cli.doctor.page > docs/doctor.md`."""

from __future__ import annotations

import sys
from itertools import groupby

from saga.cli.doctor.examination import every_check

_HEAD = """\
# What `saga doctor` refuses

<!-- Written by `python -m saga.cli.doctor.page > docs/doctor.md` from the checks in saga/cli/doctor. -->

`celery -A tasks saga doctor` looks at the settings of the Celery application, at the workers that answer, at the
broker, at Postgres as the application's role sees it, and at how many connections the whole fleet may open. Each thing
that it refuses has a code, a reason, and the line to paste. It exits with 1 when it refuses anything, with 0 when
nothing is wrong; `--json` prints the same as one document. It changes nothing, and a server that does not answer is
refused as such, with the checks that needed it listed as not checked. Advice is printed beside that, and fails nothing.

Limits of steps are read from their definitions: an attempt made longer at its call site by `with_options(timeout=…)`
is not seen. Workers are only judged as they run while they answer; their settings are judged always.
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD]
    for area, checks in groupby(every_check(), key=lambda check: check.area):
        parts.append(f"\n## {area[0].upper()}{area[1:]}\n")
        for check in checks:
            language = "sql" if check.paste.startswith(("ALTER", "CREATE ", "REVOKE")) else "python"
            if check.paste.startswith(("celery ", "CONFIG ", "# ")):
                language = "text"
            parts.append(
                f"\n### {check.code}{', advice' if check.advice else ''}: {check.refuses}\n\n"
                f"{check.because[0].upper()}{check.because[1:]}.\n\n```{language}\n{check.paste}\n```\n"
            )
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
