"""Paths inside an image: symlinks are followed as in a chroot, and never lead out.

Also what a user writes for one, IMAGE:PATH.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.core import ROOT

if TYPE_CHECKING:
    from unionmount.core import Attributes, BrowsableTree

_MAX_LINKS = 40  # as Linux follows in one path
_PREFIXES = frozenset(
    {"docker-archive", "oci-archive", "oci", "docker", "dir", "http", "https", "container"}
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a path leads to; ``path`` is where that stands, without symlinks on the way."""

    path: bytes  # without a slash in front; the root's is empty
    attributes: Attributes

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.attributes.mode)


def split_operand(text: str) -> tuple[str, bytes | None]:
    """IMAGE and PATH of ``IMAGE[:PATH]``: PATH begins at the first ``:/`` that can begin one.

    A colon behind the name of a transport (``oci:/dir``, ``docker://name``) begins none.
    """
    at = text.find(":/")
    while at >= 0 and text[:at] in _PREFIXES:
        at = text.find(":/", at + 1)
    if at <= 0:
        return text, None
    return text[:at], os.fsencode(text[at + 1 :])


class _Walk:
    """A path that is being followed."""

    def __init__(self, files: BrowsableTree) -> None:
        self._files = files
        self._root = files.getattr(ROOT)
        self._above: list[tuple[bytes, Attributes]] = []  # from the root; without it
        self._links = 0

    @property
    def here(self) -> Attributes:
        return self._above[-1][1] if self._above else self._root

    def found(self) -> Found:
        return Found(b"/".join(name for name, _ in self._above), self.here)

    def up(self) -> None:
        if self._above:
            self._above.pop()

    def down(self, name: bytes) -> None:
        self._above.append((name, self._files.lookup(self.here.node, name)))

    def leave_link(self) -> list[bytes]:
        """Go back from a symlink: the names of its target."""
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = self._files.readlink(self.here.node)
        self._above.pop()
        if target.startswith(b"/"):
            self._above.clear()
        return target.split(b"/")


def follow(files: BrowsableTree, path: bytes, *, last: bool = True) -> Found:
    """What ``path`` means for who has the image as its root directory.

    ``last``: a symlink at the end is followed, too. ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG.
    """
    walk, names = _Walk(files), path.split(b"/")[::-1]
    while names:
        name = names.pop()
        if not stat.S_ISDIR(walk.here.mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if name == b"..":
            walk.up()
        elif name not in (b"", b"."):
            walk.down(name)
            if stat.S_ISLNK(walk.here.mode) and (names or last):
                names += walk.leave_link()[::-1]
    return walk.found()
