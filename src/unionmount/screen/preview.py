"""The content and the details of one file, as lines of text."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from unionmount.browse.diff import TYPE_NAMES
from unionmount.browse.layer_history import trace
from unionmount.browse.paths import follow
from unionmount.screen.words import shown_line, shown_name
from unionmount.system.os_errors import reason_of
from unionmount.system.text import human_size

if TYPE_CHECKING:
    from unionmount.core import Attributes, BrowsableTree, Node, Tree
    from unionmount.screen.loader import Loader
    from unionmount.screen.rows import Row

MAX_TEXT = 1 << 20  # bytes that are shown as text
_MAX_LINE = 4096
_SNIFFED = 8192
_MAX_VALUE = 256  # bytes of an extended attribute
_MAX_NAMES = 50

Lines = list[tuple[str, str]]


class FileContent:
    """The bytes of a regular file, read as they are shown."""

    def __init__(self, files: BrowsableTree, node: Node, size: int) -> None:
        self._files = files
        self._node = node
        self.size = size
        self._lines: list[bytes] | None = None

    def looks_binary(self) -> bool:
        """Return whether there is a NUL at its beginning, as grep and git test it."""
        return b"\0" in self._files.read(self._node, 0, min(self.size, _SNIFFED))

    def text_lines(self) -> Sequence[bytes]:
        """Return the lines of its first MAX_TEXT bytes."""
        if self._lines is None:
            data = self._files.read(self._node, 0, min(self.size, MAX_TEXT))
            self._lines = data.split(b"\n")
            if self._lines[-1] == b"":
                self._lines.pop()
        return self._lines

    @property
    def is_cut(self) -> bool:
        """Whether the file is longer than its text."""
        return self.size > MAX_TEXT

    def hex_rows(self, width: int) -> int:
        """Return the number of lines of ``width`` bytes."""
        return -(-self.size // width)

    def hex_row(self, row: int, width: int) -> str:
        """Return one line as ``hexdump -C`` prints it, where it has 16 bytes."""
        offset = row * width
        data = self._files.read(self._node, offset, min(width, self.size - offset))
        return hex_line(offset, data, width)


def text_row(line: bytes) -> str:
    """Return a line of text for the screen, cut if it is very long."""
    if len(line) <= _MAX_LINE:
        return shown_line(line)
    return shown_line(line[:_MAX_LINE]) + "…"


def hex_line(offset: int, data: bytes, width: int) -> str:
    """Return ``width`` bytes in hexadecimal and as characters."""
    groups = [data[at : at + 8].hex(" ") for at in range(0, width, 8)]
    columns = "  ".join(group.ljust(3 * min(8, width) - 1) for group in groups)
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    return f"{offset:08x}  {columns}  |{text}|"


def hex_width(columns: int) -> int:
    """Return how many bytes fit into a line of the screen."""
    return next((width for width in (16, 8) if columns >= len(hex_line(0, bytes(width), width))), 4)


def details(files: BrowsableTree, path: bytes, found: Attributes) -> Iterator[tuple[str, str]]:
    """Yield labels and values: attributes, links and extended attributes."""
    yield "path", "/" + shown_name(path)
    yield "type", TYPE_NAMES.get(stat.S_IFMT(found.mode), "unknown")
    yield "mode", f"{stat.filemode(found.mode)} ({stat.S_IMODE(found.mode):04o})"
    yield "owner", f"{found.uid}:{found.gid}"
    if stat.S_ISREG(found.mode):
        yield "size", f"{found.size} ({human_size(found.size)})"
    if stat.S_IFMT(found.mode) in (stat.S_IFCHR, stat.S_IFBLK):
        yield "device", f"{found.major}:{found.minor}"
    yield "modified", _time(found.mtime_ns)
    yield "inode", str(found.node)
    if stat.S_ISLNK(found.mode):
        yield from _link(files, path, found)
    yield from _xattrs(files, found)


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        at = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}.{rest:09}"
    return f"{at:%Y-%m-%d %H:%M:%S}.{rest:09} UTC"


def _link(files: BrowsableTree, path: bytes, found: Attributes) -> Iterator[tuple[str, str]]:
    yield "target", shown_name(files.readlink(found.node))
    try:
        yield "leads to", "/" + shown_name(follow(files, path).path)
    except OSError as error:
        yield "leads to", f"nothing: {reason_of(error)}"


def _xattrs(files: BrowsableTree, found: Attributes) -> Iterator[tuple[str, str]]:
    for name in files.listxattr(found.node):
        try:
            value = files.getxattr(found.node, name)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            continue
        yield "xattr", f"{shown_name(name)} = {_value(value)}"


def _value(value: bytes) -> str:
    """Return a value as text where it is text, else in hexadecimal."""
    cut = value[:_MAX_VALUE]
    more = f"… ({len(value)} bytes)" if len(value) > _MAX_VALUE else ""
    text = cut.decode("utf-8", "replace")
    if text.isprintable() and "\ufffd" not in text:
        return shown_name(text) + more
    return f"0x{cut.hex()}{more}"


def history(tree: Tree, path: bytes) -> Lines:
    """Return what each layer did to a path, newest first."""
    try:
        _, touches = trace(tree, path)
    except OSError:
        return []  # of the upper alone
    lines: Lines = []
    for touch in touches:
        text: str = touch.action
        if touch.attributes is not None and stat.S_ISREG(touch.attributes.mode):
            text += f", {human_size(touch.attributes.size)}"
        if touch.because is not None:
            text += f" ({touch.how} /{shown_name(touch.because)})"
        if touch.hidden_by is not None:
            text += f", hidden by layer {touch.hidden_by}"
        lines.append((f"layer {touch.layer}", text))
    return lines


def other_names(loader: Loader, row: Row) -> Lines:
    """Return the other names of a file with hard links, in the directories listed so far."""
    node = row.folder.links.get(row.index)
    if node is None:
        return []
    found: Lines = []
    pending = [loader.root]
    while pending and len(found) < _MAX_NAMES:
        folder = pending.pop()
        pending += reversed(list(folder.below.values()))
        for place, other in list(folder.links.items()):
            if other == node and (folder, place) != (row.folder, row.index):
                found.append(("also", "/" + shown_name(folder.path_of(place))))
    return found
