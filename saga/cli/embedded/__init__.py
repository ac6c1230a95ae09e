"""Postgres and Valkey for `dev`, the demo and the tests, from the packages of the `embedded` extra.

It may only be imported by what embeds servers, and only when it does: production commands never come here.
"""

from saga.cli.embedded.kept import Server
from saga.cli.embedded.postgres import Database
from saga.cli.embedded.servers import Servers, servers

__all__ = ["Database", "Server", "Servers", "servers"]
