"""The scaffold: a layer in memory with the mount points that an image lacks.

It is put on top of an image's layers for one mount, below the changes, so that no mount point is a
change of the container (docs/explanation/running.md has the invariants). Directories on the way to
its entries are implied, and so keep the attributes that they have in the image.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from unionmount import core
from unionmount.errors import MountError
from unionmount.formats.tar_writer import END, Member, header
from unionmount.images.opened import OpenLayer
from unionmount.images.reference import Digest
from unionmount.system.text import printable

_NAME_MAX = 255
_MAX_LINKS = 40  # the limit of Linux for one path
_WHAT = "mount points"  # in messages


@dataclass(frozen=True, slots=True)
class Place:
    """A path of the container that is to exist: a directory, or an empty file."""

    path: bytes
    directory: bool = True
    mode: int = 0o755  # of a directory


def open_scaffold(files: core.BrowsableTree, places: Iterable[Place]) -> OpenLayer | None:
    """Return a layer with those places that ``files`` lacks; None if it has all.

    Raise MountError if something that is not a directory is in the way.
    """
    builder = _Builder(files)
    for place in places:
        builder.add(place)
    if not builder.made:
        return None
    now = time.time_ns()
    members = (Member(path, mode=mode, mtime_ns=now) for path, mode in sorted(builder.made.items()))
    tar = b"".join(map(header, members)) + END
    return _layer(tar)


def _layer(tar: bytes) -> OpenLayer:
    with ExitStack() as stack, core.Indexer(_WHAT) as indexer:
        data = os.memfd_create("scaffold.tar", os.MFD_CLOEXEC)
        stack.callback(os.close, data)
        index = os.memfd_create("scaffold.idx", os.MFD_CLOEXEC)
        stack.callback(os.close, index)
        with os.fdopen(data, "wb", closefd=False) as file:
            file.write(tar)
        indexer.feed(tar)
        indexer.finish(len(tar), index)
        stack.pop_all()
    digest = Digest.parse(f"sha256:{hashlib.sha256(tar).hexdigest()}")
    return OpenLayer(digest, data, 0, len(tar), index)


class _Builder:
    """The paths that are to be made: without symlinks, and without a leading slash."""

    def __init__(self, files: core.BrowsableTree) -> None:
        self._files = files
        self.made: dict[bytes, int] = {}  # with their modes

    def add(self, place: Place) -> None:
        """Make ``place`` and the directories above it, as far as they are missing."""
        here: list[bytes] = []
        names = place.path.split(b"/")[::-1]
        links = 0
        while names:
            name = names.pop()
            if name == b"..":
                del here[-1:]
                continue
            if name in (b"", b"."):
                continue
            here.append(name)
            is_last = not any(one not in (b"", b".") for one in names)
            target = self._step(place, b"/".join(here), is_last=is_last)
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise _error(place, errno.ELOOP)
                here = [] if target.startswith(b"/") else here[:-1]
                names += target.split(b"/")[::-1]

    def _step(self, place: Place, path: bytes, *, is_last: bool) -> bytes | None:
        """Look at ``path``, or make it; return the target of a symlink."""
        if path in self.made:
            mode = self.made[path]
        else:
            try:
                found = self._files.resolve(path)
            except FileNotFoundError:
                if len(path.rpartition(b"/")[2]) > _NAME_MAX:
                    raise MountError(
                        f"{_named(place)}: {os.strerror(errno.ENAMETOOLONG)}"
                    ) from None
                mode = self.made[path] = _mode(place) if is_last else stat.S_IFDIR | 0o755
            except OSError as error:
                raise _error(place, error.errno or errno.EIO) from None
            else:
                if stat.S_ISLNK(found.mode):
                    return self._files.readlink(found.node)
                mode = found.mode
        if not stat.S_ISDIR(mode) and not is_last:
            raise MountError(
                f"{_named(place)}: /{printable(path)} is not a directory in the image; choose "
                "another path"
            )
        return None


def _mode(place: Place) -> int:
    return stat.S_IFDIR | place.mode if place.directory else stat.S_IFREG | 0o644


def _error(place: Place, number: int) -> MountError:
    return MountError(f"{_named(place)}: {os.strerror(number)}")


def _named(place: Place) -> str:
    return f"mount point {printable(place.path)}"
