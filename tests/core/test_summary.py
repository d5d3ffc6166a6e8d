"""What layers did and wasted, in one pass: against a computation path by path on the model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from support import model, strategies
from support.archives import Layer
from support.effort import examples
from support.strategies import Entry, tar_of
from support.trees import tree_of

from unionmount.core import DirectoryLayer, LayerSummary, PathFloor, Summary, Tree
from unionmount.errors import FormatError

pytestmark = pytest.mark.slow

EXAMPLES = examples(200, 1000)


# ---- the slow way --------------------------------------------------------------------------------


def _bytes(file: model.File) -> int:
    return file.stored if file.kind == model.FILE else 0


def _layer_summary(stack: model.Stack, number: int) -> LayerSummary:
    kinds = Counter(change.kind for change in stack.changes(number))
    own = {id(one): one for one in stack.layers[number].own.values() if isinstance(one, model.File)}
    shown = {id(one) for one in stack.view.values()}
    hidden = [_bytes(file) for key, file in own.items() if key not in shown]
    everything = sum(map(_bytes, own.values()))
    return LayerSummary(kinds["A"], kinds["C"], kinds["D"], everything, sum(hidden))


def _sizes(stack: model.Stack, path: model.Path) -> list[int]:
    """The bytes that layers keep at a path, and 0 where one deletes it."""
    sizes: list[int] = []
    was_file = False
    for layer, view in zip(stack.layers, stack.views, strict=True):
        own, is_file = layer.own.get(path), isinstance(view.get(path), model.File)
        if is_file and isinstance(own, model.File):
            names = [p for p, one in layer.own.items() if one is own]
            first = min(names, key=lambda name: (len(name), name))
            sizes.append(_bytes(own) if path == first else 0)
        elif (is_file and own is not None) or (was_file and not is_file):
            sizes.append(0)
        was_file = is_file
    return sizes


def slowly(tars: Sequence[bytes]) -> Summary:
    stack = model.Stack(list(tars))
    layers = tuple(_layer_summary(stack, number) for number in range(len(tars)))
    sizes = [_sizes(stack, path) for path in {p for layer in stack.layers for p in layer.own}]
    return Summary(layers, sum(map(sum, sizes)), sum(min(one) for one in sizes if one))


# ---- the tests -----------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.stacks)
def test_one_pass_agrees_with_the_slow_way(stack: list[list[Entry]]) -> None:
    tars = [tar_of(entries) for entries in stack]
    try:
        with tree_of(tars) as tree:
            found = tree.summarise()
    except FormatError:
        return
    assert found == slowly(tars)


def _first_name(layer: model.Layer, file: model.File) -> model.Path:
    names = [path for path, one in layer.own.items() if one is file]
    return min(names, key=lambda name: (len(name), name))


def paths_slowly(tars: Sequence[bytes]) -> set[tuple[bytes, int, bool, int]]:
    """All files that take bytes: path, layer, whether the image shows them, bytes."""
    stack = model.Stack(list(tars))
    shown = {id(one) for one in stack.view.values()}
    return {
        (b"/".join(path), number, id(own) in shown, _bytes(own))
        for number, layer in enumerate(stack.layers)
        for path, own in layer.own.items()
        if isinstance(own, model.File) and _bytes(own) and path == _first_name(layer, own)
    }


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.stacks)
def test_listed_paths_agree_with_the_slow_way(stack: list[list[Entry]]) -> None:
    tars = [tar_of(entries) for entries in stack]
    try:
        with tree_of(tars) as tree:
            listed = list(tree.stored_paths(PathFloor()))
            summary = tree.summarise()
    except FormatError:
        return
    found = {
        (path.path, one.layer, one.shown, one.bytes)
        for path in listed
        for one in path.versions
        if one.bytes
    }
    assert found == paths_slowly(tars)
    assert len({path.path for path in listed}) == len(listed)
    for path in listed:
        assert path.shown == sum(one.bytes for one in path.versions if one.shown)
        assert [one.layer for one in path.versions] == sorted({one.layer for one in path.versions})
    assert sum(path.wasted for path in listed) == sum(one.wasted for one in summary.layers)
    assert sum(path.shown + path.wasted for path in listed) == summary.stored


def test_floors_leave_paths_out() -> None:
    tars = [base().data(), Layer().file("d/a", b"n" * 10).file("c", b"C" * 7).data()]
    floors = [
        (PathFloor(50, 1000, 1000), [b"d/b"]),
        (PathFloor(1000, 100, 1000), [b"d/a"]),
        (PathFloor(1000, 1000, 15), [b"c", b"d/a"]),
        (PathFloor(1000, 1000, 1000), []),
    ]
    with tree_of(tars) as tree:
        for floor, wanted in floors:
            assert [path.path for path in tree.stored_paths(floor)] == wanted


def summary_of(*layers: Layer) -> Summary:
    tars = [layer.data() for layer in layers]
    with tree_of(tars) as tree:
        found = tree.summarise()
    assert found == slowly(tars)
    return found


def base() -> Layer:
    return Layer().directory("d").file("d/a", b"a" * 100).file("d/b", b"b" * 50).file("c", b"c" * 8)


def test_one_layer_wastes_nothing() -> None:
    found = summary_of(base())
    assert found.layers == (LayerSummary(4, 0, 0, 158, 0),)
    assert found.efficiency == 1.0


def test_no_layers() -> None:
    with tree_of([]) as tree:
        assert tree.summarise() == Summary((), 0, 0)
        assert tree.summarise().efficiency == 1.0


@pytest.mark.parametrize(
    ("above", "done", "wasted", "least"),
    [
        (Layer().file("d/a", b"n" * 10), (0, 1, 0), 100, 68),  # replaced
        (Layer().file("d/.wh.a"), (0, 0, 1), 100, 58),
        (Layer().file(".wh.d"), (0, 0, 1), 150, 8),
        (Layer().directory("d").file("d/.wh..wh..opq"), (0, 1, 2), 150, 8),
        (Layer().file(".wh.d").directory("d").file("d/b", b"b" * 50), (0, 2, 1), 150, 58),
        (Layer().file("d", b"dd"), (0, 1, 0), 150, 10),
        (Layer().hard_link("d/c", "c").file(".wh.c"), (1, 0, 1), 0, 150),
        (Layer().directory("d", mode=0o700), (0, 1, 0), 0, 158),
        (Layer().hard_link("c", "nowhere"), (0, 0, 1), 8, 150),
        (Layer().file("x", b"x" * 5).hard_link("y", "x").file(".wh.c"), (2, 0, 1), 8, 155),
    ],
)
def test_what_a_layer_wastes(
    above: Layer, done: tuple[int, int, int], wasted: int, least: int
) -> None:
    found = summary_of(base(), above)
    assert tuple(found.layers[1][:3]) == done
    assert [one.wasted for one in found.layers] == [wasted, 0]
    assert found.least == least


def test_what_was_deleted_and_comes_back_was_wasted() -> None:
    found = summary_of(base(), Layer().file(".wh.d"), base())
    assert [one.wasted for one in found.layers] == [158, 0, 0]
    assert found.layers[2] == LayerSummary(3, 1, 0, 158, 0)
    assert (found.stored, found.least) == (316, 8)


def test_live_directories_have_no_summary() -> None:
    fd = os.open("/", os.O_PATH)
    try:
        with Tree([DirectoryLayer(fd)]) as tree, pytest.raises(OSError, match="not supported"):
            tree.summarise()
    finally:
        os.close(fd)


def test_many_layers_that_share_a_directory() -> None:
    """Every name is looked at once, not once for each layer below it."""
    numbers = range(100)
    layers = [Layer().file(f"d/f{i}", b"x" * i).file(f"d/.wh.f{i - 7}") for i in numbers]
    found = summary_of(*layers)
    assert sum(one.wasted for one in found.layers) == sum(numbers[:-7])
