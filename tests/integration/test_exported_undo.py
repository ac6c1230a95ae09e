"""The history of a run that undoes a child, as it is exported from the log of a real one, and replayed."""

from __future__ import annotations

from saga import Status
from saga.engine.history import from_json
from saga.testing import record, replay
from tests.integration.cli_runs import environment, run
from tests.integration.fleet import Fleet
from tests.integration.test_children import child_of
from tests.integration.waiting import journey, leg


def test_the_exported_undo_of_a_child_is_what_a_test_can_replay(audited: Fleet) -> None:
    handle = audited.start(journey, "undone", confirm="abort")
    child, undo = child_of(audited, handle, leg), child_of(audited, handle, leg, tail="~undo")
    audited.ends(handle, Status.COMPENSATED)

    exported = run("export", undo.address, env=environment(audited.app.conf.saga_database_url, None))

    assert exported.stdout == record(undo), exported.stderr
    assert from_json(exported.stdout).undoes == from_json(record(child))
    replay(leg, exported.stdout)
