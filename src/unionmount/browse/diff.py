"""The differences between a tree and an older one, such as a container and its image.

Differences are found by path: whatever has a path in both trees is compared by type, content, mode,
owner, extended attributes and modification time, no matter how it changed in between. Only
directories that have a part in the upper are entered, and those that are not directories in the
older tree. The comparison changes nothing.

A container in use may change meanwhile; what was removed since it was listed counts as deleted.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from unionmount import core
from unionmount.core import Attributes, BrowsableTree, DirectoryEntry, Node

Kind = Literal["A", "C", "D"]

_STEP = 1024 * 1024  # bytes that are compared at once
_BATCH = 256
_PERMISSIONS = 0o7777
_NOT_OF_THE_IMAGE = frozenset({b"security.selinux"})  # a label that belongs to the host
# Errors for directories that were removed since they were listed, and for any names that were.
GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)
REPLACED = (*GONE, errno.EISDIR, errno.EINVAL, errno.ELOOP)

TYPE_NAMES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A path that was added (A), changed (C) or deleted (D).

    ``changes`` names the differences of a C: type, content, mode, owner, xattrs, times, or links
    (the set of paths it is hard-linked to). It is empty for a directory in which only entries
    differ. ``opaque``: nothing of the older directory at this path is left.
    """

    kind: Kind
    path: bytes
    before: Attributes | None
    after: Attributes | None
    changes: tuple[str, ...] = ()
    opaque: bool = False

    @property
    def mode(self) -> int:
        """Type and permissions of the new file, or of the deleted one."""
        found = self.after or self.before
        return found.mode if found is not None else 0

    @property
    def size(self) -> int:
        """The size of the new file or symlink."""
        if self.after is None or stat.S_IFMT(self.after.mode) not in (stat.S_IFREG, stat.S_IFLNK):
            return 0
        return self.after.size


@dataclass(frozen=True, slots=True)
class _Pair:
    """A path and its meaning in both trees.

    ``whole``: everything at and below the path is reported, even if it did not change.
    """

    path: bytes
    before: Attributes | None
    after: Attributes
    whole: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.after.mode)

    @property
    def was_directory(self) -> bool:
        return self.before is not None and stat.S_ISDIR(self.before.mode)

    @property
    def is_same(self) -> bool:
        """Whether it is the same file, perhaps changed, or a continued directory."""
        return self.before is not None and self.before.node == self.after.node


Same = Callable[[Attributes, Attributes], bool]
"""A test whether both trees are known to be the same at a path and below it."""

_Step = tuple[_Pair | None, Difference, bool]
"""A pair of files, their difference, and whether it is reported for its own sake."""


@dataclass(slots=True)
class _EnteredDirectory:
    """An entered directory; ``announce`` is its own difference until that is reported."""

    node: Node
    steps: Iterator[_Step]
    announce: Difference | None


@dataclass(slots=True)
class _Group:
    """A file with several names: its paths, and the nodes of these paths in the older tree."""

    nlink: int
    whole: bool = False
    paths: set[bytes] = field(default_factory=set)
    origins: set[Node | None] = field(default_factory=set)

    @property
    def is_complete(self) -> bool:
        """Whether all names of the file were found."""
        return len(self.paths) >= self.nlink

    @property
    def is_changed(self) -> bool:
        """Whether the names do not all belong to one file of the older tree."""
        return self.whole or not self.is_complete or len(self.origins) > 1 or None in self.origins


class Comparison:
    """A comparison of two borrowed trees, ``after`` with ``before``.

    ``layer`` is the value of ``Attributes.layer`` in ``after`` for entries of its upper; everything
    else is the same. If it is None, everything is compared. ``same`` is for trees whose nodes are
    unrelated: paths for which it returns True are skipped, and of a directory only the entries are
    compared.

    ``for_layer`` reports what a layer must contain that turns ``before`` into ``after``. Then the
    deletions in a directory come first, an opaque directory is followed by all its entries, and the
    root comes first if anything differs.
    """

    def __init__(
        self,
        before: BrowsableTree,
        after: BrowsableTree,
        layer: int | None,
        *,
        for_layer: bool = False,
        same: Same | None = None,
    ) -> None:
        self._same = same
        self._before = before
        self._after = after
        self._layer = layer
        self._for_layer = for_layer
        self._relinked: set[bytes] = set()
        self._ways: set[bytes] = set()  # directories above relinked names
        self._equal: dict[tuple[Node, Node], bool] = {}  # results of comparing hard-linked files

    def differences(self) -> Iterator[Difference]:
        """Yield every path that differs, a directory before its entries."""
        self._find_relinked()
        root = self._root()
        itself = Difference("C", b"", root.before, root.after, self._compare(root))
        # The time of the root changes with each entry; no tool reports that.
        if set(itself.changes) - {"times"}:
            yield itself
            places = [self._place(root, None)]
        else:
            places = [self._place(root, itself if self._for_layer else None)]
        while places:
            step = next(places[-1].steps, None)
            if step is None:
                self._forget(places.pop().node)
                continue
            pair, found, told = step
            if told:
                yield from _announce(places)
                yield found
            if pair is not None and pair.is_directory:
                places.append(self._place(pair, None if told else found))
            elif pair is not None and pair.after.nlink == 1:
                self._forget(pair.after.node)

    # -- walking

    def _root(self) -> _Pair:
        return _Pair(b"", self._before.getattr(core.ROOT), self._after.getattr(core.ROOT))

    def _place(self, pair: _Pair, announce: Difference | None) -> _EnteredDirectory:
        return _EnteredDirectory(pair.after.node, self._steps(pair), announce)

    def _steps(self, directory: _Pair) -> Iterator[_Step]:
        """Yield the steps of a directory in their order."""
        if self._for_layer and directory.was_directory and not self._is_whole(directory):
            for path, before, pair in self._children(directory):
                if pair is None:
                    yield _deletion(path, before)
        for path, before, pair in self._children(directory):
            if pair is not None:
                yield from self._step(pair)
            elif not self._for_layer:
                yield _deletion(path, before)

    def _children(
        self, directory: _Pair
    ) -> Iterator[tuple[bytes, Attributes | None, _Pair | None]]:
        """Yield all paths in a directory of either tree, with old attributes and the pair."""
        whole = self._is_whole(directory)
        older: Iterator[DirectoryEntry] = iter(())
        if directory.before is not None and directory.was_directory:
            older = _entries(self._before, directory.before.node, directory.path)
        newer = _entries(self._after, directory.after.node, directory.path)
        for name, before, after in _joined(older, newer):
            path = directory.path + b"/" + name if directory.path else name
            pair = _Pair(path, before, after, whole) if after is not None else None
            yield path, before, pair

    def _step(self, pair: _Pair) -> Iterator[_Step]:
        relinked = pair.path in self._relinked
        if pair.before is None:
            yield pair, Difference("A", pair.path, None, pair.after), True
        elif self._may_differ(pair) or relinked or pair.path in self._ways:
            try:
                pair, changes = self._compared(pair) if self._may_differ(pair) else (pair, ())
            except OSError as error:
                if error.errno not in REPLACED:
                    raise
                yield _deletion(pair.path, pair.before)
                return
            if relinked:
                changes = (*changes, "links")
            opaque = self._is_opaque(pair)
            found = Difference("C", pair.path, pair.before, pair.after, changes, opaque)
            yield pair, found, bool(changes) or opaque or pair.whole

    def _compared(self, pair: _Pair) -> tuple[_Pair, tuple[str, ...]]:
        """Return the differences of a pair and the pair, a new one if the path was replaced."""
        try:
            return pair, self._compare(pair)
        except OSError as error:
            if error.errno not in REPLACED:
                raise
        pair = replace(pair, after=self._after.resolve_anew(pair.path))
        return pair, self._compare(pair)

    def _may_differ(self, pair: _Pair) -> bool:
        if self._same is not None and pair.before is not None:
            return not self._same(pair.before, pair.after)
        return pair.whole or not pair.is_same or self._is_in_upper(pair.after)

    def _is_in_upper(self, after: Attributes) -> bool:
        return self._layer is None or after.layer == self._layer

    def _is_opaque(self, pair: _Pair) -> bool:
        """Return whether a directory replaced another one whose entries must not show."""
        if not pair.is_directory or not pair.was_directory or pair.is_same or pair.whole:
            return False
        if self._same is not None:
            return False
        assert pair.before is not None
        return bool(self._before.list(pair.before.node, 0, 1))

    def _is_whole(self, directory: _Pair) -> bool:
        """Return whether all entries of a directory are reported."""
        return directory.whole or (self._for_layer and self._is_opaque(directory))

    def _forget(self, node: Node) -> None:
        """Forget a node of a view, as there may be very many."""
        if isinstance(self._after, core.View) and node != core.ROOT:
            self._after.forget(node)

    # -- comparing

    def _compare(self, pair: _Pair) -> tuple[str, ...]:
        """Return the names of the differences in a fixed order."""
        before, after = pair.before, pair.after
        assert before is not None
        changes = []
        if stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode):
            changes.append("type")
        elif not self._is_content_equal(before, after):
            changes.append("content")
        # Permissions of a symlink mean nothing and cannot be set.
        if (before.mode ^ after.mode) & _PERMISSIONS and not stat.S_ISLNK(after.mode):
            changes.append("mode")
        if (before.uid, before.gid) != (after.uid, after.gid):
            changes.append("owner")
        if xattrs_of(self._before, before.node) != xattrs_of(self._after, after.node):
            changes.append("xattrs")
        if before.mtime_ns != after.mtime_ns:
            changes.append("times")
        return tuple(changes)

    def _is_content_equal(self, before: Attributes, after: Attributes) -> bool:
        """Compare the contents of two files of one type; directories have none."""
        kind = stat.S_IFMT(after.mode)
        if kind == stat.S_IFLNK:
            return self._before.readlink(before.node) == self._after.readlink(after.node)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return (before.major, before.minor) == (after.major, after.minor)
        if kind != stat.S_IFREG:
            return True
        if before.size != after.size:
            return False
        if after.nlink == 1:
            return self._is_data_equal(before, after)
        key = before.node, after.node
        if key not in self._equal:
            self._equal[key] = self._is_data_equal(before, after)
        return self._equal[key]

    def _is_data_equal(self, before: Attributes, after: Attributes) -> bool:
        for offset in range(0, after.size, _STEP):
            size = min(_STEP, after.size - offset)
            older = self._before.read(before.node, offset, size)
            if older != self._after.read(after.node, offset, size):
                return False
        return True

    # -- hard links

    def _find_relinked(self) -> None:
        """Find files with several names that are not all names of one file of the older tree.

        In a layer, a hard link leads to a file of the same layer, so all names of such a file are
        reported, even those that did not change.
        """
        groups: dict[Node, _Group] = {}
        for pair in self._linked_files():
            group = groups.setdefault(pair.after.node, _Group(pair.after.nlink))
            group.paths.add(pair.path)
            group.origins.add(pair.before.node if pair.before is not None else None)
            group.whole = group.whole or pair.whole
        changed = {node: group for node, group in groups.items() if group.is_changed}
        if not all(group.is_complete for group in changed.values()):
            for path, after in self._after.walk():
                if after.node in changed and after.nlink > 1:
                    changed[after.node].paths.add(path)
        for group in changed.values():
            self._relinked |= group.paths
        for path in self._relinked:
            while path := path.rpartition(b"/")[0]:
                self._ways.add(path)

    def _linked_files(self) -> Iterator[_Pair]:
        """Yield files with several names that may differ."""
        pending = [self._root()]
        while pending:
            directory = pending.pop()
            for _, _, pair in self._children(directory):
                if pair is None:
                    continue
                if pair.is_directory and self._may_differ(pair):
                    pending.append(pair)
                elif not pair.is_directory and pair.after.nlink > 1 and self._may_differ(pair):
                    yield pair
                elif pair.is_directory or pair.after.nlink == 1:
                    self._forget(pair.after.node)
            self._forget(directory.after.node)


def xattrs_of(tree: BrowsableTree, node: Node) -> dict[bytes, bytes]:
    """Return the extended attributes of a node, except for those that belong to the host."""
    found = {}
    for name in tree.listxattr(node):
        if name not in _NOT_OF_THE_IMAGE:
            try:
                found[name] = tree.getxattr(node, name)
            except OSError as error:
                if error.errno != errno.ENODATA:  # removed since it was listed
                    raise
    return found


def _announce(places: list[_EnteredDirectory]) -> Iterator[Difference]:
    """Report the directories above a path, each once."""
    for place in places:
        if place.announce is not None:
            yield place.announce
            place.announce = None


def _deletion(path: bytes, before: Attributes | None) -> _Step:
    return None, Difference("D", path, before, None), True


def _entries(tree: BrowsableTree, directory: Node, path: bytes) -> Iterator[DirectoryEntry]:
    cookie = 0
    while entries := _list(tree, directory, path, cookie):
        yield from entries
        cookie = entries[-1].next


def _list(tree: BrowsableTree, directory: Node, path: bytes, cookie: int) -> list[DirectoryEntry]:
    try:
        return tree.list(directory, cookie, _BATCH)
    except OSError as error:
        if error.errno in GONE:
            return []
        raise OSError(error.errno, error.strerror, b"/" + path) from error


def _joined(
    older: Iterator[DirectoryEntry], newer: Iterator[DirectoryEntry]
) -> Iterator[tuple[bytes, Attributes | None, Attributes | None]]:
    """Merge two sorted lists; yield each name with its attributes in either list."""
    old, new = next(older, None), next(newer, None)
    while old is not None or new is not None:
        if old is not None and (new is None or old.name < new.name):
            yield old.name, old.attributes, None
            old = next(older, None)
        elif new is not None and (old is None or new.name < old.name):
            yield new.name, None, new.attributes
            new = next(newer, None)
        elif old is not None and new is not None:
            yield new.name, old.attributes, new.attributes
            old, new = next(older, None), next(newer, None)
