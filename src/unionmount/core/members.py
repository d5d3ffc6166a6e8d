"""Plain files as members of a tar, made in C (``tree/members.h``)."""

from __future__ import annotations

from typing import Any

from unionmount._core import ffi, lib
from unionmount.core.handle import Owner, check
from unionmount.core.nodes import Node
from unionmount.core.tree import Tree

_FULL: int = lib.UM_MEMBERS_FULL


class PlainMembers(Owner):
    """A writer of the plain files of a tree: those whose headers are simple.

    It keeps the tree alive, but does not keep it open. One thread may use it at a time.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        out = ffi.new("struct um_members **")
        check(lib.um_members_open(tree._handle, out))
        self._handle = out[0]
        self._cookie = ffi.new("uint64_t *")
        self._used = ffi.new("size_t *")

    def _release(self, handle: Any) -> None:
        lib.um_members_close(handle)

    def read_ahead(self, layer: int, offset: int) -> None:
        """Have the kernel read a part of a layer; ``offset`` is one of its tar in that part."""
        lib.um_members_read_ahead(self._handle, layer, offset)

    def add(
        self, directory: Node, prefix: bytes, cookie: int, buffer: bytearray, used: int
    ) -> tuple[int, int, bool]:
        """Add plain files of a directory to ``buffer``, after the ``used`` bytes in it.

        Their names begin with ``prefix``. Return the cookie of the first entry that was not added,
        the bytes of ``buffer`` that are used now, and whether that entry needs more room. If not,
        it is not plain, or the directory has ended. Errors are left to whoever reads that entry.
        """
        self._cookie[0], self._used[0] = cookie, used
        with ffi.from_buffer(buffer, require_writable=True) as room:
            state = lib.um_members_add(
                *(self._handle, directory, prefix, len(prefix)),
                *(self._cookie, room, len(buffer), self._used),
            )
        return self._cookie[0], self._used[0], state == _FULL
