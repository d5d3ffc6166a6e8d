"""The index of a layer: ``Indexer`` makes it from a tar, ``Index`` opens and checks it."""

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

_SCAN_BUDGET = 8 * 1024 * 1024  # bytes that are read between two chances for an interruption


class IndexInfo(NamedTuple):
    """The statistics of a layer in its index; sizes are in bytes."""

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
    """The limits for one layer; 0 is the core's default."""

    max_entries: int = 0
    max_strings: int = 0
    max_memory: int = 0  # bytes for indexing the layer


_NO_PRIVATE_MOUNTS = (errno.EPERM, errno.EINVAL, errno.ENOSYS)


@contextmanager
def private_directory(
    fd: int, *, read_only: bool, atime: bool = False, diratime: bool = True
) -> Iterator[int | None]:
    """Open the directory ``fd`` on a private mount, below which nobody can mount anything.

    A name that is a mount point elsewhere shows what the mount point covers. With ``atime``,
    reading changes access times like relatime; with ``diratime``, those of directories, too. Yield
    None if this user may not create one, which takes CAP_SYS_ADMIN.
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
    """Open a directory below ``directory``, without crossing symlinks or mount points."""
    return check(lib.um_open_directory(directory, path))


def open_within(directory: int, path: bytes, flags: int, *, in_root: bool = False) -> int:
    """Open ``path`` below the directory of a user; mount points are crossed.

    A symlink on the way is ELOOP. With ``in_root``, symlinks are followed as if ``directory`` were
    the root directory. ``flags`` make nothing.
    """
    how = lib.UM_WITHIN_IN_ROOT if in_root else 0
    return check(lib.um_open_within(directory, path, flags, how))


class Indexer(Owner):
    """A builder of the index of one layer, whose tar is fed or scanned in place.

    ``what`` names the layer in messages.
    """

    def __init__(
        self,
        what: str,
        limits: IndexLimits = IndexLimits(),
        spool: int = -1,
        *,
        literal: bool = False,
    ) -> None:
        """Create an indexer; ``spool`` is a borrowed descriptor of an empty file for xattrs.

        Without it they are kept in memory, and counted against ``limits.max_memory``. With
        ``literal``, no name is a whiteout: the tar is a root file system instead of a layer.
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
        if literal:
            lib.um_indexer_take_literally(self._handle)

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
        """Read the headers of the tar at ``offset`` of ``fd``, and yield from time to time.

        The caller runs the iterator to its end, or drops it to cancel.
        """
        while self._checked(
            lib.um_indexer_scan(self._handle, fd, offset, length, _SCAN_BUDGET, self._fault)
        ):
            yield

    def unresolved(self) -> Iterator[bytes]:
        """Yield names of entries without a path: symlinks in their directories form a loop."""
        name, size = ffi.new("char const **"), ffi.new("size_t *")
        number = 0
        while lib.um_indexer_unresolved(self._handle, number, name, size):
            yield bytes(ffi.buffer(name[0], size[0]))
            number += 1

    def marks(self) -> tuple[int, list[bytes]]:
        """Return the number of entries that no layer can hold, and the first few of their names.

        They are taken literally, but in a layer they would be whiteouts.
        """
        name, size = ffi.new("char const **"), ffi.new("size_t *")
        names: list[bytes] = []
        while lib.um_indexer_mark(self._handle, len(names), name, size):
            names.append(bytes(ffi.buffer(name[0], size[0])))
        return int(lib.um_indexer_marks(self._handle)), names

    def finish(self, layer_size: int, fd: int) -> None:
        """Write the index to ``fd``; raise FormatError if the tar ended too early."""
        self._checked(lib.um_indexer_finish(self._handle, layer_size, fd, self._fault))


class Index(Owner):
    """A checked index file, which is mapped, or copied if others can change it.

    Raise FormatError if it is damaged, LimitExceeded if it is too large.
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
        """The bytes of memory that a copied index may take; 0 if it is mapped."""
        return int(lib.um_index_copied(self._handle))

    @property
    def info(self) -> IndexInfo:
        """The statistics of the layer."""
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
        """Check every block now; the FormatError names the byte that is wrong."""
        fault = ffi.new("struct um_fault *")
        code = lib.um_index_verify(self._handle, fault)
        if code < 0:
            raise fault_error(code, fault, self._what)


def stored_name(name: bytes) -> bytes:
    """Return the name in a layer of an extended attribute that users of a mount call ``name``.

    A name that looks like a mark of overlayfs is escaped. Raise EOPNOTSUPP if that is too long.
    """
    stored = ffi.new("char[]", lib.UM_OVERLAY_ROOM)
    check(lib.um_overlay_store(lib.UM_OVERLAY_BOTH, name, len(name), stored))
    return bytes(ffi.string(stored))


NEVER = (1 << 64) - 1  # larger than any file
