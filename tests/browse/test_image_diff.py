"""Two images compared: against the models of both, whatever layers they share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import model, strategies
from support.archives import Layer
from support.effort import examples
from support.strategies import Entry, tar_of
from support.trees import tree_layer

from unionmount.browse.image_diff import differences
from unionmount.browse.open import OpenView
from unionmount.core import BrowsableTree, Index, Node, Tree
from unionmount.errors import FormatError
from unionmount.images.reference import Digest

pytestmark = pytest.mark.slow

EXAMPLES = examples(150, 500)


@dataclass
class StandIn:
    """What a comparison asks of an open image, made of tars in memory."""

    tree: Tree
    diff_ids: list[Digest]
    indexes: tuple[Index, ...]
    files: BrowsableTree
    is_unpacked: bool = False

    @property
    def image(self) -> StandIn:
        return self

    @property
    def layers(self) -> list[Any]:
        return [type("_Layer", (), {"diff_id": diff_id}) for diff_id in self.diff_ids]


class Watched:
    """A tree that counts the bytes that are read."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.bytes_read = 0
        self.listed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tree, name)

    def read(self, node: Node, offset: int, size: int) -> bytes:
        data = self._tree.read(node, offset, size)
        self.bytes_read += len(data)
        return data

    def list(self, *arguments: Any) -> Any:
        self.listed += 1
        return self._tree.list(*arguments)


@contextmanager
def image_of(tars: Sequence[bytes]) -> Iterator[tuple[OpenView, Watched]]:
    with ExitStack() as stack:
        layers = [tree_layer(tar, stack) for tar in tars]
        tree = stack.enter_context(Tree(layers))
        watched = Watched(tree)
        digests = [Digest("sha256", hashlib.sha256(tar).hexdigest()) for tar in tars]
        opened = StandIn(
            tree, digests, tuple(layer.index for layer in layers), cast("BrowsableTree", watched)
        )
        yield cast("OpenView", opened), watched


def found(before: Sequence[bytes], after: Sequence[bytes]) -> list[tuple[str, bytes, set[str]]]:
    with image_of(before) as (one, _), image_of(after) as (other, _):
        return [(d.kind, d.path, set(d.changes)) for d in differences(one, other)]


# ---- the slow way --------------------------------------------------------------------------------


def _changes(old: model.Node, new: model.Node) -> set[str]:
    same_kind = old.kind == new.kind
    content = (old.content, old.target, old.rdev) != (new.content, new.target, new.rdev)
    return {
        name
        for name, differs in {
            "type": not same_kind,
            "content": same_kind and content,
            "mode": old.mode != new.mode and new.kind != model.SYMLINK,
            "owner": (old.uid, old.gid) != (new.uid, new.gid),
            "xattrs": old.xattrs != new.xattrs,
            "times": old.mtime_ns != new.mtime_ns,
        }.items()
        if differs
    }


def slowly(before: Sequence[bytes], after: Sequence[bytes]) -> dict[bytes, tuple[str, set[str]]]:
    """Every path that differs; hard links are left out of it."""
    old, new = (model.Stack(list(tars) or [tar_of([])]).nodes() for tars in (before, after))
    told: dict[bytes, tuple[str, set[str]]] = {}
    for path in (old.keys() | new.keys()) - {b""}:
        above = path.rpartition(b"/")[0]
        if path not in new:
            if above in new and new[above].kind == model.DIRECTORY:
                told[path] = "D", set()
        elif path not in old:
            told[path] = "A", set()
        elif changes := _changes(old[path], new[path]):
            told[path] = "C", changes
    return told


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.stacks, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_differences_are_those_of_the_models(
    stack: list[list[Entry]], shared: int, cut: int, left_out: int
) -> None:
    tars = [tar_of(entries) for entries in stack]
    before = tars[: min(cut, len(tars))] or tars
    after = [tar for number, tar in enumerate(tars) if number < shared or number != left_out]
    try:
        told = found(before, after)
    except FormatError:
        return
    assert _without_ways(told) == slowly(before, after)
    ways = {path for kind, path, changes in told if kind == "C" and not changes}
    for way in ways - {b""}:  # a directory is told of for what is in it
        assert any(path.startswith(way + b"/") for _, path, _ in told)


def _without_ways(
    told: Sequence[tuple[str, bytes, set[str]]],
) -> dict[bytes, tuple[str, set[str]]]:
    plain = {path: (kind, changes - {"links"}) for kind, path, changes in told if path}
    assert len(plain) == len([path for _, path, _ in told if path])
    return {path: one for path, one in plain.items() if one[0] != "C" or one[1]}


# ---- what is read --------------------------------------------------------------------------------


def base() -> bytes:
    return Layer().directory("d").file("d/big", b"b" * 5000).file("e/x", b"x" * 7).data()


def test_shared_layers_are_not_read() -> None:
    top = Layer().file("e/x", b"y" * 7).data()
    with image_of([base()]) as (one, watched), image_of([base(), top]) as (other, above):
        told = [(d.kind, d.path, d.changes) for d in differences(one, other)]
    assert told == [("C", b"e", ()), ("C", b"e/x", ("content",))]
    assert (watched.bytes_read, above.bytes_read) == (7, 7)


def test_directories_that_no_layer_above_touches_are_not_listed() -> None:
    many = Layer()
    for number in range(200):
        many.file(f"many/{number}/x")
    tars = [many.data(), Layer().file("new").data()]
    with image_of(tars[:1]) as (one, watched), image_of(tars) as (other, above):
        assert [d.path for d in differences(one, other)] == [b"new"]
    assert watched.listed + above.listed < 20


def test_a_layer_in_another_place_is_not_read() -> None:
    other_base = Layer().file("z").data()
    with image_of([base()]) as (one, watched), image_of([other_base, base()]) as (other, _):
        assert [(d.kind, d.path) for d in differences(one, other)] == [("A", b"z")]
    assert watched.bytes_read == 0


@pytest.mark.parametrize(
    ("again", "changes"),
    [
        (Layer().file("f", b"1" * 9), ()),
        (Layer().file("f", b"2" * 9), ("content",)),
        (Layer().file("f", b"1" * 8), ("content",)),
        (Layer().file("f", b"1" * 9, mode=0o600, mtime_ns=5), ("mode", "times")),
    ],
)
def test_images_that_share_nothing(again: Layer, changes: tuple[str, ...]) -> None:
    told = found([Layer().file("f", b"1" * 9).data(), Layer().file("x").data()], [again.data()])
    wanted = [("C", b"f", set(changes))] if changes else []
    assert told == [*wanted, ("D", b"x", set())]


def test_hard_links_that_are_others_now() -> None:
    told = found(
        [Layer().file("a", b"x").file("b", b"x").data()],
        [Layer().file("a", b"x").hard_link("b", "a").data()],
    )
    assert told == [("C", b"a", {"links"}), ("C", b"b", {"links"})]
