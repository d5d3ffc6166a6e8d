"""The screen of ``browse``: layers on the left, files on the right, one line at the bottom."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.containers import Horizontal, Vertical
from textual.events import InputEvent
from textual.widgets import Input, Static

from unionmount.screen import keys
from unionmount.screen.dialogs import HelpScreen, PreviewScreen, TargetScreen
from unionmount.screen.extraction import Extraction
from unionmount.screen.file_list import FileList
from unionmount.screen.layer_list import HEADER, LayerList
from unionmount.screen.lists import BOLD, DIM, PLAIN, REVERSE, PlainLine, Words, bindings
from unionmount.screen.preview import FileContent, details, history, other_names
from unionmount.screen.sides import REGULAR
from unionmount.screen.words import shown_command, shown_name
from unionmount.system.os_errors import reason_of
from unionmount.system.text import human_size

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.events import Event, Resize

    from unionmount.core import Summary
    from unionmount.screen.rows import Row
    from unionmount.screen.stacks import Stacks

_TICK = 0.1  # seconds
_LAST_RESORT = 2.0  # seconds
_SWITCH = 0.001  # seconds after which a thread that lists lets the screen run
_TWO_PANES = 72  # columns
_WITH_DETAILS = 18  # lines
_HINT = "? help"


class BrowseScreen(App[int]):
    """The program on the terminal; ``failure`` is the error that ended it."""

    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    #left { width: 34%; min-width: 30; max-width: 60; border-right: solid ansi_bright_black; }
    #right { width: 1fr; }
    #about { height: 9; border-top: solid ansi_bright_black; padding: 0 1; }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    #filter.open { display: block; }
    .narrow #left { width: 1fr; max-width: 100%; border-right: none; display: none; }
    .narrow #left.current { display: block; }
    .narrow #right { display: none; }
    .narrow #right.current { display: block; }
    .low #about { display: none; }
    ModalScreen { background: ansi_default; }
    ModalScreen Vertical { background: ansi_default; }
    Input { border: none; height: 1; padding: 0 1; background: ansi_default; }
    RowList { background: ansi_default; scrollbar-background: ansi_default;
              scrollbar-color: ansi_bright_black; }
    """
    AUTO_FOCUS = "#files"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = bindings(keys.EVERYWHERE)

    def __init__(self, stacks: Stacks) -> None:
        super().__init__(ansi_color=True)
        self.failure: Exception | None = None
        self.last_resort: threading.Timer | None = None
        self._stacks = stacks
        self._aggregated = False
        self._extraction: Extraction | None = None
        self._told = ""
        self._summary: Summary | None = None
        number = stacks.rows[0].number if stacks.rows else 0
        self._layers = LayerList(stacks, self._show_layer)
        self._files = FileList(stacks.compared(number, aggregated=False), self._row_moved)
        self._filter = Input(placeholder="filter", id="filter", select_on_focus=False)
        self._about = Static(id="about", markup=False)
        self._left_title, self._right_title = PlainLine(), PlainLine()
        self._status = PlainLine(style=DIM)

    # -- set up

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with Horizontal(id="panes"):
            with Vertical(id="left"):
                yield self._left_title
                yield self._layers
                yield self._about
            with Vertical(id="right", classes="current"):
                yield self._right_title
                yield self._files
                yield self._filter
        yield self._status

    def on_mount(self) -> None:
        """Show the newest layer, and follow what threads find."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with suppress(RuntimeError, ValueError):  # not in the main thread: a test
                loop.add_signal_handler(number, self._end, 128 + number)
        self._layers.resized()
        self._files.show(self._files.compared)
        self._files.focus()
        self._draw_titles()
        self.set_interval(_TICK, self._tick)
        self.app_resume_signal.subscribe(self, self._draw_anew)

    def _draw_anew(self, _: object) -> None:
        """Draw everything after the shell had the terminal."""
        for widget in self.screen.walk_children():
            widget.refresh()
        self.screen.refresh(layout=True)

    def _end(self, status: int) -> None:
        """End for a signal, even if the terminal is gone or takes nothing."""
        if self.last_resort is None:  # first, since the extraction may wait for a dead server
            self.last_resort = threading.Timer(_LAST_RESORT, os._exit, (status,))
            self.last_resort.daemon = True
            self.last_resort.start()
        if self._extraction is not None:
            self._extraction.stop()
        self.exit(status)

    async def on_event(self, event: Event) -> None:
        """Let threads wait a moment when a key is pressed."""
        if isinstance(event, InputEvent):
            self._files.compared.loader.hold()
        await super().on_event(event)

    def on_resize(self, event: Resize) -> None:
        """Show one pane where there is no room for two."""
        self.screen.set_class(event.size.width < _TWO_PANES, "narrow")
        self.screen.set_class(event.size.height < _WITH_DETAILS, "low")

    def on_unmount(self) -> None:
        """Stop the threads of this screen."""
        self._files.stop()
        if self._extraction is not None:
            self._extraction.stop()

    def _handle_exception(self, error: Exception) -> None:
        """Leave the screen; whoever runs it reports the error."""
        if self.failure is None:
            self.failure = self._exception = error
            self._exception_event.set()
        self._return_code = 1
        self._close_messages_no_wait()

    # -- what is shown

    def _tick(self) -> None:
        self._files.tick()
        if self._extraction is not None:
            self._told = self._extraction.text()
            if not self._extraction.is_running:
                self._extraction = None
        if self._stacks.summary is not self._summary:
            self._summary = self._stacks.summary
            self._layers.refresh()
        self._draw_status()
        self._draw_about()

    def _draw_titles(self) -> None:
        focused = self.focused
        left, right = self._left_title, self._right_title
        left.restyle(REVERSE if focused is self._layers else PLAIN)
        left.say([(HEADER, BOLD)])
        right.restyle(REVERSE if focused is self._files else PLAIN)
        right.say([(self._title(), BOLD)])

    def _go_to_pane(self, *, files: bool) -> None:
        """Give the keys to a pane; it alone is shown where there is no room for two."""
        self.query_one("#left").set_class(not files, "current")
        self.query_one("#right").set_class(files, "current")
        self.call_after_refresh((self._files if files else self._layers).focus)

    def _title(self) -> str:
        layer = self._layers.chosen
        if layer is None:
            return "Files"
        if layer.is_upper:
            return "Files, changes of all layers" if self._aggregated else "Files of the container"
        since = ", changes since layer 0" if self._aggregated else ", its changes"
        return f"Files up to layer {layer.number}{since}"

    def _draw_status(self) -> None:
        files, words = self._files, []
        row = files.row
        search = files.search
        if self._told:
            words.append(self._told)
        elif row is not None:
            words.append("/" + shown_name(row.path))
        if search is not None and not search.done:
            words.append(f"searching: {search.found} found")
        elif files.filter:
            words.append(f"{search.found if search else 0} found")
        elif not files.compared.loader.done:
            words.append(f"{files.compared.loader.entries} listed …")
        if files.marks:
            words.append(f"{len(files.marks)} marked")
        right = f"{files.cursor + 1 if row is not None else 0}/{len(files.rows)}  {_HINT} "
        text = " " + "  ·  ".join(words)
        room = max(0, self._status.size.width - len(right) - 1)
        shown = text if len(text) <= room else text[: max(0, room - 1)] + "…"
        self._status.say([(shown.ljust(room) + " ", PLAIN), (right, DIM)])

    def _draw_about(self) -> None:
        layer = self._layers.chosen
        lines = [shown_name(self._stacks.name)]
        summary = self._stacks.summary
        if summary is not None and summary.layers:
            wasted = sum(one.wasted for one in summary.layers)
            efficiency = int(summary.efficiency * 1000) / 10
            lines.append(f"efficiency {efficiency:.1f} %, {human_size(wasted)} wasted")
        if layer is not None:
            did = self._stacks.summary_of(layer.number)
            if did is not None:
                lines.append(
                    f"layer {layer.number}: {did.added} added, {did.changed} changed, "
                    f"{did.deleted} deleted"
                )
            lines.append(layer.digest)
            lines.append(shown_command(layer.command))
        text = "\n".join(lines)
        if text != str(self._about.content):
            self._about.update(text)

    # -- what happens

    def on_descendant_focus(self) -> None:
        """Show which pane has the keys."""
        self._draw_titles()

    def on_layer_list_compare(self, message: LayerList.Compare) -> None:
        """Compare with other layers."""
        self._aggregated = message.aggregated
        self._show_layer()

    def _show_layer(self) -> None:
        layer = self._layers.chosen
        if layer is not None:
            self._told = ""
            self._files.stop()
            self._files.show(self._stacks.compared(layer.number, aggregated=self._aggregated))
            self._draw_titles()
            self._draw_about()
            self._draw_status()

    def _row_moved(self) -> None:
        """Show the path at the cursor."""
        self._told = ""
        self._draw_status()

    def on_file_list_told(self, message: FileList.Told) -> None:
        """Show a message until the cursor moves."""
        self._told = message.text
        self._draw_status()

    def on_file_list_looked(self) -> None:
        """Look into the file at the cursor."""
        row = self._files.row
        if row is not None:
            try:
                self.push_screen(self._preview(row))
            except OSError as error:
                self._told = f"/{shown_name(row.path)}: {reason_of(error)}"
                self._draw_status()

    def _preview(self, row: Row) -> PreviewScreen:
        files, directory = self._files.compared.sides.side_of(row.folder, row.index)
        found = files.lookup(directory, row.name)
        content = FileContent(files, found.node, found.size) if row.kind & REGULAR else None
        pairs = [
            *details(files, row.path, found),
            *other_names(self._files.compared.loader, row),
            *history(self._stacks.view.tree, row.path),
        ]
        lines: list[Words] = [[(f"{label:>10}  ", DIM), (text, PLAIN)] for label, text in pairs]
        return PreviewScreen("/" + shown_name(row.path), content, lines)

    def on_file_list_extracted(self) -> None:
        """Ask where to extract."""
        wanted = self._files.wanted()
        if self._extraction is not None:
            self._told = "One extraction at a time; Esc stops it"
        elif wanted:
            what = f"{len(wanted)} marked" if self._files.marks else "/" + shown_name(wanted[0][1])
            self.push_screen(TargetScreen(what, "."), self._extract)

    def _extract(self, answer: str | None) -> None:
        if answer:
            target = Path(answer)
            with suppress(RuntimeError):  # ~ of a user who is not there: a name like others
                target = target.expanduser()
            target = target.absolute()
            self._extraction = Extraction(self._stacks.view, self._files.wanted(), target)
            self._extraction.start()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        if event.input is self._filter:
            self._files.set_filter(event.value)
            self._draw_status()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go from the filter to what it found."""
        if event.input is self._filter:
            self._files.focus()

    # -- keys

    def action_leave(self) -> None:
        """Quit."""
        self.exit(0)

    def action_switch_pane(self) -> None:
        """Go to the other pane."""
        if self.screen is self.screen_stack[0]:
            self._go_to_pane(files=self.focused is not self._files)

    def action_help(self) -> None:
        """Show the keys."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())

    def action_filter(self) -> None:
        """Open the filter."""
        self.query_one("#left").remove_class("current")
        self.query_one("#right").add_class("current")
        self._filter.add_class("open")
        self.call_after_refresh(self._filter.focus)

    def action_clear(self) -> None:
        """Stop an extraction, else close the filter."""
        if self._extraction is not None:
            self._extraction.stop()
            return
        self._filter.value = ""
        self._filter.remove_class("open")
        self._files.set_filter("")
        self._go_to_pane(files=True)


def run_screen(stacks: Stacks) -> int:
    """Show the screen until the user leaves; return the exit status. Raise what ended it.

    ``COLUMNS`` and ``LINES`` are removed from the environment: textual would believe them instead
    of the terminal, whose size may change.
    """
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    screen = BrowseScreen(stacks)
    sys.setswitchinterval(_SWITCH)
    status = screen.run()
    if screen.last_resort is not None:
        screen.last_resort.cancel()
    if screen.failure is not None:
        raise screen.failure
    return status if status is not None else os.EX_OK
