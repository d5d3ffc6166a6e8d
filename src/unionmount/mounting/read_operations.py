"""The file system for pyfuse3: requests of the kernel, answered from the tree.

``ReadingOperations`` has the answers that read-only and writable mounts (``write_operations.py``)
share; ``ReadOnlyOperations`` completes it for read-only ones. Every handler runs on the trio thread
and never blocks: the tree answers from memory, and a read that has to wait for the disk is done by
a worker thread. Files change only through the mount itself, so the kernel may cache every answer
for good. The only state of a read-only mount are node numbers, so forget, release and releasedir do
nothing. Handlers that are not defined (flush, fsync, fsyncdir, poll) answer ENOSYS once; the kernel
then acts correctly by itself.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, InodeT, StatvfsData

from unionmount.core import NAME_MAX, IdMaps
from unionmount.mounting.facts import ImageFacts

if TYPE_CHECKING:
    from pyfuse3 import ReaddirToken, RequestContext

    from unionmount.core import Attributes, LayerTrees, Node, Tree, Upper

log = logging.getLogger(__name__)

LAYER = b"user.unionmount.layer"
LAYER_INDEX = b"user.unionmount.layer_index"

ACLS = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})
WITH_IDS = ACLS | {b"security.capability"}

FIRST_BATCH = 25  # entries in a reply of 4 KiB, the size that older kernels ask for
BATCH = 128
DOTS = (b".", b"..")  # their cookies are 1 and 2; those of other names are increased by 2

_BLOCK = 4096
_READERS = 8  # threads that wait for the disk at a time

_LABEL = b"security.selinux"
_SHOWN = (b"user.", b"security.")
_SHOWN_TO_ROOT = (*_SHOWN, b"trusted.")

P = ParamSpec("P")
T = TypeVar("T")


def answered(handler: Callable[Concatenate[Any, P], Awaitable[T]]) -> Any:
    """Turn every failure of ``handler`` into an errno; this is the only translation.

    pyfuse3 ends its main loop on anything but FUSEError. The result is Any because pyfuse3 has its
    own types for node numbers.
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


class ReadingOperations(pyfuse3.Operations):
    """The answers without changes, from ``files``: the tree alone, or with an upper on it."""

    supports_dot_lookup = False  # for NFS export, which needs more than that

    def __init__(
        self,
        files: Tree | LayerTrees | Upper,
        facts: ImageFacts,
        *,
        list_layers: bool = False,
        pending: AbstractContextManager[None] | None = None,
    ) -> None:
        """Create the handlers; ``pending`` is entered, even repeatedly, while answers are due."""
        super().__init__()
        self._pending = nullcontext() if pending is None else pending
        # The kernel enforces POSIX ACLs; otherwise their mask would count as the permissions of a
        # group. But it also asks for those of the root at every path lookup (the inode of the root
        # is older than the negotiation), so images without ACLs do not have it.
        self.enable_acl = facts.obeys_acls
        self.files = self._files = files
        self.facts = self._facts = facts
        self.ids = self._ids = IdMaps(facts.view.users, facts.view.groups)
        self.seconds = facts.seconds
        self.list_layers = list_layers
        self._layer_names = (LAYER, LAYER_INDEX) if list_layers else ()
        self._disk_readers = trio.CapacityLimiter(_READERS)

    @answered
    async def lookup(self, directory: Node, name: bytes, _context: RequestContext) -> Any:
        """Look up a name; the kernel also caches that a name does not exist."""
        try:
            return self._entry(self._files.lookup(directory, name))
        except FileNotFoundError:
            return no_entry(self.seconds)

    @answered
    async def getattr(self, node: Node, _context: RequestContext) -> Any:
        """Return the attributes of a node."""
        return self._entry(self._files.getattr(node))

    @answered
    async def readlink(self, node: Node, _context: RequestContext) -> bytes:
        """Return the target of a symlink."""
        return self._files.readlink(node)

    async def access(self, _node: Any, _mode: Any, _context: RequestContext) -> bool:
        """Return True: the kernel checks permissions (default_permissions) and never asks."""
        return True

    def _entry(self, attributes: Attributes) -> EntryAttributes:
        """Return attributes with the owner that callers see."""
        entry = entry_of(attributes)
        entry.st_uid, entry.st_gid = self._ids.shown(attributes.uid, attributes.gid)
        entry.entry_timeout = entry.attr_timeout = self.seconds
        if self._facts.view.static_nlink and stat.S_ISDIR(attributes.mode):
            entry.st_nlink = 1
        return entry

    # ---- files -----------------------------------------------------------------------------------

    @answered
    async def read(self, node: Node, offset: int, size: int) -> bytes:
        """Read data in memory immediately; wait for the disk in a thread."""
        try:
            return self._files.read(node, offset, size, nowait=True)
        except BlockingIOError:
            with self._pending:
                return await trio.to_thread.run_sync(
                    self._files.read, node, offset, size, limiter=self._disk_readers
                )

    # ---- the file system as a whole --------------------------------------------------------------

    @answered
    async def statfs(self, _context: RequestContext) -> StatvfsData:
        """Answer with the facts of the directory's file system, or the sizes of the image."""
        if self._facts.directory is not None:
            return _statfs_of(self._facts.directory)
        data = StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK
        data.f_blocks = -(-self._facts.bytes // _BLOCK)
        data.f_files = self._facts.inodes
        data.f_namemax = NAME_MAX
        return data

    # ---- extended attributes ---------------------------------------------------------------------

    @answered
    async def getxattr(self, node: Node, name: bytes, context: RequestContext) -> bytes:
        """Return an extended attribute; the layer of a file is one, too."""
        self._check_xattrs()
        if name in (LAYER, LAYER_INDEX):
            index = self._files.getattr(node).layer
            if index >= len(self._facts.layers):  # the root of an image without layers has no layer
                raise FUSEError(errno.ENODATA)
            return os.fsencode(str(index) if name == LAYER_INDEX else self._facts.layers[index])
        if not _visible(name, context):
            raise FUSEError(errno.ENODATA if has_namespace(name) else errno.EOPNOTSUPP)
        if name in ACLS and not self.facts.has_acls:
            raise FUSEError(errno.EOPNOTSUPP)
        try:
            value = self._files.getxattr(node, name)
        except OSError as error:
            # "ls -l" asks every file for its label unless the file system reports that there is
            # none.
            if name == _LABEL and error.errno == errno.ENODATA:
                raise FUSEError(errno.EOPNOTSUPP) from None
            raise
        return self._ids.shown_xattr(name, value) if name in WITH_IDS else value

    @answered
    async def listxattr(self, node: Node, context: RequestContext) -> Sequence[bytes]:
        """Return the names that getxattr answers; the layer's only if requested."""
        self._check_xattrs()
        hidden = (LAYER, LAYER_INDEX)
        names = [name for name in self._files.listxattr(node) if name not in hidden]
        names = [name for name in names if _visible(name, context)]
        names += self._layer_names
        if any(name.startswith(b"user.") for name in names) and not self._has_user_xattrs(node):
            names = [name for name in names if not name.startswith(b"user.")]
        return names

    def _check_xattrs(self) -> None:
        if not self._facts.view.xattrs:
            raise FUSEError(errno.ENOSYS)  # so the kernel asks once

    def _has_user_xattrs(self, node: Node) -> bool:
        """Return whether the kernel lets ``user.`` attributes of such a file be read (xattr(7))."""
        mode = self._files.getattr(node).mode
        return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


class ReadOnlyOperations(ReadingOperations):
    """A tree as a read-only file system."""

    def __init__(
        self,
        tree: Tree | LayerTrees,
        facts: ImageFacts,
        *,
        list_layers: bool = False,
        pending: AbstractContextManager[None] | None = None,
    ) -> None:
        super().__init__(tree, facts, list_layers=list_layers, pending=pending)
        self._tree = tree

    # ---- directories -----------------------------------------------------------------------------

    async def opendir(self, node: Any, _context: RequestContext) -> Any:
        """Open a directory; its handle is the node."""
        return node

    @answered
    async def readdir(self, node: Node, cookie: int, token: ReaddirToken) -> None:
        """List a directory from ``cookie`` on, until the reply is full."""
        shift = len(DOTS)
        for number in range(cookie, shift):
            where = self._tree.parent(node) if number else node
            if not pyfuse3.readdir_reply(token, DOTS[number], dot_entry(where), number + 1):
                return
        at, count = max(cookie - shift, 0), FIRST_BATCH
        while entries := self._tree.list(node, at, count):
            for name, at, attributes in entries:
                if not pyfuse3.readdir_reply(token, name, self._entry(attributes), at + shift):
                    return
            count = BATCH

    async def releasedir(self, _handle: Any) -> None:
        """Do nothing, as nothing was opened."""

    # ---- files -----------------------------------------------------------------------------------

    @answered
    async def open(self, node: Any, flags: int, _context: RequestContext) -> FileInfo:
        """Open a file for reading; its handle is the node."""
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        return FileInfo(fh=node, keep_cache=True)

    async def release(self, _handle: Any) -> None:
        """Do nothing, as nothing was opened."""

    # ---- changes ---------------------------------------------------------------------------------

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse
    create = write = setxattr = removexattr = _refuse


def entry_of(attributes: Attributes) -> EntryAttributes:
    """Return attributes in the form of pyfuse3, which the kernel may cache for good."""
    node, mode, nlink, uid, gid, major, minor, size, blocks, mtime, _, atime, ctime = attributes
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
    entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = atime, mtime, ctime
    return entry


def _statfs_of(directory: int) -> StatvfsData:
    found = os.fstatvfs(directory)
    data = StatvfsData()
    data.f_bsize, data.f_frsize = found.f_bsize, found.f_frsize
    data.f_blocks, data.f_bfree, data.f_bavail = found.f_blocks, found.f_bfree, found.f_bavail
    data.f_files, data.f_ffree, data.f_favail = found.f_files, found.f_ffree, found.f_favail
    data.f_namemax = NAME_MAX
    return data


def no_entry(seconds: float) -> EntryAttributes:
    """Return the answer for a missing name, which the kernel may cache."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(0)
    entry.entry_timeout = seconds
    return entry


def dot_entry(node: Node) -> EntryAttributes:
    """Return the attributes of "." or ".." in a listing, of which the kernel uses only two."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(node)
    entry.st_mode = stat.S_IFDIR
    return entry


def has_namespace(name: bytes) -> bool:
    """Return whether an attribute with this name can exist, as on disk file systems."""
    return name in ACLS or name.startswith(_SHOWN_TO_ROOT)


def _visible(name: bytes, context: RequestContext) -> bool:
    return name in ACLS or name.startswith(_SHOWN if context.uid else _SHOWN_TO_ROOT)
