"""The keys of the screen, in one table, from which both the bindings and the help are made.

Keys are those of dive where dive has any. A terminal without the keyboard protocol of kitty cannot
tell Ctrl-M from Enter, so the filters of states have capitals as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

EVERYWHERE, LISTS, LAYERS, FILES, PREVIEW = (
    "Everywhere",
    "In lists",
    "Layers",
    "Files",
    "Preview",
)


@dataclass(frozen=True, slots=True)
class Key:
    """What a key does: its names for textual, the action, and a line of help."""

    where: str
    keys: str
    action: str
    does: str
    always: bool = False  # in fields and dialogs, too


KEYS = (
    Key(EVERYWHERE, "q", "leave", "quit"),
    Key(EVERYWHERE, "ctrl+c,ctrl+q", "leave", "quit, wherever you are", always=True),
    Key(EVERYWHERE, "tab,shift+tab", "switch_pane", "go to the other pane"),
    Key(EVERYWHERE, "question_mark,f1", "help", "show this help"),
    Key(EVERYWHERE, "ctrl+f,slash,ctrl+underscore,ctrl+slash", "filter", "filter files"),
    Key(EVERYWHERE, "escape", "clear", "close the filter, stop an extraction"),
    Key(EVERYWHERE, "ctrl+z", "suspend_process", "go back to the shell for a while"),
    Key(LISTS, "up,k", "move(-1)", "up"),
    Key(LISTS, "down,j", "move(1)", "down"),
    Key(LISTS, "pageup,u", "page(-1)", "a page up"),
    Key(LISTS, "pagedown,d", "page(1)", "a page down"),
    Key(LISTS, "home,g", "first", "to the first row"),
    Key(LISTS, "end,G", "last", "to the last row"),
    Key(LAYERS, "ctrl+l,L", "compare(False)", "show what this layer changed"),
    Key(LAYERS, "ctrl+a,A", "compare(True)", "show what all layers changed since the lowest"),
    Key(FILES, "space", "toggle_directory", "open or close a directory"),
    Key(FILES, "ctrl+at,ctrl+@,ctrl+space,asterisk", "toggle_all", "open or close all directories"),
    Key(FILES, "right,l", "expand", "open a directory"),
    Key(FILES, "left,h", "collapse", "close a directory, or go to the one above"),
    Key(FILES, "enter,p", "preview", "look into a file; open or close a directory"),
    Key(FILES, "ctrl+a,A", "show('ADDED')", "show or hide added files"),
    Key(FILES, "ctrl+r,R", "show('REMOVED')", "show or hide removed files"),
    Key(FILES, "ctrl+m,M", "show('CHANGED')", "show or hide modified files"),
    Key(FILES, "ctrl+u,U", "show('SAME')", "show or hide unmodified files"),
    Key(FILES, "ctrl+b,B", "attributes", "show or hide modes, owners and sizes"),
    Key(FILES, "ctrl+o,O", "sort", "sort by size or by name"),
    Key(FILES, "x,insert", "mark", "mark or unmark"),
    Key(FILES, "X", "unmark_all", "remove all marks"),
    Key(FILES, "ctrl+e,e", "extract", "extract what is marked, or the file at the cursor"),
    Key(PREVIEW, "tab,shift+tab", "next_page", "text, bytes, details"),
    Key(PREVIEW, "t", "page_of('text')", "text"),
    Key(PREVIEW, "x", "page_of('hex')", "bytes in hexadecimal"),
    Key(PREVIEW, "i", "page_of('details')", "links, extended attributes, layers"),
    Key(PREVIEW, "left,h", "sideways(-8)", "to the left"),
    Key(PREVIEW, "right,l", "sideways(8)", "to the right"),
    Key(PREVIEW, "escape,q,enter,p", "close", "back to the files"),
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


def shown_keys(key: Key) -> str:
    """Return the keys as the help names them."""
    return ", ".join(_shown_key(one) for one in key.keys.split(",") if one not in _HIDDEN)


def _shown_key(name: str) -> str:
    if name in _SHOWN:
        return _SHOWN[name]
    if name.startswith("ctrl+"):
        rest = name.removeprefix("ctrl+")
        return f"Ctrl-{_SHOWN.get(rest, rest.upper())}"
    return name if len(name) == 1 else name.capitalize()


def of(*places: str) -> Iterator[Key]:
    """Yield the keys of parts of the screen."""
    return (key for key in KEYS if key.where in places)
