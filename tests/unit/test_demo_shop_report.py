"""What a run writes down: the JSON's promised keys, and which kills are counted."""

from __future__ import annotations

import io
import json
import uuid
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from demo_shop.chaos import QUEUED_MIN, Kill, KillKind, plan_kills
from demo_shop.evidence import Evidence
from demo_shop.journal import accepted_orders, read_journal
from demo_shop.lookout import LiveRun
from demo_shop.report import Board, Outcome, Snapshot, print_outcome, recovery_seconds, summary, write_json
from demo_shop.services.catalogue import SERVICES
from demo_shop.services.ledger import Record
from demo_shop.verdict import judge

PROMISED = {
    "orders",
    "completed",
    "compensated",
    "stalled",
    "stalled_planted",
    "lost",
    "doubled_effects",
    "half_done",
    "late_effects",
    "duplicate_requests",
    "mail_doubles",
    "kills",
    "recovery_seconds",
    "lease_seconds",
    "wall_seconds",
}


def kill(kind: KillKind, *after_seconds: float, claims: int = 0, messages: int = 0) -> Kill:
    runs = tuple(LiveRun(uuid.uuid4(), f"order-{number}", 3) for number, _ in enumerate(after_seconds))
    resumed = {run.id: after for run, after in zip(runs, after_seconds, strict=True)}
    return Kill(kind, "somebody", 1.0, claims, messages, runs, resumed)


def outcome(*kills: Kill) -> Outcome:
    verdict = judge(Evidence(accepted={}, ledgers={name: Record() for name in SERVICES}))
    return Outcome(verdict, kills, seed=7, lease_seconds=5.0, wall_seconds=12.34)


def test_the_json_has_every_promised_key(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "demo.json"

    kills = (kill(KillKind.WORKER, 1.5, claims=1), kill(KillKind.WORKER), kill(KillKind.DATABASE, 3.0))
    write_json(path, summary(outcome(*kills)))

    written = json.loads(path.read_text())
    assert written.keys() >= PROMISED
    assert written["kills"] == {"worker": 1, "database": 1}
    assert written["recovery_seconds"] == {"p50": 3.0, "p99": 3.0, "max": 3.0}
    assert [record["counted"] for record in written["kill_records"]] == [True, False, True]
    assert written["kill_records"][0]["recovery_seconds"] == {"order-0": 1.5}


def test_a_kill_that_held_nothing_does_not_count() -> None:
    assert not kill(KillKind.WORKER).counts
    assert not kill(KillKind.COORDINATOR).counts
    assert kill(KillKind.WORKER, claims=1).counts
    assert kill(KillKind.COORDINATOR, 1.0).counts


def test_a_flush_counts_only_with_enough_messages_queued() -> None:
    assert not kill(KillKind.BROKER, 1.0, messages=QUEUED_MIN - 1).counts
    assert kill(KillKind.BROKER, 1.0, messages=QUEUED_MIN).counts


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_strikes_before_any_strikes_twice(seed: int) -> None:
    planned = plan_kills(8, seed=seed)

    assert set(planned) == set(KillKind)
    assert max(Counter(planned).values()) == 2
    assert KillKind.BROKER not in planned[4:]
    assert planned == plan_kills(8, seed=seed)


def test_kinds_that_cannot_strike_are_not_planned() -> None:
    planned = plan_kills(4, seed=1, available=[KillKind.WORKER, KillKind.BROKER])

    assert set(planned) == {KillKind.WORKER, KillKind.BROKER}


def test_recovery_is_of_held_runs_only() -> None:
    assert recovery_seconds([]) == {"p50": None, "p99": None, "max": None}
    assert recovery_seconds([kill(KillKind.WORKER, 0.1, 0.2, 9.0)]) == {"p50": 0.2, "p99": 9.0, "max": 9.0}


def test_the_journal_counts_what_was_accepted_and_forgets_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "client.jsonl"
    lines = [
        {"said": "asked", "order": "o1", "saga": "checkout"},
        {"said": "accepted", "order": "o1", "saga": "checkout"},
        {"said": "asked", "order": "o2", "saga": "express"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"said": "acc')

    entries = read_journal(path)

    assert len(entries) == 3
    assert accepted_orders(entries) == {"o1"}
    assert read_journal(tmp_path / "not there") == []


@pytest.mark.parametrize("terminal", [True, False])
def test_the_board_and_the_outcome_can_be_printed_anywhere(terminal: bool) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=120)
    kills = [kill(KillKind.BROKER, 1.0, messages=30)]

    with Board(console, flower_url="http://127.0.0.1:5555") as board:
        board.show(Snapshot(2, 1, 10, Counter(running=1), 3, kills, 8))
        board.show(Snapshot(2, 1, 10, None, None, kills, 8))
    print_outcome(console, outcome(*kills))

    assert "30 messages" in written.getvalue()
    assert "BAD" in written.getvalue()
    assert "no order was accepted" in written.getvalue()
