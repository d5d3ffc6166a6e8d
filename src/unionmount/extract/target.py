"""The rules by which items come to their places, whatever the target is.

An existing directory is merged with a new one, everything else is replaced; a directory never takes
the place of another file, or the other way round. A file that exists is replaced by a rename, so
that it is either the old one or the new one.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from unionmount.errors import FormatError, UnionmountError
from unionmount.extract.items import CopyItem
from unionmount.system.closing import Closing
from unionmount.system.os_errors import naming
from unionmount.system.text import printable

H = TypeVar("H")

_SET_ID = stat.S_ISUID | stat.S_ISGID
_IMPLIED = stat.S_IFDIR | 0o755  # a directory above an item that is not in the stream
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_OF_USERS = (b"user.", b"system.posix_acl_")  # attributes that owners of files may set

_SPECIAL = {
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True)
class CopyPolicy:
    """Which attributes are kept.

    ``owners``: files keep their owners, and so their set-ID bits, capabilities and devices.
    Otherwise they belong to ``owner``; None is whoever makes them. ``attributes``: extended
    attributes are kept, and directories that exist get the attributes of the new ones.
    """

    attributes: bool = False
    owners: bool = False
    owner: tuple[int, int] | None = None

    def mode(self, item: CopyItem) -> int:
        """Return the permissions of a new file."""
        mode = stat.S_IMODE(item.mode)
        return mode if self.owners else mode & ~_SET_ID

    def owner_of(self, item: CopyItem) -> tuple[int, int] | None:
        """Return user and group of a new file; None if they need no change."""
        return (item.uid, item.gid) if self.owners else self.owner

    def xattrs(self, item: CopyItem) -> Mapping[bytes, bytes]:
        """Return the extended attributes of a new file."""
        if not self.attributes:
            return {}
        if self.owners:
            return item.xattrs
        return {name: item.xattrs[name] for name in item.xattrs if name.startswith(_OF_USERS)}


class Target(Closing, ABC, Generic[H]):
    """A place for items, at ``base`` below a root; ``H`` is what stands for an open directory.

    ``inside``: symlinks to directories that are there already are followed inside the root, as a
    program in a container would. Those of the copy never are.
    """

    def __init__(
        self, base: bytes, policy: CopyPolicy, warn: Callable[[str], None], *, inside: bool
    ) -> None:
        self._base = base
        self.policy = policy
        self._warn = warn
        self._inside = inside
        self._entered: tuple[bytes, H] | None = None  # the last directory
        self._directories: dict[bytes, CopyItem] = {}  # whose attributes are set at the end
        self._own_links: set[bytes] = set()
        self._copied: set[int] = set()  # hashes of the paths that others may be hard links to
        self._left_out: set[bytes] = set()
        self._refused: set[bytes] = set()  # attributes that were warned of

    def put(self, item: CopyItem) -> None:
        """Put an item at its place."""
        path = self._full(item.path)
        with naming(self._shown(path)):
            if not path:
                self._put_at_root(item)
                return
            above, _, name = path.rpartition(b"/")
            if name in (b"", b".", b".."):  # no source has such
                raise FormatError("not the name of a file")
            parent = self._enter(above)
            self._place(parent, name, path, item)

    def finish(self) -> None:
        """Set the attributes of directories, lower ones first."""
        self._leave()
        for path in sorted(self._directories, key=lambda path: (-path.count(b"/"), path)):
            with naming(self._shown(path)):
                self._set_directory(path, self._directories[path])
        self._directories = {}

    def close(self) -> None:
        """Close the directory that is open; a second call does nothing."""
        self._leave()

    def _full(self, path: bytes) -> bytes:
        return b"/".join(part for part in (self._base, path) if part)

    def _shown(self, path: bytes) -> str:
        return printable(b"/" + path)

    # ---- placing ---------------------------------------------------------------------------------

    def _put_at_root(self, item: CopyItem) -> None:
        if not stat.S_ISDIR(item.mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if self.policy.attributes:
            self._note_directory(None, b"", item)

    def _place(self, parent: H, name: bytes, path: bytes, item: CopyItem) -> None:
        there = self._mode(parent, name)
        if stat.S_ISDIR(item.mode):
            self._place_directory(parent, path, item, there)
            return
        if there is not None and stat.S_ISDIR(there):
            raise UnionmountError(
                f"{self._shown(path)}: is a directory, which no other file can replace"
            )
        if there is not None and not self._inside:
            self._refuse_special(path, item, there)
        if not self._can_make(path, item):
            self._left_out.add(path)
            return
        if item.link is not None:
            self._place_link(parent, name, item.link, there)
        elif stat.S_ISREG(item.mode):
            self._make_file(parent, name, item, exists=there is not None)
        else:
            self._place_special(parent, name, path, item, there)
        self._copied.add(hash(path))
        self._left_out.discard(path)

    def _refuse_special(self, path: bytes, item: CopyItem, there: int) -> None:
        """Refuse to replace a device or a FIFO of the host, such as /dev/null, by another file."""
        kind = stat.S_IFMT(there)
        if kind in _SPECIAL and kind != stat.S_IFMT(item.mode):
            raise UnionmountError(
                f"{self._shown(path)}: is {_SPECIAL[kind]}, which is not replaced; remove it "
                "first, or write '-' to have a tar on standard output"
            )

    def _place_directory(self, parent: H, path: bytes, item: CopyItem, there: int | None) -> None:
        name = path.rpartition(b"/")[2]
        if there is None:
            self._make_directory(parent, name, item)
        elif not stat.S_ISDIR(there):
            raise UnionmountError(
                f"{self._shown(path)}: exists and is not a directory; a directory cannot replace it"
            )
        elif not self.policy.attributes and path not in self._directories:
            return
        self._note_directory(parent, path, item)

    def _note_directory(self, _parent: H | None, path: bytes, item: CopyItem) -> None:
        self._directories[path] = item

    def _place_link(self, parent: H, name: bytes, first: bytes, there: int | None) -> None:
        above, _, first_name = self._full(first).rpartition(b"/")
        not_copied = FormatError(
            f"a hard link to '{printable(first)}', which was not copied before"
        )
        if hash(self._full(first)) not in self._copied:  # a file that was there is not the copy's
            raise not_copied
        try:
            self._at_new_name(
                parent, name, there, lambda new: self._link(above, first_name, parent, new)
            )
        except FileNotFoundError:
            raise not_copied from None

    def _place_special(
        self, parent: H, name: bytes, path: bytes, item: CopyItem, there: int | None
    ) -> None:
        self._at_new_name(parent, name, there, lambda new: self._make_special(parent, new, item))
        if self._inside and stat.S_ISLNK(item.mode):
            self._own_links.add(path)

    def _at_new_name(
        self, parent: H, name: bytes, there: int | None, make: Callable[[bytes], None]
    ) -> None:
        """Make something in one step: at its name, or at another one that is renamed."""
        if there is None:
            make(name)
            return
        temporary = temporary_name()
        try:
            make(temporary)
            self._rename(parent, temporary, name)
        except BaseException:
            self._remove(parent, temporary)
            raise

    def _can_make(self, path: bytes, item: CopyItem) -> bool:
        if item.link is not None and self._full(item.link) in self._left_out:
            first = self._shown(self._full(item.link))
            self._warn(f"{self._shown(path)}: left out, since it is a hard link to {first}")
            return False
        kind = stat.S_IFMT(item.mode)
        if kind == stat.S_IFSOCK:
            self._warn(f"{self._shown(path)}: left out, since it is a socket")
            return False
        if kind in _DEVICES and not self.policy.owners:
            self._warn(
                f"{self._shown(path)}: left out, since it is a device; "
                + ("-a copies it" if self._could_keep() else "only root can make it, with -a")
            )
            return False
        return True

    def _could_keep(self) -> bool:
        """Return whether this user could keep owners."""
        return self._inside or os.geteuid() == 0

    # ---- directories -----------------------------------------------------------------------------

    def _enter(self, path: bytes) -> H:
        """Return a directory; one that is missing is made, since tars may leave it out."""
        if self._entered is not None and self._entered[0] == path:
            return self._entered[1]
        self._check_no_own_link(path)
        try:
            opened = self._open(path)
        except FileNotFoundError:
            if not path:
                raise
            self._make_missing(path)
            opened = self._open(path)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UnionmountError(
                f"{self._shown(path)}: a symlink is in the way, and none is followed"
            ) from None
        self._leave()
        self._entered = path, opened
        return opened

    def _make_missing(self, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        parent = self._enter(above)
        if self._mode(parent, name) is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        uid, gid = self.policy.owner or ((0, 0) if self._inside else (os.geteuid(), os.getegid()))
        item = CopyItem(b"", _IMPLIED, uid, gid)
        self._make_directory(parent, name, item)
        self._note_directory(parent, path, item)

    def _check_no_own_link(self, path: bytes) -> None:
        """Raise FormatError for a path that leads through a symlink of the copy itself."""
        if not self._own_links:
            return
        names = path.split(b"/")
        for count in range(1, len(names) + 1):
            if b"/".join(names[:count]) in self._own_links:
                raise FormatError(
                    f"{self._shown(path)}: leads through a symlink that was copied before"
                )

    def _leave(self) -> None:
        """Close the last directory."""
        entered, self._entered = self._entered, None
        if entered is not None:
            self._close(entered[1])

    def _refuse(self, name: bytes, error: OSError) -> None:
        """Warn once of an attribute that the target cannot hold."""
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL):
            raise error
        if name not in self._refused:
            self._refused.add(name)
            self._warn(f"{printable(name)}: left out, since the target cannot hold it")

    # ---- what targets do in their own ways -------------------------------------------------------

    @abstractmethod
    def _open(self, path: bytes) -> H:
        """Open a directory; raise ELOOP for a symlink on the way, unless ``inside``."""

    @abstractmethod
    def _close(self, directory: H) -> None:
        """Close a directory."""

    @abstractmethod
    def _mode(self, parent: H, name: bytes) -> int | None:
        """Return the mode of a file; None if there is none. Symlinks are not followed."""

    @abstractmethod
    def _make_directory(self, parent: H, name: bytes, item: CopyItem) -> None:
        """Make a directory that only its owner can enter until its attributes are set."""

    @abstractmethod
    def _set_directory(self, path: bytes, item: CopyItem) -> None:
        """Set the attributes of a directory."""

    @abstractmethod
    def _make_file(self, parent: H, name: bytes, item: CopyItem, *, exists: bool) -> None:
        """Make a regular file, which appears complete."""

    @abstractmethod
    def _make_special(self, parent: H, name: bytes, item: CopyItem) -> None:
        """Make a symlink, FIFO or device at a name that is free."""

    @abstractmethod
    def _link(self, above: bytes, first: bytes, parent: H, name: bytes) -> None:
        """Give the file ``first`` in the directory ``above`` a second name that is free."""

    @abstractmethod
    def _rename(self, parent: H, name: bytes, new: bytes) -> None:
        """Rename a file in a directory, over another one."""

    @abstractmethod
    def _remove(self, parent: H, name: bytes) -> None:
        """Remove a file if it is there."""


def temporary_name() -> bytes:
    """Return a name for a file that is not complete."""
    return b".unionmount-" + os.urandom(8).hex().encode("ascii")
