"""The documents against the code: their blocks run, and the names and numbers that they give are those of the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from docs.generate import GUARANTEES, LIFECYCLE, guarantees, lifecycle
from saga.cli import embedded
from saga.engine.crashpoints import Point
from saga.engine.installation import DEFAULTS
from tests.integration.blocks import ROOT, python_blocks, run_python, write_files

DOCUMENTS = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
TESTING = ROOT / "docs" / "testing.md"
#: The project around the Django tests of the guide.
DJANGO_SETTINGS = """
import os
from sqlalchemy import make_url
url = make_url(os.environ["SAGA_DATABASE_URL"])
SECRET_KEY = "for tests only"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.database,
        "USER": url.username,
        "PASSWORD": url.password,
        "HOST": url.host,
        "PORT": url.port,
    }
}
"""
#: Documents whose blocks are run by name, one of single lines to paste, and one that shows the code of the demo.
RUN_ELSEWHERE = {
    ROOT / "README.md",
    TESTING,
    ROOT / "docs" / "doctor.md",
    ROOT / "docs" / "processes.md",
    ROOT / "docs" / "tutorial.md",
}


def looked_up(dotted: str) -> Any:
    """Return what a dotted name such as `saga.core.execution.EVENTS_MAX` stands for."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise LookupError(dotted)


def rows(document: Path) -> list[list[str]]:
    """Return the cells of every row of every table."""
    lines = [line for line in document.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_lifecycle_is_the_one_in_the_code() -> None:
    assert LIFECYCLE.read_text() == lifecycle(), "run `make docs`"


def test_the_tests_of_each_fault_are_those_that_there_are() -> None:
    assert GUARANTEES.read_text() == guarantees(), "run `make docs`"


@pytest.mark.parametrize(
    "document",
    [document for document in DOCUMENTS if document not in RUN_ELSEWHERE and python_blocks(document)],
    ids=lambda document: document.name,
)
def test_the_blocks_of_a_document_run_one_after_another(document: Path, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n\n".join(python_blocks(document)))

    ran = run_python("page.py", folder=tmp_path)

    assert ran.returncode == 0, ran.stderr


def test_the_tests_that_the_guide_to_testing_shows_pass(tmp_path: Path) -> None:
    names = write_files(TESTING, tmp_path)
    tests = [name for name in names if name.startswith("test_") and name != "test_place.py"]

    kept = run_python("keep.py", folder=tmp_path)
    ran = run_python("-m", "pytest", "-q", "-W", "error", *tests, folder=tmp_path)

    assert tests == ["test_checkout.py", "test_ledger.py", "test_loan.py", "test_crashes.py", "test_histories.py"]
    assert kept.returncode == 0, kept.stderr
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "18 passed" in ran.stdout


def test_the_django_tests_that_the_guide_to_testing_shows_pass(
    tmp_path: Path, empty_database: embedded.Database, servers: embedded.Servers
) -> None:
    write_files(TESTING, tmp_path)
    (tmp_path / "settings.py").write_text(DJANGO_SETTINGS)
    url = make_url(servers.superuser_url).set(database=empty_database.name)

    ran = run_python(
        "-m", "pytest", "-q", "-W", "error", "--ds=settings", "test_place.py",
        folder=tmp_path, environment={"SAGA_DATABASE_URL": url.render_as_string(hide_password=False)},
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


def test_the_message_that_the_guide_to_testing_shows_is_the_one_there_is(tmp_path: Path) -> None:
    write_files(TESTING, tmp_path)
    shown = TESTING.read_text().partition("AssertionError: ")[2].partition("\n```")[0]
    unexpected = """
import contextlib, pytest
pytest.raises = lambda *_, **__: contextlib.nullcontext()
import test_crashes
test_crashes.test_a_charge_without_its_token_is_found_out()
"""

    ran = run_python("-c", unexpected, folder=tmp_path)

    assert " ".join(shown.split()) in " ".join(ran.stderr.split()), ran.stderr


def test_every_limit_has_the_number_that_is_documented() -> None:
    documented = {
        cells[2].strip("`"): float(cells[1].replace(",", ""))
        for cells in rows(ROOT / "docs" / "limits.md")
        if len(cells) == 4 and cells[2].startswith("`saga.")
    }

    assert len(documented) > 20
    assert {name: float(looked_up(name)) for name in documented} == documented


def test_every_option_is_documented_with_its_default() -> None:
    documented = {
        cells[0].strip("`"): cells[1].strip("`").strip('"')
        for cells in rows(ROOT / "docs" / "guarantees.md")
        if cells[0].startswith("`saga_")
    }

    assert documented == {name: str(value) for name, value in DEFAULTS.items()}


def test_every_crash_point_is_explained() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()

    assert [point for point in Point if f"`{point.value}`" not in text] == []


def test_every_test_with_the_number_of_a_fault_is_in_its_row() -> None:
    rows_of_faults = {cells[0]: cells[1] for cells in rows(GUARANTEES) if len(cells) == 2 and cells[0][:1] == "F"}
    missing = []
    for file in (ROOT / "tests").rglob("test_*.py"):
        for name, numbers in re.findall(r"^(?:async )?def (test_((?:f\d+_)+)\w*)", file.read_text(), re.MULTILINE):
            faults = numbers.upper().strip("_").split("_")
            missing += [f"{fault}: {name}" for fault in faults if f"`{name}`" not in rows_of_faults[fault]]

    assert missing == []


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "guarantees.md").read_text()))
    written = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        written |= set(re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE))

    assert named <= written, sorted(named - written)


def test_every_function_that_the_protocol_names_exists() -> None:
    named = re.findall(r"`(saga\.[\w.]+)`", (ROOT / "docs" / "protocol.md").read_text())

    assert len(named) > 20
    for name in named:
        assert callable(looked_up(name))


def test_the_map_of_modules_is_that_of_the_code() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    mapped = set(re.findall(r"`(saga/[\w/]+\.py)`", text))
    folders = [ROOT / "saga" / "core", ROOT / "saga" / "engine", ROOT / "saga" / "engine" / "store"]
    written = {
        str(file.relative_to(ROOT)) for folder in folders for file in folder.glob("*.py") if file.name != "__init__.py"
    }

    assert {name for name in mapped if not (ROOT / name).exists()} == set()
    assert written - mapped == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_to_files(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())

    assert [target for target in targets if not (document.parent / target).exists()] == []
