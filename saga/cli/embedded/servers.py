"""The servers of one command: embedded ones, or those that the environment names. It must not know who uses them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saga.cli.embedded import postgres as pg
from saga.cli.embedded import valkey as vk
from saga.cli.embedded.kept import Keeper, Server, free_port, is_free
from saga.cli.embedded.postgres import Database
from saga.core.errors import ConfigurationError

#: What every command here, and Celery itself, reads for servers of your own.
DATABASE_VARIABLE = "SAGA_DATABASE_URL"
BROKER_VARIABLE = "CELERY_BROKER_URL"
_DATABASE = "saga"
_FOLDER_PREFIX = "saga-embedded-"


@dataclass(frozen=True, slots=True)
class _Postgres:
    server: Server | None  # None: not ours, so it cannot be stopped
    admin_url: str
    owner: str | None
    application: str | None
    owner_url: str
    url: str


@dataclass(frozen=True, slots=True)
class _Valkey:
    server: Server | None
    url: str


class Servers:
    """The servers that a command may use until its `with servers(...)` ends."""

    def __init__(self, postgres: _Postgres | None, valkey: _Valkey | None) -> None:
        self._postgres = postgres
        self._valkey = valkey

    @property
    def database_url(self) -> str:
        """How an application connects: with a role that owns nothing."""
        return self._asked_postgres().url

    @property
    def owner_url(self) -> str:
        """How migrations connect: as the owner of the database, who is no superuser."""
        return self._asked_postgres().owner_url

    @property
    def superuser_url(self) -> str:
        """How to look behind the curtain; with servers of your own it is the role that you named."""
        return self._asked_postgres().admin_url

    @property
    def application_role(self) -> str | None:
        """Whom migrations grant the application's rights to; `None` when one role is application and owner."""
        return self._asked_postgres().application

    @property
    def is_named_database(self) -> bool:
        """Whether this is the very database that the environment names; what else is in it is not ours."""
        asked = self._asked_postgres()
        return asked.server is None and asked.url == asked.admin_url

    @property
    def broker_url(self) -> str:
        """The broker, as Celery takes it."""
        if self._valkey is None:
            raise ConfigurationError("no broker was asked for: servers(folder, valkey=True) starts one")
        return self._valkey.url

    @property
    def postgres(self) -> Server | None:
        """Postgres as a process; `None` when the environment named the server, which is not ours to stop."""
        return self._postgres.server if self._postgres else None

    @property
    def valkey(self) -> Server | None:
        """Valkey as a process; `None` when the environment named the broker, which is not ours to stop."""
        return self._valkey.server if self._valkey else None

    def create_database(self, name: str, *, template: str | None = None) -> Database:
        """Create a database, as a copy of another one if `template` names it.

        A template must have no connections while it is copied.

        Raises:
            ConfigurationError: the name is taken, or the role that the environment named may not create databases.
        """
        asked = self._asked_postgres()
        pg.create_database(asked.admin_url, name, template=template, owner=asked.owner, application=asked.application)
        return Database(name, pg.with_database(asked.url, name), pg.with_database(asked.owner_url, name))

    def drop_database(self, name: str) -> None:
        """Drop a database, and cut off whoever is connected to it."""
        pg.drop_database(self._asked_postgres().admin_url, name)

    def _asked_postgres(self) -> _Postgres:
        if self._postgres is None:
            raise ConfigurationError("no database was asked for: servers(folder, postgres=True) starts one")
        return self._postgres


@contextlib.contextmanager
def servers(folder: Path, *, postgres: bool = True, valkey: bool = True, keep: bool = False) -> Iterator[Servers]:
    """Start the servers that were asked for, each on a free port of 127.0.0.1, and stop them at the end.

    `folder` is usually `.saga`. Each command gets a folder of its own in it, which is removed at the end; with `keep`
    it is `folder/dev`: data, ports and passwords stay for the next time, and a second command at once is refused.
    Nothing is left running, however this process ends: a keeper process stops the servers when it is gone.

    `SAGA_DATABASE_URL` and `CELERY_BROKER_URL` each replace a server by your own. Unless `keep` is given, a database
    is created beside the one named and dropped at the end, for which the role needs CREATEDB; a role without it works
    in the named database itself. That one role then is application and owner. Tests and demo flush the broker's
    database: give them one of their own.

    Raises:
        ConfigurationError: the packages are missing, a server does not start, or `keep`'s folder is in use.
    """
    with contextlib.ExitStack() as stack:
        own_database = os.environ.get(DATABASE_VARIABLE) if postgres else None
        own_broker = os.environ.get(BROKER_VARIABLE) if valkey else None
        database = stack.enter_context(_own_database(own_database, fresh=not keep)) if own_database else None
        broker = _Valkey(None, own_broker) if own_broker else None
        if (postgres and database is None) or (valkey and broker is None):
            keeper, place = _open(folder, keep=keep)
            stack.callback(keeper.close)
            state = _State(place)
            if postgres and database is None:
                database = _start_postgres(keeper, place, state)
            if valkey and broker is None:
                server, url = vk.describe(keeper, place, port=state.port("valkey"), password=state.secret("valkey"))
                server.start()
                broker = _Valkey(server, url)
        yield Servers(database, broker)


@contextlib.contextmanager
def _own_database(url: str, *, fresh: bool) -> Iterator[_Postgres]:
    name = f"saga_{secrets.token_hex(4)}"
    created = False
    if fresh:
        with contextlib.suppress(ConfigurationError):  # a role without CREATEDB works in the named database itself
            pg.create_database(url, name)
            created = True
    used = pg.with_database(url, name) if created else url
    try:
        yield _Postgres(None, admin_url=url, owner=None, application=None, owner_url=used, url=used)
    finally:
        if created:
            pg.drop_database(url, name)


def _start_postgres(keeper: Keeper, place: Path, state: _State) -> _Postgres:
    server, superuser_url = pg.describe(keeper, place, port=state.port("postgres"), password=state.secret(pg.SUPERUSER))
    server.start()
    owner_password, application_password = state.secret(pg.OWNER), state.secret(pg.APPLICATION)
    pg.create_roles(superuser_url, owner_password=owner_password, application_password=application_password)
    if not pg.has_database(superuser_url, _DATABASE):
        pg.create_database(superuser_url, _DATABASE, owner=pg.OWNER, application=pg.APPLICATION)
    address = f"127.0.0.1:{server.port}/{_DATABASE}"
    return _Postgres(
        server,
        admin_url=superuser_url,
        owner=pg.OWNER,
        application=pg.APPLICATION,
        owner_url=f"postgresql://{pg.OWNER}:{owner_password}@{address}",
        url=f"postgresql://{pg.APPLICATION}:{application_password}@{address}",
    )


class _State:
    """Ports and passwords, in a file that only we can read, so that a kept folder has the same ones next time."""

    def __init__(self, place: Path) -> None:
        self._path = place / "state.json"
        self._known: dict[str, str | int] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def secret(self, name: str) -> str:
        return str(self._known.get(f"secret:{name}") or self._keep(f"secret:{name}", secrets.token_hex(16)))

    def port(self, name: str) -> int:
        kept = int(self._known.get(f"port:{name}", 0))
        if kept and is_free(kept):
            return kept
        taken = [int(value) for key, value in self._known.items() if key.startswith("port:")]
        return int(self._keep(f"port:{name}", free_port(taken)))

    def _keep(self, key: str, value: str | int) -> str | int:
        self._known[key] = value
        self._path.touch(mode=0o600)
        self._path.write_text(json.dumps(self._known))
        return value


def _open(folder: Path, *, keep: bool) -> tuple[Keeper, Path]:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    kept_name = "dev"
    under_root = pg.system_user() is not None
    if under_root and not _can_be_entered(folder):
        # Postgres does not run as root, and who runs it cannot get here: its files go where it can.
        kept_name = f"saga-dev-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        folder = Path("/var/tmp" if keep else tempfile.gettempdir())  # noqa: S108 - its owner is checked below
    _sweep(folder)
    if keep:
        place = folder / kept_name
        place.mkdir(mode=0o700, exist_ok=True)
        if place.is_symlink() or place.stat().st_uid != os.geteuid():
            raise ConfigurationError(f"{place} belongs to somebody else: remove it, or run this as its owner")
    else:
        place = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=folder))
    place.chmod(0o711 if under_root else 0o700)
    return Keeper(place, remove=not keep), place


def _can_be_entered(folder: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))


def _sweep(folder: Path) -> None:
    # What a crash of the machine left behind: nobody holds its lock any more. A minute's grace is for commands that
    # have made their folder, and whose keeper has not locked it yet.
    for place in folder.glob(f"{_FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = place.lstat()
            if found.st_uid != os.geteuid() or time.time() - found.st_mtime < 60:
                continue
            with (place / "lock").open("a+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)
