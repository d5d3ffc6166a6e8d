"""Subordinate IDs: the ranges of /etc/subuid and /etc/subgid that a user may map (subuid(5))."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unionmount.system.id_map import IDS_END, IdRange

_FILES = (Path("/etc/subuid"), Path("/etc/subgid"))
_MAX_FILE = 1024 * 1024
_MAX_RANGES = 340  # of one map, user_namespaces(7)


@dataclass(frozen=True, slots=True)
class SubordinateIds:
    """The maps of a user's own namespaces; root of the container is the user.

    ``complete``: whether there are any IDs besides the user's own.
    """

    users: tuple[IdRange, ...]
    groups: tuple[IdRange, ...]

    @classmethod
    def of_user(
        cls,
        files: tuple[Path, Path] = _FILES,
        owner: tuple[int, int] | None = None,
    ) -> SubordinateIds:
        """Return the maps of a user, by default of that of this process."""
        uid, gid = owner or (os.geteuid(), os.getegid())
        names = {str(uid)}
        with suppress(KeyError):
            names.add(pwd.getpwuid(uid).pw_name)
        users, groups = (_ranges(file, names) for file in files)
        return cls(_map(uid, users), _map(gid, groups))

    @property
    def complete(self) -> bool:
        """Whether there are other IDs than the user's own."""
        return len(self.users) > 1 and len(self.groups) > 1


def lines(ranges: tuple[IdRange, ...]) -> str:
    """Return ranges as the lines that the kernel and newuidmap(1) take."""
    return "\n".join(f"{one.stored} {one.shown} {one.size}" for one in ranges)


def _map(own: int, ranges: list[tuple[int, int]]) -> tuple[IdRange, ...]:
    """Map 0 to the user's own ID, and the following ones to the ranges, in their order.

    What the kernel would refuse is left out: IDs that are mapped already, and more than there are.
    """
    found, following = [IdRange(0, own, 1)], 1
    for first, count in ranges[: _MAX_RANGES - 1]:
        fits = following + count <= IDS_END
        if fits and not any(_overlap(one, first, count) for one in found):
            found.append(IdRange(following, first, count))
            following += count
    return tuple(found)


def _overlap(one: IdRange, first: int, count: int) -> bool:
    return first < one.shown + one.size and one.shown < first + count


def _ranges(file: Path, names: set[str]) -> list[tuple[int, int]]:
    """Return first ID and number of a user's ranges; lines that do not parse are skipped."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            text = lines.read(_MAX_FILE)
    except OSError:
        return []
    found: list[tuple[int, int]] = []
    for line in text.split("\n"):
        words = line.strip().split(":")
        if len(words) != 3 or words[0] not in names:
            continue
        if all(word.isascii() and word.isdecimal() and len(word) <= 10 for word in words[1:]):
            first, count = int(words[1]), int(words[2])
            if count and first + count <= IDS_END:
                found.append((first, count))
    return found
