"""What differs between two trees, and the layer that makes one into the other."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from support import strategies
from support.archives import Layer
from support.effort import examples
from support.strategies import Entry, tar_of
from support.trees import differences, facts, layer_between, tree_of

from unionmount.browse.diff import Difference
from unionmount.core import ROOT
from unionmount.errors import FormatError
from unionmount.formats.tar_writer import END

pytestmark = pytest.mark.slow

EXAMPLES = examples(300, 1000)


def told(below: Layer, above: Layer) -> list[str]:
    """Lines for what the layer ``above`` does, with what changed."""
    tars = below.data(), above.data()
    with tree_of(tars[:1]) as before, tree_of(tars) as after:
        return [line(found) for found in differences(before, after)]


def line(found: Difference) -> str:
    shown = f"{found.kind} {found.path.decode()}"
    return f"{shown} {','.join(found.changes)}" if found.changes else shown


def some_layer() -> Layer:
    layer = Layer().directory("d").directory("d/e")
    layer.file("d/a", b"a").file("d/b", b"b", xattrs={"user.x": b"y"}).symlink("d/s", "a")
    return layer.file("d/e/deep", b"deep").file("f", b"f").add("fifo", b"6")


def test_nothing_differs_from_itself() -> None:
    assert told(some_layer(), Layer()) == []


def test_copies_of_the_same_are_no_difference() -> None:
    again = Layer().file("d/a", b"a").file("d/b", b"b", xattrs={"user.x": b"y"}).symlink("d/s", "a")
    assert told(some_layer(), again) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Layer().file("d/a", b"b"), "content"),
        (Layer().file("d/a", b"aa"), "content"),
        (Layer().file("d/a", b"a", mode=0o600), "mode"),
        (Layer().file("d/a", b"a", owner=(1, 0)), "owner"),
        (Layer().file("d/a", b"a", xattrs={"user.y": b""}), "xattrs"),
        (Layer().file("d/a", b"a", mtime_ns=1), "times"),
        (Layer().file("d/a", b"b", mode=0o600, mtime_ns=1), "content,mode,times"),
        (Layer().symlink("d/a", "b"), "type"),
        (Layer().directory("d/a", mode=0o644), "type"),
    ],
)
def test_what_changed_is_named(change: Layer, expected: str) -> None:
    assert told(some_layer(), change) == ["C d", f"C d/a {expected}"]


def test_the_target_of_a_symlink_is_its_content() -> None:
    assert told(some_layer(), Layer().symlink("d/s", "b")) == ["C d", "C d/s content"]


def test_a_removed_directory_is_one_line() -> None:
    assert told(some_layer(), Layer().file(".wh.d")) == ["D d"]


def test_a_directory_that_became_a_file_is_one_line() -> None:
    assert told(some_layer(), Layer().file("d", mode=0o755)) == ["C d type"]


def test_a_file_that_became_a_directory_has_new_names() -> None:
    above = Layer().directory("f", mode=0o644).file("f/x")
    assert told(some_layer(), above) == ["C f type", "A f/x"]


def test_names_are_sorted_and_follow_their_directory() -> None:
    above = Layer().file("d/e/new").file("d/.wh.a").file("d-", b"").file("a")
    assert told(some_layer(), above) == ["A a", "C d", "D d/a", "C d/e", "A d/e/new", "A d-"]


def test_a_replaced_directory_is_compared_by_path() -> None:
    above = Layer().file(".wh.d").directory("d").file("d/a", b"a").file("d/new")
    assert told(some_layer(), above) == ["C d", "D d/b", "D d/e", "A d/new", "D d/s"]


def test_only_more_than_the_time_of_the_root_is_told() -> None:
    assert told(some_layer(), Layer().directory("./", mtime_ns=5)) == []
    with tree_of([some_layer().data()]) as tree:
        root = tree.getattr(ROOT)
    above = Layer().directory("./", mode=0o700, mtime_ns=root.mtime_ns)
    assert told(some_layer(), above) == ["C  mode"]


def test_a_new_hard_link_is_told_of_all_names() -> None:
    below = Layer().file("a", b"x").file("other", b"y")
    above = Layer().file("a", b"x").hard_link("b", "a")
    assert told(below, above) == ["C a links", "A b"]


def test_kept_hard_links_are_no_difference() -> None:
    below = Layer().file("a", b"x").hard_link("b", "a")
    above = Layer().file("a", b"x").hard_link("b", "a")
    assert told(below, above) == []


def test_sizes_are_those_of_now() -> None:
    tars = some_layer().data(), Layer().file("f", b"12345").file(".wh.fifo").data()
    with tree_of(tars[:1]) as before, tree_of(tars) as after:
        found = differences(before, after)
    assert [(one.kind, one.size, stat.S_IFMT(one.mode)) for one in found] == [
        ("C", 5, stat.S_IFREG),
        ("D", 0, stat.S_IFIFO),
    ]


# ---- layers --------------------------------------------------------------------------------------


def check_layer(before_tars: Sequence[bytes], after_tars: Sequence[bytes]) -> None:
    """Make a layer of two trees and put it on the first: that must show the second."""
    with tree_of(before_tars) as before, tree_of(after_tars) as after:
        made, warnings = layer_between(before, after)
        again, _ = layer_between(before, after)
        wanted = facts(after)
        if made == END:  # the time of the root alone is no change
            wanted[b""] = replace(wanted[b""], mtime_ns=before.getattr(ROOT).mtime_ns)
    assert made == again
    assert warnings == []
    with tree_of([*before_tars, made]) as result:
        assert facts(result) == wanted
        assert differences(result, result) == []


def check_layers(tars: Sequence[bytes]) -> None:
    """What each layer did, and all of it at once, on every tree below."""
    for high in range(1, len(tars) + 1):
        for low in range(high):
            check_layer(tars[:low], tars[:high])


@settings(max_examples=EXAMPLES)
@given(strategies.stacks)
def test_a_made_layer_does_what_the_layer_did(stack: Sequence[Sequence[Entry]]) -> None:
    tars = [tar_of(entries) for entries in stack]
    try:
        with tree_of(tars):
            pass
    except FormatError:
        return
    check_layers(tars)
