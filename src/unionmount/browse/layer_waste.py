"""The largest files of an image, and those that waste bytes in its layers.

A file wastes its bytes if the image shows it at none of its names. Efficiency and waste are those
of ``core.Summary``, so the bytes of all wasted files add up to those that ``layers`` prints.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.core import PathFloor
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.core import PathVersions, Summary, Tree

_UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}  # fmt: skip
_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(%|[A-Za-z]{0,3})")


# ---- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopFiles:
    """The paths with the most bytes in each respect, the first of them first."""

    largest: Sequence[PathVersions]  # that the image shows
    wasted: Sequence[PathVersions]
    repeated: Sequence[PathVersions]  # that several layers have


class _Ranking:
    """The ``count`` paths with the most bytes; of equal ones, the first by name."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[int, _Backwards, PathVersions]] = []

    def offer(self, size: int, path: PathVersions) -> None:
        item = (size, _Backwards(path.path), path)
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, item)
        else:
            heapq.heappushpop(self._heap, item)

    @property
    def floor(self) -> int:
        """The least bytes with which a path may still enter."""
        return max(self._heap[0][0], 1) if len(self._heap) == self._count else 1

    def best(self) -> list[PathVersions]:
        return [path for *_, path in sorted(self._heap, key=lambda item: item[:2], reverse=True)]


@dataclass(frozen=True, slots=True)
class _Backwards:
    """A name whose order is reversed."""

    name: bytes

    def __lt__(self, other: _Backwards) -> bool:
        return self.name > other.name


def top_files(tree: Tree, count: int) -> TopFiles:
    """Return the ``count`` largest, most wasted and most repeated files of all layers."""
    largest, wasted, repeated = _Ranking(count), _Ranking(count), _Ranking(count)
    floor = PathFloor(1, 1, 1)
    for path in tree.stored_paths(floor):
        if path.shown:
            largest.offer(path.shown, path)
        if path.wasted:
            wasted.offer(path.wasted, path)
        if len(path.versions) > 1:
            repeated.offer(path.shown + path.wasted, path)
        floor.shown, floor.wasted = largest.floor, wasted.floor
        floor.repeated = repeated.floor
    return TopFiles(largest.best(), wasted.best(), repeated.best())


# ---- thresholds ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, as the user wrote it."""

    value: float
    text: str

    @classmethod
    def parse(cls, text: str, option: str) -> Share:
        """Parse ``0.9`` or ``90%``."""
        found = _NUMBER.fullmatch(text)
        value = float(found[1]) / (100 if found[2] == "%" else 1) if found else -1
        if found is None or found[2] not in ("", "%") or not 0 <= value <= 1:
            raise UsageError(f"{option}: '{printable(text)}' is not a share; write 0.9, or 90%")
        return cls(value, text)


@dataclass(frozen=True, slots=True)
class Allowance:
    """The bytes that may be wasted: a number, or a share of the bytes of all files."""

    share: Share | None
    bytes: int
    text: str

    @classmethod
    def parse(cls, text: str, option: str) -> Allowance:
        """Parse ``20MB``, a share (``5%`` or ``0.05``) or a number of bytes."""
        found = _NUMBER.fullmatch(text)
        if text.endswith("%") or (found is not None and "." in found[1] and not found[2]):
            return cls(Share.parse(text, option), 0, text)
        if found is None or found[2] not in _UNITS:
            raise UsageError(
                f"{option}: '{printable(text)}' is neither a size nor a share; "
                "write 20MB, 512KiB or 5%"
            )
        return cls(None, int(float(found[1]) * _UNITS[found[2]]), text)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What an image has to meet; None is no threshold."""

    efficiency: Share | None = None
    wasted: Allowance | None = None

    def missed(self, summary: Summary) -> list[str]:
        """Return a sentence for each threshold that an image misses."""
        missed = []
        wasted, everything = wasted_bytes(summary)
        if self.efficiency is not None and summary.efficiency < self.efficiency.value:
            percent = int(summary.efficiency * 10_000) / 100
            missed.append(
                f"the efficiency is {percent:.2f} %, less than --min-efficiency "
                f"{self.efficiency.text}"
            )
        if self.wasted is not None:
            share = self.wasted.share
            limit = self.wasted.bytes if share is None else share.value * everything
            if wasted > limit:
                missed.append(
                    f"{wasted} of {everything} bytes in files are wasted, more than --max-wasted "
                    f"{self.wasted.text}"
                )
        return missed


def wasted_bytes(summary: Summary) -> tuple[int, int]:
    """Return the wasted bytes, and those of all files of all layers."""
    return sum(one.wasted for one in summary.layers), sum(one.bytes for one in summary.layers)
