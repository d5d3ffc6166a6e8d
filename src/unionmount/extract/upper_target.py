"""A container that is not mounted as the target of a copy: its upper is changed as a mount would.

All changes are made by the code that serves mounts (``core.Upper``), so the directory on disk
becomes what copying through a mount would make of it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.browse.paths import follow
from unionmount.core import Maker, SetAttr
from unionmount.extract.target import CopyPolicy, Target, temporary_name

if TYPE_CHECKING:
    from unionmount.core import Node, Upper
    from unionmount.extract.items import CopyItem

_ROOT_USER = (0, 0)
_COPY_UPS = 16  # of one change; two are enough


class UpperTarget(Target[core.Node]):
    """The files of a container; ``upper`` is borrowed."""

    def __init__(
        self, upper: Upper, base: bytes, policy: CopyPolicy, warn: Callable[[str], None]
    ) -> None:
        super().__init__(base, policy, warn, inside=True)
        self._upper = upper
        self._view = core.View(upper)

    def finish(self) -> None:
        """Set the attributes of directories, and sync everything."""
        super().finish()
        self._upper.sync()

    def close(self) -> None:
        """Give back what was looked up; a second call does nothing."""
        super().close()
        self._view.close()

    # ---- directories -----------------------------------------------------------------------------

    def _open(self, path: bytes) -> Node:
        found = follow(self._view, path)
        if not found.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return found.attributes.node

    def _close(self, directory: Node) -> None:
        pass

    def _mode(self, parent: Node, name: bytes) -> int | None:
        try:
            found = self._view.lookup(parent, name)
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(found.mode):
            self._view.forget(found.node)
        return found.mode

    def _make_directory(self, parent: Node, name: bytes, item: CopyItem) -> None:
        made = self._upper.mkdir(parent, name, stat.S_IFDIR | 0o700, self._maker(item))
        self._upper.forget(made.node)

    def _set_directory(self, path: bytes, item: CopyItem) -> None:
        self._dress(self._open(path), item)

    # ---- files -----------------------------------------------------------------------------------

    def _make_file(self, parent: Node, name: bytes, item: CopyItem, *, exists: bool) -> None:  # noqa: ARG002
        temporary, maker = temporary_name(), self._maker(item)
        made = self._upper.mknod(parent, temporary, stat.S_IFREG | 0o600, (0, 0), maker)
        try:
            self._fill(made.node, item)
            self._dress(made.node, item)
            self._rename(parent, temporary, name)
        except BaseException:
            self._remove(parent, temporary)
            raise
        finally:
            self._upper.forget(made.node)

    def _fill(self, node: Node, item: CopyItem) -> None:
        assert item.content is not None, "regular files have one"
        self._upper.open_file(node, write=True)
        try:
            for offset, data in item.content.pieces():
                self._write(node, offset, data)
            if self._upper.getattr(node).size != item.size:
                self._upper.setattr(node, SetAttr(size=item.size))
        finally:
            self._upper.release(node)

    def _write(self, node: Node, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = self._upper.write(node, offset, view)
            view, offset = view[done:], offset + done

    def _make_special(self, parent: Node, name: bytes, item: CopyItem) -> None:
        maker = self._maker(item)
        if stat.S_ISLNK(item.mode):
            made = self._upper.symlink(parent, name, item.target, maker)
        else:
            mode = stat.S_IFMT(item.mode) | 0o600
            made = self._upper.mknod(parent, name, mode, item.device, maker)
        try:
            self._dress(made.node, item)
        finally:
            self._upper.forget(made.node)

    def _link(self, above: bytes, first: bytes, parent: Node, name: bytes) -> None:
        self._check_no_own_link(above)
        found = self._view.lookup(self._open(above), first)
        node = found.node
        self._changed(node, lambda: self._upper.forget(self._upper.link(node, parent, name).node))
        self._view.forget(node)

    def _rename(self, parent: Node, name: bytes, new: bytes) -> None:
        self._upper.rename((parent, name), (parent, new))

    def _remove(self, parent: Node, name: bytes) -> None:
        with suppress(FileNotFoundError):
            self._upper.unlink(parent, name)

    # ---- attributes ------------------------------------------------------------------------------

    def _maker(self, item: CopyItem) -> Maker:
        return Maker(*(self.policy.owner_of(item) or _ROOT_USER))

    def _dress(self, node: Node, item: CopyItem) -> None:
        found, owner = self._upper.getattr(node), self.policy.owner_of(item)
        if owner is not None and owner != (found.uid, found.gid):
            self._set(node, SetAttr(uid=owner[0], gid=owner[1]))
        for name, value in self.policy.xattrs(item).items():
            try:
                self._upper.setxattr(node, name, value)
            except OSError as error:
                self._refuse(name, error)
        if not stat.S_ISLNK(item.mode):
            self._set(node, SetAttr(mode=self.policy.mode(item)))
        self._set(node, SetAttr(atime_ns=item.mtime_ns, mtime_ns=item.mtime_ns))

    def _set(self, node: Node, changes: SetAttr) -> None:
        self._changed(node, lambda: self._upper.setattr(node, changes))

    def _changed(self, node: Node, change: Callable[[], object]) -> None:
        """Make a change, after copying up a file if it needs that."""
        for _ in range(_COPY_UPS):
            try:
                change()
            except BlockingIOError:
                self._upper.copy_up(node)
            else:
                return
        raise OSError(errno.EIO, os.strerror(errno.EIO))
