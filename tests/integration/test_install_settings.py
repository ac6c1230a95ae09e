"""`install` changes no setting of the team's application, nor of its other tasks."""

from __future__ import annotations

from typing import Any

from celery import Celery

from saga import install

#: What our own Task class sets, and the team's tasks must not inherit.
TASK_OPTIONS = (
    "acks_late",
    "acks_on_failure_or_timeout",
    "reject_on_worker_lost",
    "ignore_result",
    "store_errors_even_if_ignored",
    "serializer",
    "soft_time_limit",
    "time_limit",
    "max_retries",
    "throws",
    "rate_limit",
    "priority",
)


def _team() -> tuple[Celery, Any]:
    app = Celery("team", broker="memory://", set_as_current=False)
    app.conf.task_acks_late = False
    app.conf.task_routes = {"team.*": {"queue": "team"}}

    @app.task(name="team.plain", shared=False)  # type: ignore[untyped-decorator]
    def plain() -> None:
        return None

    app.finalize()
    return app, plain


def _settings(app: Celery) -> dict[str, Any]:
    return {name: app.conf[name] for name in dict(app.conf) if not name.startswith("saga_")}


def test_install_adds_settings_of_its_own_and_changes_no_other() -> None:
    app, _ = _team()
    before = _settings(app)

    install(app, database="postgresql://nobody@127.0.0.1:1/none")

    assert _settings(app) == before
    assert {name for name in dict(app.conf) if name.startswith("saga_")} >= {"saga_schema", "saga_lease_seconds"}


def test_install_leaves_the_teams_tasks_as_they_were() -> None:
    app, plain = _team()
    before = {option: getattr(plain, option, None) for option in TASK_OPTIONS}
    task_class, queues, names = app.Task, set(app.amqp.queues), {n for n in app.tasks if n.startswith("team.")}

    install(app, database="postgresql://nobody@127.0.0.1:1/none")

    assert {option: getattr(plain, option, None) for option in TASK_OPTIONS} == before
    assert app.Task is task_class
    assert set(app.amqp.queues) == queues
    assert {name for name in app.tasks if name.startswith("team.")} == names
