"""What is different between a tree and the tree that it was: a container and its image.

Differences are found by path: what has a path in both trees is compared (type, content, mode,
owner, extended attributes, modification time), whatever was done to it in between. Only directories
that have a part in the upper are looked into, and those that stand where the older tree has another
thing or nothing. Nothing is changed by looking.

A container that is in use may change meanwhile; what was removed since it was seen is a deletion.
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

_STEP = 1024 * 1024  # bytes of both files that are compared at once
_BATCH = 256
_PERMISSIONS = 0o7777
_NOT_OF_THE_IMAGE = frozenset({b"security.selinux"})  # a label that belongs to the host
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)  # removed while we look
# what a name gives that was removed since it was seen, or stands for something else by now
REPLACED = (*_GONE, errno.EISDIR, errno.EINVAL, errno.ELOOP)

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
    """One path that is added (A), changed (C) or deleted (D).

    ``changes`` says of a C what is not the same: type, content, mode, owner, xattrs, times, or
    links (to which other paths it is hard-linked). It is empty for a directory that only holds
    something different. ``opaque``: nothing of the older directory of this path is left.
    """

    kind: Kind
    path: bytes
    before: Attributes | None
    after: Attributes | None
    changes: tuple[str, ...] = ()
    opaque: bool = False

    @property
    def mode(self) -> int:
        """Type and permissions of what is there now, or of a D, was."""
        found = self.after or self.before
        return found.mode if found is not None else 0

    @property
    def size(self) -> int:
        """Bytes of a file or symlink that is there now."""
        if self.after is None or stat.S_IFMT(self.after.mode) not in (stat.S_IFREG, stat.S_IFLNK):
            return 0
        return self.after.size


@dataclass(frozen=True, slots=True)
class _Pair:
    """A path, and what it means in both trees.

    ``whole``: everything here and below is wanted, also what is the same.
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
        """Whether it is the file that it was, if perhaps changed; or goes on with a directory."""
        return self.before is not None and self.before.node == self.after.node


Same = Callable[[Attributes, Attributes], bool]
"""Whether what two trees have at one path is known to be the same, all that is in it included."""

_Step = tuple[_Pair | None, Difference, bool]
"""A pair that is there, its difference, and whether this is told for its own sake."""


@dataclass(slots=True)
class _EnteredDirectory:
    """A directory that is being looked into; ``announce`` is itself, until it was told of."""

    node: Node
    steps: Iterator[_Step]
    announce: Difference | None


@dataclass(slots=True)
class _Group:
    """A file of several names: its paths, and what these mean in the older tree."""

    nlink: int
    whole: bool = False
    paths: set[bytes] = field(default_factory=set)
    origins: set[Node | None] = field(default_factory=set)

    @property
    def is_complete(self) -> bool:
        """Whether all names were found where anything may differ."""
        return len(self.paths) >= self.nlink

    @property
    def is_changed(self) -> bool:
        """Whether the names do not all mean one file of the older tree."""
        return self.whole or not self.is_complete or len(self.origins) > 1 or None in self.origins


class Comparison:
    """Two trees that are compared, ``after`` with ``before``; both are borrowed.

    ``layer`` is what ``Attributes.layer`` says in ``after`` of that which is in its upper: nothing
    else differs. Where it is None, everything is compared. ``same`` is for trees that are not built
    on each other, whose nodes have nothing to do with each other: what it knows to be the same is
    passed over, and where a directory is another one, only what is in it counts.

    ``for_layer``: what is wanted is what a layer must hold that makes ``before`` into ``after``.
    Then the deletions in a directory come before all else in it, an opaque directory is followed by
    all that it holds, and the root comes first where anything differs.
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
        self._ways: set[bytes] = set()  # directories that lead to relinked names
        self._equal: dict[tuple[Node, Node], bool] = {}  # contents of hard-linked files

    def differences(self) -> Iterator[Difference]:
        """Every path that differs, a directory before what is in it."""
        self._find_relinked()
        root = self._root()
        itself = Difference("C", b"", root.before, root.after, self._compare(root))
        # what is made or removed in the root changes its time; no tool tells of that
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
        """What is in a directory, in the order that is wanted."""
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
        """All paths in a directory of either tree: what they were, and the pair where they are."""
        whole = self._is_whole(directory)
        older: Iterator[DirectoryEntry] = iter(())
        if directory.before is not None and directory.was_directory:
            older = _entries(self._before, directory.before.node)
        newer = _entries(self._after, directory.after.node)
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
        """What is not the same; where a path has another meaning by now, with that one."""
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
        """Whether a directory took the place of another one, of which nothing may show."""
        if not pair.is_directory or not pair.was_directory or pair.is_same or pair.whole:
            return False
        if self._same is not None:
            return False
        assert pair.before is not None
        return bool(self._before.list(pair.before.node, 0, 1))

    def _is_whole(self, directory: _Pair) -> bool:
        """Whether all that is in a directory is wanted."""
        return directory.whole or (self._for_layer and self._is_opaque(directory))

    def _forget(self, node: Node) -> None:
        """Let a view drop what it keeps of a node: there may be very many."""
        if isinstance(self._after, core.View) and node != core.ROOT:
            self._after.forget(node)

    # -- comparing

    def _compare(self, pair: _Pair) -> tuple[str, ...]:
        """What is not the same, in a fixed order."""
        before, after = pair.before, pair.after
        assert before is not None
        changes = []
        if stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode):
            changes.append("type")
        elif not self._is_content_equal(before, after):
            changes.append("content")
        # the permissions of a symlink mean nothing and can't be set
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
        """Of two things of one type; what is in a directory is not its content."""
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
        """Find files of several names whose names do not all mean one file of the older tree.

        In a layer a hard link leads to something in the same layer, so all names of such a file are
        told of, also those that nobody touched.
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
        """Files of several names, where anything may differ."""
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
    """The extended attributes of a node, but those that belong to the host."""
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
    """Tell of the directories on the way, each once."""
    for place in places:
        if place.announce is not None:
            yield place.announce
            place.announce = None


def _deletion(path: bytes, before: Attributes | None) -> _Step:
    return None, Difference("D", path, before, None), True


def _entries(tree: BrowsableTree, directory: Node) -> Iterator[DirectoryEntry]:
    cookie = 0
    while entries := _list(tree, directory, cookie):
        yield from entries
        cookie = entries[-1].next


def _list(tree: BrowsableTree, directory: Node, cookie: int) -> list[DirectoryEntry]:
    try:
        return tree.list(directory, cookie, _BATCH)
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def _joined(
    older: Iterator[DirectoryEntry], newer: Iterator[DirectoryEntry]
) -> Iterator[tuple[bytes, Attributes | None, Attributes | None]]:
    """The names of two sorted lists, with what either says of them."""
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
