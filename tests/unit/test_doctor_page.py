"""The doctor's page and its codes."""

from __future__ import annotations

from pathlib import Path

from saga.cli.doctor.examination import every_check
from saga.cli.doctor.page import page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_says_what_the_checks_say() -> None:
    written = (ROOT / "docs" / "doctor.md").read_text()

    assert written == page(), "write it again: python -m saga.cli.doctor.page > docs/doctor.md"


def test_codes_are_unique_and_ascend() -> None:
    codes = [check.code for check in every_check()]

    assert codes == sorted(set(codes))


def test_every_check_has_a_reason_and_a_line_to_paste() -> None:
    assert [check.code for check in every_check() if not (check.because and check.paste and check.refuses)] == []


def test_every_refusal_has_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_doctor_*.py"))

    assert [check.code for check in every_check() if f'"{check.code}"' not in tests] == []
