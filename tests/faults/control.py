"""Which system call of a process crash.c is to hit."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Layout(ctypes.Structure):
    _fields_ = (
        ("armed", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("chosen", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("name", ctypes.c_char * 48),
    )


class Control:
    """Which system call is to be hit."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(ctypes.sizeof(_Layout)))
        with path.open("r+b") as file:
            self._shared = _Layout.from_buffer(mmap.mmap(file.fileno(), 0))

    @contextmanager
    def armed(self, chosen: int, error: int = 0) -> Iterator[None]:
        """Hit the call of this number in the block; 0 for none."""
        shared = self._shared
        shared.count, shared.chosen, shared.error, shared.name = 0, chosen, error, b""
        shared.armed = 1
        try:
            yield
        finally:
            shared.armed = 0

    @property
    def count(self) -> int:
        """How many calls were made."""
        return int(self._shared.count)

    @property
    def hit(self) -> str:
        """The name of the call that was hit; empty for none."""
        return bytes(self._shared.name).decode()
