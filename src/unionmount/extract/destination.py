"""Where a copy goes: the rules of docker cp for SOURCE, DEST, and slashes at their ends."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from unionmount.errors import NotFoundError, UnionmountError
from unionmount.system.text import printable


@dataclass(frozen=True, slots=True)
class Spot:
    """A file that exists; ``path`` leads to it through no symlink."""

    path: bytes
    mode: int

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


Find = Callable[[bytes], Spot | None]
"""Follows a path to its file; None if there is none."""


@dataclass(frozen=True, slots=True)
class Top:
    """What is copied: its own name, and whether a directory is copied or only what is in it."""

    name: bytes
    is_directory: bool
    contents: bool

    @classmethod
    def of(cls, requested: bytes, real: bytes, mode: int) -> Top:
        """Return the top that a user's path names; ``real`` is where it leads.

        Raise NotADirectoryError for a slash behind a file that is not a directory.
        """
        is_directory = stat.S_ISDIR(mode)
        if not is_directory and leads_into(requested):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        last = requested.rstrip(b"/").rpartition(b"/")[2]
        name = real.rpartition(b"/")[2] if last in (b"", b".", b"..") else last
        return cls(name, is_directory, is_directory and (last == b"." or not name))


def leads_into(path: bytes) -> bool:
    """Return whether a path can only be one of a directory: it ends with a slash or a dot."""
    return path.endswith(b"/") or path.rpartition(b"/")[2] in (b".", b"..")


def landing(find: Find, dest: bytes, top: Top) -> tuple[bytes, bytes]:
    """Return the directory that the top is copied into, and its name there.

    The name is empty if the contents of a directory go into the directory itself.
    """
    shown = printable(dest)
    there = find(dest)
    if there is None:
        if leads_into(dest) and not top.is_directory:
            raise NotFoundError(f"'{shown}' does not exist; make the directory first")
        return _new(find, dest)
    if there.is_directory:
        return there.path, b"" if top.contents else top.name
    if top.is_directory:
        raise UnionmountError(f"'{shown}' is not a directory, so no directory can be copied to it")
    if leads_into(dest):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), dest)
    above, _, name = there.path.rpartition(b"/")
    return above or b"/", name


def existing_directory(find: Find, dest: bytes) -> bytes:
    """Return the directory that a tar is unpacked in."""
    there = find(dest)
    if there is None:
        raise NotFoundError(f"'{printable(dest)}' does not exist; make the directory first")
    if not there.is_directory:
        raise UnionmountError(
            f"'{printable(dest)}' is not a directory, so no tar can be unpacked there"
        )
    return there.path


def _new(find: Find, dest: bytes) -> tuple[bytes, bytes]:
    """Return directory and name of what does not exist yet."""
    above, slash, name = dest.rstrip(b"/").rpartition(b"/")
    while name == b".":
        above, slash, name = above.rstrip(b"/").rpartition(b"/")
    if name in (b"", b".."):
        raise NotFoundError(f"'{printable(dest)}' does not exist")
    directory = above if above or not slash else b"/"
    there = find(directory or b".")
    if there is None:
        raise NotFoundError(f"'{printable(directory)}' does not exist; make the directory first")
    if not there.is_directory:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    return there.path, name
