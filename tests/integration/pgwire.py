"""A gateway that reads enough of Postgres' protocol to lose one statement, or the reply of one that was executed.

It must not know what the statements mean.
"""

from __future__ import annotations

import re
import struct
import threading
from dataclasses import dataclass
from enum import StrEnum

from tests.integration.gateway import CutOff, Gateway, Watch

#: Codes of the requests that come before the first message, and are answered with a single byte.
_BEFORE_STARTUP = {80877103: "SSL", 80877104: "GSSAPI"}


class Lost(StrEnum):
    """What is lost of a statement."""

    REQUEST = "request"  #: Postgres never sees it
    REPLY = "reply"  #: Postgres has executed and committed it, and nobody hears of that


@dataclass(slots=True, eq=False)
class Loss:
    """A loss that was asked for: statements whose text the pattern finds, the next `left` of them."""

    pattern: re.Pattern[str]
    lost: Lost
    left: int
    happened: int = 0


class PostgresGateway(Gateway):
    """Loses what it is told to, and ends the connection there, as a network does that breaks at the wrong moment."""

    def __init__(self, host: str, port: int) -> None:
        self._losses: list[Loss] = []
        self._choosing = threading.Lock()
        super().__init__(host, port)

    def lose(self, lost: Lost, pattern: str, *, times: int = 1) -> Loss:
        """Lose the next statements whose text this regular expression finds, on any connection."""
        loss = Loss(re.compile(pattern), lost, times)
        self._losses.append(loss)
        return loss

    def restore(self) -> None:
        """Be as at the beginning."""
        with self._choosing:
            self._losses.clear()
        super().restore()

    def watch(self) -> Watch:
        """Return a reader of the protocol."""
        return _Reader(self)

    def choose(self, statement: str) -> Lost | None:
        """Return what is lost of a statement that is about to be executed."""
        with self._choosing:
            for loss in self._losses:
                if loss.left and loss.pattern.search(statement):
                    loss.left -= 1
                    loss.happened += 1
                    return loss.lost
        return None


class _Reader(Watch):
    def __init__(self, gateway: PostgresGateway) -> None:
        self._gateway = gateway
        self._from_client = b""
        self._from_server = b""
        self._started = False
        self._single_bytes = 0  #: answers of one byte that are still to come
        self._statements: dict[bytes, str] = {}
        self._bound = ""  #: the text behind the portal that was bound last
        self._losing_reply = False

    def sent(self, data: bytes) -> bytes:
        self._from_client += data
        while not self._started and len(self._from_client) >= 8:
            size, code = struct.unpack("!ii", self._from_client[:8])
            if len(self._from_client) < size:
                return data
            self._from_client = self._from_client[size:]
            if code in _BEFORE_STARTUP:
                self._single_bytes += 1
            else:
                self._started = True
        while self._started and (message := _message(self._from_client)) is not None:
            kind, body, self._from_client = message
            statement = self._executed(kind, body)
            lost = None if statement is None else self._gateway.choose(statement)
            if lost is Lost.REQUEST:
                raise CutOff
            self._losing_reply |= lost is Lost.REPLY
        return data

    def answered(self, data: bytes) -> bytes:
        singles = min(self._single_bytes, len(data))
        if b"S" in data[:singles]:
            raise AssertionError("this Postgres encrypts: give the gateway a URL with sslmode=disable")
        self._single_bytes -= singles
        self._from_server += data[singles:]
        while (message := _message(self._from_server)) is not None:
            kind, _, self._from_server = message
            # "Ready for the next query" comes after the commit.
            if kind == b"Z" and self._losing_reply:
                raise CutOff
        return b"" if self._losing_reply else data

    def _executed(self, kind: bytes, body: bytes) -> str | None:
        """Follow prepared and unnamed statements; return the text of what this message executes."""
        match kind:
            case b"P":
                name, text, _ = body.split(b"\0", 2)
                self._statements[name] = text.decode()
            case b"B":
                _, name, _ = body.split(b"\0", 2)
                self._bound = self._statements.get(name, "")
            case b"E":
                return self._bound
            case b"Q":
                return body.rstrip(b"\0").decode()
        return None


def _message(stream: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Split the first message off: its type, its body, and what follows; None: it is not all there yet."""
    if len(stream) < 5:
        return None
    size = 1 + struct.unpack("!i", stream[1:5])[0]
    return (stream[:1], stream[5:size], stream[size:]) if len(stream) >= size else None
