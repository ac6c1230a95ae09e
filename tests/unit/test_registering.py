"""The Celery tasks that an application gets for its steps, and tasks of the team's own that stand in their way."""

from __future__ import annotations

import pytest
from celery import Celery

from saga import DefinitionError, install, step
from saga.engine.installation import installation_of

pytestmark = pytest.mark.usefixtures("own_declarations")


def _declare_parcel() -> None:
    @step(name="parcels.parcel")
    def parcel(n: int) -> int:
        return n

    @parcel.compensate
    def unparcel(result: int | None, n: int) -> None: ...

    @parcel.probe
    def find_parcel(n: int) -> int | None:
        return None


def _team_with(task: str) -> Celery:
    app = Celery("team", broker="memory://", set_as_current=False)

    @app.task(name=task, shared=False)  # type: ignore[untyped-decorator]
    def plain() -> None: ...

    return app


@pytest.mark.parametrize("task", ["parcels.parcel", "parcels.parcel.compensate", "parcels.parcel.probe"])
@pytest.mark.parametrize("order", ["installed first", "finalized first", "declared last"])
def test_a_celery_task_with_the_name_of_a_steps_task_is_refused(task: str, order: str) -> None:
    app = _team_with(task)

    def assemble() -> None:
        if order == "declared last":
            install(app)
            app.finalize()
            _declare_parcel()
            installation_of(app).refresh()
            return
        _declare_parcel()
        if order == "finalized first":
            app.finalize()
        install(app)
        app.finalize()

    with pytest.raises(DefinitionError) as caught:
        assemble()

    said = str(caught.value)
    assert f"the Celery task {task!r} of {__name__}" in said
    assert f"{__file__}:" in said
    assert "give the step another with name=" in said


def test_a_celery_task_beside_the_steps_is_none_of_their_business() -> None:
    app = _team_with("parcels.weigh")
    _declare_parcel()

    install(app)
    app.finalize()

    assert {name for name in app.tasks if name.startswith("parcels.")} == {
        "parcels.parcel",
        "parcels.parcel.compensate",
        "parcels.parcel.probe",
        "parcels.weigh",
    }


def test_tasks_of_steps_are_registered_once_however_often_steps_are_declared() -> None:
    app = Celery("team", broker="memory://", set_as_current=False)
    _declare_parcel()
    install(app)
    app.finalize()
    task = app.tasks["parcels.parcel"]

    _declare_parcel()
    installation_of(app).refresh()

    assert app.tasks["parcels.parcel"] is task
