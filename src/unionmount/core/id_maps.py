"""Owners as they are stored and as a mount shows them (``csrc/system/id_maps.h``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unionmount._core import ffi, lib
from unionmount.core.handle import check
from unionmount.system.id_map import IdMap, IdRange

NO_ID: int = lib.UM_ID_NONE


class IdMaps:
    """Both maps of a mount, for the core; translates in the way of the fast path."""

    def __init__(self, users: IdMap, groups: IdMap) -> None:
        self._ranges = [_ranges(users.ranges), _ranges(groups.ranges)]
        self.handle: Any = ffi.new("struct um_id_maps *")
        for c_map, map_, ranges in zip(
            (self.handle.users, self.handle.groups), (users, groups), self._ranges, strict=True
        ):
            c_map.ranges, c_map.n_ranges = ranges, len(map_.ranges)
            c_map.squashed = -1 if map_.squashed is None else map_.squashed

    def shown(self, uid: int, gid: int) -> tuple[int, int]:
        """Return an owner as callers see it."""
        users, groups = ffi.addressof(self.handle, "users"), ffi.addressof(self.handle, "groups")
        return lib.um_id_shown(users, uid), lib.um_id_shown(groups, gid)

    def stored_uid(self, uid: int) -> int:
        """Return the stored ID of a user who is to own a file; NO_ID where there is none."""
        return int(lib.um_id_stored_owner(ffi.addressof(self.handle, "users"), uid))

    def stored_gid(self, gid: int) -> int:
        """Return the stored ID of a group that is to own a file; NO_ID where there is none."""
        return int(lib.um_id_stored_owner(ffi.addressof(self.handle, "groups"), gid))

    def shown_xattr(self, name: bytes, value: bytes) -> bytes:
        """Return the value of an xattr with the IDs that callers see."""
        return self._translated(name, value, lib.um_id_show_xattr)

    def stored_xattr(self, name: bytes, value: bytes) -> bytes:
        """Return the value with stored IDs; OSError(EINVAL) if one can't be stored."""
        return self._translated(name, value, lib.um_id_store_xattr)

    def _translated(self, name: bytes, value: bytes, translate: Any) -> bytes:
        room = ffi.new("uint8_t[]", value + bytes(lib.UM_ID_XATTR_GROWTH))
        size = check(translate(self.handle, name, len(name), room, len(value)))
        return bytes(ffi.buffer(room, size))


def _ranges(ranges: Sequence[IdRange]) -> Any:
    return ffi.new("struct um_id_range[]", [tuple(one) for one in ranges])
