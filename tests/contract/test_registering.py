"""The Celery tasks that an application gets for its steps, and tasks of the team's own that stand in their way."""

from __future__ import annotations

import datetime

import pytest
from celery import Celery, _state

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


def _team_with(task: str, *, shared: bool = False) -> Celery:
    app = Celery("team", broker="memory://", set_as_current=False)

    def plain() -> None: ...

    if shared:  # as `shared_task` does it, but for those applications that are finalized already
        _state.connect_on_app_finalize(lambda made: made._task_from_fun(plain, name=task))
    else:
        app.task(name=task, shared=False)(plain)
    return app


@pytest.mark.parametrize("task", ["parcels.parcel", "parcels.parcel.compensate", "parcels.parcel.probe"])
@pytest.mark.parametrize("order", ["installed first", "finalized first", "declared last"])
@pytest.mark.parametrize("shared", [False, True], ids=["of the application", "shared"])
def test_a_celery_task_with_the_name_of_a_steps_task_is_refused(
    monkeypatch: pytest.MonkeyPatch, task: str, order: str, shared: bool
) -> None:
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))
    app = _team_with(task, shared=shared)

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


def test_a_type_that_its_module_has_not_is_a_mistake_in_the_definition() -> None:
    app = Celery("team", broker="memory://", set_as_current=False)
    install(app)

    @step(name="parcels.stamp")
    def stamp(n: datetime.Stamp) -> int:  # type: ignore[name-defined]
        return 1

    with pytest.raises(DefinitionError, match="its type hints cannot be resolved: module 'datetime' has no attribute"):
        app.finalize()


def test_no_error_of_a_definition_is_taken_for_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("team", broker="memory://", set_as_current=False)
    install(app)

    def broken() -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(installation_of(app), "refresh", broken)
    with pytest.raises(DefinitionError, match="the definitions cannot be read: no such thing"):
        app.finalize()
