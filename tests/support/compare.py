"""Compare two directory trees entry by entry, as lstat, listxattr and read show them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """All that is compared of one path."""

    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    digest: str
    nlink: int
    names: tuple[bytes, ...]
    """All paths of the same inode."""


Snapshot = dict[bytes, Item]


def digest_of(content: bytes) -> str:
    """What an item says of a file with this content."""
    return hashlib.sha256(content).hexdigest()


def _digest(path: bytes) -> str:
    sha256 = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a path of bytes
        while piece := file.read(_PIECE):
            sha256.update(piece)
    return sha256.hexdigest()


# XFS shows root the ACLs that it has a second time, in a form of its own.
OTHER_ACLS = b"trusted.SGI_ACL_"


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for name in map(os.fsencode, os.listxattr(path, follow_symlinks=False)):
        if name.startswith(OTHER_ACLS):
            continue
        try:
            found.append((name, os.getxattr(path, name, follow_symlinks=False)))
        except OSError as error:
            # The kernel lists user.* of symlinks and devices but does not hand it out.
            if error.errno != errno.ENODATA or not name.startswith(b"user."):
                raise
    return tuple(sorted(found))


def _walk(top: bytes, path: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
    full = os.path.join(top, path) if path else top  # noqa: PTH118 - bytes
    yield path, os.lstat(full)
    with os.scandir(full) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        below = path + b"/" + entry.name if path else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(top, below)
        else:
            yield below, os.lstat(entry.path)


def _item(full: bytes, status: os.stat_result, names: tuple[bytes, ...]) -> Item:
    kind = stat.S_IFMT(status.st_mode)
    is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Item(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if kind == stat.S_IFDIR else status.st_size,
        mtime_ns=status.st_mtime_ns,
        target=os.readlink(full) if kind == stat.S_IFLNK else b"",  # noqa: PTH115 - bytes
        rdev=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        xattrs=_xattrs(full),
        digest=_digest(full) if kind == stat.S_IFREG else "",
        nlink=status.st_nlink,
        names=names,
    )


def snapshot(top: Path) -> Snapshot:
    """Everything in the tree; the top itself is ``b""``."""
    root = os.fsencode(top)
    found = dict(_walk(root))
    groups = defaultdict(list)
    for path, status in found.items():
        groups[status.st_dev, status.st_ino].append(path)
    return {
        path: _item(
            root + b"/" + path if path else root,
            status,
            tuple(sorted(groups[status.st_dev, status.st_ino])),
        )
        for path, status in found.items()
    }


Excuse = Callable[[bytes, str, object, object], bool]
"""Whether a difference (path, field, expected, found) is known and explained."""


def _never(path: bytes, field: str, expected: object, found: object) -> bool:
    return False


def differences(expected: Snapshot, found: Snapshot, excuse: Excuse = _never) -> list[str]:
    """One line for every path or field that is not the same."""
    lines = [f"{path!r}: missing" for path in sorted(expected.keys() - found.keys())]
    lines += [f"{path!r}: should not be" for path in sorted(found.keys() - expected.keys())]
    for path in sorted(expected.keys() & found.keys()):
        for name in (field.name for field in fields(Item)):
            wanted, got = getattr(expected[path], name), getattr(found[path], name)
            if wanted != got and not excuse(path, name, wanted, got):
                lines.append(f"{path!r}: {name} is {got!r}, expected {wanted!r}")
    return lines


def shown(path: Path) -> tuple[str, int, int, tuple[int, int]]:
    """Type and mode as ``ls`` writes them, owner, group, and number of a device."""
    found = path.lstat()
    device = (os.major(found.st_rdev), os.minor(found.st_rdev))
    return stat.filemode(found.st_mode), found.st_uid, found.st_gid, device
