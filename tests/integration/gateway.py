"""A TCP proxy in front of a server: it passes bytes on, or cuts its clients off. It reads no protocol."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class Gateway:
    """Listens on a port of 127.0.0.1 for one server behind it."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._shut = threading.Event()
        self._closing = threading.Event()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="gateway", daemon=True)
        self._thread.start()

    def shut(self) -> None:
        """Cut every connection, and refuse new ones."""
        self._shut.set()
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            _end(pair)

    def open(self) -> None:
        """Let connections through again."""
        self._shut.clear()

    def close(self) -> None:
        """End for good."""
        self._closing.set()
        self.shut()
        self._thread.join()
        self._listener.close()

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
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._carry, args=(pair,), name="gateway-pair", daemon=True).start()

    def _carry(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError, ValueError):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(65_536)
                    if not data:
                        raise ConnectionResetError
                    key.data.sendall(data)
        _end(pair)
        for end in pair:
            end.close()
        with self._lock:
            self._pairs.discard(pair)


def _end(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
