"""Files of images as JSON objects, the same for ``find`` and ``ls``."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from json import dumps
from typing import TYPE_CHECKING, Any

from unionmount.cli.name_writer import octal

if TYPE_CHECKING:
    from unionmount.browse.accounts import Accounts
    from unionmount.browse.layer_states import FileState
    from unionmount.core import Attributes, BrowsableTree
    from unionmount.core.scan import Visit

_OF_EACH_FILE = ("path", "inode", "size", "mtime_ns")
_SPECIAL = frozenset({stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK})  # with a target or a device
_MAX_KEPT = 65536


@dataclass(frozen=True, slots=True)
class FileDescriber:
    """A maker of objects for the files of one image.

    ``upper`` is the value of ``Attributes.layer`` for the changes of a container.
    """

    image: str
    files: BrowsableTree
    accounts: Accounts
    upper: int | None = None
    _forms: dict[tuple[int, ...], str] = field(default_factory=dict)

    def text(self, visit: Visit) -> str:
        """Return the JSON of the object of a file; most files share the form of another one."""
        raw = visit.raw
        if stat.S_IFMT(raw[1]) in _SPECIAL:
            return dumps(self.describe(visit.path, visit.attributes))
        kind = (*raw[1:5], raw[11])
        form = self._forms.get(kind)
        if form is None:
            if len(self._forms) >= _MAX_KEPT:
                self._forms.clear()
            form = _form(self.describe(visit.path, visit.attributes))
            self._forms[kind] = form
        size = "null" if stat.S_ISDIR(raw[1]) else raw[7]
        path = dumps(visit.path.decode("utf-8", "surrogateescape"))
        return form % (path, raw[0], size, visit.mtime_ns)

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


def _form(made: dict[str, Any]) -> str:
    """Return the JSON of an object with ``%s`` for what differs from file to file."""
    members = [
        f"{dumps(key)}: " + ("%s" if key in _OF_EACH_FILE else dumps(value).replace("%", "%%"))
        for key, value in made.items()
    ]
    return "{" + ", ".join(members) + "}"
