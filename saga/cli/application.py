"""The application that commands work on: found, loaded, finalised, and its database opened. It prints nothing."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from saga.core.errors import ConfigurationError, SagaError, UnknownRun
from saga.engine.client import Handle
from saga.engine.database import Psycopg
from saga.engine.installation import Installation, installation_of
from saga.engine.store.reading import FoundRun, Reading

NO_APPLICATION = (
    "no application: say which with -A, as in `celery -A tasks saga list` or `saga -A tasks list`; "
    "its module makes a Celery application and calls saga.install(app, database='postgresql://…')"
)


def is_installed(app: Any) -> bool:
    """Say whether `install` was called on an application."""
    try:
        installation_of(app)
    except ConfigurationError:
        return False
    return True


class Application:
    """A loaded application with sagas, and what commands ask of its database."""

    def __init__(self, app: Any, installation: Installation, named: str | None) -> None:
        self.app = app
        self.installation = installation
        self.named = named
        self._checked = False

    @classmethod
    def load(cls, chosen: Any, named: str | None) -> Application:
        """Find an application by name or object, import what it includes, and check its definitions.

        Raises:
            ConfigurationError: there is none, it cannot be imported, or `install` was not called on it.
            DefinitionError: a definition cannot work.
        """
        app = _find(chosen) if isinstance(chosen, str) else chosen
        if app is None or (named is None and app.main in (None, "default") and not is_installed(app)):
            raise ConfigurationError(NO_APPLICATION)
        installation = installation_of(app)
        app.set_current()
        try:
            app.loader.import_default_modules()
            app.finalize()
        except SagaError:
            raise
        except Exception as error:
            raise ConfigurationError(f"{app.main!r} cannot be loaded: {_place(error)}") from error
        return cls(app, installation, named)

    def close(self) -> None:
        """Let go of the connections to the database."""
        with suppress(ConfigurationError):
            self.installation.database.engine(autocommit=True).dispose()

    @contextmanager
    def connection(self) -> Iterator[Psycopg]:
        """Lend a connection to a database whose tables fit this code.

        Raises:
            ConfigurationError: no database is set, or it cannot be reached.
            SchemaError: the tables are missing, older or newer than this code.
        """
        with self.installation.database.connection() as connection:
            if not self._checked:
                from saga.engine import schema

                schema.check(connection, self.installation.schema)
                self._checked = True
            yield connection

    @property
    def reading(self) -> Reading:
        """What can be read."""
        return self.installation.reading

    def handle(self, address: str) -> Handle[Any]:
        """Return the handle of a run by its address.

        Raises:
            UnknownRun: it is not written `saga/key`.
        """
        saga, key = split_address(address)
        return Handle(self.installation, saga, key)

    def need(self, connection: Psycopg, address: str) -> FoundRun:
        """Read a run.

        Raises:
            UnknownRun: there is none, or no coordinator has taken its start yet.
        """
        saga, key = split_address(address)
        looked = self.reading.look(connection, saga, key)
        if looked.found is not None:
            return looked.found
        if looked.accepted:
            raise UnknownRun(
                f"run {address} is accepted, but no coordinator has taken its start yet; is one running? "
                f"`saga show {address}` says what it waits for"
            )
        raise UnknownRun(
            f"there is no run {address} in schema {self.installation.schema!r}: its start was never sent, or its "
            "transaction is not committed; `saga list` shows what there is"
        )


def split_address(address: str) -> tuple[str, str]:
    """Return the saga and the key of `checkout/order-7`; only the first slash parts them.

    Raises:
        UnknownRun: there is no slash, or nothing on one side of it.
    """
    saga, _, key = address.partition("/")
    if not saga or not key:
        raise UnknownRun(f"{address!r} is no run's address: expected SAGA/KEY, such as checkout/order-7")
    return saga, key


def database_now(connection: Psycopg) -> datetime:
    """Return Postgres' time, in which all ages and leases are counted."""
    now: datetime = connection.execute("SELECT clock_timestamp()").fetchall()[0][0]
    return now


def _find(name: str) -> Any:
    from celery.app.utils import find_app

    try:
        return find_app(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name.partition(":")[0] + ".").startswith(error.name + "."):
            raise ConfigurationError(
                f"-A {name}: there is no module {error.name!r} from {Path.cwd()}: expected the module that makes the "
                "Celery application; check the name, or change to its folder"
            ) from None
        raise ConfigurationError(f"-A {name} cannot be imported: {_place(error)}") from error
    except AttributeError as error:
        raise ConfigurationError(
            f"-A {name}: the module has no Celery application ({error}); "
            "expected one named `app` or `celery`, or -A module:name"
        ) from error
    except SagaError:
        raise
    except Exception as error:
        raise ConfigurationError(f"-A {name} cannot be imported: {_place(error)}") from error


def _place(error: BaseException) -> str:
    """Say what was raised and in which line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
