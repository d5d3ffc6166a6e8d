"""Searches below a directory that run simple tests in C (``tree/scan.h``)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from unionmount._core import ffi, lib
from unionmount.core.handle import Owner, check
from unionmount.core.nodes import Attributes, BrowsableTree, Node
from unionmount.core.path_regex import PathRegex
from unionmount.core.tree import Tree
from unionmount.core.unstacked import LayerTrees
from unionmount.core.upper import View

SKIP: int = lib.UM_SCAN_SKIP
KEEP: int = lib.UM_SCAN_KEEP
MAX_TESTS: int = lib.UM_SCAN_TESTS_MAX
NO_DEPTH = 2**32 - 1
_LEAST_TIME = -(2**63)
_NS = 1_000_000_000

# struct um_scan_record: um_attr, depth, error, path, path_size, name_size
_RECORD = struct.Struct("=Q6I2Qq2I2q2IIiQ2I")
assert _RECORD.size == ffi.sizeof("struct um_scan_record")


class ScanTest(NamedTuple):
    """One test of a program (see ``struct um_scan_test``).

    ``what`` is the name of the constant without ``UM_SCAN_``. Times are nanoseconds.
    """

    what: str
    low: int = 0
    high: int = 0
    since: int = 0
    until: int = 0
    pattern: bytes = b""
    regex: PathRegex | None = None


class ScanStep(NamedTuple):
    """A test with the numbers of the steps that follow it, or SKIP or KEEP."""

    test: ScanTest
    yes: int
    no: int


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """A program, and the depths at which it runs; of no steps, everything is kept."""

    steps: Sequence[ScanStep] = ()
    least: int = 0
    most: int | None = None
    post_order: bool = False


class Visit:
    """A file that a search found; ``error`` is the errno of a directory that cannot be read.

    ``raw`` has the fields of ``struct um_scan_record`` in their order, for callers that print a
    million files: node, mode, links, uid, gid, major, minor, size, blocks, seconds of mtime, ….
    """

    __slots__ = ("path", "raw")

    def __init__(self, raw: tuple[int, ...], path: bytes) -> None:
        self.raw = raw
        self.path = path

    @property
    def node(self) -> Node:
        """The node."""
        return Node(self.raw[0])

    @property
    def mode(self) -> int:
        """Type and permissions."""
        return self.raw[1]

    @property
    def uid(self) -> int:
        """The number of the owner."""
        return self.raw[3]

    @property
    def gid(self) -> int:
        """The number of the group."""
        return self.raw[4]

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.raw[7]

    @property
    def links(self) -> int:
        """The number of hard links."""
        return self.raw[2]

    @property
    def blocks(self) -> int:
        """The blocks of 512 bytes."""
        return self.raw[8]

    @property
    def mtime_ns(self) -> int:
        """The time of the last change of the data, in nanoseconds."""
        return self.raw[9] * _NS + self.raw[10]

    @property
    def atime_ns(self) -> int:
        """The time of the last access, in nanoseconds."""
        return self.raw[12] * _NS + self.raw[14]

    @property
    def ctime_ns(self) -> int:
        """The time of the last change of the attributes, in nanoseconds."""
        return self.raw[13] * _NS + self.raw[15]

    @property
    def layer(self) -> int:
        """The number of the layer that the file is from."""
        return self.raw[11]

    @property
    def depth(self) -> int:
        """The depth below the start, which has 0."""
        return self.raw[16]

    @property
    def error(self) -> int:
        """The errno, 0 unless the directory could not be read on."""
        return -self.raw[17]

    @property
    def name(self) -> bytes:
        """The last component of the path."""
        if not self.depth:  # the path may end with slashes
            return self.path.rstrip(b"/").rpartition(b"/")[2] or b"/"
        return self.path[-self.raw[20] :]

    @property
    def attributes(self) -> Attributes:
        """All attributes."""
        raw = self.raw
        return Attributes(
            Node(raw[0]),
            *raw[1:9],  # type: ignore[call-arg]
            raw[9] * _NS + raw[10],
            raw[11],
            raw[12] * _NS + raw[14],
            raw[13] * _NS + raw[15],
        )


class Batch(NamedTuple):
    """A piece of the result: what the program printed, and the files that it kept.

    ``failed`` tells whether one of them is a directory that cannot be read.
    """

    text: bytes
    visits: Sequence[Visit] = ()
    failed: bool = False


class Scan(Owner):
    """A search of ``start`` and everything below, with ``shown`` as the path of the start."""

    def __init__(
        self, files: BrowsableTree, start: Node, shown: bytes, plan: ScanPlan = ScanPlan()
    ) -> None:
        self._files = files
        self._kept: list[Any] = []  # what C borrows
        setup = ffi.new("struct um_scan_setup *")
        setup.tests, setup.n_tests = self._c_tests(plan.steps), len(plan.steps)
        setup.flags = lib.UM_SCAN_POST_ORDER if plan.post_order else 0
        setup.least = min(plan.least, NO_DEPTH)
        setup.most = NO_DEPTH if plan.most is None else min(plan.most, NO_DEPTH)
        text = ffi.from_buffer(shown)
        setup.start, setup.shown, setup.shown_size = start, text, len(shown)
        out = ffi.new("struct um_scan **")
        function, owner = _opener(files)
        check(function(owner, setup, out))
        self._handle = out[0]
        self._batch = ffi.new("struct um_scan_batch *")

    def _release(self, handle: Any) -> None:
        lib.um_scan_close(handle)

    def _c_tests(self, steps: Sequence[ScanStep]) -> Any:
        tests = ffi.new("struct um_scan_test[]", max(len(steps), 1))
        self._kept.append(tests)
        for slot, (test, yes, no) in zip(tests, steps, strict=False):
            slot.what = getattr(lib, f"UM_SCAN_{test.what}")
            slot.yes, slot.no = yes, no
            slot.low, slot.high = test.low, test.high
            slot.since, slot.since_nsec = _c_time(test.since)
            slot.until, slot.until_nsec = _c_time(test.until)
            pattern = ffi.new("char[]", test.pattern)
            self._kept.append(pattern)
            slot.pattern = pattern
            if test.regex is not None:
                self._kept.append(test.regex)
                slot.regex = test.regex._handle
        return tests

    def batches(self) -> Iterator[Batch]:
        """Yield the pieces; the nodes in one are valid until the next one is taken."""
        batch = self._batch
        while check(lib.um_scan_next(self._handle, batch)):
            text = bytes(ffi.buffer(batch.text, batch.text_size)) if batch.text_size else b""
            yield self._with_visits(text, batch) if batch.n_records else Batch(text)

    def _with_visits(self, text: bytes, batch: Any) -> Batch:
        records = ffi.buffer(batch.records, batch.n_records * _RECORD.size)
        raws = list(_RECORD.iter_unpack(records))
        last = raws[-1]
        paths = bytes(ffi.buffer(batch.paths, last[18] + last[19]))
        visits = [Visit(raw, paths[raw[18] : raw[18] + raw[19]]) for raw in raws]
        return Batch(text, visits, any(raw[17] for raw in raws))

    def leave(self, visit: Visit) -> None:
        """Leave a directory that was visited, if the search is still in it."""
        lib.um_scan_leave(self._handle, visit.depth, visit.node)


def _c_time(ns: int) -> tuple[int, int]:
    """Return seconds and nanoseconds, within what C can hold."""
    seconds, rest = divmod(ns, _NS)
    if seconds < _LEAST_TIME:
        return _LEAST_TIME, 0
    return (seconds, rest) if seconds < 2**63 else (2**63 - 1, _NS - 1)


def _opener(files: BrowsableTree) -> tuple[Any, Any]:
    """Return the function that begins a search in this kind of tree, and its C object."""
    if isinstance(files, View):
        return lib.um_upper_scan, files.upper._handle
    if isinstance(files, LayerTrees):
        return lib.um_scan_unstacked, files._handle
    assert isinstance(files, Tree)
    return lib.um_scan_tree, files._handle
