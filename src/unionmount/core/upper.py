"""The writable directory on top of a tree."""

from __future__ import annotations

import builtins
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from unionmount._core import ffi, lib
from unionmount.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]
from unionmount.core.handle import Owner, check, flag_bits, grown_text
from unionmount.core.index import NEVER
from unionmount.core.nodes import (
    LIST_BATCH,
    Attributes,
    DirectoryEntry,
    Node,
    NodeReader,
    PathLookups,
    attributes_of,
    entries_of,
)
from unionmount.core.tree import Tree


class SetAttr(NamedTuple):
    """Attributes to change; None leaves one as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Maker(NamedTuple):
    """The creator of a file (see ``struct um_upper_maker``)."""

    uid: int
    gid: int
    umask: int = 0
    may_setgid: bool = True


@dataclass(frozen=True, slots=True)
class UpperFlags:
    """The abilities of an upper's disk, and options (see ``UM_UPPER_…``)."""

    trusted: bool = False
    override: bool = False
    volatile: bool = False
    foreign: bool = False
    private: bool = False
    closed_root: bool = False
    open: bool = False
    look: bool = False
    plain: bool = False
    closed: bool = False
    stay: bool = False
    atime: bool = False
    no_acls: bool = False
    stat: bool = False
    stat_fuse: bool = False
    stat_security: bool = False
    keeps_order: bool = False


class Upper(NodeReader, prefix="um_upper"):
    """A writable directory on a tree.

    The tree and both descriptors stay the caller's and must outlive this. ``recover`` is called
    once, before anything else. Lookups are counted (``upper/upper.h``): a caller of ``lookup``,
    ``mknod`` … ``link``, and a reader of an ``UpperList``, owes a ``forget`` for each; ``View``
    does this for readers. All other methods may be called from any thread.

    A change raises BlockingIOError if it needs ``copy_up`` first, which may take long. All errors
    are OSError with the errno of the file system.
    """

    def __init__(
        self,
        tree: Tree,
        upper_fd: int,
        work_fd: int,
        flags: UpperFlags,
        shown_fd: int = 0,
        *,
        metacopy: bool = True,
    ) -> None:
        """Open an upper; without ``metacopy``, files are always copied up with their data."""
        self.tree = tree
        setup = ffi.new("struct um_upper_setup *")
        setup.tree, setup.upper_fd, setup.work_fd = tree._handle, upper_fd, work_fd
        setup.shown_fd = shown_fd
        setup.flags = flag_bits(flags, "UM_UPPER_")
        setup.metacopy_min = 0 if metacopy else NEVER
        out = ffi.new("struct um_upper **")
        check(lib.um_upper_open(setup, out))
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_upper_close(handle)

    @property
    def layer(self) -> int:
        """The value of ``Attributes.layer`` for files in the upper."""
        return len(self.tree)

    def recover(self) -> None:
        """Complete or undo what a killed daemon left incomplete."""
        check(lib.um_upper_recover(self._handle))

    # ---- finding ----

    def forget(self, node: Node, lookups: int = 1) -> int:
        """Give lookups back; return how many are left."""
        return int(lib.um_upper_forget(self._handle, node, lookups))

    def origin(self, node: Node) -> Node | None:
        """Return the node of the lower tree that a node continues or was copied from."""
        origin = ffi.new("uint64_t *")
        check(lib.um_upper_origin(self._handle, node, origin))
        return Node(origin[0]) if origin[0] else None

    def list_open(self, directory: Node, *, shared: bool = False) -> UpperList:
        """Open a directory for listing, alone or for all its readers."""
        return UpperList(self, directory, shared=shared)

    def readlink(self, node: Node) -> bytes:
        """Return the target of a symlink; raise EINVAL if the node is not one."""
        return grown_text(
            lambda buffer, size: lib.um_upper_readlink(self._handle, node, buffer, size)
        )

    # ---- files ----

    def open_file(self, node: Node, *, write: bool = False, truncate: bool = False) -> None:
        """Open a file, which has to be released once."""
        flags = lib.UM_UPPER_OPEN_WRITE if write else 0
        flags |= lib.UM_UPPER_OPEN_TRUNCATE if truncate else 0
        check(lib.um_upper_open_file(self._handle, node, flags))

    def release(self, node: Node) -> None:
        """Release a file that was opened."""
        lib.um_upper_release(self._handle, node)

    def write(self, node: Node, offset: int, data: Buffer) -> int:
        """Write to an open file; return the number of bytes."""
        view = ffi.from_buffer(data)
        return check(lib.um_upper_write(self._handle, node, offset, view, len(view)))

    def fsync(self, node: Node, *, data_only: bool = False) -> None:
        """Make a file or directory durable; may take long."""
        check(lib.um_upper_fsync(self._handle, node, data_only))

    def sync(self) -> None:
        """Make everything durable; may take long."""
        check(lib.um_upper_sync(self._handle))

    # ---- attributes ----

    def setattr(self, node: Node, changes: SetAttr) -> Attributes:
        """Change attributes; return the new ones."""
        c_changes = _c_changes(changes)
        attr = ffi.new("struct um_attr *")
        check(lib.um_upper_setattr(self._handle, node, c_changes, attr))
        return attributes_of(attr)

    def setxattr(self, node: Node, name: bytes, value: bytes) -> None:
        """Set an extended attribute; raise EPERM if its name is that of a mark."""
        check(
            lib.um_upper_setxattr(
                self._handle, node, name, len(name), ffi.from_buffer(value), len(value), 0
            )
        )

    def removexattr(self, node: Node, name: bytes) -> None:
        """Remove an extended attribute."""
        check(lib.um_upper_removexattr(self._handle, node, name, len(name)))

    # ---- names ----

    def mknod(
        self, directory: Node, name: bytes, mode: int, device: tuple[int, int], maker: Maker
    ) -> Attributes:
        """Create a file that is not a directory or symlink; ``device`` is (major, minor)."""
        attr = ffi.new("struct um_attr *")
        who = ffi.new("struct um_upper_maker *", tuple(maker))
        check(
            lib.um_upper_mknod(self._handle, directory, name, len(name), mode, *device, who, attr)
        )
        return attributes_of(attr)

    def mkdir(self, directory: Node, name: bytes, mode: int, maker: Maker) -> Attributes:
        """Create a directory."""
        attr = ffi.new("struct um_attr *")
        who = ffi.new("struct um_upper_maker *", tuple(maker))
        check(lib.um_upper_mkdir(self._handle, directory, name, len(name), mode, who, attr))
        return attributes_of(attr)

    def symlink(self, directory: Node, name: bytes, target: bytes, maker: Maker) -> Attributes:
        """Create a symlink."""
        attr = ffi.new("struct um_attr *")
        who = ffi.new("struct um_upper_maker *", tuple(maker))
        check(
            lib.um_upper_symlink(
                self._handle, directory, name, len(name), target, len(target), who, attr
            )
        )
        return attributes_of(attr)

    def link(self, node: Node, directory: Node, name: bytes) -> Attributes:
        """Give a file another name."""
        attr = ffi.new("struct um_attr *")
        check(lib.um_upper_link(self._handle, node, directory, name, len(name), attr))
        return attributes_of(attr)

    def unlink(self, directory: Node, name: bytes) -> None:
        """Remove a name of a file that is not a directory."""
        check(lib.um_upper_unlink(self._handle, directory, name, len(name)))

    def rmdir(self, directory: Node, name: bytes) -> None:
        """Remove a directory that shows no entries."""
        check(lib.um_upper_rmdir(self._handle, directory, name, len(name)))

    def rename(
        self, source: tuple[Node, bytes], target: tuple[Node, bytes], flags: int = 0
    ) -> None:
        """Rename from one (directory, name) to another; ``flags`` as renameat2(2)."""
        (old, name), (new, new_name) = source, target
        check(
            lib.um_upper_rename(
                self._handle, old, name, len(name), new, new_name, len(new_name), flags
            )
        )

    def copy_up(self, node: Node, *, empty: bool = False, absent: bool = False) -> None:
        """Copy a file up with its data, which may take long.

        With ``empty``, its data is not copied; with ``absent``, a file that was copied up without
        data is left alone.
        """
        flags = lib.UM_UPPER_COPY_UP_EMPTY if empty else 0
        flags |= lib.UM_UPPER_COPY_UP_ABSENT if absent else 0
        check(lib.um_upper_copy_up(self._handle, node, flags))


class UpperList(Owner):
    """An open directory of an upper, for one thread at a time; closed before the upper.

    All readers of a directory can use a ``shared`` list: its cookies stay valid.
    """

    def __init__(self, upper: Upper, directory: Node, *, shared: bool = False) -> None:
        self._upper = upper
        self.node = directory
        out = ffi.new("struct um_upper_list **")
        check(lib.um_upper_list_open(upper._handle, directory, out))
        self._handle = out[0]
        if shared:
            lib.um_upper_list_share(self._handle)

    def _release(self, handle: Any) -> None:
        lib.um_upper_list_close(handle)

    @property
    def is_needed(self) -> bool:
        """Whether cookies that a shared list gave out need it."""
        return bool(lib.um_upper_list_is_needed(self._handle))

    def next(self, cookie: int = 0, count: int = LIST_BATCH) -> list[DirectoryEntry]:
        """Return up to ``count`` entries from ``cookie`` on; 0 rereads. Each counts a lookup."""
        entries = ffi.new("struct um_tree_entry[]", count)
        n = check(lib.um_upper_list_next(self._handle, cookie, entries, count))
        return entries_of(entries, n)


class View(Closing, PathLookups):
    """A view of an upper for readers, which gives all lookups back when it is closed.

    It is for one thread at a time. A node that the view returned is valid until ``forget`` or
    ``close``.
    """

    def __init__(self, upper: Upper) -> None:
        self._upper = upper
        self._lookups: dict[Node, int] = {}
        self._lists: dict[Node, UpperList] = {}
        self._reading: Node | None = None  # open until another file is read

    @property
    def upper(self) -> Upper:
        """The upper that is viewed."""
        return self._upper

    def close(self) -> None:
        """Give all lookups back; a second call does nothing."""
        for opened in self._lists.values():
            opened.close()
        self._lists = {}
        self._read_on(None)
        for node in tuple(self._lookups):
            self.forget(node)

    def another(self) -> View:
        """Return another view of the same upper, for another thread."""
        return View(self._upper)

    def forget(self, node: Node) -> None:
        """Give the lookups of a node back early, as there may be very many nodes."""
        if node == self._reading:
            self._read_on(None)
        lookups = self._lookups.pop(node, 0)
        if lookups:
            self._upper.forget(node, lookups)

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """Return the attributes of ``name`` in ``directory``."""
        return self._counted(self._upper.lookup(directory, name))

    def getattr(self, node: Node) -> Attributes:
        """Return the attributes of a node."""
        return self._upper.getattr(node)

    def resolve_anew(self, path: bytes) -> Attributes:
        """Return the attributes of ``path``, even if another process has replaced the file.

        A file is known by the place where it was seen first. It is forgotten once, so that a file
        which the other process has moved is looked up again.
        """
        found = self.resolve(path)
        if stat.S_ISDIR(found.mode):
            return found
        self.forget(found.node)
        return self.resolve(path)

    def list(
        self, directory: Node, cookie: int = 0, count: int = LIST_BATCH
    ) -> builtins.list[DirectoryEntry]:
        """Return up to ``count`` sorted entries from ``cookie`` on; none at the end."""
        opened = self._lists.get(directory)
        if opened is None:
            opened = self._lists[directory] = self._upper.list_open(directory)
        entries = opened.next(cookie, count)
        for entry in entries:
            self._counted(entry.attributes)
        if not entries:
            self._lists.pop(directory).close()
        return entries

    def readlink(self, node: Node) -> bytes:
        """Return the target of a symlink; raise EINVAL if the node is not one."""
        return self._upper.readlink(node)

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """Read up to ``size`` bytes of a file, fewer only at its end."""
        if node != self._reading:
            self._read_on(node)
        return self._upper.read(node, offset, size)

    def _read_on(self, node: Node | None) -> None:
        """Close the open file and open another one, or none."""
        before, self._reading = self._reading, None
        if before is not None:
            self._upper.release(before)
        if node is not None:
            self._upper.open_file(node)
            self._reading = node

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """Return the value of an extended attribute; raise ENODATA if there is none."""
        return self._upper.getxattr(node, name)

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """Return the names of all extended attributes, without the marks of the upper."""
        return self._upper.listxattr(node)

    def origin(self, node: Node) -> Node | None:
        """Return the node of the lower tree that a node continues or was copied from."""
        return self._upper.origin(node)

    def _counted(self, attributes: Attributes) -> Attributes:
        node = attributes.node
        self._lookups[node] = self._lookups.get(node, 0) + 1
        return attributes


def _c_changes(changes: SetAttr) -> Any:
    """Convert changes to ``struct um_upper_changes``."""
    c_changes = ffi.new("struct um_upper_changes *")
    which = {
        "mode": lib.UM_UPPER_SET_MODE,
        "uid": lib.UM_UPPER_SET_UID,
        "gid": lib.UM_UPPER_SET_GID,
        "size": lib.UM_UPPER_SET_SIZE,
        "atime_ns": lib.UM_UPPER_SET_ATIME,
        "mtime_ns": lib.UM_UPPER_SET_MTIME,
    }
    for name, value in changes._asdict().items():
        if value is None:
            continue
        c_changes.which |= which[name]
        if name.endswith("_ns"):
            field = name.removesuffix("_ns")
            seconds, nanoseconds = divmod(value, 1_000_000_000)
            setattr(c_changes, field, seconds)
            setattr(c_changes, f"{field}_nsec", nanoseconds)
        else:
            setattr(c_changes, name, value)
    return c_changes
