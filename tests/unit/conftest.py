"""What a unit test declares stays its own: broken definitions must not reach the applications of other tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saga.engine import installation, registry
from tests.unit.families import family as family


@pytest.fixture
def own_declarations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide what the test declares from every application that exists, and forget it afterwards."""
    monkeypatch.setattr(registry, "_listeners", [])
    steps, sagas = list(registry._steps), list(registry._sagas)
    installed = dict(installation._installations)
    yield
    registry._steps[:], registry._sagas[:] = steps, sagas
    installation._installations.clear()
    installation._installations.update(installed)
