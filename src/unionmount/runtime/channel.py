"""A connection of monitor and client that never blocks, in either direction."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from unionmount.runtime.protocol import DamagedStream, Message, MessageReader
from unionmount.system.closing import Closing

_STEP = 64 * 1024
MAX_WAITING = 1024 * 1024
"""Bytes that may wait to be sent before whoever makes more of them has to pause."""


class MonitorChannel(Closing):
    """A connected socket, the messages that arrive, and the bytes that wait to be sent."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over ``connection``."""
        connection.setblocking(False)
        self._socket = connection
        self._reader = MessageReader()
        self._waiting = bytearray()
        self.ended = False  # whether the other side has closed, or sent nonsense

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    @property
    def is_full(self) -> bool:
        """Whether more bytes wait than should."""
        return len(self._waiting) > MAX_WAITING

    @property
    def has_waiting(self) -> bool:
        """Whether bytes wait to be sent."""
        return bool(self._waiting)

    def send(self, data: bytes) -> None:
        """Send bytes, now as far as possible."""
        self._waiting += data
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as possible."""
        while self._waiting and not self.ended:
            try:
                sent = self._socket.send(self._waiting[:_STEP])
            except BlockingIOError:
                return
            except OSError:
                self.ended = True
                return
            del self._waiting[:sent]

    def receive(self) -> Iterator[Message]:
        """Yield the messages that have arrived."""
        try:
            data = self._socket.recv(_STEP)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return
        try:
            yield from self._reader.feed(data)
        except DamagedStream:
            self.ended = True

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._socket.close()
