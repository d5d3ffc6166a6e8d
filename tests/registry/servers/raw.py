"""A server that does with its connections whatever a test wants, byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_LONGEST = 300.0  # a connection that a client keeps for so long ends the test as a failure


class Connection:
    """One connection and the first bytes that came over it."""

    def __init__(self, stream: socket.socket, closing: threading.Event) -> None:
        self.socket = stream
        self._closing = closing

    def head(self) -> str:
        """The head of a request; empty where none comes."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                return ""
            data += byte
        return data.decode("latin-1")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def drip(self, data: bytes, pause: float) -> None:
        """Send the bytes one by one, the last ones over and over; until the client goes."""
        for at in range(len(data)):
            self.send(data[at : at + 1])
            self.pause(pause)

    def pause(self, seconds: float) -> None:
        """Wait, unless the server ends: then the connection does, too."""
        if self._closing.wait(seconds):
            raise ConnectionAbortedError

    def stall(self) -> None:
        """Say nothing any more."""
        self.pause(_LONGEST)


Behaviour = Callable[[Connection], None]


class RawServer:
    """Listens on loopback; each connection has a thread that runs ``behaviour``."""

    def __init__(self, behaviour: Behaviour, host: str = "127.0.0.1", receive: int = 0) -> None:
        self._behaviour = behaviour
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()  # guarded by _lock
        self._lock = threading.Lock()
        self._listener = socket.socket()
        if receive:  # bytes that the kernel takes for a server that does not read
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self._listener.bind((host, 0))
        self._listener.listen(64)
        self.address = f"{host}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for stream in self._open:
                with suppress(OSError):
                    stream.shutdown(socket.SHUT_RDWR)
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
                stream, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(stream)
            self._start(self._serve, stream)

    def _serve(self, stream: socket.socket) -> None:
        stream.settimeout(_LONGEST)
        try:
            with suppress(OSError, ValueError):
                self._behaviour(Connection(stream, self._closing))
        finally:
            with self._lock:
                self._open.discard(stream)
            stream.close()
