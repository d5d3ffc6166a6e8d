"""A server on loopback with a thread for each connection; all are gone when the context is left."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from support.servers.running import Running


class ListeningServer(Running):
    """Base class of servers that answer over plain sockets: a subclass says how, in ``serve``.

    ``patience`` is how many seconds one read or write of a connection may take; ``receive`` is how
    many bytes the kernel takes for a server that does not read (0: as many as it likes).
    """

    def __init__(self, host: str, patience: float, receive: int = 0) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()  # guarded by _lock
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._listener = socket.socket()
        if receive:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self._listener.bind((host, 0))
        self._listener.listen(256)
        self.address = f"{host}:{self._listener.getsockname()[1]}"

    def serve(self, connection: socket.socket) -> None:
        """Answer one connection, which the caller closes."""
        raise NotImplementedError

    def start(self) -> None:
        self._start(self._accept)

    def stop(self) -> None:
        with self._lock:
            self._closing.set()
            held = list(self._sockets)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for one in held:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(self._patience)
            with self._lock:
                if self._closing.is_set():
                    connection.close()
                    return
                self._sockets.add(connection)
            self._start(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            self.serve(connection)
        finally:
            with self._lock:
                self._sockets.discard(connection)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
