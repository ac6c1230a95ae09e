"""A TCP proxy in front of a server: it passes bytes on, late or not at all, or cuts its clients off.

It reads no protocol; who does may watch what passes.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field

#: Seconds between two looks of a connection that holds bytes back.
HELD_SECONDS = 0.01


class Watch:
    """Sees the bytes of one connection before they are passed on; what it returns is passed on instead.

    Raises:
        CutOff: the connection ends here, and what it was shown goes nowhere.
    """

    def sent(self, data: bytes) -> bytes:
        """Look at what the client sends."""
        return data

    def answered(self, data: bytes) -> bytes:
        """Look at what the server answers."""
        return data


class CutOff(Exception):
    """Raised by a watch that ends its connection."""


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    watch: Watch
    held: deque[tuple[float, socket.socket, bytes]] = field(default_factory=deque)  #: no bytes: the other end closed
    forgotten: bool = False


class Gateway:
    """Listens on a port of 127.0.0.1 for one server behind it."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.latency_seconds = 0.0  #: for each way
        self._shut = threading.Event()
        self._frozen = threading.Event()
        self._closing = threading.Event()
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="gateway", daemon=True)
        self._thread.start()

    def shut(self) -> None:
        """Cut every connection, and refuse new ones."""
        self._shut.set()
        for pair in self._now():
            _end(pair)

    def open(self) -> None:
        """Let connections through again."""
        self._shut.clear()

    def freeze(self) -> None:
        """Pass no byte on any more, and tell nobody: a black hole. New connections are taken, and get no answer."""
        self._frozen.set()

    def thaw(self) -> None:
        """Pass on what was held back, and everything after it."""
        self._frozen.clear()

    def forget(self) -> None:
        """Pass no byte of the present connections on, for ever, and tell nobody; new ones are as always."""
        for pair in self._now():
            pair.forgotten = True

    def restore(self) -> None:
        """Be as at the beginning; what was forgotten stays so."""
        self.latency_seconds = 0.0
        self.thaw()
        self.open()

    def close(self) -> None:
        """End for good."""
        self._closing.set()
        self.shut()
        self._thread.join()
        self._listener.close()

    def watch(self) -> Watch:
        """Return who watches a new connection."""
        return Watch()

    def _now(self) -> list[_Pair]:
        with self._lock:
            return list(self._pairs)

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            if self._shut.is_set():
                client.close()
                continue
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server, self.watch())
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._carry, args=(pair,), name="gateway-pair", daemon=True).start()

    def _carry(self, pair: _Pair) -> None:
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError, ValueError, CutOff):
            selector.register(pair.client, selectors.EVENT_READ, pair.server)
            selector.register(pair.server, selectors.EVENT_READ, pair.client)
            while not self._closing.is_set():
                for key, _ in selector.select(HELD_SECONDS if pair.held else 0.5):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(65_536)
                    if not data:
                        selector.unregister(source)
                    pair.held.append((time.monotonic() + self.latency_seconds, key.data, data))
                self._pass(pair)
        _end(pair)
        for end in (pair.client, pair.server):
            end.close()
        with self._lock:
            self._pairs.discard(pair)

    def _pass(self, pair: _Pair) -> None:
        while pair.held and not self._frozen.is_set() and not pair.forgotten:
            due, sink, data = pair.held[0]
            if due > time.monotonic():
                return
            pair.held.popleft()
            if not data:
                raise ConnectionResetError
            look = pair.watch.sent if sink is pair.server else pair.watch.answered
            sink.sendall(look(data))


def _end(pair: _Pair) -> None:
    for end in (pair.client, pair.server):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
