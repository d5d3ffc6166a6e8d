"""The writable file system for pyfuse3: requests answered from the upper, and changes to it.

Handlers run on the trio thread, one step at a time: what a handler does between two awaits is
atomic for the others. Changes of names and attributes, and writes to the page cache of the upper's
file system, are made there. Slow work is done by a worker thread: copying up, reading data that is
not in memory, and syncing.

Copy-up: a change that needs a file's data in the upper fails with EAGAIN and has no effect; then
the file is copied up in a thread, and the change is tried again (``_after_copy_up``).

Answers cached by the kernel stay valid: every change is made by way of the kernel, which
invalidates the inodes that a request names (a directory's times and link count after a change in
it, an inode after an unlink, link, rename or change of attributes). Only copy-up changes more: the
blocks and the ctime of an opened file, of which the kernel is notified, and the size and the ctime
of directories, which do not matter. Entries for names that do not exist are replaced when the names
are created.

The kernel checks permissions (default_permissions) before a request arrives. It also does what
write(2), truncate(2) and chown(2) do to set-user-ID bits and capabilities (FUSE_HANDLE_KILLPRIV is
not negotiated); but O_TRUNC is left to ``open``, together with the bits. The umask comes with the
request if root mounts (``fuse_mount.py``); otherwise the kernel has applied it, and applying it
again changes nothing.

Handles: that of a file is its node, as reading and writing go by node; that of an open directory is
an index of a table.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyfuse3
import trio
from pyfuse3 import FileInfo, FUSEError, InodeT

from unionmount.core import NO_ID, Maker, Node, SetAttr
from unionmount.mounting.facts import ImageFacts
from unionmount.mounting.read_operations import (
    ACLS,
    BATCH,
    DOTS,
    FIRST_BATCH,
    LAYER,
    LAYER_INDEX,
    WITH_IDS,
    ReadingOperations,
    answered,
    dot_entry,
    has_namespace,
)

if TYPE_CHECKING:
    from pyfuse3 import EntryAttributes, ReaddirToken, RequestContext, SetattrFields

    from unionmount.core import DirectoryEntry, Upper, UpperList

log = logging.getLogger(__name__)

_COPIERS = 4  # threads that copy files up at a time
_SYNCERS = 4
_COPY_UPS = 16  # of one request: two are enough, unless the name is replaced meanwhile

_ACCESS_ACL = b"system.posix_acl_access"

T = TypeVar("T")


class WritableOperations(ReadingOperations):
    """A tree with an upper on it as a writable file system."""

    def __init__(
        self,
        upper: Upper,
        facts: ImageFacts,
        *,
        list_layers: bool = False,
        pending: AbstractContextManager[None] | None = None,
    ) -> None:
        """Create the handlers; ``facts.has_acls`` says whether the upper holds POSIX ACLs."""
        super().__init__(upper, facts, list_layers=list_layers, pending=pending)
        self._upper = upper
        self._lists: dict[Node, UpperList] = {}
        self._copiers = trio.CapacityLimiter(_COPIERS)
        self._syncers = trio.CapacityLimiter(_SYNCERS)

    def close(self) -> None:
        """Close the lists of directories, as the kernel asks no more."""
        for opened in self._lists.values():
            opened.close()
        self._lists = {}

    async def forget(self, lookups: Sequence[tuple[InodeT, int]]) -> None:
        """Give lookups back."""
        for inode, count in lookups:
            node = Node(inode)
            if self._upper.forget(node, count) == 0 and node in self._lists:
                self._lists.pop(node).close()

    # ---- directories -----------------------------------------------------------------------------

    @answered
    async def opendir(self, node: Node, _context: RequestContext) -> int:
        """Open a directory; its handle is the node, so that all readers share one list."""
        return self._list_of(node).node

    @answered
    async def readdir(self, node: Node, cookie: int, token: ReaddirToken) -> None:
        """List a directory from ``cookie`` on, until the reply is full."""
        opened, shift = self._list_of(node), len(DOTS)
        for number in range(cookie, shift):
            where = self._parent(node) if number else node
            if not pyfuse3.readdir_reply(token, DOTS[number], dot_entry(where), number + 1):
                return
        at, count = max(cookie - shift, 0), FIRST_BATCH
        while entries := opened.next(at, count):
            taken = self._reply(token, entries, shift)
            if taken < len(entries):
                self._give_back(entries[taken:])
                return
            at, count = entries[-1].next, BATCH

    @answered
    async def releasedir(self, node: Node) -> None:
        """Close a directory, but keep a list whose cookies may be used again."""
        opened = self._lists.get(node)
        if opened is not None and not opened.is_needed:
            self._lists.pop(node).close()

    @answered
    async def fsyncdir(self, node: Node, _data_only: bool) -> None:
        """Make the names in a directory durable."""
        await self._sync(node, data_only=False)

    def _list_of(self, directory: Node) -> UpperList:
        """Return the list of a directory, which is closed when the kernel forgets the directory."""
        opened = self._lists.get(directory)
        if opened is None:
            opened = self._lists[directory] = self._upper.list_open(directory, shared=True)
        return opened

    def _parent(self, directory: Node) -> Node:
        """Return the node of ".."; for a removed directory that does not matter."""
        try:
            return self._upper.parent(directory)
        except OSError:
            return directory

    def _give_back(self, entries: Iterable[DirectoryEntry]) -> None:
        """Forget entries that the kernel did not get, since it will not forget them."""
        for entry in entries:
            self._upper.forget(entry.attributes.node)

    # ---- files -----------------------------------------------------------------------------------

    @answered
    async def open(self, node: Node, flags: int, context: RequestContext) -> FileInfo:
        """Open a file; for writing, copy it up first."""
        truncate = bool(flags & os.O_TRUNC)
        write = truncate or flags & os.O_ACCMODE != os.O_RDONLY
        await self._after_copy_up(
            lambda: self._upper.open_file(node, write=write, truncate=truncate),
            node,
            empty=truncate,
        )
        if truncate:
            try:
                self._drop_privileges(node, context)
            except BaseException:
                self._upper.release(node)
                raise
        return FileInfo(fh=node, keep_cache=True)

    @answered
    async def create(
        self, directory: Node, name: bytes, mode: int, _flags: int, context: RequestContext
    ) -> Any:
        """Create a file and open it, whatever its mode is."""
        made = self._make_file(directory, name, stat.S_IFREG | stat.S_IMODE(mode), context)
        try:
            self._upper.open_file(made.node, write=True)
        except BaseException:
            self._upper.forget(made.node)
            self._upper.unlink(directory, name)
            raise
        return FileInfo(fh=made.node, keep_cache=True), self._entry(made)

    @answered
    async def write(self, node: Node, offset: int, data: bytes) -> int:
        """Write to a file, which opening it for writing has copied up."""
        return await self._after_copy_up(lambda: self._upper.write(node, offset, data), node)

    @answered
    async def release(self, node: Node) -> None:
        """Close a file."""
        self._upper.release(node)

    async def flush(self, _handle: Any) -> None:
        """Answer that close(2) waits for nothing, so the kernel need not ask again."""
        raise FUSEError(errno.ENOSYS)

    @answered
    async def fsync(self, node: Node, data_only: bool) -> None:
        """Make a file durable."""
        await self._sync(node, data_only=data_only)

    async def _sync(self, node: Node, *, data_only: bool) -> None:
        with self._pending:
            await trio.to_thread.run_sync(
                lambda: self._upper.fsync(node, data_only=data_only), limiter=self._syncers
            )

    # ---- copy-up ---------------------------------------------------------------------------------

    async def _after_copy_up(self, change: Callable[[], T], *nodes: Node, empty: bool = False) -> T:
        """Make a change, after copying up ``nodes`` if it needs that, without data if ``empty``.

        The core does not say which node it needs: those that are not in the upper come first.
        """
        for turn in range(_COPY_UPS):
            try:
                return change()
            except BlockingIOError:
                absent = turn == 0 and len(nodes) > 1
                for node in nodes:
                    await self._copy_up(node, empty=empty, absent=absent)
        log.error("a change of %s still asks for copy-up", nodes)
        raise FUSEError(errno.EIO)

    async def _copy_up(self, node: Node, *, empty: bool, absent: bool) -> None:
        def copy() -> None:
            self._upper.copy_up(node, empty=empty, absent=absent)
            # Drops blocks and ctime, whose change the kernel cannot know; pages stay, since they
            # are equal. It is done on this thread, as the kernel may want an answer first.
            with suppress(OSError):  # it has forgotten the node, or the connection is closed
                pyfuse3.invalidate_inode(InodeT(node), attr_only=True)

        with self._pending:
            await trio.to_thread.run_sync(copy, limiter=self._copiers)

    # ---- attributes ------------------------------------------------------------------------------

    @answered
    async def setattr(
        self,
        node: Node,
        wanted: EntryAttributes,
        fields: SetattrFields,
        _handle: Any,
        _context: RequestContext,
    ) -> EntryAttributes:
        """Change attributes."""
        changes = self._changes(wanted, fields)
        if not any(
            value is not None for value in changes
        ):  # ctime alone, which is that of the disk
            return self._entry(self._upper.getattr(node))
        return self._entry(
            await self._after_copy_up(
                lambda: self._upper.setattr(node, changes), node, empty=changes.size == 0
            )
        )

    def _drop_privileges(self, node: Node, context: RequestContext) -> None:
        """Remove the bits that a truncation without CAP_FSETID removes from a file.

        The kernel removes its capabilities by a separate request after the open.
        """
        if context.uid == 0:
            return
        now = self._upper.getattr(node)
        mode = now.mode & ~stat.S_ISUID
        if now.mode & stat.S_IXGRP or not self._in_group(context, now.gid):
            mode &= ~stat.S_ISGID
        if mode != now.mode:
            self._upper.setattr(node, SetAttr(mode=stat.S_IMODE(mode)))

    @answered
    async def setxattr(
        self, node: Node, name: bytes, value: bytes, context: RequestContext
    ) -> None:
        """Set an extended attribute; pyfuse3 has checked XATTR_CREATE and XATTR_REPLACE."""
        self._check_settable(name)
        kept = self._ids.stored_xattr(name, value) if name in WITH_IDS else value
        await self._after_copy_up(lambda: self._upper.setxattr(node, name, kept), node)
        if name == _ACCESS_ACL:
            self._drop_setgid(node, context)

    @answered
    async def removexattr(self, node: Node, name: bytes, _context: RequestContext) -> None:
        """Remove an extended attribute."""
        self._check_settable(name)
        await self._after_copy_up(lambda: self._upper.removexattr(node, name), node)

    def _check_settable(self, name: bytes) -> None:
        self._check_xattrs()
        if name in (LAYER, LAYER_INDEX):
            raise FUSEError(errno.EPERM)
        if not has_namespace(name) or (name in ACLS and not self.facts.has_acls):
            raise FUSEError(errno.EOPNOTSUPP)

    def _drop_setgid(self, node: Node, context: RequestContext) -> None:
        """Remove S_ISGID when an ACL is set by a user outside of the group, like chmod(2).

        The kernel leaves this to the server, but pyfuse3 does not negotiate it.
        """
        now = self._upper.getattr(node)
        if now.mode & stat.S_ISGID and not self._in_group(context, now.gid):
            mode = stat.S_IMODE(now.mode) & ~stat.S_ISGID
            self._upper.setattr(node, SetAttr(mode=mode))

    # ---- names -----------------------------------------------------------------------------------

    @answered
    async def mknod(
        self, directory: Node, name: bytes, mode: int, device: int, context: RequestContext
    ) -> EntryAttributes:
        """Make a file of any type but directory and symlink."""
        return self._entry(self._make_file(directory, name, mode, context, device))

    def _make_file(
        self, directory: Node, name: bytes, mode: int, context: RequestContext, device: int = 0
    ) -> Any:
        maker = self._maker(directory, mode, context)
        number = (os.major(device), os.minor(device))
        return self._upper.mknod(directory, name, mode, number, maker)

    @answered
    async def mkdir(
        self, directory: Node, name: bytes, mode: int, context: RequestContext
    ) -> EntryAttributes:
        """Create a directory."""
        maker = self._maker(directory, 0, context)
        return self._entry(self._upper.mkdir(directory, name, stat.S_IMODE(mode), maker))

    @answered
    async def symlink(
        self, directory: Node, name: bytes, target: bytes, context: RequestContext
    ) -> EntryAttributes:
        """Create a symlink."""
        maker = self._maker(directory, 0, context)
        return self._entry(self._upper.symlink(directory, name, target, maker))

    @answered
    async def link(
        self, node: Node, directory: Node, name: bytes, _context: RequestContext
    ) -> EntryAttributes:
        """Give a file one more name."""
        return self._entry(
            await self._after_copy_up(lambda: self._upper.link(node, directory, name), node)
        )

    @answered
    async def unlink(self, directory: Node, name: bytes, _context: RequestContext) -> None:
        """Remove a name of a file that is not a directory."""
        self._upper.unlink(directory, name)

    @answered
    async def rmdir(self, directory: Node, name: bytes, _context: RequestContext) -> None:
        """Remove a directory that shows no entries."""
        self._upper.rmdir(directory, name)

    @answered
    async def rename(
        self,
        directory: Node,
        name: bytes,
        new_directory: Node,
        new_name: bytes,
        flags: int,
        _context: RequestContext,
    ) -> None:
        """Rename or exchange."""
        source, target = (directory, name), (new_directory, new_name)
        try:
            self._upper.rename(source, target, flags)
        except BlockingIOError:
            moved = (source, target) if flags & pyfuse3.RENAME_EXCHANGE else (source,)
            with self._files_at(moved) as nodes:
                await self._after_copy_up(lambda: self._upper.rename(source, target, flags), *nodes)

    @contextmanager
    def _files_at(self, places: Iterable[tuple[Node, bytes]]) -> Iterator[list[Node]]:
        """Find the nodes of files that are not directories, and keep them from being forgotten."""
        with ExitStack() as stack:
            nodes = []
            for directory, name in places:
                found = self._upper.lookup(directory, name)
                stack.callback(self._upper.forget, found.node)
                if not stat.S_ISDIR(found.mode):
                    nodes.append(found.node)
            yield nodes

    def _maker(self, directory: Node, mode: int, context: RequestContext) -> Maker:
        """Return the creator of a new file.

        Since Linux 6.0 the kernel decides which S_ISGID a new file may have; older ones leave it to
        the server.
        """
        may_setgid = True
        if mode & stat.S_ISGID:
            may_setgid = self._in_group(context, self._upper.getattr(directory).gid)
        uid, gid = self._ids.stored_uid(context.uid), self._ids.stored_gid(context.gid)
        return Maker(uid, gid, context.umask, may_setgid)

    def _in_group(self, context: RequestContext, gid: int) -> bool:
        """Return whether the caller is in a group, which is given by its stored ID."""
        return _in_group(context, self._ids.shown(0, gid)[1])

    def _changes(self, wanted: EntryAttributes, fields: SetattrFields) -> SetAttr:
        uid = self._ids.stored_uid(wanted.st_uid) if fields.update_uid else None
        gid = self._ids.stored_gid(wanted.st_gid) if fields.update_gid else None
        if NO_ID in (uid, gid):
            raise FUSEError(errno.EOVERFLOW)
        return SetAttr(
            mode=stat.S_IMODE(wanted.st_mode) if fields.update_mode else None,
            uid=uid,
            gid=gid,
            size=wanted.st_size if fields.update_size else None,
            atime_ns=wanted.st_atime_ns if fields.update_atime else None,
            mtime_ns=wanted.st_mtime_ns if fields.update_mtime else None,
        )

    def _reply(self, token: ReaddirToken, entries: Sequence[DirectoryEntry], shift: int) -> int:
        """Add entries to the reply of a readdir; return how many had room."""
        for number, (name, after, attributes) in enumerate(entries):
            entry = self._entry(attributes)
            if not pyfuse3.readdir_reply(token, name, entry, after + shift):
                return number
        return len(entries)


def _in_group(context: RequestContext, gid: int) -> bool:
    """Return whether a caller is in a group or is root, as far as that is visible."""
    if context.uid == 0 or context.gid == gid:
        return True
    try:
        status = Path(f"/proc/{context.pid}/status").read_bytes()
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith(b"Groups:"):
            return str(gid).encode() in line.split()[1:]
    return False
