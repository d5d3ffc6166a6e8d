"""Names from images, as they are printed: escaped on a terminal, else the bytes that they are."""

from __future__ import annotations

import sys
from typing import Any

from unionmount.system.text import printable


class NameWriter:
    """Writes lines with names to standard output."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self.is_terminal = sys.stdout.isatty()
        self._out = sys.stdout.buffer

    def shown(self, name: bytes) -> bytes:
        """A name as it is written."""
        return printable(name).encode("utf-8", "replace") if self.is_terminal else name

    def write(self, data: bytes) -> None:
        """Write bytes that need no care, or had it."""
        self._out.write(data)

    def name(self, name: bytes, end: bytes = b"\n") -> None:
        """Write a name."""
        self._out.write(self.shown(name) + end)

    def flush(self) -> None:
        """Let everything be written: here an error of it still counts."""
        self._out.flush()


def json_path(path: bytes) -> str:
    """A path in JSON: bytes that are not UTF-8 are lone surrogates, as in Python."""
    return "/" + path.decode("utf-8", "surrogateescape")


def octal(mode: int) -> str:
    """Permissions as chmod takes them."""
    return f"{mode & 0o7777:04o}"


def write_objects(objects: Any, form: str) -> None:
    """Print objects while they are made, for they may be many: ``json`` an array, or ``jsonl``."""
    import json

    if form == "jsonl":
        for one in objects:
            sys.stdout.write(json.dumps(one) + "\n")
        return
    before = "[\n"
    for one in objects:
        sys.stdout.write(before + "  " + json.dumps(one))
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")
