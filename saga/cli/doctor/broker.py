"""What is unsafe about the broker itself. It asks the server, and reads no message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saga.cli.doctor.check import Checks

#: The oldest Redis that is tried.
REDIS_MIN = (6, 2)
#: Transports whose messages do not leave the process or the machine.
NOT_SHARED = frozenset({"memory", "filesystem", "sqlalchemy"})


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """The broker as it answers; `silence` says why it did not, and then nothing else is known."""

    url: str | None = "redis://127.0.0.1:6379/0"  #: without its password; None: none is set
    transport: str = "redis"
    silence: str | None = None
    maxmemory_policy: str | None = None
    redis_version: str | None = None


def look(app: Any) -> BrokerFacts:
    """Ask the application's broker, in a few seconds."""
    from saga.cli.fleet import BrokerSilent, broker_connection

    if not app.conf.broker_url and not app.conf.broker_write_url:
        return BrokerFacts(url=None, transport="", silence="no broker is set")
    shown = app.connection_for_write().as_uri()
    transport = str(shown).partition("://")[0].partition("+")[0]
    transport = "redis" if transport in ("rediss", "sentinel", "valkey", "valkeys") else transport
    try:
        with broker_connection(app) as connection:
            transport = str(connection.transport.driver_type) if transport != "memory" else transport
            if transport != "redis":
                return BrokerFacts(shown, transport)
            with connection.default_channel.conn_or_acquire() as client:
                info = client.info()
    except BrokerSilent as error:
        return BrokerFacts(shown, transport, silence=str(error))
    except Exception as error:  # whatever the driver raises, such as a refused INFO
        return BrokerFacts(shown, transport, silence=f"the broker {shown} refused INFO: {error}")
    return BrokerFacts(
        shown, transport, maxmemory_policy=info.get("maxmemory_policy"), redis_version=info.get("redis_version")
    )


CHECKS: Checks[BrokerFacts] = Checks("broker")

CHECKS.refuse(
    "D20",
    "no broker is set",
    lambda facts: "neither broker_url nor CELERY_BROKER_URL is set" if facts.url is None else None,
    because="Celery would fall back to RabbitMQ on this machine; coordinators publish nowhere and workers hear nothing",
    paste='app = Celery("shop", broker="redis://redis.internal:6379/0")  # or CELERY_BROKER_URL',
)

CHECKS.refuse(
    "D21",
    "the broker does not answer",
    lambda facts: facts.silence if facts.url is not None else None,
    because="runs are kept and nothing is lost, but nothing is run either",
    paste="app.conf.broker_url = …  # or start the broker, or open the way to it",
)

CHECKS.refuse(
    "D22",
    "a transport that processes do not share: memory, filesystem",
    lambda facts: f"the broker's transport is {facts.transport}" if facts.transport in NOT_SHARED else None,
    because="coordinator and workers are processes of their own, on machines of their own",
    paste='app.conf.broker_url = "redis://redis.internal:6379/0"',
)

CHECKS.refuse(
    "D23",
    "`maxmemory-policy` other than noeviction (Redis)",
    lambda facts: (
        f"maxmemory-policy is {facts.maxmemory_policy}" if facts.maxmemory_policy not in (None, "noeviction") else None
    ),
    because="a full Redis would throw queues away in silence; with noeviction it refuses, and messages are sent again",
    paste="CONFIG SET maxmemory-policy noeviction  # and in redis.conf",
)


def _is_old(facts: BrokerFacts) -> str | None:
    """Refuse old servers."""
    if facts.redis_version is None:
        return None
    parts = tuple(int(part) for part in facts.redis_version.split(".")[:2] if part.isdigit())
    return None if parts >= REDIS_MIN else f"the server is Redis {facts.redis_version}"


CHECKS.refuse(
    "D24",
    "Redis older than 6.2",
    _is_old,
    because="it is not maintained any more and never tried with this framework",
    paste="# upgrade to Redis 6.2 or newer, or to Valkey",
)
