"""Rows as runs, against the plain list that they stand for; and the search that adds to them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archives import Layer
from support.screens import PATIENCE, loaded
from support.trees import tree_of

from unionmount.core import Tree
from unionmount.screen.loader import Loader
from unionmount.screen.rows import Ordered, Rows
from unionmount.screen.search import NameSearch, matcher_of
from unionmount.screen.showing import Showing
from unionmount.screen.sides import Folder, Sides, State

EVERYTHING = Showing()


def layers() -> list[Layer]:
    base = Layer()
    for name in ("a", "a/b", "a/b/c", "a/d", "e", "e/empty", "z"):
        base.directory(name)
    for number, name in enumerate(
        ("a/1", "a/b/2", "a/b/c/3", "a/d/4", "e/5", "m", "n", "z/6", "B")
    ):
        base.file(name, b"x" * (number * 7 % 11))
    return [base, Layer().file("a/b/new", b"y" * 99).file("e/.wh.5").file("z/6", b"zz").file("a/1")]


@contextmanager
def compared() -> Iterator[Loader]:
    tars = [layer.data() for layer in layers()]
    with tree_of(tars) as after, tree_of(tars[:1]) as before, loaded(before, after, 1) as loader:
        yield loader


@dataclass(slots=True)
class Plain:
    """The same rows, as a list that is made anew each time."""

    root: Folder
    showing: Showing = EVERYTHING
    opened: set[Folder] = field(default_factory=set)

    def rows(self, folder: Folder | None = None) -> list[bytes]:
        at = folder or self.root
        names = [index for index, kind in enumerate(at.kinds) if self.showing.is_shown(kind)]
        if self.showing.by_size:
            names.sort(key=lambda index: -self.size(at, index))
        found = []
        for index in names:
            found.append(at.path_of(index))
            below = at.below.get(index)
            if below is not None and below in self.opened:
                found += self.rows(below)
        return found

    def size(self, folder: Folder, index: int) -> int:
        below = folder.below.get(index)
        return folder.sizes[index] if below is None else self.showing.size_of(below)


_step = st.one_of(
    st.tuples(st.just("toggle"), st.integers(0, 40)),
    st.tuples(st.just("show"), st.sampled_from(list(State))),
    st.tuples(st.just("sort"), st.just(0)),
    st.tuples(st.just("close all"), st.just(0)),
    st.tuples(st.just("rebuild"), st.just(0)),
)


@given(st.lists(_step, max_size=40))
def test_rows_are_those_of_a_plain_list(steps: list[tuple[str, int]]) -> None:
    with compared() as loader:
        rows, plain = Rows(loader.root, Ordered(Showing())), Plain(loader.root)
        for what, value in steps:
            take(rows, plain, what, value)
            assert [rows[number].path for number in range(len(rows))] == plain.rows()
            for number in range(len(rows)):
                row = rows[number]
                assert rows.find(row.folder, row.index) == number
                above, parent = rows.parent_row(number), row.path.rpartition(b"/")[0]
                assert (above is None) == (not parent)
                assert above is None or rows[above].path == parent


def take(rows: Rows, plain: Plain, what: str, value: int) -> None:
    if what == "toggle" and value < len(rows):
        folder = rows[value].below
        opened = rows.toggle(value)
        if folder is not None:
            plain.opened ^= {folder}
            assert (opened is folder) == (folder in plain.opened)
    elif what == "show":
        plain.showing = Showing(plain.showing.states ^ {State(value)}, plain.showing.by_size)
        rows.show(Ordered(plain.showing))
    elif what == "sort":
        plain.showing = Showing(plain.showing.states, not plain.showing.by_size)
        rows.show(Ordered(plain.showing))
    elif what == "close all":
        plain.opened = set()
        rows.close_all()
    elif what == "rebuild":
        rows.rebuild()


def test_there_is_no_row_behind_the_last() -> None:
    with compared() as loader:
        rows = Rows(loader.root, Ordered(Showing()))
        for number in (-1, len(rows)):
            with pytest.raises(IndexError):
                rows[number]


# ---- search --------------------------------------------------------------------------------------


def found_by(loader: Loader, text: str, showing: Showing = EVERYTHING) -> list[bytes]:
    search = NameSearch(loader, matcher_of(text), showing)
    search.start()
    search._thread.join(PATIENCE)
    assert search.done
    rows = Rows(loader.root, Ordered(showing))
    rows.show(Ordered(showing, search), search)
    return [rows[number].path for number in range(len(rows))]


def expected(tree: Tree, removed: set[bytes], text: str) -> list[bytes]:
    """The paths whose names fit, and those of the directories that lead to them, in tree order."""
    paths = {path for path, _ in tree.walk()} | removed
    hits = {path for path in paths if fits(path, text)}
    ways = {parent for path in hits for parent in parents(path)}
    return sorted(hits | ways, key=lambda path: path.split(b"/"))


def fits(path: bytes, text: str) -> bool:
    whole, wanted = "/" + path.decode(), text
    name = whole if "/" in text else whole.rpartition("/")[2]
    if wanted == wanted.lower():
        name = name.lower()
    is_glob = any(sign in wanted for sign in "*?[")
    return fnmatch.fnmatchcase(name, wanted) if is_glob else wanted in name


def parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:end]) for end in range(1, len(parts))]


@given(st.text(alphabet="abcdezmnB156/*?[]", min_size=1, max_size=5))
def test_a_search_finds_what_fits(text: str) -> None:
    with compared() as loader, tree_of([layer.data() for layer in layers()]) as tree:
        assert found_by(loader, text) == expected(tree, {b"e/5"}, text)


def test_everything_is_found_without_a_filter() -> None:
    assert matcher_of("  ") is None
    with compared() as loader, tree_of([layer.data() for layer in layers()]) as tree:
        assert found_by(loader, "") == expected(tree, {b"e/5"}, "*")
        removed = found_by(loader, "", Showing(frozenset({State.REMOVED})))
        assert b"e/5" in removed
        assert b"m" not in removed


def test_what_a_search_opened_can_be_closed_and_opened() -> None:
    with compared() as loader:
        search = NameSearch(loader, matcher_of("[0-9]"), Showing())
        search.start()
        search._thread.join(PATIENCE)
        rows = Rows(loader.root, Ordered(Showing()))
        rows.toggle(2)  # e: the user's own are kept for the end of the search
        before = [rows[number].path for number in range(len(rows))]
        rows.show(Ordered(Showing(), search), search)
        assert [rows[number].path for number in range(3)] == [b"a", b"a/1", b"a/b"]
        assert rows.toggle(0) is None
        assert [rows[number].path for number in range(2)] == [b"a", b"e"]
        assert rows.toggle(0) is not None
        assert rows[1].path == b"a/1"
        rows.show(Ordered(Showing()))
        assert [rows[number].path for number in range(len(rows))] == before


def test_a_search_can_be_stopped_before_anything_is_listed() -> None:
    tars = [layer.data() for layer in layers()]
    with tree_of(tars) as tree:
        loader = Loader(Sides(None, tree, 0, tree.top))  # is never started
        search = NameSearch(loader, matcher_of("x"), Showing())
        search.start()
        search.stop()
        assert not search.done
        loader.stop()


def test_a_glob_ends_soon_whatever_the_name_is() -> None:
    match = matcher_of("*a*a*a*a*a*a*a*a*a*a*b")
    assert match is not None
    assert match(b"", [b"a" * 255] * 100) == []
