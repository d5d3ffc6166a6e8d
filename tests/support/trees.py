"""Trees made of tars in memory, and all that a tree shows as one value that can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from unionmount.browse.diff import Comparison, Difference
from unionmount.committing import LayerWriter
from unionmount.core import ROOT, Attributes, BrowsableTree, Index, Indexer, Node, Tree, TreeLayer


def tree_layer(tar: bytes, stack: ExitStack) -> TreeLayer:
    """A layer of a tar; it lives as long as ``stack``."""
    data, out = os.memfd_create("layer"), os.memfd_create("index")
    stack.callback(os.close, data)
    stack.callback(os.close, out)
    os.write(data, tar)
    with Indexer("layer") as indexer:
        for _ in indexer.scan(data, 0, len(tar)):
            pass
        indexer.finish(len(tar), out)
    return TreeLayer(stack.enter_context(Index(out, "index")), data, 0, len(tar))


@contextmanager
def tree_of(tars: Sequence[bytes]) -> Iterator[Tree]:
    """The tree of some layers, the lowest first."""
    with ExitStack() as stack:
        yield stack.enter_context(Tree([tree_layer(tar, stack) for tar in tars]))


@dataclass(frozen=True, slots=True)
class Shown:
    """All that matters of one path."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    device: tuple[int, int]
    target: bytes
    digest: str
    xattrs: tuple[tuple[bytes, bytes], ...]
    names: tuple[bytes, ...]
    """All paths of the same file."""


def facts(tree: BrowsableTree) -> dict[bytes, Shown]:
    """Everything that a tree shows; the root is ``b""``."""
    found = {b"": tree.getattr(ROOT), **dict(tree.walk())}
    names: dict[Node, list[bytes]] = defaultdict(list)
    for path, attributes in found.items():
        names[attributes.node].append(path)
    return {
        path: _shown(tree, attributes, tuple(sorted(names[attributes.node])))
        for path, attributes in found.items()
    }


def _shown(tree: BrowsableTree, attributes: Attributes, names: tuple[bytes, ...]) -> Shown:
    node, kind = attributes.node, stat.S_IFMT(attributes.mode)
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Shown(
        # the permissions of a symlink mean nothing
        mode=attributes.mode if kind != stat.S_IFLNK else kind,
        owner=(attributes.uid, attributes.gid),
        mtime_ns=attributes.mtime_ns,
        device=(attributes.major, attributes.minor) if device else (0, 0),
        target=tree.readlink(node) if kind == stat.S_IFLNK else b"",
        digest=_digest(tree, attributes) if kind == stat.S_IFREG else "",
        xattrs=tuple(sorted((name, tree.getxattr(node, name)) for name in tree.listxattr(node))),
        names=names,
    )


def _digest(tree: BrowsableTree, attributes: Attributes) -> str:
    sha256 = hashlib.sha256()
    step = 1 << 20
    for offset in range(0, attributes.size, step):
        sha256.update(tree.read(attributes.node, offset, step))
    return sha256.hexdigest()


def differences(
    before: BrowsableTree, after: BrowsableTree, layer: int | None = None
) -> list[Difference]:
    """What differs, as ``diff`` shows it."""
    return list(Comparison(before, after, layer).differences())


def layer_between(
    before: BrowsableTree, after: BrowsableTree, layer: int | None = None, epoch: int | None = None
) -> tuple[bytes, list[str]]:
    """The tar of a layer that makes one tree into another, and the warnings."""
    pieces: list[bytes] = []
    warnings: list[str] = []
    writer = LayerWriter(after, pieces.append, epoch, warnings.append)
    writer.write(Comparison(before, after, layer, for_layer=True).differences())
    return b"".join(pieces), warnings
