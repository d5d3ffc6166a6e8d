"""The output of ``unionmount grep``: lines as grep(1) prints them, or JSON."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any

from unionmount.cli.name_writer import ObjectWriter
from unionmount.core import RECORD_COUNT, RECORD_FILE, search_records
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.grep import Origin, Result
    from unionmount.cli.grep_options import GrepOptions
    from unionmount.core import SearchEvent, SearchRecord


class GrepOutput:
    """What both forms have: messages on standard error, and what the exit status depends on."""

    def __init__(self, options: GrepOptions, program: str) -> None:
        self.selected = False
        self.failed = False
        self._options = options
        self._program = program
        sys.stdout.flush()

    def take(self, result: Result) -> None:
        """Print what was found."""
        raise NotImplementedError

    def end(self) -> None:
        """Write what is left."""
        sys.stdout.flush()
        sys.stdout.buffer.flush()

    def complain(self, text: str) -> None:
        """Print an error, after what was found before."""
        self.failed = True
        if not self._options.silent:
            self._tell(text)

    def _tell(self, text: str) -> None:
        sys.stdout.flush()
        sys.stdout.buffer.flush()
        print(f"{self._program}: {text}", file=sys.stderr)

    def _messages(self, origin: Origin, event: SearchEvent) -> None:
        """Print what there is to say about a file, behind its lines."""
        self.selected = self.selected or event.selected
        path = printable(event.path)
        if event.error:
            reason = os.strerror(event.error)
            if event.error == errno.ENOMEM:
                reason = "memory exhausted"
            self.complain(f"{printable(origin.image)}:{path}: {reason}")
        if event.binary:
            self._tell(f"{self._name(origin)}{path}: binary file matches")

    def _name(self, origin: Origin) -> str:
        """Return what is printed before a path in messages."""
        return origin.prefix(with_image=False).decode()


class TextMatches(GrepOutput):
    """Lines, byte for byte as grep prints them."""

    def __init__(self, options: GrepOptions, program: str) -> None:
        super().__init__(options, program)
        self._groups = False  # a separator goes before the next group

    def take(self, result: Result) -> None:
        """Print what was found."""
        event = result.event
        if event.large:
            event = result.stream(_write, self._groups)
        else:
            leading = 0 if self._groups else event.leading
            _write(event.output[leading:])
        self._groups = self._groups or event.groups
        self._messages(result.origin, event)


class JsonMatches(GrepOutput):
    """An object for each line, or for each file with -c, -l and -L."""

    def __init__(self, options: GrepOptions, program: str) -> None:
        super().__init__(options, program)
        self._writer = ObjectWriter("jsonl" if options.setup.flags.quiet else options.form)

    def take(self, result: Result) -> None:
        """Print what was found."""
        event, origin = result.event, result.origin
        if event.large:
            pieces: list[bytes] = []
            event = result.stream(pieces.append, self.selected)
            self._records(origin, event.path, b"".join(pieces))
        else:
            self._records(origin, event.path, event.output)
        if event.binary:
            self._writer.add(self._place(origin, event.path) | {"binary": True})
        self._messages(origin, event)

    def end(self) -> None:
        """End the array."""
        self._writer.end()
        super().end()

    def _records(self, origin: Origin, path: bytes, output: bytes) -> None:
        for record in search_records(output):
            self._writer.add(self._object(origin, path, record))

    def _object(self, origin: Origin, path: bytes, record: SearchRecord) -> dict[str, Any]:
        place = self._place(origin, path)
        if record.kind == RECORD_COUNT:
            return place | {"count": record.line}
        if record.kind == RECORD_FILE:
            return place
        return place | {
            "line": record.line,
            "offset": record.offset,
            "text": record.text.decode("utf-8", "surrogateescape"),
            "selected": record.selected,
        }

    def _place(self, origin: Origin, path: bytes) -> dict[str, Any]:
        place: dict[str, Any] = {
            "image": origin.image,
            "path": path.decode("utf-8", "surrogateescape"),
        }
        if origin.layer is not None:
            place |= {"layer": origin.layer, "diff_id": origin.diff_id}
        return place

    def _tell(self, text: str) -> None:
        if "binary file matches" not in text:  # which is an object
            super()._tell(text)


def _write(data: bytes) -> None:
    """Write all of it, also where Python does not buffer its output."""
    rest = memoryview(data)
    while rest:
        rest = rest[sys.stdout.buffer.write(rest) :]
