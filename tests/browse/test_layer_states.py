"""What became of the files of each layer: the same as the history of each path says."""

from __future__ import annotations

import stat

import pytest
from hypothesis import HealthCheck, given, settings
from support import strategies
from support.archives import Layer
from support.effort import examples
from support.strategies import Entry, tar_of
from support.trees import tree_of

from unionmount.browse.layer_history import trace
from unionmount.browse.layer_states import LayerStates
from unionmount.core import LayerTrees, Tree
from unionmount.errors import FormatError

pytestmark = pytest.mark.slow


def leads_through_a_symlink(tree: Tree, path: bytes) -> bool:
    """Whether a directory of a path is a symlink in the image, which a history would follow."""
    names = path.split(b"/")
    for end in range(1, len(names)):
        try:
            found = tree.resolve(b"/".join(names[:end]))
        except OSError:
            return False
        if stat.S_ISLNK(found.mode):
            return True
    return False


def check(tree: Tree) -> int:
    """Compare all files of all layers; return how many were compared."""
    compared = 0
    with LayerTrees(tree) as trees:
        states = LayerStates(trees, len(tree))
        for layer in range(len(tree)):
            start = trees.resolve(b"%d" % layer)
            for path, attributes in trees.walk(start.node):
                state = states.of(layer, path, attributes)
                if leads_through_a_symlink(tree, path):
                    continue
                try:
                    _, touches = trace(tree, path)
                except FileNotFoundError:  # nothing but whiteouts and links to nowhere
                    assert state.state == "whiteout"
                    continue
                touch = next((one for one in touches if one.layer == layer), None)
                if state.state == "whiteout" or touch is None:
                    assert touch is None or touch.attributes is None, path
                    continue
                assert touch.attributes is not None, path
                assert touch.hidden_by == state.hidden_by, (layer, path, touches)
                if state.state == "mentioned":
                    assert touch.action in ("mentioned", "added", "changed"), (layer, path, touch)
                compared += 1
    return compared


@settings(
    max_examples=examples(150, 500), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(strategies.stacks)
def test_states_are_those_of_the_history(stack: list[list[Entry]]) -> None:
    try:
        with tree_of([tar_of(entries) for entries in stack]) as tree:
            check(tree)
    except FormatError:
        return


def test_something_is_compared() -> None:
    first = Layer().directory("a/b").file("a/b/c").file("f").directory("o").file("o/x")
    second = Layer().file("a/.wh.b").file("f").file("o/.wh..wh..opq").directory("o/y")
    third = Layer().directory("a").file("a/b").file(".wh.o").directory("o").file("f/g")
    with tree_of([layer.data() for layer in (first, second, third)]) as tree:
        assert check(tree) == 15
