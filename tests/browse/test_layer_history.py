"""What each layer did to a path, and which step of a build made which layer."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from support import model, strategies
from support.archives import Layer
from support.effort import examples
from support.strategies import Entry, tar_of
from support.trees import tree_of

from unionmount.browse.layer_history import Touch, trace
from unionmount.core import Tree
from unionmount.errors import FormatError
from unionmount.images.config import History
from unionmount.images.history import steps_of_layers

pytestmark = pytest.mark.slow

EXAMPLES = examples(150, 500)


def told(layers: Sequence[Layer], path: str) -> list[str]:
    with tree_of([layer.data() for layer in layers]) as tree:
        settled, touches = trace(tree, path.encode())
    return [settled.decode(), *map(line, touches)]


def line(touch: Touch) -> str:
    why = f" {touch.how}" if touch.how else ""
    why += f" /{touch.because.decode()}" if touch.because is not None else ""
    hides = f" hides {','.join(map(str, touch.hides))}" if touch.hides else ""
    hidden = f" hidden by {touch.hidden_by}" if touch.hidden_by is not None else ""
    return f"{touch.layer} {touch.action}{why}{hides}{hidden}{' *' if touch.is_visible else ''}"


def base() -> Layer:
    return Layer().directory("d").file("d/f", b"old").symlink("l", "d")


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ([], ["0 added *"]),
        ([Layer().file("other")], ["0 added *"]),
        ([Layer().file("d/f")], ["1 changed hides 0 *", "0 added hidden by 1"]),
        ([Layer().file("d/.wh.f")], ["1 deleted whiteout hides 0", "0 added hidden by 1"]),
        (
            [Layer().file("d/.wh.f"), Layer().file("d/f")],
            ["2 added *", "1 deleted whiteout hides 0", "0 added hidden by 1"],
        ),
        ([Layer().file(".wh.d")], ["1 hidden whiteout /d hides 0", "0 added hidden by 1"]),
        ([Layer().file("d")], ["1 hidden file /d hides 0", "0 added hidden by 1"]),
        ([Layer().file("d/.wh..wh..opq")], ["1 hidden opaque /d hides 0", "0 added hidden by 1"]),
        (
            [Layer().directory("d").file(".wh.d").file("d/f")],
            ["1 changed replaced /d hides 0 *", "0 added hidden by 1"],
        ),
        ([Layer().hard_link("d/f", "no")], ["1 deleted whiteout hides 0", "0 added hidden by 1"]),
        (
            [Layer().file(".wh.d"), Layer().file("d/.wh.f"), Layer().directory("d/f")],
            [
                "3 added *",
                "2 deleted whiteout",
                "1 hidden whiteout /d hides 0",
                "0 added hidden by 1",
            ],
        ),
    ],
)
def test_a_file(above: list[Layer], expected: list[str]) -> None:
    assert told([base(), *above], "/d/f") == ["d/f", *expected]


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ([Layer().file("d/x")], ["1 mentioned *", "0 added *"]),
        ([Layer().directory("d", mode=0o700)], ["1 changed *", "0 added *"]),
        ([Layer().file("d/.wh..wh..opq")], ["1 mentioned opaque *", "0 added *"]),
        (
            [Layer().directory("d").file("d/.wh..wh..opq")],
            ["1 changed opaque hides 0 *", "0 added hidden by 1"],
        ),
        (
            [Layer().directory("d").file(".wh.d")],
            ["1 changed replaced hides 0 *", "0 added hidden by 1"],
        ),
        (
            [Layer().directory("d"), Layer().file("d")],
            ["2 changed file hides 0,1 *", "1 changed hidden by 2", "0 added hidden by 2"],
        ),
    ],
)
def test_a_directory(above: list[Layer], expected: list[str]) -> None:
    found = told([base(), *above], "/d")
    assert [one.replace(" file", "") for one in found] == [
        "d",
        *(one.replace(" file", "") for one in expected),
    ]


def test_links_on_the_way_are_followed() -> None:
    assert told([base()], "/l/f") == ["d/f", "0 added *"]
    assert told([base()], "/l") == ["l", "0 added *"]
    assert told([base(), Layer().file("d/.wh.f")], "l/f")[0] == "d/f"


@pytest.mark.parametrize("path", ["/nowhere", "/d/f/x", "/gone", "/d/nowhere/at/all"])
def test_a_path_that_no_layer_has(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        told([base(), Layer().file(".wh.gone")], path)


def test_the_root() -> None:
    assert told([base(), Layer().directory("./")], "/") == ["", "1 changed *", "0 added *"]


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.stacks)
def test_what_is_visible_is_what_the_model_shows(stack: list[list[Entry]]) -> None:
    tars = [tar_of(entries) for entries in stack]
    try:
        with tree_of(tars) as tree:
            shown = model.Stack(tars)
            for path in {p for layer in shown.layers for p in layer.own if p}:
                _check(shown, path, *_traced(tree, path))
    except FormatError:
        return


def _traced(tree: Tree, path: model.Path) -> tuple[bytes, list[Touch]]:
    try:
        return trace(tree, b"/".join(path))
    except FileNotFoundError:  # all that layers have there is hard links to nowhere
        return b"/".join(path), []
    except OSError as error:
        if error.errno != errno.ELOOP:  # a symlink on the way leads to itself
            raise
        return b"/".join(path), []


def _check(shown: model.Stack, path: model.Path, settled: bytes, touches: list[Touch]) -> None:
    if settled != b"/".join(path):
        return  # it leads through a symlink
    visible = [touch.layer for touch in touches if touch.is_visible]
    view = shown.view.get(path)
    if view is None:
        assert visible == [], path
    elif isinstance(view, model.File):
        (layer,) = visible
        own = shown.layers[layer].own[path]
        assert own is view or isinstance(own, model.Link), path
    else:
        assert visible[0] == view.top, path
    for touch in touches:
        kinds = [change.kind for change in shown.changes(touch.layer) if change.path == settled]
        if touch.action == "mentioned":
            assert kinds == [], (path, touch)
        elif touch.action == "added" or (touch.action == "changed" and touch.because is None):
            assert kinds == ["A" if touch.action == "added" else "C"], (path, touch)
        elif touch.action == "deleted":
            assert kinds == (["D"] if touch.hides else []), (path, touch)


# ---- history -------------------------------------------------------------------------------------


def step(command: str, *, empty: bool = False) -> History:
    return History("", command, "", "", empty)


def commands(history: Sequence[History], layers: int) -> list[str]:
    return [one.created_by if one else "-" for one in steps_of_layers(history, layers)]


@pytest.mark.parametrize(
    ("history", "layers", "expected"),
    [
        ([], 2, ["-", "-"]),
        ([step("a"), step("x", empty=True), step("b")], 2, ["a", "b"]),
        ([step("a")], 2, ["a", "-"]),
        ([step("a"), step("b"), step("c")], 2, ["a", "b"]),
        (
            [
                step("/bin/sh -c #(nop) ADD file:x in /"),
                step('/bin/sh -c #(nop)  CMD ["sh"]'),
                step("/bin/sh -c #(nop) COPY a b"),
                step("/bin/sh -c #(nop) WORKDIR /x"),
                step("/bin/sh -c echo"),
            ],
            4,
            [
                "/bin/sh -c #(nop) ADD file:x in /",
                "/bin/sh -c #(nop) COPY a b",
                "/bin/sh -c #(nop) WORKDIR /x",
                "/bin/sh -c echo",
            ],
        ),
        ([step("a", empty=True)], 0, []),
        ([step("a")], 0, []),
    ],
)
def test_steps_and_layers(history: list[History], layers: int, expected: list[str]) -> None:
    assert commands(history, layers) == expected
