"""The search for lines in files, as GNU grep does it (csrc/search/search.h)."""

from __future__ import annotations

import builtins
import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from unionmount._core import ffi, lib
from unionmount.core.handle import Owner, check
from unionmount.core.nodes import Attributes
from unionmount.core.tree import Tree
from unionmount.core.unstacked import LayerTrees
from unionmount.core.upper import View
from unionmount.errors import UsageError
from unionmount.system.attentive_wait import call_attentively

Find = Callable[[memoryview, int], tuple[int, int] | None]
"""A function that finds the first line that matches (-1), or a match from an offset on."""

SYNTAXES = {"basic": 0, "extended": 1, "fixed": 2, "foreign": 3}
COLORS = ("ms", "mc", "fn", "ln", "bn", "se", "sl", "cx")
_RECORD = ffi.sizeof("struct um_search_record")


@dataclass(frozen=True, slots=True)
class SearchFlags:
    """What is searched for and printed (see ``UM_SEARCH_…``)."""

    icase: bool = False
    words: bool = False
    lines: bool = False
    invert: bool = False
    nul_data: bool = False
    text: bool = False
    skip_binary: bool = False
    line_number: bool = False
    byte_offset: bool = False
    filename: bool = False
    nul_name: bool = False
    only_matching: bool = False
    count: bool = False
    list: bool = False
    list_others: bool = False
    quiet: bool = False
    tab: bool = False
    color: bool = False
    reverse: bool = False
    no_erase: bool = False
    escape: bool = False
    records: bool = False

    def bits(self) -> int:
        """Return the flags as C has them."""
        names = (one.name for one in fields(self) if getattr(self, one.name))
        return sum(int(getattr(lib, f"UM_SEARCH_{name.upper()}")) for name in names)


@dataclass(frozen=True, slots=True)
class SearchSetup:
    """The options of a search; ``patterns`` are separated by newlines."""

    patterns: bytes
    syntax: str = "basic"
    flags: SearchFlags = SearchFlags()
    max_count: int = (1 << 64) - 1
    before: int = -1
    after: int = -1
    separator: bytes | None = b"--"
    colors: dict[str, bytes] = field(default_factory=dict)
    find: Find | None = None


class SearchEvent(NamedTuple):
    """The result of a file, or of several between which nothing has to be said."""

    output: bytes
    leading: int  # bytes of a separator, which is for when there was output before
    path: bytes
    selected: bool
    binary: bool
    groups: bool
    large: bool
    error: int
    file: int


class SearchRecord(NamedTuple):
    """A line or match; or the number of selected lines in ``line``; or a file that is listed."""

    kind: int  # RECORD_…
    line: int
    offset: int
    selected: bool
    text: bytes


RECORD_COUNT: int = lib.UM_SEARCH_RECORD_COUNT
RECORD_FILE: int = lib.UM_SEARCH_RECORD_FILE


class Cancellation:
    """A flag that ends searches in other threads."""

    def __init__(self) -> None:
        self.flag = ffi.new("int32_t *")

    def set(self) -> None:
        """End all searches that have this flag."""
        self.flag[0] = 1

    def is_set(self) -> bool:
        """Whether searches end."""
        return bool(self.flag[0])


class SearchBatch(Owner):
    """Files to be searched together, for one thread at a time."""

    def __init__(self, handle: Any, walk: SearchWalk) -> None:
        self._walk = walk  # owns the source
        self._handle = handle

    def _release(self, handle: Any) -> None:
        lib.um_search_batch_close(handle)

    def events(self) -> Iterator[SearchEvent]:
        """Yield the results in the order of the walk, once."""
        event = ffi.new("struct um_search_event *")
        while check(lib.um_search_batch_next(self._handle, event)):
            yield _event_of(event)


def _event_of(event: Any) -> SearchEvent:
    flags = event.flags
    return SearchEvent(
        bytes(ffi.buffer(event.output, event.output_size)) if event.output_size else b"",
        event.leading,
        bytes(ffi.buffer(event.path, event.path_size)) if event.path_size else b"",
        bool(flags & lib.UM_SEARCH_SELECTED),
        bool(flags & lib.UM_SEARCH_BINARY),
        bool(flags & lib.UM_SEARCH_GROUPS),
        bool(flags & lib.UM_SEARCH_LARGE),
        -event.error,
        event.file,
    )


class SearchWalk(Owner):
    """A walk over the files below a node, which hands them out in batches.

    ``files`` and ``directories`` are patterns of shells, in the order of the command line, each
    with ``i`` (include) or ``e`` (exclude) before it.
    """

    def __init__(
        self,
        files: Tree | LayerTrees | View,
        start: Attributes,
        path: bytes,
        *,
        prefix: bytes = b"",
        patterns: Sequence[bytes] = (),
        directories: Sequence[bytes] = (),
    ) -> None:
        self._files = files  # must stay open
        source = ffi.new("struct um_search_source *")
        _fill_source(source, files)
        c_start = ffi.new("struct um_search_start *")
        attr = c_start.attr
        attr.node, attr.mode = start.node, start.mode
        attr.size, attr.blocks = start.size, start.blocks
        keep: list[Any] = []
        c_start.path, c_start.path_size = _text(path, keep), len(path)
        c_start.prefix, c_start.prefix_size = _text(prefix, keep), len(prefix)
        c_start.files, c_start.n_files = _texts(patterns, keep), len(patterns)
        c_start.directories, c_start.n_directories = _texts(directories, keep), len(directories)
        out = ffi.new("struct um_search_walk **")
        check(lib.um_search_walk_open(source, c_start, out))
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_search_walk_close(handle)

    def batches(self) -> Iterator[SearchBatch]:
        """Yield the files in batches; the caller closes each."""
        out = ffi.new("struct um_search_batch **")
        while check(lib.um_search_walk_next(self._handle, out)):
            yield SearchBatch(out[0], self)


def _fill_source(source: Any, files: Tree | LayerTrees | View) -> None:
    if isinstance(files, View):
        source.upper = files._upper._handle
    elif isinstance(files, LayerTrees):
        source.layers = files._handle
        source.tree = files._tree._handle
    else:
        source.tree = files._handle


def _text(value: bytes, keep: list[Any]) -> Any:
    keep.append(ffi.new("char[]", value))
    return keep[-1]


def _texts(values: Sequence[bytes], keep: list[Any]) -> Any:
    keep.append(ffi.new("const char *[]", [_text(value, keep) for value in values] or 1))
    return keep[-1]


class Searcher(Owner):
    """Searches batches of files, for one thread at a time.

    Only one thread at a time may make one. The C library compiles some expressions for minutes;
    Ctrl-C ends that. Raise UsageError if an expression is wrong.
    """

    def __init__(self, setup: SearchSetup, cancel: Cancellation) -> None:
        self._keep: list[Any] = [cancel]
        self._failure: BaseException | None = None
        c_setup = self._c_setup(setup, cancel)
        out = ffi.new("struct um_searcher **")
        fault = ffi.new("struct um_fault *")
        code = call_attentively(
            lambda: int(lib.um_searcher_open(c_setup, out, fault)), needs=self._keep
        )
        if code == -errno.EINVAL and fault.text[0] != b"\0":
            raise UsageError("grep: " + ffi.string(fault.text).decode("ascii", "replace"))
        check(code)
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_searcher_close(handle)

    def _c_setup(self, setup: SearchSetup, cancel: Cancellation) -> Any:
        c_setup = ffi.new("struct um_search_setup *")
        c_setup.patterns = _text(setup.patterns, self._keep)
        c_setup.patterns_size = len(setup.patterns)
        c_setup.syntax = SYNTAXES[setup.syntax]
        c_setup.flags = setup.flags.bits()
        c_setup.max_count = setup.max_count
        c_setup.before, c_setup.after = setup.before, setup.after
        if setup.separator is not None:
            c_setup.separator = _text(setup.separator, self._keep)
        for number, name in enumerate(COLORS):
            if name in setup.colors:
                c_setup.colors[number] = _text(setup.colors[name], self._keep)
        c_setup.cancel = cancel.flag
        if setup.find is not None:
            c_setup.find = self._c_find(setup.find)
        return c_setup

    def _c_find(self, find: Find) -> Any:
        """Wrap a function of Python for C, and keep what it raises."""

        def found(buffer: Any, size: int, start: int, at: Any, length: Any) -> int:
            try:
                place = find(memoryview(ffi.buffer(buffer, size)), start)
            except BaseException as error:  # noqa: BLE001 - raised again in Python
                self._failure = error
                return -errno.ECANCELED
            if place is None:
                return 0
            at[0], length[0] = place
            return 1

        kind = "int32_t(*)(const char *, uint64_t, int64_t, uint64_t *, uint64_t *)"
        self._keep.append(ffi.callback(kind, found))
        return self._keep[-1]

    def run(self, batch: SearchBatch) -> None:
        """Search the files of a batch; raise ECANCELED if the flag was set."""
        self._check(lib.um_searcher_run(self._handle, batch._handle))

    def stream(
        self, batch: SearchBatch, file: int, write: Callable[[bytes], object], *, groups: bool
    ) -> SearchEvent:
        """Search one file, and write its output piece by piece."""

        def take(data: Any, size: int) -> int:
            try:
                write(bytes(ffi.buffer(data, size)))
            except BaseException as error:  # noqa: BLE001 - raised again in Python
                self._failure = error
                return 1
            return 0

        callback = ffi.callback("int32_t(*)(const char *, uint64_t)", take)
        event = ffi.new("struct um_search_event *")
        self._check(
            lib.um_searcher_stream(self._handle, batch._handle, file, groups, callback, event)
        )
        return _event_of(event)

    def _check(self, code: int) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        check(code)


def search_records(output: bytes) -> builtins.list[SearchRecord]:
    """Return the records of an event's output."""
    found, at = [], 0
    while at < len(output):
        record = ffi.new("struct um_search_record *")
        ffi.memmove(record, output[at : at + _RECORD], _RECORD)
        at += _RECORD
        text = output[at : at + record.size]
        found.append(
            SearchRecord(record.kind, record.line, record.offset, bool(record.selected), text)
        )
        at += record.size
    return found
