"""Tables fit the terminal: the right column is shortened first; elsewhere they are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine, own_places
from support.terminal import Terminal

from unionmount.cli.output import aligned, display_width, fitted

_ROWS = st.integers(1, 6).flatmap(
    lambda count: st.lists(
        st.lists(st.text("abc é漢", max_size=40), min_size=count, max_size=count), min_size=1
    )
)


@given(_ROWS, st.integers(20, 120), st.sampled_from([0, 10]))
def test_fitted(rows: list[list[str]], width: int, minimum: int) -> None:
    lines = aligned(fitted([list(row) for row in rows], width, minimum), minimum)
    before = aligned(rows, minimum)
    if all(display_width(line) <= width for line in before):
        assert lines == before
    # What is too long still has nothing left that may be shortened.
    kept = fitted([list(row) for row in rows], width, minimum)
    for at in range(len(rows[0])):
        cut = any(new[at] != old[at] for new, old in zip(kept, rows, strict=True))
        heading = display_width(rows[0][at])
        shown = max(display_width(row[at]) for row in kept)
        assert shown >= min(max(heading, 10), max(display_width(row[at]) for row in rows)) - 1
        if cut:  # all columns on the right of it are at their least
            for right in range(at + 1, len(rows[0])):
                least = max(display_width(rows[0][right]), 12)
                assert max(display_width(row[right]) for row in kept) <= least


def test_the_right_column_is_first() -> None:
    rows = [["NAME", "ID", "COMMAND"], ["n" * 30, "123456789012", "c" * 50]]
    (_, cut) = fitted([list(row) for row in rows], 80)
    assert cut == ["n" * 30, "123456789012", "c" * 31 + "…"]
    (_, cut) = fitted([list(row) for row in rows], 50)
    assert cut == ["n" * 21 + "…", "123456789012", "c" * 9 + "…"]
    assert fitted([list(row) for row in rows], None) == rows


@pytest.mark.parametrize("words", [("images",), ("layers", "IMAGE"), ("history", "IMAGE")])
def test_on_a_terminal_of_80_columns(tmp_path: Path, words: tuple[str, ...]) -> None:
    name = f"example.org/{'long/' * 12}name:1"
    archive = docker_archive(
        tmp_path / "a.tar", [Layer().file("f", b"x" * 10_000)], name, ["RUN " + "long " * 40]
    )
    places = own_places(tmp_path) | {"COLUMNS": "80", "TERM": "xterm"}
    line = CommandLine((), places)
    line.run("load", archive)
    words = tuple(name if word == "IMAGE" else word for word in words)
    whole = line.run(*words).stdout.splitlines()
    assert max(map(len, whole)) > 80
    terminal = Terminal([*COMMAND, *words], places)
    try:
        assert terminal.wait() == 0
    finally:
        terminal.close()
    shown = terminal.shown.decode().splitlines()
    assert max(map(display_width, map(_uncoloured, shown))) <= 80
    for short, long in zip(shown[:2], whole[:2], strict=True):  # "layers" also draws bars
        start, _, rest = short.partition("…")
        assert long.split()[0].startswith(start.split()[0])
        assert rest.split() == [] or rest.split()[-1] in long
    assert any("…" in one for one in shown[:2])


def _uncoloured(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
