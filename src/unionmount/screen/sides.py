"""Two stacks of layers beside each other: what the newer one changed in each directory.

``before`` is the image without the layers in question, ``after`` with them. Directories are
listed in pieces. Nothing of ``before`` is read for a directory that the newer layers leave alone.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from unionmount.core import ROOT, View
from unionmount.system.os_errors import reason_of

if TYPE_CHECKING:
    from array import array

    from unionmount.core import Attributes, BrowsableTree, DirectoryEntry, Node

_BATCH = 512


class State(IntEnum):
    """The difference of a name in two stacks."""

    SAME = 0
    CHANGED = 1
    ADDED = 2
    REMOVED = 3


# A kind is one byte for each name: its state, and these bits.
STATE_BITS = 3
DIRECTORY = 4
TOUCHED = 8  # of a directory: the newer layers have a part in it
REGULAR = 16


class SideEntry(NamedTuple):
    """One name of a directory in both stacks; ``before`` is a directory of the older one."""

    name: bytes
    kind: int
    attributes: Attributes
    before: Node | None


@dataclass(slots=True, eq=False)
class Folder:
    """A directory of the compared trees, and the names in it that were listed so far.

    ``names``, ``kinds`` and ``sizes`` grow at their ends only, by one thread, until ``complete``.
    Sizes are those of regular files. ``links`` has the nodes of files with several names.
    ``total`` and ``changed`` are the bytes at and below the directory, of all files and of those
    that the newer layers added or changed; they are valid when ``counted``.
    """

    parent: Folder | None
    place: int  # in the parent
    name: bytes
    kind: int
    before: Node | None
    after: Node | None
    sizes: array[int]
    depth: int = 0
    names: list[bytes] = field(default_factory=list)
    kinds: bytearray = field(default_factory=bytearray)
    below: dict[int, Folder] = field(default_factory=dict)
    links: dict[int, Node] = field(default_factory=dict)
    complete: bool = False
    counted: bool = False
    total: int = 0
    changed: int = 0
    error: str = ""

    @property
    def path(self) -> bytes:
        """The path from the root, without a leading slash."""
        parts, at = [], self
        while at.parent is not None:
            parts.append(at.name)
            at = at.parent
        return b"/".join(reversed(parts))

    def path_of(self, index: int) -> bytes:
        """The path of a name in this directory."""
        path, name = self.path, self.names[index]
        return path + b"/" + name if path else name

    @property
    def state(self) -> State:
        """The state of the directory itself."""
        return State(self.kind & STATE_BITS)


class Sides:
    """Two borrowed trees; layers from number ``first`` on are the newer ones.

    ``top`` returns the topmost layer with a part in a directory of ``after``. A view is for one
    thread at a time, so each thread that lists has sides of its own.
    """

    def __init__(
        self,
        before: BrowsableTree | None,
        after: BrowsableTree,
        first: int,
        top: Callable[[Node], int],
    ) -> None:
        self.before = before
        self.after = after
        self.first = first
        self._top = top

    def root_nodes(self) -> tuple[Node | None, Node, int]:
        """Return the roots of both trees and the kind of the root."""
        if self.before is None:
            return None, ROOT, State.ADDED | DIRECTORY | TOUCHED
        found = self.after.getattr(ROOT)
        state = State.CHANGED if found.layer >= self.first else State.SAME
        return ROOT, ROOT, state | self._directory_bits(found)

    def pieces(self, folder: Folder) -> Iterator[list[SideEntry]]:
        """Yield the names of a directory in pieces, sorted; raise OSError."""
        if folder.after is None:
            assert folder.before is not None
            assert self.before is not None
            yield from self._one_side(self.before, folder.before, State.REMOVED)
        elif folder.before is None:
            yield from self._one_side(self.after, folder.after, State.ADDED)
        elif not folder.kind & TOUCHED:
            yield from self._one_side(self.after, folder.after, State.SAME)
        else:
            yield from self._both(folder.before, folder.after)

    def attributes(self, folder: Folder, index: int) -> Attributes:
        """Return the attributes of a name; raise OSError if it is gone."""
        files, directory = self.side_of(folder, index)
        found = files.lookup(directory, folder.names[index])
        if isinstance(files, View) and not stat.S_ISDIR(found.mode):
            files.forget(found.node)
        return found

    def side_of(self, folder: Folder, index: int) -> tuple[BrowsableTree, Node]:
        """Return the tree that shows a name, and the node of its directory there."""
        if folder.kinds[index] & STATE_BITS == State.REMOVED:
            assert self.before is not None
            assert folder.before is not None
            return self.before, folder.before
        assert folder.after is not None
        return self.after, folder.after

    # -- listing

    def _one_side(
        self, files: BrowsableTree, node: Node, state: State
    ) -> Iterator[list[SideEntry]]:
        cookie, was_there = 0, state != State.ADDED
        while entries := files.list(node, cookie, _BATCH):
            cookie = entries[-1].next
            yield [
                SideEntry(
                    entry.name,
                    state | _type_bits(entry.attributes.mode),
                    entry.attributes,
                    entry.attributes.node if was_there else None,
                )
                for entry in entries
            ]
            _forget(files, entries)

    def _both(self, before: Node, after: Node) -> Iterator[list[SideEntry]]:
        assert self.before is not None
        older, newer = _Reader(self.before, before), _Reader(self.after, after)
        found: list[SideEntry] = []
        while older.entry is not None or newer.entry is not None:
            found.append(self._joined(older, newer))
            if len(found) == _BATCH:
                yield found
                found = []
        yield found

    def _joined(self, older: _Reader, newer: _Reader) -> SideEntry:
        """Take the next name of either list."""
        old, new = older.entry, newer.entry
        if new is None or (old is not None and old.name < new.name):
            assert old is not None
            older.step()
            return SideEntry(
                old.name,
                State.REMOVED | _type_bits(old.attributes.mode),
                old.attributes,
                old.attributes.node,
            )
        newer.step()
        if old is None or new.name < old.name:
            kind = State.ADDED | _type_bits(new.attributes.mode)
            return SideEntry(new.name, kind, new.attributes, None)
        older.step()
        was, now = old.attributes, new.attributes
        state = State.CHANGED if self._is_changed(was, now) else State.SAME
        if not stat.S_ISDIR(now.mode):
            return SideEntry(new.name, state | _type_bits(now.mode), now, None)
        node = was.node if stat.S_ISDIR(was.mode) else None
        return SideEntry(new.name, state | self._directory_bits(now), now, node)

    def _is_changed(self, was: Attributes, now: Attributes) -> bool:
        if was.node != now.node:
            return True
        # A directory that occurs only in paths of other entries has no attributes of its own.
        is_implied = stat.S_ISDIR(now.mode) and not now.mtime_ns and _own(was) == _own(now)
        return now.layer >= self.first and not is_implied

    def _directory_bits(self, found: Attributes) -> int:
        is_touched = found.layer >= self.first or self._top(found.node) >= self.first
        return DIRECTORY | (TOUCHED if is_touched else 0)


class _Reader:
    """The entries of a directory, one by one; ``entry`` is None at the end."""

    def __init__(self, files: BrowsableTree, node: Node) -> None:
        self._files, self._node, self._cookie = files, node, 0
        self._entries: list[DirectoryEntry] = []
        self._at = 0
        self.entry: DirectoryEntry | None = None
        self.step()

    def step(self) -> None:
        """Go to the next entry."""
        if self._at == len(self._entries):
            _forget(self._files, self._entries)
            self._entries = self._files.list(self._node, self._cookie, _BATCH)
            self._at = 0
            if not self._entries:
                self.entry = None
                return
            self._cookie = self._entries[-1].next
        self.entry = self._entries[self._at]
        self._at += 1


def _forget(files: BrowsableTree, entries: list[DirectoryEntry]) -> None:
    """Forget files of a view that are no directories, as there may be very many."""
    if isinstance(files, View):
        for entry in entries:
            if not stat.S_ISDIR(entry.attributes.mode):
                files.forget(entry.attributes.node)


def _own(found: Attributes) -> tuple[int, ...]:
    return found.mode, found.uid, found.gid, found.mtime_ns


def _type_bits(mode: int) -> int:
    return DIRECTORY if stat.S_ISDIR(mode) else REGULAR if stat.S_ISREG(mode) else 0


def error_text(error: OSError) -> str:
    """Return what a listing failed with, for a row of the screen."""
    return reason_of(error)
