"""What layers changed, directory by directory: against the trees, the walk in C, tar and find."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from support import strategies
from support.archives import Layer, docker_archive
from support.effort import examples
from support.screens import folders, loaded, stacks_of, states, wait_for
from support.strategies import Entry, tar_of
from support.trees import tree_layer

from unionmount.core import Node, Tree
from unionmount.errors import FormatError
from unionmount.screen.sides import State

LARGE = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.slow
@given(strategies.stacks)
@settings(max_examples=examples(40, 1500), suppress_health_check=LARGE)
def test_states_are_those_of_the_trees(stack: Sequence[Sequence[Entry]]) -> None:
    with ExitStack() as resources:
        try:
            layers = [tree_layer(tar_of(entries), resources) for entries in stack]
        except FormatError:
            return
        trees = [resources.enter_context(Tree(layers[:n])) for n in range(len(layers) + 1)]
        for number in range(len(layers)):
            before, after = trees[number], trees[number + 1]
            with loaded(before if number else None, after, number) as loader:
                found = states(loader)
            assert_same(found, before, after)
            changed = {one.path for one in after.changes(number) if one.kind == "C"} - {b""}
            # The walk leaves out directories that only occur in paths of other entries, even where
            # an opaque directory above makes new ones of them.
            remade = {path for path, state in found.items() if state == State.CHANGED} - changed
            assert all(
                found[path] == State.CHANGED or is_repeated(before, after, path) for path in changed
            )
            assert all(is_remade(before, after, path) for path in remade)
            with loaded(trees[1], after, 1) as loader:
                assert_same(states(loader), trees[1], after)


def assert_same(found: dict[bytes, State], before: Tree, after: Tree) -> None:
    """Each path of either tree is there, and is added or removed where only one has it."""
    old, new = dict(before.walk()), dict(after.walk())
    # Of a directory that became another file, the content is not listed: nothing is below a file.
    gone = {
        path
        for path in old
        if not any(parent in new and not stat.S_ISDIR(new[parent].mode) for parent in parents(path))
    }
    assert set(found) == gone | set(new)
    assert {path for path, state in found.items() if state == State.ADDED} == set(new) - set(old)
    removed = {path for path, state in found.items() if state == State.REMOVED}
    assert removed == gone - set(new)


def is_repeated(before: Tree, after: Tree, path: bytes) -> bool:
    old, new = before.resolve(path), after.resolve(path)
    return stat.S_ISDIR(new.mode) and (old.node, *old[1:2]) == (new.node, *new[1:2])


def is_remade(before: Tree, after: Tree, path: bytes) -> bool:
    old, new = before.resolve(path), after.resolve(path)
    return stat.S_ISDIR(new.mode) and old.node != new.node


def parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:end]) for end in range(1, len(parts))]


@given(strategies.stacks)
@settings(max_examples=examples(40, 500), suppress_health_check=LARGE)
def test_sizes_count_each_file_once(stack: Sequence[Sequence[Entry]]) -> None:
    with ExitStack() as resources:
        try:
            layers = [tree_layer(tar_of(entries), resources) for entries in stack]
        except FormatError:
            return
        tree = resources.enter_context(Tree(layers))
        before = resources.enter_context(Tree(layers[:-1]))
        sizes: dict[Node, int] = {}
        for _, found in tree.walk():
            if stat.S_ISREG(found.mode):
                sizes[found.node] = found.size
        with loaded(before, tree, len(layers) - 1) as loader:
            assert loader.root.counted
            assert loader.root.total == sum(sizes.values())
            assert loader.root.changed <= loader.root.total


def layers() -> list[Layer]:
    base = Layer().directory("etc").file("etc/a", b"1" * 10).file("etc/b", b"2" * 20)
    base.directory("usr").directory("usr/lib").file("usr/lib/x", b"3" * 300).file("usr/y", b"4")
    base.hard_link("usr/again", "usr/lib/x").directory("old").file("old/f", b"5" * 50)
    base.directory("swap").file("swap/in", b"6").file("plain", b"7")
    top = (
        Layer().file("etc/a", b"new" * 5).file("etc/.wh.b").file("etc/c", b"8" * 8).file(".wh.old")
    )
    top.file("usr/lib/z", b"9" * 90).directory("plain").file("plain/now", b"0").file("swap", b"")
    return [base, top]


@pytest.mark.needs("tar")
def test_a_layer_adds_or_changes_what_tar_lists(tmp_path: Path) -> None:
    upper = tmp_path / "upper.tar"
    upper.write_bytes(layers()[1].data())
    listed = subprocess.run(["tar", "-tf", upper], capture_output=True, text=True, check=True)
    names = {name.rstrip("/") for name in listed.stdout.splitlines()}
    with stacks_of(tmp_path, layers()) as stacks:
        loader = stacks.compared(1, aggregated=False).loader
        wait_for(loader)
        found = {path.decode(): state for path, state in states(loader).items()}
    touched = {path for path, state in found.items() if state in (State.ADDED, State.CHANGED)}
    assert touched == {name for name in names if ".wh." not in name}
    assert {path for path, state in found.items() if state == State.REMOVED} == {
        "etc/b",
        "old",
        "old/f",
    }
    assert found["plain"] == State.CHANGED
    assert found["plain/now"] == State.ADDED


@pytest.mark.needs("fuse", "find")
def test_directories_have_the_sizes_that_find_sums_up(
    tmp_path: Path, mount: Callable[..., Path]
) -> None:
    archive = docker_archive(tmp_path / "mounted.tar", layers())
    top = mount(archive)
    with stacks_of(tmp_path, layers()) as stacks:
        loader = stacks.compared(1, aggregated=False).loader
        wait_for(loader)
        for folder in folders(loader):
            if folder.after is None or folder.parent is None:
                continue
            where = os.fsencode(top) + b"/" + folder.path
            lines = subprocess.run(
                ["find", where, "-type", "f", "-printf", "%i %s\\n"],
                capture_output=True,
                check=True,
                text=True,
            ).stdout.split("\n")
            files = dict(line.split() for line in lines if line)
            if folder.path != b"usr/lib":  # what has a name in a directory before counts there
                assert folder.total == sum(map(int, files.values())), folder.path
        changed = {folder.path: folder.changed for folder in folders(loader)}
    assert changed[b"usr"] == 90
    assert changed[b"etc"] == 15 + 8


def test_the_lowest_layer_adds_everything_and_changes_nothing_beside_itself(tmp_path: Path) -> None:
    with stacks_of(tmp_path, layers()) as stacks:
        for aggregated, state in ((False, State.ADDED), (True, State.SAME)):
            loader = stacks.compared(0, aggregated=aggregated).loader
            wait_for(loader)
            assert set(states(loader).values()) == {state}


def test_comparisons_that_are_no_longer_shown_end(tmp_path: Path) -> None:
    many = [Layer().file(f"f{number}") for number in range(8)]
    with stacks_of(tmp_path, many) as stacks:
        for number in (7, 3, 0, 5, 3, 2, 7, 1):
            found = stacks.compared(number, aggregated=bool(number % 2))
            wait_for(found.loader)
            assert len(found.loader.root.names) == number + 1
    assert not stacks._compared


def test_an_image_without_layers_is_empty(tmp_path: Path) -> None:
    with stacks_of(tmp_path, []) as stacks:
        assert stacks.rows == []
        loader = stacks.compared(0, aggregated=False).loader
        wait_for(loader)
        assert states(loader) == {}
