"""Which extended attributes are the marks of an upper: ``trusted.overlay.`` or ``user.overlay.``.

What users of a mount call by the other prefix stands on disk as it is. In a mount whose marks have
that prefix it would become one: a user could hide what is below, and what is hidden would show
again. So an upper says which prefix it has, in an attribute of its directory that no user of the
mount can set (csrc/upper/xattr.c). Of one that says nothing, as an earlier version, overlayfs or
fuse-overlayfs made it, it is found out by the marks that are there.
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
    """What the directory ``fd`` says; None if it says nothing.

    What is below ``trusted.`` counts first: only who is privileged can set it.
    """
    names = _names(fd)
    if f"trusted.{_RECORD}" in names:
        return "trusted"
    if f"user.{_RECORD}" in names:
        return "user"
    # Earlier versions wrote this one below user. where they could not below trusted.
    is_users = f"user.{_LOWERS}" in names and f"trusted.{_LOWERS}" not in names
    return "user" if is_users else None


def record_namespace(fd: int, namespace: Namespace) -> None:
    """Let the directory ``fd`` say it, in an attribute that is a mark itself."""
    os.setxattr(fd, f"{namespace}.{_RECORD}", b"y")
    if namespace == "user":
        with suppress(OSError):  # it may have been the other kind, and is empty now
            os.removexattr(fd, f"trusted.{_RECORD}")


def marked_namespace(fd: int) -> Namespace | None:
    """What the marks say that are in the directory ``fd``; all of it is looked at.

    One below ``trusted.`` decides, since users of such a mount may have set the others as they are.
    """
    found: Namespace | None = None
    pending = [b"."]
    while pending:
        path = pending.pop()
        try:
            inner = core.open_beneath(fd, path)
        except OSError as error:
            if error.errno in _UNREACHABLE:  # what is mounted there is no part of it
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
    """Return whether the directory ``fd`` itself has a mark of this prefix."""
    names = _names(fd)
    return any(f"{namespace}.overlay.{mark}" in names for mark in _MARKS)


def _names_in(directory: int, path: bytes, pending: list[bytes]) -> set[str]:
    """Return the names of the attributes of the files in a directory; its directories become
    pending.
    """
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
    """Return the names of its attributes that this process may see; a symlink is not followed."""
    try:
        if isinstance(place, int):
            return set(os.listxattr(place))
        return set(os.listxattr(place, follow_symlinks=False))
    except OSError:
        return set()
