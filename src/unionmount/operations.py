"""The file system as the kernel asks for it: pyfuse3 requests answered from the tree, read-only.

This is the slow path, complete for reading. Every handler runs on the trio thread and never waits:
the tree answers from memory, and a read that would wait for the disk goes to a worker thread.
Nothing changes underneath, so the kernel may keep for good what it was told; a node number is all
the state there is, so forget, release and releasedir have nothing to do. What is not defined here
(flush, fsync, fsyncdir, poll) answers ENOSYS, once: the kernel then does the right thing by itself.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, InodeT, StatvfsData

if TYPE_CHECKING:
    from pyfuse3 import ReaddirToken, RequestContext

    from unionmount.core import Attributes, Node, Tree

log = logging.getLogger(__name__)

LAYER = b"user.unionmount.layer"
LAYER_INDEX = b"user.unionmount.layer_index"

_FOREVER = 1e9  # seconds; libfuse and the kernel clamp times that they can't hold, this they can
_BLOCK = 4096
_READERS = 8  # threads that wait for the disk at once

_DOTS = (b".", b"..")  # their cookies are 1 and 2; those of the tree are shifted by 2
_FIRST_BATCH = 25  # entries that fill the reply of 4 KiB that older kernels ask for
_BATCH = 128

_SHOWN = (b"user.", b"security.")
_SHOWN_TO_ROOT = (*_SHOWN, b"trusted.")
_ACLS = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the file system tells of the image as a whole: statfs, and the names of layers."""

    diff_ids: tuple[str, ...]  # lowest first
    bytes: int
    inodes: int
    has_acls: bool = False


def _answered(handler: Callable[Concatenate[Any, P], Awaitable[T]]) -> Any:
    """Make every failure of ``handler`` an errno: the one translation, and nothing passes it.

    pyfuse3 ends its main loop on anything but FUSEError. The result is Any because pyfuse3 has
    types of its own for node numbers.
    """

    @functools.wraps(handler)
    async def answer(self: Any, *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return await handler(self, *arguments, **named)
        except FUSEError:
            raise
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        except Exception:
            log.exception("%s%r failed", handler.__name__, arguments[:3])
            raise FUSEError(errno.EIO) from None

    return answer


async def _refuse(*_arguments: Any, **_named: Any) -> NoReturn:
    raise FUSEError(errno.EROFS)


class ReadOnlyOperations(pyfuse3.Operations):
    """An image as a read-only file system."""

    supports_dot_lookup = False  # for NFS export, which needs more than that

    def __init__(
        self,
        tree: Tree,
        facts: ImageFacts,
        *,
        list_layers: bool = False,
        owing: AbstractContextManager[None] | None = None,
    ) -> None:
        """``owing`` is entered while a thread works on an answer, several times at once."""
        super().__init__()
        self._owing = nullcontext() if owing is None else owing
        # The kernel enforces POSIX ACLs; without, their mask would pass for a group's permissions.
        # But it also asks for the root's again at every walk through it (the root's inode is older
        # than the negotiation), so an image that has none is spared that.
        self.enable_acl = facts.has_acls
        self._tree = tree
        self._facts = facts
        self._layer_names = (LAYER, LAYER_INDEX) if list_layers else ()
        self._disk_readers = trio.CapacityLimiter(_READERS)

    @_answered
    async def lookup(self, directory: Node, name: bytes, _context: RequestContext) -> Any:
        """Find a name; that there is none is worth remembering, too."""
        try:
            return _entry(self._tree.lookup(directory, name))
        except FileNotFoundError:
            return _no_entry()

    @_answered
    async def getattr(self, node: Node, _context: RequestContext) -> Any:
        """The attributes of a node."""
        return _entry(self._tree.getattr(node))

    @_answered
    async def readlink(self, node: Node, _context: RequestContext) -> bytes:
        """The target of a symlink."""
        return self._tree.readlink(node)

    async def access(self, _node: Any, _mode: Any, _context: RequestContext) -> bool:
        """Allow: the kernel decides (default_permissions), and so does not even ask."""
        return True

    # ---- directories -----------------------------------------------------------------------------

    async def opendir(self, node: Any, _context: RequestContext) -> Any:
        """Open a directory; its handle is the node."""
        return node

    @_answered
    async def readdir(self, node: Node, cookie: int, token: ReaddirToken) -> None:
        """List a directory from ``cookie`` on, until the reply is full."""
        shift = len(_DOTS)
        for number in range(cookie, shift):
            where = self._tree.parent(node) if number else node
            if not pyfuse3.readdir_reply(token, _DOTS[number], _directory(where), number + 1):
                return
        at, count = max(cookie - shift, 0), _FIRST_BATCH
        while entries := self._tree.list(node, at, count):
            for name, at, attributes in entries:
                if not pyfuse3.readdir_reply(token, name, _entry(attributes), at + shift):
                    return
            count = _BATCH

    async def releasedir(self, _handle: Any) -> None:
        """Nothing was opened."""

    # ---- files -----------------------------------------------------------------------------------

    @_answered
    async def open(self, node: Any, flags: int, _context: RequestContext) -> FileInfo:
        """Open a file for reading; its handle is the node."""
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        return FileInfo(fh=node, keep_cache=True)

    @_answered
    async def read(self, node: Node, offset: int, size: int) -> bytes:
        """Read at once what is in memory; wait for the disk elsewhere."""
        try:
            return self._tree.read(node, offset, size, nowait=True)
        except BlockingIOError:
            with self._owing:
                return await trio.to_thread.run_sync(
                    self._tree.read, node, offset, size, limiter=self._disk_readers
                )

    async def release(self, _handle: Any) -> None:
        """Nothing was opened."""

    # ---- the file system as a whole --------------------------------------------------------------

    @_answered
    async def statfs(self, _context: RequestContext) -> StatvfsData:
        """Sizes of the image; nothing is free."""
        data = StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK
        data.f_blocks = -(-self._facts.bytes // _BLOCK)
        data.f_files = self._facts.inodes
        data.f_namemax = 255
        return data

    # ---- extended attributes ---------------------------------------------------------------------

    @_answered
    async def getxattr(self, node: Node, name: bytes, context: RequestContext) -> bytes:
        """One extended attribute; which layer a file is from is one, too."""
        if name in (LAYER, LAYER_INDEX):
            index = self._tree.getattr(node).layer
            if index >= len(self._facts.diff_ids):  # an image without layers has a root, too
                raise FUSEError(errno.ENODATA)
            return (str(index) if name == LAYER_INDEX else self._facts.diff_ids[index]).encode()
        if not _visible(name, context):
            raise FUSEError(errno.ENODATA)
        return self._tree.getxattr(node, name)

    @_answered
    async def listxattr(self, node: Node, context: RequestContext) -> Sequence[bytes]:
        """The names that getxattr answers, but for those of the layer unless asked for."""
        hidden = (LAYER, LAYER_INDEX)
        names = [name for name in self._tree.listxattr(node) if name not in hidden]
        names = [name for name in names if _visible(name, context)]
        names += self._layer_names
        if any(name.startswith(b"user.") for name in names) and not self._has_user_xattrs(node):
            names = [name for name in names if not name.startswith(b"user.")]
        return names

    def _has_user_xattrs(self, node: Node) -> bool:
        """Whether the kernel lets ``user.`` attributes of such a file be read: see xattr(7)."""
        mode = self._tree.getattr(node).mode
        return stat.S_ISREG(mode) or stat.S_ISDIR(mode)

    # ---- changes ---------------------------------------------------------------------------------

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse
    create = write = setxattr = removexattr = _refuse


def _entry(attributes: Attributes) -> EntryAttributes:
    node, mode, nlink, uid, gid, major, minor, size, blocks, mtime, _layer = attributes
    entry = EntryAttributes()
    entry.st_ino = InodeT(node)
    entry.st_mode = mode
    entry.st_nlink = nlink
    entry.st_uid = uid
    entry.st_gid = gid
    entry.st_rdev = os.makedev(major, minor)
    entry.st_size = size
    entry.st_blocks = blocks
    entry.st_blksize = _BLOCK
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = mtime
    entry.entry_timeout = entry.attr_timeout = _FOREVER
    return entry


def _no_entry() -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = InodeT(0)
    entry.entry_timeout = _FOREVER
    return entry


def _directory(node: Node) -> EntryAttributes:
    """What a listing says of "." and "..": a number and a type, the kernel takes no more."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(node)
    entry.st_mode = stat.S_IFDIR
    return entry


def _visible(name: bytes, context: RequestContext) -> bool:
    return name in _ACLS or name.startswith(_SHOWN if context.uid else _SHOWN_TO_ROOT)
