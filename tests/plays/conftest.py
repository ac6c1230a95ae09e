"""What plays share with the unit tests: declarations that stay a test's own, and families of runs."""

from __future__ import annotations

from tests.unit.conftest import own_declarations as own_declarations
from tests.unit.families import family as family
