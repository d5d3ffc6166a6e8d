"""The output of ``unionmount find``: lines, or JSON."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from unionmount.cli.name_writer import NameWriter, ObjectWriter
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.browse.find.expression import SearchPlace
    from unionmount.cli.file_objects import FileDescriber
    from unionmount.core.scan import Visit


class Complaints:
    """Errors of single files, which end nothing, and warnings, on standard error."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.status = 0
        self._warned: set[str] = set()

    def tell(self, text: str) -> None:
        """Print an error, after what was found before."""
        sys.stdout.flush()
        print(f"{self.program}: {text}", file=sys.stderr)
        self.status = 1

    def warn(self, text: str) -> None:
        """Print a warning once."""
        if text not in self._warned:
            self._warned.add(text)
            print(f"{self.program}: find: warning: {text}", file=sys.stderr)

    def failed(self, path: bytes, code: int) -> None:
        """Print the error of a path."""
        self.tell(f"find: '{printable(path)}': {os.strerror(code)}")


class LineOutput:
    """Paths as find(1) prints them; of layers, behind their numbers and the states of files."""

    has_lines = True

    def __init__(self, complaints: Complaints, *, of_layers: bool) -> None:
        self._out = NameWriter()
        self._complaints = complaints
        self._of_layers = of_layers
        self.is_plain = not self._out.is_terminal and not of_layers

    def text(self, data: bytes) -> None:
        """Write output that is complete."""
        if self._out.is_terminal:
            data = _safe(data)
        self._out.write(data)

    def found(self, visits: Sequence[Visit], end: bytes, place: SearchPlace) -> None:
        """Write paths."""
        shown = _bytes_of if end == b"\0" else self._out.shown
        for visit in visits:
            if self._of_layers:
                self._out.write(f"{place.layer}\t{place.file_state(visit)}\t".encode("ascii"))
            self._out.write(shown(visit.path) + end)

    def error(self, path: bytes, code: int) -> None:
        """Print the error of a path."""
        self._out.flush()
        self._complaints.failed(path, code)

    def end(self) -> None:
        """Write what is left."""
        self._out.flush()


class JsonOutput:
    """An object for each path."""

    is_plain = False
    has_lines = False

    def __init__(self, complaints: Complaints, form: str) -> None:
        self._writer = ObjectWriter(form)
        self._complaints = complaints
        self.describer: FileDescriber | None = None  # of the image that is searched

    def text(self, data: bytes) -> None:
        """Take nothing: expressions that print anything else are refused."""
        raise AssertionError(data)

    def found(self, visits: Sequence[Visit], end: bytes, place: SearchPlace) -> None:  # noqa: ARG002
        """Write objects."""
        describer = self.describer
        assert describer is not None
        if place.layer is None:
            self._writer.add_texts(map(describer.text, visits))
            return
        for visit in visits:
            state = place.file_state(visit)
            self._writer.add(describer.describe(visit.path, visit.attributes, place.layer, state))

    def error(self, path: bytes, code: int) -> None:
        """Print the error of a path."""
        self._complaints.failed(path, code)

    def end(self) -> None:
        """End the array."""
        self._writer.end()


def _bytes_of(name: bytes) -> bytes:
    return name


def _safe(data: bytes) -> bytes:
    """Escape control characters, but for those that lay a text out."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(c if c in "\n\t\0" or c.isprintable() else printable(c) for c in text).encode()
