"""Maps of user and group IDs: how a mount shows the owners that are stored."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

IDS_END = 2**32 - 1  # (uid_t)-1 is no ID
NOBODY = 65534  # what a user namespace shows of an ID that it does not map


class IdRange(NamedTuple):
    """``size`` IDs from ``stored`` on that are shown from ``shown`` on."""

    stored: int
    shown: int
    size: int


@dataclass(frozen=True, slots=True)
class NamespaceIds:
    """The maps of a user namespace: IDs inside are ``stored``, those outside ``shown``."""

    users: tuple[IdRange, ...]
    groups: tuple[IdRange, ...]

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """Return what an owner that is seen outside is called inside; NOBODY if it has no name."""
        return _inside(self.users, uid), _inside(self.groups, gid)


def _inside(ranges: tuple[IdRange, ...], outer: int) -> int:
    for one in ranges:
        if one.shown <= outer < one.shown + one.size:
            return one.stored + outer - one.shown
    return NOBODY


@dataclass(frozen=True, slots=True)
class IdMap:
    """How one kind of IDs, of users or of groups, is shown.

    Without ranges IDs are shown as they are stored; with ranges, an ID in none of them belongs to
    nobody. ``squashed`` is shown in the place of every ID; what callers make and change is stored
    as without it.
    """

    ranges: tuple[IdRange, ...] = ()
    squashed: int | None = None

    def __post_init__(self) -> None:
        for one in self.ranges:
            if min(one) < 0 or not one.size or max(one.stored, one.shown) + one.size > IDS_END:
                raise ValueError(f"{one.stored}:{one.shown}:{one.size} is no range of IDs")
        for kind, begins in (("stored", 0), ("shown", 1)):
            spans = sorted((one[begins], one[begins] + one.size) for one in self.ranges)
            for (_, end), (begin, _) in pairwise(spans):
                if begin < end:
                    raise ValueError(f"{kind} ID {begin} is in two ranges")
        if self.squashed is not None and not 0 <= self.squashed < IDS_END:
            raise ValueError(f"{self.squashed} is no ID")


AS_STORED = IdMap()


def stored_id(ranges: tuple[IdRange, ...], shown: int) -> int:
    """Return the stored ID that is shown as ``shown``; one of no range is returned unchanged."""
    for one in ranges:
        if one.shown <= shown < one.shown + one.size:
            return one.stored + shown - one.shown
    return shown


def parse_id_ranges(text: str) -> tuple[IdRange, ...]:
    """Read STORED:SHOWN:SIZE[:STORED:SHOWN:SIZE…], decimal; ValueError says what is wrong.

    As fuse-overlayfs has it, more colons count as one: podman begins the value with one.
    """
    numbers = [one for one in text.split(":") if one]
    if (
        not numbers
        or len(numbers) % 3
        or not all(one.isascii() and one.isdecimal() for one in numbers)
    ):
        raise ValueError("these are not threes of numbers")
    values = [int(one) for one in numbers]
    ranges = tuple(IdRange(*values[at : at + 3]) for at in range(0, len(values), 3))
    IdMap(ranges)  # checks them
    return ranges
