"""What actors tell of themselves, in memory that they share with who watches them."""

from __future__ import annotations

import mmap
import struct

_SLOT = 256
PLACES = 64
_COUNTS = struct.Struct("<QQ")


class Board:
    """A slot for each actor (how many calls it has begun, and the last one), and a flag to stop."""

    def __init__(self, actors: int) -> None:
        self._memory = mmap.mmap(-1, _SLOT * (actors + 1))

    def _counts(self, actor: int) -> tuple[int, int]:
        begun, succeeded = _COUNTS.unpack_from(self._memory, _SLOT * (actor + 1))
        return begun, succeeded

    def begin(self, actor: int, text: str) -> None:
        """Say what comes next."""
        at, room = _SLOT * (actor + 1), _SLOT - _COUNTS.size
        data = text.encode("utf-8", "backslashreplace")[:room]
        self._memory[at + _COUNTS.size : at + _SLOT] = data.ljust(room, b"\0")
        begun, succeeded = self._counts(actor)
        _COUNTS.pack_into(self._memory, at, begun + 1, succeeded)

    def succeed(self, actor: int) -> None:
        """Say that it was done."""
        begun, succeeded = self._counts(actor)
        _COUNTS.pack_into(self._memory, _SLOT * (actor + 1), begun, succeeded + 1)

    def count(self, actor: int) -> int:
        """How many calls an actor has begun."""
        return self._counts(actor)[0]

    def successes(self, actor: int) -> int:
        """How many of them were no error."""
        return self._counts(actor)[1]

    def text(self, actor: int) -> str:
        """What an actor has begun last."""
        at = _SLOT * (actor + 1)
        data = self._memory[at + _COUNTS.size : at + _SLOT]
        return data.rstrip(b"\0").decode("utf-8", "replace")

    def stop(self) -> None:
        """Let all actors end after the call that they are in."""
        self._memory[0] = 1

    def move(self) -> None:
        """Let everybody go on to a place that nobody knows yet: what is known is kept in memory."""
        self._memory[1] = (self._memory[1] + 1) % PLACES

    def prefix(self) -> str:
        """Where everybody is."""
        return f"/p{self._memory[1]}"

    @property
    def stopped(self) -> bool:
        """Whether they are to end."""
        return self._memory[0] != 0
