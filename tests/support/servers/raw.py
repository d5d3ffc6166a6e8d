"""A server that does with its connections whatever a test wants, byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from support.servers.listening import ListeningServer

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


class RawServer(ListeningServer):
    """Runs ``behaviour`` on each connection."""

    def __init__(self, behaviour: Behaviour, host: str = "127.0.0.1", receive: int = 0) -> None:
        super().__init__(host, _LONGEST, receive)
        self._behaviour = behaviour

    def serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            self._behaviour(Connection(connection, self._closing))
