"""Changing a live mount between read-only and writable, as ``mount -o remount`` asks for it.

The kernel changes the flags of a FUSE mount without asking the daemon: it refuses writes by itself.
What the daemon has decided when it started (access times, what set-user-ID programs may do on
disk, where changes go) can't change, so an option that says otherwise is refused.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from unionmount.errors import MountError
from unionmount.mounting.holders import described, holders_of
from unionmount.mounting.records import Record
from unionmount.system import libc
from unionmount.system.mountinfo import MountedAt
from unionmount.system.text import printable

_FLAGS = {
    "ro": libc.MS_RDONLY,
    "nosuid": libc.MS_NOSUID,
    "nodev": libc.MS_NODEV,
    "noexec": libc.MS_NOEXEC,
    "noatime": libc.MS_NOATIME,
    "nodiratime": libc.MS_NODIRATIME,
    "nosymfollow": libc.MS_NOSYMFOLLOW,
    "relatime": libc.MS_RELATIME,
}
_OPPOSITES = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "atime": "noatime",
    "diratime": "nodiratime",
    "symfollow": "nosymfollow",
}
_CHANGED = ("ro", "noexec")  # of these mount(8) names all that shall be, and leaves out the rest


def remount(mounted: MountedAt, record: Record | None, words: Sequence[str]) -> None:
    """Change the flags of a mount as ``words`` say; MountError for all that can't change.

    Without a record, whether the mount has a place for changes is not known.
    """
    where = printable(str(mounted.mountpoint))
    flags = set(mounted.flags & _FLAGS.keys()) - {*_CHANGED}
    for word in words:
        name = _OPPOSITES.get(word, word)
        if name in _CHANGED:
            (flags.discard if word in _OPPOSITES else flags.add)(name)
        elif not _is_so(mounted, word, name):
            raise MountError(
                f"{where}: {printable(word)} can't change while it is mounted (ro, rw, exec and "
                "noexec can): unmount it and mount it again"
            )
    if "ro" not in flags and record is None and mounted.read_only:
        raise MountError(f"{where}: only the user who mounted it can unmount it and mount it rw")
    if "ro" not in flags and record is not None and record.mode == "ro":
        raise MountError(
            f"{where} was mounted read-only and has no place for changes: unmount it and mount it "
            "again with name=, upper= or ephemeral"
        )
    _change(mounted, flags)


def _is_so(mounted: MountedAt, word: str, name: str) -> bool:
    """Whether an option says what is the case already."""
    if word in mounted.options:
        return True
    return (name in mounted.flags) == (word not in _OPPOSITES)


def _change(mounted: MountedAt, flags: set[str]) -> None:
    bits = libc.MS_REMOUNT
    for name in flags:
        bits |= _FLAGS[name]
    where = printable(str(mounted.mountpoint))
    try:
        libc.call("mount", None, os.fsencode(mounted.mountpoint), None, bits, None)
    except OSError as error:
        if error.errno == errno.EBUSY:
            users = described(holders_of(mounted.device))
            by = f" by {users}" if users else ""
            raise MountError(f"{where}: files are open for writing, in use{by}") from None
        raise MountError(f"remounting {where}: {error.strerror}") from None
