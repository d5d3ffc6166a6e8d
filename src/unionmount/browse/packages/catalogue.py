"""The packages of an image, each with the layer that brought it.

A database that lists many packages is rewritten by each layer that installs one. A package comes
from the lowest layer since which every version of the file lists it, so the versions are read from
the topmost down.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.browse.packages.apk import parse_apk
from unionmount.browse.packages.dpkg import license_of_copyright, parse_dpkg
from unionmount.browse.packages.model import (
    KINDS,
    Catalogue,
    Distribution,
    FoundPackage,
    Package,
)
from unionmount.browse.packages.npm import parse_npm
from unionmount.browse.packages.os_release import parse_os_release
from unionmount.browse.packages.places import MetadataFile, current, places_below
from unionmount.browse.packages.python import parse_python
from unionmount.browse.packages.reading import ImageFile
from unionmount.browse.packages.rpm import FORMATS, SQLITE, parse_rpm
from unionmount.browse.paths import follow
from unionmount.errors import FormatError, LimitExceeded
from unionmount.system.closing import Closing
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.open import OpenView
    from unionmount.core import Attributes, BrowsableTree

_PARSERS = {"deb": parse_dpkg, "apk": parse_apk, "python": parse_python, "npm": parse_npm}
_LIMITS = {"deb": 256 << 20, "apk": 256 << 20, "python": 4 << 20, "npm": 4 << 20}
_MAX_COPYRIGHT = 4 << 20
_MAX_PACKAGES = 200_000  # of one file; a full Debian has about 70,000
_OS_RELEASE = (b"etc/os-release", b"usr/lib/os-release")
_MAX_OS_RELEASE = 1 << 16
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class Packages(Closing):
    """The packages of an open image or container, which is borrowed."""

    def __init__(self, view: OpenView) -> None:
        self._view = view
        self._trees: dict[int, core.Tree] = {}
        self._resources = ExitStack()
        self._problems: list[str] = []
        self._licenses: dict[tuple[int, int, int], str] = {}  # by copyright files

    def close(self) -> None:
        """Close the trees of lower layers; a second call does nothing."""
        self._resources.close()

    def read(self, places: Iterable[MetadataFile] | None = None) -> Catalogue:
        """Return all packages, or those of some places."""
        if places is None:
            places = places_below(self._view.files, self._view.files.getattr(core.ROOT))
        found: list[FoundPackage] = []
        for place in _without_leftovers(places):
            try:
                found += self._of_place(place)
            except (FormatError, OSError) as error:
                self._problems.append(_problem(place, error))
        found.sort(key=lambda one: (KINDS.index(one.package.kind), one.package.key, one.path))
        return Catalogue(tuple(found), self._distribution(), tuple(self._problems))

    def _of_place(self, place: MetadataFile) -> Iterator[FoundPackage]:
        top = self._view.files
        packages = list(_parse(top, place))
        layers = self._layers_of(place, packages)
        digests = [layer.diff_id for layer in self._view.image.layers]
        for package, layer in zip(packages, layers, strict=True):
            diff_id = digests[layer] if layer < len(digests) else None
            yield FoundPackage(self._with_license(package), place.path, layer, diff_id)

    # ---- layers

    def _layers_of(self, place: MetadataFile, packages: list[Package]) -> list[int]:
        """Return the layer that brought each package of a file."""
        came = dict.fromkeys((package.key for package in packages), place.attributes.layer)
        missing, layer = set(came), place.attributes.layer
        while missing and layer > 0:
            older = self._older(place, layer - 1)
            if older is None:
                break
            layer = older.attributes.layer
            try:
                missing &= {package.key for package in _parse(self._tree(layer), older)}
            except (FormatError, OSError):  # only the topmost version is the image's
                break
            for key in missing:
                came[key] = layer
        return [came[package.key] for package in packages]

    def _older(self, place: MetadataFile, layer: int) -> MetadataFile | None:
        """Return a file as the layers up to ``layer`` show it; None if they do not."""
        attributes = _resolved(self._tree(layer), place.path)
        if attributes is None or not stat.S_ISREG(attributes.mode):
            return None
        return MetadataFile(place.kind, place.path, attributes)

    def _tree(self, layer: int) -> core.Tree:
        """Return the layers up to ``layer`` as one tree."""
        if layer not in self._trees:
            image = self._view.image
            pairs = zip(image.indexes[: layer + 1], image.layers, strict=False)
            layers = [
                core.TreeLayer(index, one.data_fd, one.offset, one.length) for index, one in pairs
            ]
            self._trees[layer] = self._resources.enter_context(core.Tree(layers))
        return self._trees[layer]

    # ---- other files

    def _with_license(self, package: Package) -> Package:
        """Add the license of a package of dpkg, which its database does not have."""
        if package.kind != "deb" or "/" in package.name:
            return package
        path = f"usr/share/doc/{package.name}/copyright".encode("utf-8", "replace")
        try:
            return replace(package, license=self._license(path))
        except (FormatError, OSError):  # it is missing, no file, or not readable
            return package

    def _license(self, path: bytes) -> str:
        """Return the license in a copyright file, which many packages may share."""
        one = follow(self._view.files, path).attributes
        key = one.node, one.size, one.mtime_ns
        if key not in self._licenses:
            self._licenses[key] = ""  # of what cannot be read
            data = ImageFile(self._view.files, one).read(_MAX_COPYRIGHT)
            self._licenses[key] = license_of_copyright(data)
        return self._licenses[key]

    def _distribution(self) -> Distribution:
        for path in _OS_RELEASE:
            data = self._small(path, _MAX_OS_RELEASE)
            if data:
                try:
                    return parse_os_release(data)
                except FormatError as error:
                    self._problems.append(f"/{printable(path)}: {error}")
        return Distribution()

    def _small(self, path: bytes, limit: int) -> bytes:
        """Return the content of a file; nothing if it is missing, no file, or too large."""
        try:
            found = follow(self._view.files, path)
            return ImageFile(self._view.files, found.attributes).read(limit)
        except (OSError, FormatError):
            return b""


def read_packages(view: OpenView, places: Iterable[MetadataFile] | None = None) -> Catalogue:
    """Return all packages of an open image or container, or those of some places."""
    with Packages(view) as packages:
        return packages.read(places)


def parse_places(
    files: BrowsableTree, places: Iterable[MetadataFile]
) -> tuple[list[Package], list[str]]:
    """Return the packages of some places, without their layers, and what could not be read."""
    found: list[Package] = []
    problems: list[str] = []
    for place in _without_leftovers(places):
        try:
            found += _parse(files, place)
        except (FormatError, OSError) as error:
            problems.append(_problem(place, error))
    return found, problems


def _problem(place: MetadataFile, error: FormatError | OSError) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"/{printable(place.path)}: {reason}"


def _parse(files: BrowsableTree, place: MetadataFile) -> Iterator[Package]:
    for number, package in enumerate(_all_of(files, place)):
        if number >= _MAX_PACKAGES:
            raise LimitExceeded(f"lists more than {_MAX_PACKAGES} packages")
        yield package


def _all_of(files: BrowsableTree, place: MetadataFile) -> Iterator[Package]:
    file = ImageFile(files, current(files, place).attributes)
    if place.kind != "rpm":
        yield from _PARSERS[place.kind](file.read(_LIMITS[place.kind]))
        return
    name, log = place.path.rpartition(b"/")[2], None
    if name == SQLITE:
        attributes = _resolved(files, place.path + b"-wal")
        log = ImageFile(files, attributes) if attributes is not None else None
    yield from parse_rpm(name, file, log)


def _resolved(files: BrowsableTree, path: bytes) -> Attributes | None:
    """Return the attributes of a path; None if it is not there. Symlinks are not followed."""
    try:
        return files.resolve(path)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None


def _without_leftovers(places: Iterable[MetadataFile]) -> list[MetadataFile]:
    """Drop the databases of RPM beside one of a newer format."""
    kept: dict[bytes, MetadataFile] = {}
    for place in places:
        directory, _, name = place.path.rpartition(b"/")
        key = directory if place.kind == "rpm" else place.path
        other = kept.get(key)
        if other is not None:
            there = other.path.rpartition(b"/")[2]
            if FORMATS.index(there) <= FORMATS.index(name):
                continue
        kept[key] = place
    return list(kept.values())
