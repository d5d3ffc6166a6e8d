"""The differences between the packages of two images.

Only databases that differ are parsed: the files that the comparison of the contents reports.
"""

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from unionmount.browse.packages.catalogue import parse_places
from unionmount.browse.packages.model import KINDS, Kind
from unionmount.browse.packages.places import Place, kind_of, places_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from unionmount.browse.diff import Difference
    from unionmount.browse.open import OpenView
    from unionmount.browse.packages.model import Package
    from unionmount.core import Attributes, BrowsableTree

_LOG = b"-wal"  # of SQLite, whose database may have changed by it alone


@dataclass(frozen=True, slots=True)
class PackageDifference:
    """A package that was added (A), changed its version (C), or was deleted (D)."""

    kind: Literal["A", "C", "D"]
    type: Kind
    name: str
    architecture: str
    before: tuple[str, ...]  # versions; npm may have several of a package
    after: tuple[str, ...]


@dataclass(slots=True)
class ChangedPlaces:
    """The databases that differ, collected while the contents of two images are compared."""

    before: OpenView
    after: OpenView
    _older: dict[bytes, Place] = field(default_factory=dict)
    _newer: dict[bytes, Place] = field(default_factory=dict)

    def watch(self, differences: Iterable[Difference]) -> Iterator[Difference]:
        """Pass differences on, and remember those that concern packages."""
        for found in differences:
            self._take(found.path, found.before, found.after)
            yield found

    def _take(self, path: bytes, before: Attributes | None, after: Attributes | None) -> None:
        if path.endswith(_LOG) and kind_of(path.removesuffix(_LOG)) is not None:
            path = path.removesuffix(_LOG)
            before, after = _there(self.before.files, path), _there(self.after.files, path)
        was_directory = before is not None and stat.S_ISDIR(before.mode)
        if before is not None and was_directory and not (after and stat.S_ISDIR(after.mode)):
            for place in places_below(self.before.files, before, path):
                self._older[place.path] = place
        kind = kind_of(path)
        if kind is None:
            return
        for attributes, places in ((before, self._older), (after, self._newer)):
            if attributes is not None and stat.S_ISREG(attributes.mode):
                places[path] = Place(kind, path, attributes)

    def differences(self) -> tuple[list[PackageDifference], list[str]]:
        """Return the differences of the packages, sorted, and what could not be read."""
        older, problems = parse_places(self.before.files, self._older.values())
        newer, more = parse_places(self.after.files, self._newer.values())
        return package_differences(older, newer), problems + more


def _there(files: BrowsableTree, path: bytes) -> Attributes | None:
    try:
        return files.resolve(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def package_differences(
    before: Iterable[Package], after: Iterable[Package]
) -> list[PackageDifference]:
    """Compare packages by kind, name and architecture; equal versions cancel each other out."""
    older, newer = _versions(before), _versions(after)
    found = []
    for key in sorted(older.keys() | newer.keys(), key=_order):
        was, now = older.get(key, Counter()), newer.get(key, Counter())
        gone, come = tuple(sorted(was - now)), tuple(sorted(now - was))
        if gone or come:
            kind: Literal["A", "C", "D"] = "C" if gone and come else "A" if come else "D"
            found.append(PackageDifference(kind, *key, gone, come))
    return found


_Key = tuple[Kind, str, str]


def _order(key: _Key) -> tuple[int, str, str]:
    return KINDS.index(key[0]), *key[1:]


def _versions(packages: Iterable[Package]) -> dict[_Key, Counter[str]]:
    versions: dict[_Key, Counter[str]] = {}
    for one in packages:
        key = (one.kind, one.name, one.architecture)
        versions.setdefault(key, Counter())[one.version] += 1
    return versions
