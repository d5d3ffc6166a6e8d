"""Files of images as JSON objects, the same for ``find`` and ``ls``."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unionmount.cli.name_writer import octal

if TYPE_CHECKING:
    from unionmount.browse.accounts import Accounts
    from unionmount.browse.layer_states import FileState
    from unionmount.core import Attributes, BrowsableTree


@dataclass(frozen=True, slots=True)
class FileDescriber:
    """A maker of objects for the files of one image.

    ``upper`` is the value of ``Attributes.layer`` for the changes of a container.
    """

    image: str
    files: BrowsableTree
    accounts: Accounts
    upper: int | None = None

    def describe(
        self,
        path: bytes,
        found: Attributes,
        layer: int | None = None,
        state: FileState | None = None,
    ) -> dict[str, Any]:
        """Return the object of a file; ``layer`` and ``state`` are those of --all-layers."""
        from unionmount.browse.diff import TYPE_NAMES

        is_whiteout = state is not None and state.state == "whiteout"
        kind = "whiteout" if is_whiteout else TYPE_NAMES.get(stat.S_IFMT(found.mode), "unknown")
        is_device = kind in ("character device", "block device")
        origin = None if found.layer == self.upper else found.layer
        made = {
            "image": self.image,
            "path": path.decode("utf-8", "surrogateescape"),
            "layer": origin if layer is None else layer,
            "type": kind,
            "mode": octal(found.mode),
            "links": found.nlink,
            "inode": found.node,
            "uid": found.uid,
            "gid": found.gid,
            "user": self._name(self.accounts.user(found.uid), found.uid),
            "group": self._name(self.accounts.group(found.gid), found.gid),
            "size": None if stat.S_ISDIR(found.mode) or is_whiteout else found.size,
            "mtime_ns": found.mtime_ns,
            "target": self._target(found),
            "device": f"{found.major}:{found.minor}" if is_device else None,
        }
        if state is not None:
            made |= {"state": state.state, "hidden_by": state.hidden_by}
        return made

    @staticmethod
    def _name(name: str, number: int) -> str | None:
        return None if name == str(number) else name

    def _target(self, found: Attributes) -> str | None:
        if not stat.S_ISLNK(found.mode):
            return None
        return self.files.readlink(found.node).decode("utf-8", "surrogateescape")
