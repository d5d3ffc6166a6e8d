"""The keys of the screen, in one table, from which both the bindings and the help are made.

Keys are those of dive where dive has any. A terminal without the keyboard protocol of kitty cannot
tell Ctrl-M from Enter, so the filters of states have capitals as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

EVERYWHERE, PANES, LISTS, LAYERS, FILES, PREVIEW = (
    "Everywhere",
    "Panes",
    "In lists",
    "Layers",
    "Files",
    "Preview",
)


@dataclass(frozen=True, slots=True)
class Shortcut:
    """What a key does: its names for textual, the action, and a line of help."""

    where: str
    keys: str
    action: str
    does: str
    always: bool = False  # in fields and dialogs, too


KEYS = (
    Shortcut(EVERYWHERE, "q", "leave", "quit"),
    Shortcut(EVERYWHERE, "ctrl+c,ctrl+q", "leave", "quit, wherever you are", always=True),
    Shortcut(EVERYWHERE, "question_mark,f1", "help", "show this help"),
    Shortcut(EVERYWHERE, "ctrl+f,slash,ctrl+underscore,ctrl+slash", "filter", "filter files"),
    Shortcut(EVERYWHERE, "escape", "clear", "close the filter, stop an extraction"),
    Shortcut(EVERYWHERE, "ctrl+z", "suspend_process", "go back to the shell for a while"),
    Shortcut(PANES, "tab,shift+tab", "app.switch_pane", "go to the other pane"),
    Shortcut(LISTS, "up,k", "move(-1)", "up"),
    Shortcut(LISTS, "down,j", "move(1)", "down"),
    Shortcut(LISTS, "pageup,u", "page(-1)", "a page up"),
    Shortcut(LISTS, "pagedown,d", "page(1)", "a page down"),
    Shortcut(LISTS, "home,g", "first", "to the first row"),
    Shortcut(LISTS, "end,G", "last", "to the last row"),
    Shortcut(LAYERS, "ctrl+l,L", "compare(False)", "show what this layer changed"),
    Shortcut(LAYERS, "ctrl+a,A", "compare(True)", "show what all layers changed since the lowest"),
    Shortcut(FILES, "space", "toggle_directory", "open or close a directory"),
    Shortcut(FILES, "ctrl+at,ctrl+@,ctrl+space,asterisk", "toggle_all", "open or close all"),
    Shortcut(FILES, "right,l", "expand", "open a directory"),
    Shortcut(FILES, "left,h", "collapse", "close a directory, or go to the one above"),
    Shortcut(FILES, "enter,p", "preview", "look into a file; open or close a directory"),
    Shortcut(FILES, "ctrl+a,A", "show('ADDED')", "show or hide added files"),
    Shortcut(FILES, "ctrl+r,R", "show('REMOVED')", "show or hide removed files"),
    Shortcut(FILES, "ctrl+m,M", "show('CHANGED')", "show or hide modified files"),
    Shortcut(FILES, "ctrl+u,U", "show('SAME')", "show or hide unmodified files"),
    Shortcut(FILES, "ctrl+b,B", "attributes", "show or hide modes, owners and sizes"),
    Shortcut(FILES, "ctrl+o,O", "sort", "sort by size or by name"),
    Shortcut(FILES, "x,insert", "mark", "mark or unmark"),
    Shortcut(FILES, "X", "unmark_all", "remove all marks"),
    Shortcut(FILES, "ctrl+e,e", "extract", "extract what is marked, or the file at the cursor"),
    Shortcut(PREVIEW, "tab,shift+tab", "next_page", "text, bytes, details"),
    Shortcut(PREVIEW, "t", "page_of('text')", "text"),
    Shortcut(PREVIEW, "x", "page_of('hex')", "bytes in hexadecimal"),
    Shortcut(PREVIEW, "i", "page_of('details')", "links, extended attributes, layers"),
    Shortcut(PREVIEW, "left,h", "sideways(-8)", "to the left"),
    Shortcut(PREVIEW, "right,l", "sideways(8)", "to the right"),
    Shortcut(PREVIEW, "escape,q,enter,p", "close", "back to the files"),
)

_SHOWN = {
    "question_mark": "?",
    "slash": "/",
    "escape": "Esc",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "space": "Space",
    "enter": "Enter",
    "insert": "Ins",
    "asterisk": "*",
    "ctrl+at": "Ctrl-Space",
    "shift+tab": "Shift-Tab",
}
_HIDDEN = {"ctrl+underscore", "ctrl+@", "ctrl+space", "ctrl+slash"}  # other names of the same


def shown_keys(key: Shortcut) -> str:
    """Return the keys as the help names them."""
    return ", ".join(_shown_key(one) for one in key.keys.split(",") if one not in _HIDDEN)


def _shown_key(name: str) -> str:
    if name in _SHOWN:
        return _SHOWN[name]
    if name.startswith("ctrl+"):
        rest = name.removeprefix("ctrl+")
        return f"Ctrl-{_SHOWN.get(rest, rest.upper())}"
    return name if len(name) == 1 else name.capitalize()


def of(*places: str) -> Iterator[Shortcut]:
    """Yield the keys of parts of the screen."""
    return (key for key in KEYS if key.where in places)
