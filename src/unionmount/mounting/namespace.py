"""The prefix of an upper's marks: ``trusted.overlay.`` or ``user.overlay.``.

Attributes with the other prefix, set by users of a mount, stand on disk unchanged. If the prefix of
the marks were mistaken, they would become marks: a user could hide lower files, and hidden files
would reappear. So an upper records its prefix in an attribute of its directory that users of the
mount cannot set (csrc/upper/xattr.c). If there is no record, because the upper was made by an
earlier version, overlayfs or fuse-overlayfs, the existing marks decide.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Literal

from unionmount import core

Namespace = Literal["trusted", "user"]

_RECORD = "overlay.unionmount.namespace"
_LOWERS = "overlay.unionmount.lowers"
_MARKS = ("opaque", "redirect", "metacopy", "origin", "impure", "uuid")
_UNREACHABLE = (errno.ENOENT, errno.EXDEV, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)


def recorded_namespace(fd: int) -> Namespace | None:
    """Return the prefix that the directory ``fd`` records; None if it records none.

    A record below ``trusted.`` counts first, since only privileged users can set it.
    """
    names = _names(fd)
    if f"trusted.{_RECORD}" in names:
        return "trusted"
    if f"user.{_RECORD}" in names:
        return "user"
    # Earlier versions wrote it below user. if they could not below trusted.
    is_users = f"user.{_LOWERS}" in names and f"trusted.{_LOWERS}" not in names
    return "user" if is_users else None


def record_namespace(fd: int, namespace: Namespace) -> None:
    """Record the prefix in the directory ``fd``, in an attribute that is a mark itself."""
    os.setxattr(fd, f"{namespace}.{_RECORD}", b"y")
    if namespace == "user":
        with suppress(OSError):  # the directory may have had the other prefix, and is empty now
            os.removexattr(fd, f"trusted.{_RECORD}")


def marked_namespace(fd: int) -> Namespace | None:
    """Return the prefix of the marks in the directory ``fd``, all of which is searched.

    A mark below ``trusted.`` decides, since users of such a mount may have set the others.
    """
    found: Namespace | None = None
    pending = [b"."]
    while pending:
        path = pending.pop()
        try:
            inner = core.open_beneath(fd, path)
        except OSError as error:
            if error.errno in _UNREACHABLE:  # what is mounted there is not part of the upper
                continue
            raise
        try:
            names = _names(inner) | _names_in(inner, path, pending)
        finally:
            os.close(inner)
        if any(f"trusted.overlay.{mark}" in names for mark in _MARKS):
            return "trusted"
        if any(f"user.overlay.{mark}" in names for mark in _MARKS):
            found = "user"
    return found


def is_marked(fd: int, namespace: Namespace) -> bool:
    """Return whether the directory ``fd`` itself has a mark with this prefix."""
    names = _names(fd)
    return any(f"{namespace}.overlay.{mark}" in names for mark in _MARKS)


def _names_in(directory: int, path: bytes, pending: list[bytes]) -> set[str]:
    """Return the names of the attributes of a directory's files; subdirectories become pending."""
    names: set[str] = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                pending.append(path + b"/" + name)
            elif entry.is_file(follow_symlinks=False):
                names |= _names(b"/proc/self/fd/%d/%s" % (directory, name))
    return names


def _names(place: int | bytes) -> set[str]:
    """Return the names of the attributes that this process can see; symlinks are not followed."""
    try:
        if isinstance(place, int):
            return set(os.listxattr(place))
        return set(os.listxattr(place, follow_symlinks=False))
    except OSError:
        return set()
