"""Files of an image, read with bounds."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.errors import FormatError, LimitExceeded

if TYPE_CHECKING:
    from pathlib import Path

    from unionmount.core import Attributes, BrowsableTree

_CHUNK = 1 << 20
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A regular file of a tree."""

    files: BrowsableTree
    attributes: Attributes

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.attributes.size

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes, fewer only at the end of the file."""
        return self.files.read(self.attributes.node, offset, min(size, max(self.size - offset, 0)))

    def read(self, limit: int) -> bytes:
        """Return everything; raise LimitExceeded if that is more than ``limit`` bytes."""
        self._check(limit)
        return self.read_at(0, self.size)

    def copy_to(self, path: Path, limit: int) -> None:
        """Copy the file to a new one; raise LimitExceeded if it is larger than ``limit``.

        Blocks of zeros become holes.
        """
        self._check(limit)
        with path.open("xb") as out:
            for offset in range(0, self.size, _CHUNK):
                piece = self.read_at(offset, _CHUNK)
                for at in range(0, len(piece), _BLOCK):
                    block = piece[at : at + _BLOCK]
                    if block.count(0) == len(block):
                        out.seek(len(block), os.SEEK_CUR)
                    else:
                        out.write(block)
            out.truncate(self.size)

    def _check(self, limit: int) -> None:
        if not stat.S_ISREG(self.attributes.mode):
            raise FormatError("is not a regular file")
        if self.size > limit:
            raise LimitExceeded(f"has {self.size} bytes, more than {limit}")
