"""Messages between a monitor and its clients, on a stream socket.

A message is a byte for its kind, the length of its body in four bytes (big-endian), and the body.
Either side ends the connection by closing it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

MAX_BODY = 64 * 1024
"""The largest body in bytes; more is a damaged stream."""
_HEAD = struct.Struct(">cI")
_SIZE = struct.Struct(">HH")


class Kind(Enum):
    """The kinds of messages: those from a client, then those from the monitor."""

    INPUT = b"i"  # bytes for standard input
    END_OF_INPUT = b"e"
    WINDOW = b"w"  # rows and columns of the client's terminal
    SIGNAL = b"s"  # the number of a signal for the container
    OUTPUT = b"o"  # bytes of standard output, or of the terminal
    ERRORS = b"r"  # bytes of standard error
    STARTED = b"b"  # the name of the container
    FAILED = b"f"  # the exit status of the client, and a message
    EXITED = b"x"  # the exit status of the container


class Message(NamedTuple):
    """A message and its body."""

    kind: Kind
    body: bytes = b""


class DamagedStream(Exception):
    """The other side sent bytes that are no message."""


def encode(kind: Kind, body: bytes = b"") -> bytes:
    """Return the bytes of a message; a body that is too long is sent as several."""
    parts = [body[at : at + MAX_BODY] for at in range(0, len(body), MAX_BODY)] or [b""]
    return b"".join(_HEAD.pack(kind.value, len(part)) + part for part in parts)


def encode_number(kind: Kind, number: int, text: bytes = b"") -> bytes:
    """Return a message whose body is a number, and perhaps a text behind it."""
    return encode(kind, b"%d %s" % (number, text))


def number_of(body: bytes) -> tuple[int, bytes]:
    """Return the number and the text of a body."""
    number, _, text = body.partition(b" ")
    if not number.isdigit() or len(number) > 6:
        raise DamagedStream
    return int(number), text


def encode_window(rows: int, columns: int) -> bytes:
    """Return a message with the size of a terminal."""
    return encode(Kind.WINDOW, _SIZE.pack(min(rows, 0xFFFF), min(columns, 0xFFFF)))


def window_of(body: bytes) -> tuple[int, int]:
    """Return rows and columns."""
    if len(body) != _SIZE.size:
        raise DamagedStream
    rows, columns = _SIZE.unpack(body)
    return rows, columns


class MessageReader:
    """Puts messages together from the pieces in which they arrive."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take the next bytes, and yield the messages that are complete by now."""
        self._pending += data
        while len(self._pending) >= _HEAD.size:
            kind, size = _HEAD.unpack_from(self._pending)
            if size > MAX_BODY:
                raise DamagedStream
            end = _HEAD.size + size
            if len(self._pending) < end:
                return
            body = bytes(self._pending[_HEAD.size : end])
            del self._pending[:end]
            try:
                yield Message(Kind(kind), body)
            except ValueError:
                raise DamagedStream from None
