"""Oracle 1: the C core agrees with the model about every path of generated stacks of layers."""

from __future__ import annotations

import errno
import io
import os
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import model, strategies
from support.effort import examples
from support.strategies import Entry, tar_of

from unionmount.core import ROOT, Attributes, Index, Indexer, Node, Tree, TreeLayer
from unionmount.errors import FormatError

pytestmark = pytest.mark.slow

EXAMPLES = examples(500, 2000)

_ABSENT = [b"a", b"b", b"c", b"d", b".wh.a", b".wh..wh..opq", b".wh..wh.plnk", b"nowhere", b"\xff"]


# ---- layers into a tree --------------------------------------------------------------------------


def _memory(stack: ExitStack) -> int:
    """The descriptor of an empty file in memory."""
    fd = os.memfd_create("layer")
    stack.callback(os.close, fd)
    return fd


def _all_of(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def fed(tar: bytes, seed: random.Random) -> bytes:
    """The index of a tar that came in pieces of random sizes."""
    with ExitStack() as stack, Indexer("fed") as indexer:
        at = 0
        while at < len(tar):
            size = seed.choice([1, 7, 511, 512, 513, 1024, 5000, 100_000])
            indexer.feed(tar[at : at + size])
            at += size
        out = _memory(stack)
        indexer.finish(len(tar), out)
        return _all_of(out)


def scanned(fd: int, offset: int, size: int, out: int) -> None:
    """Write the index of a tar that lies in a file."""
    with Indexer("scanned") as indexer:
        for _ in indexer.scan(fd, offset, size):
            pass
        indexer.finish(size, out)


def _layer(tar: bytes, seed: random.Random, stack: ExitStack) -> TreeLayer:
    fd, out = _memory(stack), _memory(stack)
    before = seed.choice([0, 0, 512, 1])
    os.write(fd, b"\xaa" * before + tar + b"\xaa" * 600)
    scanned(fd, before, len(tar), out)
    assert _all_of(out) == fed(tar, seed), "feed and scan made different indexes"
    index = stack.enter_context(Index(out, "index"))
    index.verify()
    return TreeLayer(index, fd, before, len(tar))


@contextmanager
def trees(tars: Sequence[bytes], seed: random.Random) -> Iterator[list[Tree]]:
    """A tree of the lowest layer, one of the lowest two, and so on."""
    with ExitStack() as stack:
        layers = [_layer(tar, seed, stack) for tar in tars]
        yield [stack.enter_context(Tree(layers[: number + 1])) for number in range(len(layers))]


# ---- comparing ---------------------------------------------------------------------------------


def _children(nodes: dict[bytes, model.Node], path: bytes) -> list[bytes]:
    prefix = path + b"/" if path else b""
    names = [p[len(prefix) :] for p in nodes if p.startswith(prefix) and p]
    return sorted(name for name in names if b"/" not in name)


def _listed(tree: Tree, directory: Node, seed: random.Random) -> list[tuple[bytes, Attributes]]:
    found: list[tuple[bytes, Attributes]] = []
    cookie = 0
    while entries := tree.list(directory, cookie, seed.choice([1, 2, 64])):
        found += [(entry.name, entry.attributes) for entry in entries]
        cookie = entries[-1].next
    return found


def _absent(tree: Tree, directory: Node, name: bytes) -> bool:
    try:
        tree.lookup(directory, name)
    except OSError as error:
        return error.errno == errno.ENOENT
    return False


def _fields(node: model.Node) -> dict[str, object]:
    is_directory = node.kind == model.DIRECTORY
    return {
        "mode": node.kind | node.mode,
        "nlink": node.nlink,
        "uid": node.uid,
        "gid": node.gid,
        "major": node.rdev[0],
        "minor": node.rdev[1],
        "mtime_ns": node.mtime_ns,
        "atime_ns": node.mtime_ns,  # a tar has only one time
        "ctime_ns": node.mtime_ns,
        "layer": node.layer,
        "size": None if is_directory else node.size,
        "blocks": -(-node.stored // 512),
    }


def _shown(attributes: Attributes) -> dict[str, object]:
    shown = attributes._asdict()
    del shown["node"]
    if attributes.mode & 0o170000 == model.DIRECTORY:
        shown["size"] = None  # the policy says nothing about it
    return shown


class Comparison:
    """Walks a tree and its model together."""

    def __init__(self, tree: Tree, nodes: dict[bytes, model.Node], seed: random.Random) -> None:
        self.tree = tree
        self.nodes = nodes
        self.seed = seed
        self.numbers: dict[bytes, Node] = {}

    def run(self) -> None:
        """Compare everything below the root, and it."""
        self._node(b"", self.tree.getattr(ROOT))
        self._directory(b"", ROOT)
        assert self.numbers.keys() == self.nodes.keys()
        self._groups()

    def _directory(self, path: bytes, number: Node) -> None:
        listed = _listed(self.tree, number, self.seed)
        assert [name for name, _ in listed] == _children(self.nodes, path), path
        for name, attributes in listed:
            full = path + b"/" + name if path else name
            assert self.tree.lookup(number, name) == attributes, full
            self._node(full, attributes)
            if self.nodes[full].kind == model.DIRECTORY:
                self._directory(full, attributes.node)
        present = {name for name, _ in listed}
        for name in _ABSENT:
            assert name in present or _absent(self.tree, number, name), (path, name)

    def _node(self, path: bytes, attributes: Attributes) -> None:
        node, number = self.nodes[path], attributes.node
        self.numbers[path] = number
        assert _shown(attributes) == _fields(node), path
        assert self.tree.getattr(number) == attributes, path
        names = self.tree.listxattr(number)
        assert {name: self.tree.getxattr(number, name) for name in names} == node.xattrs, path
        assert len(names) == len(node.xattrs)
        if node.kind == model.SYMLINK:
            assert self.tree.readlink(number) == node.target, path
        elif node.kind == model.FILE:
            self._content(path, node.content, number)

    def _content(self, path: bytes, content: bytes, number: Node) -> None:
        assert self.tree.read(number, 0, len(content) + 1) == content, path
        for _ in range(4):
            start = self.seed.randrange(len(content) + 10)
            size = self.seed.choice([0, 1, 100, 4096, 100_000])
            assert self.tree.read(number, start, size) == content[start : start + size], path

    def _groups(self) -> None:
        identities = {path: node.identity for path, node in self.nodes.items()}
        pairs = {(identities[path], number) for path, number in self.numbers.items()}
        assert len(pairs) == len(set(identities.values())) == len(set(self.numbers.values()))


def agree(tars: Sequence[bytes], seed: random.Random) -> None:
    """The tree of every number of layers is what the model says."""
    stack = model.Stack(list(tars))
    with trees(tars, seed) as found:
        numbers: dict[bytes, Node] = {}
        for layer, tree in enumerate(found):
            comparison = Comparison(tree, stack.nodes(layer), seed)
            comparison.run()
            if layer:
                _unchanged(stack, layer, numbers, comparison.numbers)
            numbers = comparison.numbers
        _summaries(stack, found[-1])


def _unchanged(
    stack: model.Stack, layer: int, below: dict[bytes, Node], above: dict[bytes, Node]
) -> None:
    old, new = stack.nodes(layer - 1), stack.nodes(layer)
    for path in old.keys() & new.keys():
        if old[path].identity == new[path].identity:
            assert below[path] == above[path], path


def _summaries(stack: model.Stack, tree: Tree) -> None:
    for layer in range(len(stack.layers)):
        found = [tuple(change) for change in tree.changes(layer)]
        wanted = [(c.kind, c.path, c.mode, c.size) for c in stack.changes(layer)]
        assert found == wanted, f"changes of layer {layer}"
    broken = sorted((b.layer, b.name, b.target) for b in stack.broken)
    assert sorted(tuple(link) for link in tree.broken_links()) == broken


# ---- the tests -----------------------------------------------------------------------------------


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(strategies.stacks, st.booleans(), st.integers(0, 1000))
@example([[]], False, 0)
@example([[], [], []], True, 0)
def test_the_core_agrees_with_the_model(stack: list[list[Entry]], trailer: bool, seed: int) -> None:
    agree([tar_of(entries, trailer=trailer) for entries in stack], random.Random(seed))


def file(name: bytes, content: bytes = b"") -> Entry:
    return Entry(b"0", name, content=content or name)


def directory(name: bytes) -> Entry:
    return Entry(b"5", name, mode=0o700, uid=7)


def link(name: bytes, target: bytes) -> Entry:
    return Entry(b"1", name, link=target)


def symlink(name: bytes, target: bytes) -> Entry:
    return Entry(b"2", name, link=target)


_CASES = {
    "whiteout after its sibling": [[file(b"a")], [file(b"a"), file(b".wh.a")]],
    "whiteout before its sibling": [[file(b"a")], [file(b".wh.a"), file(b"a")]],
    "whiteout of a directory made again": [
        [directory(b"d"), file(b"d/x")],
        [file(b".wh.d"), file(b"d/y")],
        [file(b"d/z")],
    ],
    "opaque mark at the end": [[file(b"d/x")], [file(b"d/y"), file(b"d/.wh..wh..opq")]],
    "opaque mark of an implied directory": [
        [directory(b"d"), file(b"d/x")],
        [file(b"d/.wh..wh..opq")],
    ],
    "opaque root": [[file(b"x")], [file(b".wh..wh..opq"), file(b"y")]],
    "whiteout below a file": [[file(b"d/x")], [file(b"d"), file(b"d/.wh.x")]],
    "whiteout below a file that becomes a directory": [
        [file(b"d/x"), file(b"d/y")],
        [file(b"d"), file(b"d/.wh.x"), directory(b"d")],
    ],
    "mark outlives its directory": [
        [file(b"d/e/x"), file(b"d/y")],
        [file(b"d/e/.wh.x"), file(b"d"), directory(b"d")],
    ],
    "opaque mark outlives its directory": [
        [file(b"d/x")],
        [file(b"d/.wh..wh..opq"), file(b"d"), directory(b"d")],
    ],
    "path through a lower symlink": [
        [symlink(b"l", b"real"), file(b"real/x")],
        [file(b"l/y")],
    ],
    "path through a file of the same layer": [[file(b"d"), file(b"d/x")]],
    "link forward": [[link(b"a", b"b"), file(b"b")]],
    "link forward over two": [[link(b"a", b"b"), link(b"b", b"c"), file(b"c")]],
    "link to what is replaced later": [[file(b"a", b"old"), link(b"b", b"a"), file(b"a", b"new")]],
    "link to a lower file that its layer removes": [
        [file(b"a")],
        [file(b".wh.a"), link(b"b", b"a")],
    ],
    "link to itself over a lower file": [[file(b"a")], [link(b"a", b"a")]],
    "links in a circle over lower files": [
        [file(b"a"), file(b"b")],
        [link(b"w", b"a"), link(b"a", b"b"), link(b"b", b"a")],
    ],
    "link into a circle": [
        [file(b"a"), file(b"b")],
        [link(b"a", b"b"), link(b"b", b"a"), link(b"w", b"a")],
    ],
    "link to a directory": [[directory(b"d"), file(b"x")], [link(b"x", b"d")]],
    "link to a directory that hides a file": [[file(b"t")], [file(b"t/x"), link(b"l", b"t")]],
    "link to a lower link": [
        [file(b"a"), link(b"b", b"a")],
        [link(b"c", b"b")],
        [link(b"d", b"c"), file(b".wh.a")],
    ],
    "link to nowhere hides": [[file(b"x")], [link(b"x", b"none")], [link(b"y", b"x")]],
    "link to a broken link": [[file(b"y")], [link(b"y", b"none"), link(b"x", b"y")]],
    "broken link whose name is a file later": [
        [link(b"y", b"none"), link(b"x", b"y"), file(b"y")],
    ],
    "child in the place of its own target": [[file(b"a"), link(b"a/b", b"a")]],
    "device whiteout": [[file(b"a")], [Entry(b"3", b"a")]],
    "device whiteout beside its name": [[file(b"a")], [file(b"a", b"2"), Entry(b"3", b"a")]],
    "root entries": [[Entry(b"5", b"./", mode=0o711, uid=5), Entry(b"0", b"/", content=b"x")]],
    "leftovers of AUFS": [
        [file(b".wh..wh.plnk/1.2"), file(b"d/.wh..wh.aufs"), link(b"x", b".wh..wh.plnk/1.2")]
    ],
    "links before the link store": [
        [link(b"x", b".wh..wh.plnk/1.2"), file(b".wh..wh.plnk/1.2"), link(b"y", b"x")],
        [
            link(b"z", b".wh..wh.plnk/1.2"),
            file(b".wh..wh.plnk/a/b"),
            link(b"w", b".wh..wh.plnk/a/b"),
        ],
    ],
    "names below a whiteout": [[file(b"a/b")], [file(b".wh.a/b"), file(b"new/.wh.x/y")]],
    "longest whiteout": [[file(b"n" * 255)], [file(b".wh." + b"n" * 255)]],
}


@pytest.mark.parametrize("layers", _CASES.values(), ids=_CASES)
def test_one_rule_at_a_time(layers: list[list[Entry]]) -> None:
    agree([tar_of(entries) for entries in layers], random.Random(1))


_REFUSED = {
    "bare whiteout": [file(b".wh.")],
    "bare whiteout in a directory": [file(b"a/.wh.")],
    "whiteout of .": [file(b".wh..")],
    "whiteout of ..": [file(b"a/.wh...")],
    "component of 256 bytes": [file(b"n" * 256)],
    "directory of 256 bytes": [file(b"n" * 256 + b"/x")],
    "whiteout of 256 bytes": [file(b".wh." + b"n" * 256)],
    "symlink without target": [symlink(b"l", b"")],
    "symlink with too long a target": [symlink(b"l", b"t" * 4096)],
    "too long an xattr name": [Entry(b"0", b"x", xattrs=((b"user." + b"n" * 251, b"v"),))],
    "too large an xattr": [Entry(b"0", b"x", xattrs=((b"user.n", bytes(65537)),))],
}


@pytest.mark.parametrize("entries", _REFUSED.values(), ids=_REFUSED)
def test_what_the_policy_refuses(entries: list[Entry]) -> None:
    tar = tar_of(entries)
    with pytest.raises(model.Refused):
        model.Stack([tar])
    with pytest.raises(FormatError):
        fed(tar, random.Random(0))


@pytest.mark.parametrize(
    "make", [strategies.tar_of, lambda entries: tar_of(entries, trailer=False)], ids=["", "bare"]
)
def test_the_largest_xattr_is_taken(make: Callable[[list[Entry]], bytes]) -> None:
    entry = Entry(b"0", b"x", xattrs=((b"user." + b"n" * 250, bytes(65536)),))
    agree([make([entry])], random.Random(0))


def test_a_real_archive_of_tar_agrees(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(Path(os.__file__).parent / "json", "json")
    agree([buffer.getvalue()], random.Random(0))
