"""The C core, as context managers: the only importer of the compiled module.

``Indexer`` turns the tar of a layer into an index file, ``Index`` reads it, ``Tree`` stacks layers,
``Upper`` puts a writable directory on a tree, ``Router`` answers the kernel from them. Headers with
the contracts, in csrc: ``index/builder.h``, ``index/index.h``, ``tree/tree.h``, ``upper/upper.h``,
``router/router.h``. Calls into C release the GIL. Paths and names inside the file system are
``bytes``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from unionmount._core import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]
from unionmount.core.handle import Owner, check, fault_error, memory_error

_SCAN_BUDGET = 8 * 1024 * 1024  # bytes read between two chances to be interrupted


class IndexInfo(NamedTuple):
    """Statistics that an index keeps of its layer; sizes in bytes."""

    layer_size: int
    inodes: int
    dirents: int
    files: int
    file_bytes: int
    directories: int
    whiteouts: int
    opaques: int
    acls: int
    unresolved: int


class IndexLimits(NamedTuple):
    """Bounds of what one layer may hold; 0 stands for the core's default."""

    max_entries: int = 0
    max_strings: int = 0
    max_memory: int = 0  # bytes that indexing it may take


_NO_PRIVATE_MOUNTS = (errno.EPERM, errno.EINVAL, errno.ENOSYS)


@contextmanager
def private_directory(
    fd: int, *, read_only: bool, atime: bool = False, diratime: bool = True
) -> Iterator[int | None]:
    """The directory ``fd`` on a mount of its own, where nobody can mount anything below it.

    A name that is a mount point for others is there what the mount point covers. With ``atime``
    reading changes access times, as relatime has it; ``diratime``: of directories, too. None if
    this user cannot have one: that takes CAP_SYS_ADMIN.
    """
    how = lib.UM_PRIVATE_READ_ONLY if read_only else 0
    how |= 0 if atime else lib.UM_PRIVATE_NOATIME
    how |= 0 if diratime else lib.UM_PRIVATE_NODIRATIME
    private = lib.um_private_directory(fd, how)
    if -private in _NO_PRIVATE_MOUNTS:
        yield None
        return
    check(private)
    try:
        yield private
    finally:
        os.close(private)


def open_beneath(directory: int, path: bytes) -> int:
    """Open a directory below ``directory`` for reading, through no symlink and no mount point."""
    return check(lib.um_open_directory(directory, path))


class Indexer(Owner):
    """Builds the index of one layer from its tar, either fed or scanned in place.

    ``what`` names the layer in messages.
    """

    def __init__(self, what: str, limits: IndexLimits = IndexLimits(), spool: int = -1) -> None:
        """``spool`` is a descriptor of an empty file, the caller's, to keep xattrs in.

        Without one they are kept in memory, and counted against ``limits.max_memory``.
        """
        self._what = what
        slot = ffi.new("struct um_indexer **")
        c_limits = ffi.new("struct um_index_limits *", tuple(limits))
        self._fault = ffi.new("struct um_fault *")
        code = lib.um_indexer_open(c_limits, slot)
        if code == -errno.ENOBUFS:
            needed = f"its index would need more than {limits.max_memory} bytes of memory"
            raise memory_error(f"{what}: {needed}")
        check(code)
        self._handle = slot[0]
        if spool >= 0:
            lib.um_indexer_spool(self._handle, spool)

    def _release(self, handle: Any) -> None:
        lib.um_indexer_close(handle)

    def _checked(self, code: int) -> int:
        if code < 0:
            raise fault_error(code, self._fault, self._what)
        return code

    def feed(self, data: Buffer) -> None:
        """Take the next bytes of the uncompressed tar; raise FormatError if they are damaged."""
        view = ffi.from_buffer(data)
        self._checked(lib.um_indexer_feed(self._handle, view, len(view), self._fault))

    def scan(self, fd: int, offset: int, length: int) -> Iterator[None]:
        """Read the headers of the tar at ``offset`` of ``fd``; yields now and then.

        The caller drives the iterator to its end, and may drop it in between to cancel.
        """
        while self._checked(
            lib.um_indexer_scan(self._handle, fd, offset, length, _SCAN_BUDGET, self._fault)
        ):
            yield

    def unresolved(self) -> Iterator[bytes]:
        """Yield names of entries without a place: symlinks on their way lead in a circle."""
        name, size = ffi.new("char const **"), ffi.new("size_t *")
        number = 0
        while lib.um_indexer_unresolved(self._handle, number, name, size):
            yield bytes(ffi.buffer(name[0], size[0]))
            number += 1

    def finish(self, layer_size: int, fd: int) -> None:
        """Write the index to ``fd``; raise FormatError if the tar ended too early."""
        self._checked(lib.um_indexer_finish(self._handle, layer_size, fd, self._fault))


class Index(Owner):
    """An index file, mapped (or copied, where others can change it) and checked.

    FormatError where it is damaged, LimitExceeded where it is too large.
    """

    def __init__(self, fd: int, what: str) -> None:
        self._what = what
        slot = ffi.new("struct um_index **")
        fault = ffi.new("struct um_fault *")
        code = lib.um_index_open(fd, slot, fault)
        if code < 0:
            raise fault_error(code, fault, what)
        self._handle = slot[0]

    def _release(self, handle: Any) -> None:
        lib.um_index_close(handle)

    @property
    def copied(self) -> int:
        """Bytes of memory that it may come to hold because it is copied; 0 where it is mapped."""
        return int(lib.um_index_copied(self._handle))

    @property
    def info(self) -> IndexInfo:
        """What the index says of its layer as a whole."""
        info = ffi.new("struct um_index_info *")
        lib.um_index_get_info(self._handle, info)
        return IndexInfo(
            info.layer_size,
            info.inodes,
            info.dirents,
            info.files,
            info.file_bytes,
            info.directories,
            info.whiteouts,
            info.opaques,
            info.acls,
            info.unresolved,
        )

    def verify(self) -> None:
        """Check every block now; FormatError names the byte that is wrong."""
        fault = ffi.new("struct um_fault *")
        code = lib.um_index_verify(self._handle, fault)
        if code < 0:
            raise fault_error(code, fault, self._what)


def stored_name(name: bytes) -> bytes:
    """Under which name a layer has the extended attribute that users of a mount call ``name``.

    What is called as overlayfs calls its marks is escaped. Raise EOPNOTSUPP if it gets too long.
    """
    stored = ffi.new("char[]", lib.UM_OVERLAY_ROOM)
    check(lib.um_overlay_store(lib.UM_OVERLAY_BOTH, name, len(name), stored))
    return bytes(ffi.string(stored))


NEVER = (1 << 64) - 1  # no file is as large
