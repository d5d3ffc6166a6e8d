"""The files of an image that tell of packages."""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.browse.packages.rpm import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.browse.packages.model import Kind
    from unionmount.core import Attributes, BrowsableTree

_FIXED: dict[bytes, Kind] = {
    b"var/lib/dpkg/status": "deb",
    b"lib/apk/db/installed": "apk",
    b"usr/lib/apk/db/installed": "apk",
}
_DISTROLESS = b"var/lib/dpkg/status.d/"
_RPM = frozenset({b"var/lib/rpm", b"usr/lib/sysimage/rpm", b"usr/share/rpm"})
_LAST = frozenset({b"METADATA", b"PKG-INFO", b"package.json", b"installed", b"status", *FORMATS})


@dataclass(frozen=True, slots=True)
class MetadataFile:
    """A file that tells of packages, and of which kind they are."""

    kind: Kind
    path: bytes
    attributes: Attributes


def kind_of(path: bytes) -> Kind | None:
    """Return the kind of packages of which a path tells; None if it tells of none."""
    name = path[path.rfind(b"/") + 1 :]
    if name not in _LAST and not name.endswith(b".egg-info"):
        is_stanza = path.startswith(_DISTROLESS) and b"." not in name
        return "deb" if is_stanza and path == _DISTROLESS + name else None
    directory = path[: -len(name) - 1]
    if name in FORMATS:
        return "rpm" if directory in _RPM else None
    if name == b"package.json":
        return "npm" if _is_module(directory) else None
    if _is_python(directory, name):
        return "python"
    return _FIXED.get(path)


def _is_module(directory: bytes) -> bool:
    """Return whether a directory is a module: an entry of node_modules, perhaps in a scope."""
    above, _, name = directory.rpartition(b"/")
    scope = above[above.rfind(b"/") + 1 :]
    if scope.startswith(b"@"):
        above = above[: -len(scope) - 1]
    is_inside = above == b"node_modules" or above.endswith(b"/node_modules")
    return is_inside and name[:1] not in (b"", b".", b"@")


def _is_python(directory: bytes, name: bytes) -> bool:
    if name.endswith(b".egg-info"):
        return True
    if name == b"METADATA":
        return directory.endswith(b".dist-info")
    return name == b"PKG-INFO" and directory.endswith((b".egg-info", b".egg/EGG-INFO"))


def places_below(
    files: BrowsableTree, start: Attributes, path: bytes = b""
) -> Iterator[MetadataFile]:
    """Yield all such files below a directory.

    A container may have very many files, so their nodes are forgotten; ``current`` finds them.
    """
    for found, attributes in files.walk(start.node, path):
        if stat.S_ISDIR(attributes.mode):
            continue
        if isinstance(files, core.View):
            files.forget(attributes.node)
        kind = kind_of(found)
        if kind is not None and stat.S_ISREG(attributes.mode):
            yield MetadataFile(kind, found, attributes)


def current(files: BrowsableTree, place: MetadataFile) -> MetadataFile:
    """Return the same file with a node that is valid."""
    if not isinstance(files, core.View):
        return place
    return replace(place, attributes=files.resolve_anew(place.path))
