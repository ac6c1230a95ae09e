"""What `install(app, database=…)` leaves on a Celery application: its definitions, its database and its statements."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakKeyDictionary

import celery
import psycopg
from celery import Celery, _state, signals
from celery.local import PromiseProxy

from saga.core.errors import ConfigurationError, DefinitionError
from saga.engine import registry
from saga.engine.codec import JsonCodec
from saga.engine.database import Database
from saga.engine.registry import Definitions
from saga.engine.store.connect import connect
from saga.engine.store.reading import Reading
from saga.engine.store.sending import Sending
from saga.engine.store.working import Working

log = logging.getLogger("saga.worker")

#: The options and their defaults; set them as any of Celery's, `app.conf.saga_…` or `CELERY_SAGA_…` under Django.
DEFAULTS: dict[str, Any] = {
    "saga_database_url": None,
    "saga_schema": "saga",
    "saga_lease_seconds": 10.0,  #: how long a coordinator may be silent before others take its shards
    "saga_cache_runs": 5_000,  #: suspended runs that a coordinator keeps in memory
    "saga_batch_arrivals": 256,  #: arrivals that one turn takes at the most
    "saga_turn_seconds": 5.0,  #: how long a saga function may take to come to rest
    "saga_pgbouncer": False,  #: saga_database_url is a pooler's in transaction mode
    "saga_session_database_url": None,  #: then: Postgres itself, for coordinators, which need sessions
}

_installations: WeakKeyDictionary[Celery, Installation] = WeakKeyDictionary()


class Installation:
    """One application's part of the framework, made by `install`."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.codec = JsonCodec()
        self.definitions = Definitions(self.codec)
        self._schema: str | None = None
        self._database: Database | None = None
        self._reading: Reading | None = None
        self._sending: Sending | None = None
        self._working: Working | None = None

    @property
    def schema(self) -> str:
        """The schema that holds the tables; one per application."""
        if self._schema is None:
            self._schema = str(self.app.conf.saga_schema)
        return self._schema

    @property
    def database(self) -> Database:
        """Where the tables are."""
        if self._database is None:
            self._database = Database(
                self.app.conf.saga_database_url, self.schema, pooler=bool(self.app.conf.saga_pgbouncer)
            )
        return self._database

    @property
    def session_url(self) -> str:
        """The URL at which coordinators get sessions of their own: Postgres itself, never a pooler in transaction mode.

        Raises:
            ConfigurationError: there is only a pooler, or no database at all.
        """
        direct = self.app.conf.saga_session_database_url
        if direct is not None:
            return Database(direct, self.schema).url
        if self.app.conf.saga_pgbouncer:
            raise ConfigurationError(
                "saga_pgbouncer is set, and a coordinator needs sessions, which a pooler in transaction mode has not: "
                "set saga_session_database_url to the URL of Postgres itself"
            )
        return self.database.url

    @property
    def reading(self) -> Reading:
        """What clients and commands read."""
        if self._reading is None:
            self._reading = Reading(self.schema)
        return self._reading

    @property
    def sending(self) -> Sending:
        """P1."""
        if self._sending is None:
            self._sending = Sending(self.schema)
        return self._sending

    @property
    def working(self) -> Working:
        """P2 to P6."""
        if self._working is None:
            self._working = Working(self.schema)
        return self._working

    def move(self, *, database: str | None, schema: str) -> None:
        """Use other tables from now on; what was made of the settings before is forgotten."""
        self.app.conf.update(saga_database_url=database, saga_schema=schema)
        self._schema = self._database = self._reading = self._sending = self._working = None

    def refresh(self) -> None:
        """Check every definition and register its tasks.

        Raises:
            DefinitionError: a definition cannot work; the message names it and its fix.
        """
        from saga.engine.worker import register_tasks

        self.definitions.refresh()
        register_tasks(self)


def install(app: Celery, *, database: str | None = None) -> Celery:
    """Make sagas and steps run on this application; no setting of its other tasks is changed.

    `database` is the URL of the Postgres that holds the step log; without it, `app.conf.saga_database_url`.
    Returns the app.

    Raises:
        ConfigurationError: it was called on this application before.
    """
    if app in _installations:
        raise ConfigurationError(f"install({app.main!r}) was called twice: once per application is enough")
    app.add_defaults(dict(DEFAULTS))
    if database is not None:
        app.conf.saga_database_url = database
    installation = _installations[app] = Installation(app)
    if app.finalized:
        installation.refresh()
    return app


def installation_of(app: Celery) -> Installation:
    """Return what `install` left on an application.

    Raises:
        ConfigurationError: `install` was not called on it.
    """
    real = app._get_current_object() if hasattr(app, "_get_current_object") else app
    installation = _installations.get(real)
    if installation is None:
        raise ConfigurationError(
            f"the Celery application {real.main!r} has no sagas: "
            "call saga.install(app, database='postgresql://…') on it"
        )
    return installation


def current_installation() -> Installation:
    """Return the installation of the current application, or the only one there is.

    Raises:
        ConfigurationError: `install` was called on no application, or on several of which none is current.
    """
    app = celery.current_app._get_current_object()
    installation = _installations.get(app)
    if installation is not None:
        return installation
    if len(_installations) == 1:
        return next(iter(_installations.values()))
    if not _installations:
        raise ConfigurationError(
            "no Celery application has sagas here: import the module that calls saga.install(app, database='postgresql://…')"
        )
    names = ", ".join(repr(app.main) for app in _installations)
    raise ConfigurationError(f"several applications have sagas ({names}): make one current with app.set_current()")


def _finalized(app: Celery) -> None:
    installation = _installations.get(app)
    if installation is not None:
        # Behind the team's own tasks, shared ones too: one with a step's name would else silently become the step's.
        app._pending.append(PromiseProxy(_refresh, (installation,)))


def _refresh(installation: Installation) -> None:
    try:
        installation.refresh()
    except AttributeError as error:  # Celery would take it for "nothing to evaluate" and go on
        raise DefinitionError(f"the definitions cannot be read: {error}") from error


def _declared() -> None:
    for app, installation in list(_installations.items()):
        if app.finalized:
            installation.refresh()


def _worker_starts(instance: Any, **_: Any) -> None:
    """Refuse to start a worker that could not claim anything; one whose Postgres is only away waits for it."""
    app = instance.app._get_current_object() if hasattr(instance.app, "_get_current_object") else instance.app
    installation = _installations.get(app)
    if installation is None:
        return
    from saga.engine import schema as tables

    try:
        with connect(installation.database.url, application_name="saga-check", session=False) as connection:
            tables.check(connection, installation.schema)
    except ConfigurationError as error:
        raise SystemExit(f"this worker cannot run steps: {error}") from None
    except psycopg.OperationalError as error:
        log.warning("Postgres does not answer (%s): steps wait until it does", type(error).__name__)


_state.connect_on_app_finalize(_finalized)
signals.celeryd_init.connect(_worker_starts, weak=False)
registry.listen(_declared)
