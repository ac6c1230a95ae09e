"""`python -m demo_shop evolution`: the comparison from end to end, and its exit code. It must not judge."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from demo_shop.evolution.findings import print_table, summary
from demo_shop.evolution.harness import Options, compare
from demo_shop.report import write_json


def evolve(options: Options, json_path: Path | None, console: Console) -> int:
    """Compare the approaches, show what came of it, and return 1 if the one that promises to lose nothing did.

    Raises:
        ConfigurationError: the servers cannot be started.
        TookTooLong: an approach's processes did not come up.
    """
    fared = compare(options, console)
    print_table(console, fared)
    if json_path is not None:
        write_json(json_path, summary(options, fared))
    return 0 if all(one.keeps_its_promise for one in fared) else 1
