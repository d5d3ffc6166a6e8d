"""What actors tell of themselves, in memory that they share with who watches them."""

from __future__ import annotations

import mmap
import struct

_SLOT = 256
_COUNT = struct.Struct("<Q")


class Board:
    """A slot for each actor (how many calls it has begun, and the last one), and a flag to stop."""

    def __init__(self, actors: int) -> None:
        self._memory = mmap.mmap(-1, _SLOT * (actors + 1))

    def begin(self, actor: int, text: str) -> None:
        """Say what comes next."""
        at = _SLOT * (actor + 1)
        data = text.encode("utf-8", "backslashreplace")[: _SLOT - _COUNT.size - 1]
        self._memory[at + _COUNT.size : at + _SLOT] = data.ljust(_SLOT - _COUNT.size, b"\0")
        self._memory[at : at + _COUNT.size] = _COUNT.pack(self.count(actor) + 1)

    def count(self, actor: int) -> int:
        """How many calls an actor has begun."""
        at = _SLOT * (actor + 1)
        number: int = _COUNT.unpack(self._memory[at : at + _COUNT.size])[0]
        return number

    def text(self, actor: int) -> str:
        """What an actor has begun last."""
        at = _SLOT * (actor + 1) + _COUNT.size
        return self._memory[at : at + _SLOT - _COUNT.size].rstrip(b"\0").decode("utf-8", "replace")

    def stop(self) -> None:
        """Let all actors end after the call that they are in."""
        self._memory[0] = 1

    @property
    def stopped(self) -> bool:
        """Whether they are to end."""
        return self._memory[0] != 0
