"""The screen under textual's pilot: keys, panes, sizes, mouse, errors.

textual runs on asyncio and the tests of this project on trio, so each test runs a loop of its own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from support.archives import Layer
from support.screens import stacks_of, wait_for
from textual.pilot import Pilot

from unionmount.core import Tree
from unionmount.screen import keys
from unionmount.screen.app import BrowseScreen
from unionmount.screen.dialogs import HelpScreen, PageView, PreviewScreen, TargetScreen
from unionmount.screen.lists import RowList

pytestmark = pytest.mark.slow

Scenario = Callable[[BrowseScreen, "Pilot[int]"], Awaitable[None]]


def layers() -> list[Layer]:
    base = Layer().directory("etc").file("etc/motd", b"hello\tworld\n\x1b[31mred\n")
    base.file("etc/os-release", b"NAME=x\n").directory("bin").symlink("lib", "usr/lib")
    base.directory("usr").directory("usr/lib").file("usr/lib/core", bytes(range(256)) * 40)
    base.file("bin/tool", b"#!", mode=0o4755).hard_link("bin/other", "bin/tool")
    base.file("bin/named", b"", xattrs={"user.note": b"hi"})
    top = Layer().file("etc/motd", b"new\n").file("etc/added", b"1").file("etc/.wh.os-release")
    return [base, top, Layer().directory("app").file("app/run", b"x" * 5000)]


HISTORY = ["ADD base", "RUN change [red]everything[/red]", "COPY app"]


def drive(
    top: Path,
    scenario: Scenario,
    made: Sequence[Layer] | None = None,
    size: tuple[int, int] = (110, 30),
) -> BrowseScreen:
    """Run a scenario on the screen of an image; return what is left of the screen."""
    with stacks_of(top, layers() if made is None else made, history=HISTORY) as stacks:
        screen = BrowseScreen(stacks)

        async def run() -> None:
            async with screen.run_test(size=size) as pilot:
                assert screen.failure is None, screen.failure
                wait_for(screen._files.compared.loader)
                await settle(screen, pilot)
                await scenario(screen, pilot)

        asyncio.run(run())
    return screen


async def settle(screen: BrowseScreen, pilot: Pilot[int]) -> None:
    """Let threads end, and show what they found."""
    wait_for(screen._files.compared.loader)
    if screen._files.search is not None:
        screen._files.search._thread.join(30)
    if screen._extraction is not None:
        screen._extraction._thread.join(30)
    screen._tick()
    await pilot.pause()


async def press(screen: BrowseScreen, pilot: Pilot[int], *pressed: str) -> None:
    await pilot.press(*pressed)
    await settle(screen, pilot)


def names(screen: BrowseScreen) -> list[str]:
    rows = screen._files.rows
    return [rows[number].path.decode() for number in range(len(rows))]


def selected(screen: BrowseScreen) -> bytes:
    row = screen._files.row
    return row.path if row is not None else b""


def drawn(rows: RowList) -> list[str]:
    """The lines of a list as they are drawn."""
    return [rows.render_line(y).text.rstrip() for y in range(min(rows.size.height, rows.count()))]


def status(screen: BrowseScreen) -> str:
    return "".join(text for text, _ in screen._status.words)


def test_the_newest_layer_is_shown_with_what_it_changed(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        assert names(screen) == ["app", "bin", "etc", "lib", "usr"]
        first, *_, link, last = drawn(screen._files)
        assert first.split() == ["A", "drwxr-xr-x", "0:0", "5kB", "▸", "app/"]
        assert link.split()[-3:] == ["lib", "→", "usr/lib"]
        assert last.split()[-2:] == ["▸", "usr/"]
        table = drawn(screen._layers)
        assert [line.split()[0] for line in table] == ["2", "1", "0"]
        assert "RUN change [red]" in table[1]

    drive(tmp_path, scenario)


def test_layers_and_comparisons_are_chosen(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "tab", "j")
        assert screen._layers.has_focus
        await press(screen, pilot, "tab", "j", "space")  # etc
        shown = {line.split()[-1]: line[1] for line in drawn(screen._files)}
        assert shown["motd"] == "C"
        assert shown["added"] == "A"
        assert shown["os-release"] == "D"
        assert shown["etc/"] == " "
        # the same directory is open, and selected, with another layer
        await press(screen, pilot, "tab", "k")
        assert "etc/added" in names(screen)
        assert "etc/os-release" not in names(screen)
        assert selected(screen) == b"etc"
        await press(screen, pilot, "ctrl+a")
        shown = {line.split()[-1]: line[1] for line in drawn(screen._files)}
        assert (shown["added"], shown["app/"], shown["os-release"]) == ("A", "A", "D")
        await press(screen, pilot, "ctrl+l")
        shown = {line.split()[-1]: line[1] for line in drawn(screen._files)}
        assert (shown["added"], shown["app/"]) == (" ", "A")

    drive(tmp_path, scenario)


def test_states_are_hidden_and_shown(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "tab", "j", "tab")
        await press(screen, pilot, "ctrl+u")
        assert names(screen) == ["etc"]
        await press(screen, pilot, "space")
        assert names(screen) == ["etc", "etc/added", "etc/motd", "etc/os-release"]
        assert drawn(screen._files)[0].split()[-3:] == ["5B", "▾", "etc/"]  # of what changed
        for key, gone in (("A", "added"), ("ctrl+r", "os-release"), ("M", "motd")):
            await press(screen, pilot, key)
            assert f"etc/{gone}" not in names(screen)
            assert "Hidden: unmodified" in status(screen)
        assert names(screen) == []
        await press(screen, pilot, "U", "R", "ctrl+a", "M")
        assert len(names(screen)) == 7

    drive(tmp_path, scenario)


def test_rows_are_opened_closed_and_sorted(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "ctrl+@")
        assert len(names(screen)) == 13
        await press(screen, pilot, "G", "h")
        assert selected(screen) == b"usr/lib"
        await press(screen, pilot, "h", "h", "h")
        assert names(screen)[-1] == "usr"
        await press(screen, pilot, "l")
        assert names(screen)[-2:] == ["usr", "usr/lib"]  # which was closed itself
        await press(screen, pilot, "ctrl+space")
        assert names(screen) == ["app", "bin", "etc", "lib", "usr"]
        await press(screen, pilot, "ctrl+o")
        assert names(screen) == ["usr", "app", "etc", "bin", "lib"]
        await press(screen, pilot, "ctrl+b")
        assert drawn(screen._files)[0].strip() == "▸ usr/"

    drive(tmp_path, scenario)


def test_the_filter_is_typed_and_closed(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "slash", "o", "t")
        assert names(screen) == ["bin", "bin/other", "etc", "etc/motd"]
        assert "2 found" in status(screen)
        await press(screen, pilot, "q")  # a letter of the filter, not the key that quits
        assert names(screen) == []
        await press(screen, pilot, "backspace", "enter", "j")
        assert screen._files.has_focus
        assert selected(screen) == b"bin/other"
        await press(screen, pilot, "escape")
        assert names(screen) == ["app", "bin", "etc", "lib", "usr"]
        await press(screen, pilot, "ctrl+f", *"/e*/m*", "escape")
        assert screen._files.filter == ""

    drive(tmp_path, scenario)


def test_files_are_looked_into(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "ctrl+@", "j", "j", "j", "j", "j", "enter")
        assert isinstance(screen.screen, PreviewScreen)
        view = screen.screen.query_one(PageView)
        assert view.page == "text"
        assert drawn(view) == ["#!"]
        await press(screen, pilot, "x")
        assert drawn(view)[0].startswith("00000000  23 21  ")
        await press(screen, pilot, "tab")
        text = "\n".join(drawn(view))
        assert "(4755)" in text
        assert "also  /bin/other" in text
        assert "layer 0  added, 2B" in text
        await press(screen, pilot, "q")
        assert len(screen.screen_stack) == 1
        assert screen.is_running
        await press(screen, pilot, "G", "p")  # usr/lib/core has a NUL
        assert screen.screen.query_one(PageView).page == "hex"

    drive(tmp_path, scenario)


def test_links_and_attributes_are_shown(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "j", "j", "j", "enter")
        text = "\n".join(drawn(screen.screen.query_one(PageView)))
        assert "target  usr/lib" in text
        assert "leads to  /usr/lib" in text
        await press(screen, pilot, "t", "escape", "slash", *"named", "enter", "j", "enter", "i")
        assert "user.note = hi" in "\n".join(drawn(screen.screen.query_one(PageView)))

    drive(tmp_path, scenario)


def test_marked_files_are_extracted(tmp_path: Path) -> None:
    target = tmp_path / "out"

    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "tab", "j", "tab", "j", "space", "j", "x")  # etc/added
        await press(screen, pilot, "j", "x")  # etc/os-release, which is removed
        assert "2 marked" in status(screen)
        await press(screen, pilot, "e")
        assert isinstance(screen.screen, TargetScreen)
        await press(screen, pilot, "ctrl+u", *str(target), "enter")
        assert "Extracted 2 files (8B)" in status(screen)
        await press(screen, pilot, "X", "e", *"/out", "escape")
        assert "marked" not in status(screen)

    drive(tmp_path, scenario)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        "added": b"1",
        "os-release": b"NAME=x\n",
    }
    assert stat.S_IMODE((target / "added").stat().st_mode) == 0o644


def test_what_cannot_be_written_is_told_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()

    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "e", "ctrl+u", *str(tmp_path), "enter")
        assert f"{tmp_path}/app: {os.strerror(errno.EEXIST)}" in status(screen)

    drive(tmp_path, scenario, size=(220, 30))
    assert list((tmp_path / "app").iterdir()) == []


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (20, 5), (300, 80), (1, 1)])
def test_any_size_shows_rows(tmp_path: Path, size: tuple[int, int]) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "space", "j", "tab", "j", "tab", "question_mark", "escape")
        for other in ((100, 30), (39, 9), size):
            await pilot.resize_terminal(*other)
            await settle(screen, pilot)
            strips = screen.screen._compositor.render_strips()
            assert all(strip.cell_length == other[0] for strip in strips)
        if size == (40, 10):
            assert not screen.query_one("#left").display
            await press(screen, pilot, "tab")
            assert screen.query_one("#left").display
            assert not screen.query_one("#right").display

    drive(tmp_path, scenario, size=size)


def test_the_mouse_selects_and_opens(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await pilot.click(screen._files, offset=(20, 2))
        await settle(screen, pilot)
        assert selected(screen) == b"etc"
        await pilot.double_click(screen._files, offset=(20, 2))
        await settle(screen, pilot)
        assert "etc/motd" in names(screen)
        await pilot.click(screen._layers, offset=(3, 2))
        await settle(screen, pilot)
        assert screen._files.compared.number == 0
        await pilot.click(screen._files, offset=(20, 20))  # below the last row

    drive(tmp_path, scenario)


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
def test_keys_quit(tmp_path: Path, key: str) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        if key != "q":
            await press(screen, pilot, "slash")  # even in the filter
        await pilot.press(key)

    assert drive(tmp_path, scenario).return_value == 0


def test_help_names_every_key(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "question_mark")
        assert isinstance(screen.screen, HelpScreen)
        text = "\n".join(drawn(screen.screen.query_one(RowList)))
        for key in keys.KEYS:
            assert f"{keys.shown_keys(key):<22} {key.does}" in text
        await press(screen, pilot, "f1")
        assert not isinstance(screen.screen, HelpScreen)

    drive(tmp_path, scenario, size=(110, 90))


def test_each_key_has_an_action(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, _pilot: Pilot[int]) -> None:
        owners = {
            keys.EVERYWHERE: screen,
            keys.PANES: screen,
            keys.LISTS: screen._files,
            keys.LAYERS: screen._layers,
            keys.FILES: screen._files,
            keys.PREVIEW: PreviewScreen("", None, []),
        }
        for key in keys.KEYS:
            action = key.action.removeprefix("app.").partition("(")[0]
            assert hasattr(owners[key.where], f"action_{action}"), key

    drive(tmp_path, scenario)


def test_an_image_without_layers_can_be_shown(tmp_path: Path) -> None:
    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        pressed = ("j", "space", "enter", "x", "e", "h", "ctrl+o", "tab", "j", "ctrl+a", "tab")
        await press(screen, pilot, *pressed)
        assert names(screen) == []

    drive(tmp_path, scenario, made=[])


def test_a_directory_that_cannot_be_read_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Tree.list

    def fail(self: Tree, directory: int, cookie: int = 0, count: int = 64) -> object:
        if directory != 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return listed(self, directory, cookie, count)  # type: ignore[arg-type]

    monkeypatch.setattr(Tree, "list", fail)

    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        await press(screen, pilot, "space")
        assert "cannot be read: Input/output error" in drawn(screen._files)[0]

    drive(tmp_path, scenario, size=(160, 30))


def test_an_error_of_the_program_ends_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    async def scenario(screen: BrowseScreen, pilot: Pilot[int]) -> None:
        monkeypatch.setattr(screen._files.rows, "toggle", fail)
        await pilot.press("space")

    with pytest.raises(RuntimeError, match="broken"):
        drive(tmp_path, scenario)
