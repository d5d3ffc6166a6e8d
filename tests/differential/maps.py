"""Maps of owners: the same tree with stored IDs on disk and shown IDs in the mounts.

The machine and the lowers that it makes up have shown IDs. On disk the lowers have the stored ones;
the plain directory and overlayfs are on idmapped mounts of the kernel (mount_setattr(2)), and the
subject has the options ``uidmapping`` and ``gidmapping``.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, replace
from typing import Any

from differential.deviations import KNOWN_DEVIATIONS, Case, Deviation
from differential.lowers import CAPABILITY, Node, Stack, links_last, settled
from unionmount._core import lib
from unionmount.system.id_map import IdRange, parse_id_ranges

UNMAPPED: int = lib.UM_ID_UNMAPPED
OVERFLOW = 65534


@dataclass(frozen=True, slots=True)
class Maps:
    """How users and groups are shown; the texts are those of the options."""

    users: str
    groups: str

    def ranges(self) -> tuple[tuple[IdRange, ...], tuple[IdRange, ...]]:
        """The ranges of users and of groups."""
        return parse_id_ranges(self.users), parse_id_ranges(self.groups)

    def options(self) -> str:
        """What the subject is told."""
        return f",uidmapping={self.users},gidmapping={self.groups}"

    def stored(self, uid: int, gid: int) -> tuple[int, int]:
        """The stored owner; what is in no range is stored as the first ID of the first one."""
        users, groups = self.ranges()
        return _stored(users, uid), _stored(groups, gid)

    def has_root(self) -> bool:
        """Whether root and its group are shown, without which overlayfs mounts no upper."""
        return all(
            any(one.shown <= 0 < one.shown + one.size for one in ranges) for ranges in self.ranges()
        )


# Files whose owner is in no range; they are only read.
_STRANGER = 4_000_000_000
_STRANGERS = (
    ("strangers", Node("dir", mode=0o755, uid=_STRANGER, gid=_STRANGER)),
    ("strangers/file", Node(mode=0o644, uid=_STRANGER, gid=_STRANGER, data=((0, b"x"),))),
    ("strangers/half", Node(mode=0o604, uid=0, gid=_STRANGER)),
    ("strangers/link", Node("symlink", target="file", uid=_STRANGER, gid=_STRANGER)),
)
STRANGERS = [path for path, _ in _STRANGERS]


def _stored(ranges: tuple[IdRange, ...], shown: int) -> int:
    for one in ranges:
        if one.shown <= shown < one.shown + one.size:
            return one.stored + shown - one.shown
    return ranges[0].stored


def stored_stack(stack: Stack, maps: Maps) -> Stack:
    """The same as it is on disk, with all the parents that come of it, and the strangers' files."""
    stored = tuple(
        tuple((path, _stored_node(node, maps)) for path, node in links_last(settled(layer)))
        for layer in stack
    )
    return (*stored[:-1], (*stored[-1], *_STRANGERS))


def _stored_node(node: Node, maps: Maps) -> Node:
    uid, gid = maps.stored(node.uid, node.gid)
    xattrs = tuple((name, _stored_value(name, value, maps)) for name, value in node.xattrs)
    return replace(node, uid=uid, gid=gid, xattrs=xattrs)


def _stored_value(name: str, value: bytes, maps: Maps) -> bytes:
    if name == "security.capability":
        *sets, root = struct.unpack("<6I", value.ljust(24, b"\0"))
        root = maps.stored(root, 0)[0]
        return struct.pack("<6I", 0x03000001, *sets[1:], root) if root else CAPABILITY
    if not name.startswith("system.posix_acl_"):
        return value
    entries = bytearray(value)
    for at in range(4, len(value), 8):
        tag, permissions, number = struct.unpack_from("<HHI", value, at)
        if tag in (2, 8):
            number = maps.stored(number, number)[tag == 8]
        struct.pack_into("<HHI", entries, at, tag, permissions, number)
    return bytes(entries)


# ---- where idmapped mounts, overlayfs on them and the subject differ -----------------------------


def _is_refused_either_way(case: Case) -> bool:
    refusals = {("error", errno.EPERM), ("error", errno.EACCES)}
    both = (case.kernel, case.plain)
    return (
        not case.field
        and ("error", errno.EOVERFLOW) in both
        and any(one in refusals for one in both)
    )


def _is_capability_lost(case: Case) -> bool:
    """The change itself fails, as the owner can't be stored; what it does at first stays done."""
    if case.field == "xattrs":
        lists = [[pair for pair in one if pair[0] != _CAPABILITY] for one in _both(case)]
        return lists[0] == lists[1]
    if case.operation == "listxattr":
        lists = [[name for name in one[1] if name != _CAPABILITY.decode()] for one in _both(case)]
        return case.kernel[0] == case.plain[0] and lists[0] == lists[1]
    return not case.field and case.arguments.get("name") == _CAPABILITY.decode()


def _both(case: Case) -> tuple[Any, Any]:
    return case.kernel, case.plain


_CAPABILITY = b"security.capability"

DEVIATIONS = (
    *KNOWN_DEVIATIONS,
    Deviation(
        "owners-that-do-not-fit",
        "an idmapped mount sees first that an owner can't be stored, and overlayfs on it last",
        _is_refused_either_way,
        right="either",
    ),
    Deviation(
        "capability-lost-by-a-refused-chown",
        "a chown(2) that overlayfs' upper refuses has removed the capability before",
        _is_capability_lost,
        right="either",
    ),
)


def excuse(case: Case) -> bool:
    """Where the subject differs from an idmapped mount on purpose (docs/reference/options.md)."""
    if case.field in ("uid", "gid"):
        return bool(case.kernel == UNMAPPED and case.plain == OVERFLOW)
    return _is_refused_either_way(case)
