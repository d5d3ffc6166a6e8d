"""Copies of a directory into itself, which would never end: where a directory lies."""

from __future__ import annotations

import os
from contextlib import suppress

from unionmount.errors import UnionmountError
from unionmount.system.text import printable

Place = tuple[int, int]
"""A directory: its device and inode."""


def place_of(directory: int | os.PathLike[str]) -> Place:
    """Return which directory this is, by descriptor or path."""
    found = os.stat(directory)  # noqa: PTH116
    return found.st_dev, found.st_ino


def places_above(directory: int) -> set[Place]:
    """Return a directory and those above it, as far as this user can see."""
    found: set[Place] = set()
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    here = os.open(".", flags, dir_fd=directory)
    try:
        while (place := place_of(here)) not in found:
            found.add(place)
            with suppress(PermissionError):
                here, before = os.open("..", flags, dir_fd=here), here
                os.close(before)
    finally:
        os.close(here)
    return found


def is_at_or_below(path: bytes, directory: bytes) -> bool:
    """Compare two paths in the same container, which lead through no symlink."""
    names, above = ([one for one in whole.split(b"/") if one] for whole in (path, directory))
    return names[: len(above)] == above


def in_container(path: str, container: str) -> UnionmountError:
    """Return the error for a path of the host that leads to the files of the container itself."""
    word = printable(container)
    return UnionmountError(
        f"'{printable(path)}' is in '{word}' itself; write {word}:/PATH for a place in it"
    )


def into_itself(source: str, dest: str) -> UnionmountError:
    """Return the error for a copy into itself."""
    return UnionmountError(
        f"cannot copy a directory, '{printable(source)}', into itself, '{printable(dest)}'"
    )
