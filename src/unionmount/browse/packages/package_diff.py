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
from unionmount.browse.packages.places import MetadataFile, kind_of, places_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from unionmount.browse.diff import Difference
    from unionmount.browse.open import OpenView
    from unionmount.browse.packages.model import Package
    from unionmount.core import BrowsableTree

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
    _older: set[bytes] = field(default_factory=set)
    _newer: set[bytes] = field(default_factory=set)
    _directories: list[bytes] = field(default_factory=list)  # that the newer side has not

    def watch(self, differences: Iterable[Difference]) -> Iterator[Difference]:
        """Pass differences on, and remember those that concern packages."""
        for found in differences:
            self._take(found)
            yield found

    def _take(self, found: Difference) -> None:
        """Remember a path; the numbers of its nodes are not valid for long."""
        path, after = found.path.removesuffix(_LOG), found.after
        was_directory = found.before is not None and stat.S_ISDIR(found.before.mode)
        if was_directory and not (after is not None and stat.S_ISDIR(after.mode)):
            self._directories.append(found.path)
        if kind_of(path) is not None:
            self._older.add(path)
            self._newer.add(path)

    def differences(self) -> tuple[list[PackageDifference], list[str]]:
        """Return the differences of the packages, sorted, and what could not be read."""
        before, after = self.before.files, self.after.files
        gone = (
            place
            for path in self._directories
            for place in places_below(before, before.resolve_anew(path), path)
        )
        older, problems = parse_places(before, [*_places(before, self._older), *gone])
        newer, more = parse_places(after, _places(after, self._newer))
        return package_differences(older, newer), problems + more


def _places(files: BrowsableTree, paths: Iterable[bytes]) -> Iterator[MetadataFile]:
    """Yield those paths that are files of a tree."""
    for path in sorted(paths):
        try:
            attributes = files.resolve_anew(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        kind = kind_of(path)
        if kind is not None and stat.S_ISREG(attributes.mode):
            yield MetadataFile(kind, path, attributes)


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
