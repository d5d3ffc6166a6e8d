"""Paths inside an image: IMAGE:PATH, and symlinks that are followed as in a chroot."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.core import ROOT

if TYPE_CHECKING:
    from unionmount.core import Attributes, BrowsableTree

_MAX_LINKS = 40  # the limit of Linux for one path
_PREFIXES = frozenset(
    {"docker-archive", "oci-archive", "oci", "docker", "dir", "http", "https", "container"}
)


@dataclass(frozen=True, slots=True)
class Found:
    """The file at a path; ``path`` is its own path, without symlinks in its directories."""

    path: bytes  # without a leading slash; empty for the root
    attributes: Attributes

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.attributes.mode)


def split_operand(text: str) -> tuple[str, bytes | None]:
    """Split ``IMAGE[:PATH]`` at the first ``:/`` that can begin PATH.

    The colon after the name of a transport (``oci:/dir``, ``docker://name``) cannot.
    """
    at = text.find(":/")
    while at >= 0 and text[:at] in _PREFIXES:
        at = text.find(":/", at + 1)
    if at <= 0:
        return text, None
    return text[:at], os.fsencode(text[at + 1 :])


class _Walk:
    """The state of following a path."""

    def __init__(self, files: BrowsableTree) -> None:
        self._files = files
        self._root = files.getattr(ROOT)
        self._above: list[tuple[bytes, Attributes]] = []  # from the root, which is left out
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
        """Step back from a symlink and return the components of its target."""
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = self._files.readlink(self.here.node)
        self._above.pop()
        if target.startswith(b"/"):
            self._above.clear()
        return target.split(b"/")


def follow(files: BrowsableTree, path: bytes, *, last: bool = True) -> Found:
    """Resolve ``path`` for a process that has the image as its root directory.

    With ``last``, a symlink at the end is followed, too. Raise ENOENT, ENOTDIR, ELOOP or
    ENAMETOOLONG.
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
