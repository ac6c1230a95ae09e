"""The counter of the lines that deal with failure: what is marked counts, if it is code."""

from __future__ import annotations

import re

import pytest

from demo_shop.evolution.approaches import every_approach
from demo_shop.evolution.lines import count_in, count_marked

MARKED = '''
def unmarked() -> None:
    return None


# failure handling: begin
def marked() -> str:
    """This docstring is not code.

    Nor is this line of it.
    """
    # Nor is this comment, nor the blank line below.

    return """a text
that is a value is code, each line of it"""


# failure handling: end
pivot = None  # failure handling
'''


def test_lines_of_code_in_a_region_count_and_single_marked_ones() -> None:
    assert count_marked(MARKED) == 1 + 2 + 1


def test_a_source_without_marks_has_no_such_lines() -> None:
    assert count_marked("x = 1\n") == 0


def test_a_mark_inside_a_text_is_no_mark() -> None:
    assert count_marked('x = "# failure handling"\ny = """\n# failure handling: begin\n"""\n') == 0


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("# failure handling: begin\nx = 1\n", "shop.py:1: a region begins and never ends"),
        ("x = 1\n# failure handling: end\n", "shop.py:2: a region ends that never began"),
        (
            "# failure handling: begin\n# failure handling: begin\n",
            "shop.py:2: a region begins inside the one of line 1",
        ),
    ],
)
def test_marks_that_do_not_pair_are_refused_with_their_place(source: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        count_marked(source, name="shop.py")


def test_every_approach_has_marks_in_files_that_there_are() -> None:
    counted = {approach.name: count_in(approach.sources) for approach in every_approach()}

    assert list(counted) == ["single_server", "checkpoints", "event_sourcing", "saga"]
    assert all(lines > 0 for lines in counted.values())


def test_all_compensations_and_probes_of_the_checkout_are_marked() -> None:
    saga = every_approach()[-1]
    missed = []
    for file in saga.sources:
        source = file.read_text()
        for decorator in ("reserve_stock", "charge_card", "book_parcel", "send_receipt"):
            for mark in (f"@{decorator}.compensate", f"@{decorator}.probe"):
                before = source.partition(mark)[0]
                if mark in source and before.count("handling: begin") == before.count("handling: end"):
                    missed.append(mark)

    assert missed == []
