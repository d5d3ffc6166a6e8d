"""The printing of names from images: escaped on a terminal, else byte for byte."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from unionmount.system.text import printable


class NameWriter:
    """A buffered writer of lines with names to standard output."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self.is_terminal = sys.stdout.isatty()
        self._out = sys.stdout.buffer

    def shown(self, name: bytes) -> bytes:
        """Return a name in the form in which it is printed."""
        return printable(name).encode("utf-8", "replace") if self.is_terminal else name

    def write(self, data: bytes) -> None:
        """Write bytes that are safe, or already escaped."""
        self._out.write(data)

    def name(self, name: bytes, end: bytes = b"\n") -> None:
        """Write a name, escaped if necessary."""
        self._out.write(self.shown(name) + end)

    def flush(self) -> None:
        """Write the buffer, so that an error is still reported."""
        self._out.flush()


def json_path(path: bytes) -> str:
    """Return a path for JSON; bytes that are not UTF-8 become lone surrogates, as in Python."""
    return "/" + path.decode("utf-8", "surrogateescape")


def octal(mode: int) -> str:
    """Format permissions as chmod(1) reads them."""
    return f"{mode & 0o7777:04o}"


class ObjectWriter:
    """A writer of objects as they are made: an array for ``json``, one a line for ``jsonl``."""

    def __init__(self, form: str) -> None:
        import json

        self._dumps = json.dumps
        self._is_array = form != "jsonl"
        self._before = "[\n"

    def add(self, one: Any) -> None:
        """Write one object."""
        self.add_texts((self._dumps(one),))

    def add_texts(self, texts: Iterable[str]) -> None:
        """Write objects whose JSON is known."""
        if not self._is_array:
            sys.stdout.write("".join([f"{text}\n" for text in texts]))
            return
        if joined := ",\n  ".join(texts):
            sys.stdout.write(f"{self._before}  {joined}")
            self._before = ",\n"

    def end(self) -> None:
        """End the array."""
        if self._is_array:
            sys.stdout.write("[]\n" if self._before == "[\n" else "\n]\n")


def write_objects(objects: Any, form: str) -> None:
    """Print objects as they are made: as an array for ``json``, one a line for ``jsonl``."""
    writer = ObjectWriter(form)
    for one in objects:
        writer.add(one)
    writer.end()
