"""``unionmount ls``."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import layer_option, platform_option, root_option
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.paths import Found
    from unionmount.cli.name_writer import NameWriter
    from unionmount.cli.settings import Settings
    from unionmount.core import Attributes, BrowsableTree
    from unionmount.images.platform import Platform

_BATCH = 256
_UNITS = "KMGTPE"
_MAX_ACCOUNTS = 4 * 1024 * 1024  # bytes that are read of /etc/passwd and /etc/group
_ACL = b"system.posix_acl_"
_NAMES = (1, 3, 4)  # columns that may be names instead of numbers
_GAP = 2  # columns between two names


@dataclass(frozen=True, slots=True)
class _Style:
    """The options of ls that choose a style."""

    long: bool
    recursive: bool
    all: bool
    almost_all: bool
    human: bool
    directory: bool
    numbers: bool
    inodes: bool
    lines: bool

    def shows(self, name: bytes) -> bool:
        """Return whether a name in a directory is listed."""
        return self.all or self.almost_all or not name.startswith(b".")


@click.command("ls", context_settings={"help_option_names": ["--help"]})
@click.option(
    "-l", "long", is_flag=True, help="Print modes, links, owner, group, size, time and target."
)
@click.option("-R", "recursive", is_flag=True, help="List subdirectories, too.")
@click.option("-a", "all_", is_flag=True, help="List names that begin with '.', too.")
@click.option("-A", "almost_all", is_flag=True, help="The same without '.' and '..'.")
@click.option("-h", "human", is_flag=True, help="Print sizes with a unit: 1.5K.")
@click.option(
    "-d", "directory", is_flag=True, help="List directories themselves, not their contents."
)
@click.option("-n", "numbers", is_flag=True, help="Like -l, with the numbers of owner and group.")
@click.option("-i", "inodes", is_flag=True, help="Print inode numbers first.")
@click.option(
    "-1", "lines", is_flag=True, help="Print one name a line; default unless on a terminal."
)
@platform_option
@layer_option
@root_option
@click.argument("operands", metavar="IMAGE[:PATH]…", nargs=-1)
@click.pass_context
def command(
    context: click.Context,
    /,
    platform: Platform | None,
    layer: int | None,
    operands: tuple[str, ...],
    **options: bool,
) -> None:
    """List files of an image like ls(1), without a mount.

    IMAGE is anything that "mount" accepts; a CONTAINER is shown with its changes. PATH begins with
    '/', and is '/' by default. Names are sorted bytewise. The names of owners and groups are those
    in /etc/passwd and /etc/group of the image; times are printed as by "ls --time-style=long-iso".
    """
    if not operands and options["human"] and sum(options.values()) == 1:  # "ls -h"
        click.echo(context.get_help())
        return
    if not operands:
        raise UsageError("ls: no image was given")
    numbers = options["numbers"]
    style = _Style(
        long=options["long"] or numbers,
        recursive=options["recursive"] and not options["directory"],
        all=options["all_"],
        almost_all=options["almost_all"],
        human=options["human"],
        directory=options["directory"],
        numbers=numbers,
        inodes=options["inodes"],
        lines=options["lines"],
    )
    from unionmount.cli.name_writer import NameWriter

    out = NameWriter()
    for number, operand in enumerate(operands):
        if number:
            out.write(b"\n")
        heading = operand if len(operands) > 1 else None
        _list(context.obj, operand, heading, style, out, platform=platform, layer=layer)
    out.flush()


def _list(
    settings: Settings,
    operand: str,
    heading: str | None,
    style: _Style,
    out: NameWriter,
    *,
    platform: Platform | None,
    layer: int | None,
) -> None:
    from unionmount.browse.paths import follow, split_operand
    from unionmount.cli.open_image import open_files
    from unionmount.system.os_errors import naming

    word, path = split_operand(operand)
    path = path or b"/"
    with open_files(settings, word, platform=platform, layer=layer) as view:
        with naming(printable(operand)):
            found = follow(view.files, path, last=path.endswith(b"/"))
            if stat.S_ISLNK(found.attributes.mode) and not (style.long or style.directory):
                found = _through_link(view.files, path, found)
            accounts = _Accounts(view.files, numbers=style.numbers or not style.long)
        lister = _Lister(view.files, style, out, accounts)
        if found.is_directory and not style.directory:
            top = path if heading is None else heading.encode("utf-8", "surrogateescape")
            lister.directories(found, top, with_heading=style.recursive or heading is not None)
        else:
            lister.names([(path, found.attributes)])


def _through_link(files: BrowsableTree, path: bytes, found: Found) -> Found:
    """Return the directory that a symlink leads to, or the symlink if it leads to none."""
    from unionmount.browse.paths import follow

    try:
        target = follow(files, path)
    except OSError:
        return found
    return target if target.is_directory else found


# ---- owners --------------------------------------------------------------------------------------


class _Accounts:
    """The names that an image gives to the numbers of users and groups."""

    def __init__(self, files: BrowsableTree, *, numbers: bool) -> None:
        self._users = {} if numbers else _read_accounts(files, b"/etc/passwd")
        self._groups = {} if numbers else _read_accounts(files, b"/etc/group")

    def user(self, number: int) -> str:
        """Return a user's name, or the number if there is none."""
        return self._users.get(number, str(number))

    def group(self, number: int) -> str:
        """Return a group's name, or the number if there is none."""
        return self._groups.get(number, str(number))


def _read_accounts(files: BrowsableTree, path: bytes) -> dict[int, str]:
    """Read names by number: the first entry of a number counts, malformed lines are skipped."""
    from unionmount.browse.paths import follow

    found: dict[int, str] = {}
    try:
        attributes = follow(files, path).attributes
        if not stat.S_ISREG(attributes.mode):
            return {}
        data = files.read(attributes.node, 0, min(attributes.size, _MAX_ACCOUNTS))
    except OSError:
        return {}
    for line in data.split(b"\n"):
        name, _, rest = line.partition(b":")
        number = rest.partition(b":")[2].partition(b":")[0]
        if name and number.isdigit() and len(number) <= 10:
            found.setdefault(int(number), printable(name))
    return found


# ---- listing -------------------------------------------------------------------------------------

_Named = tuple[bytes, "Attributes"]


@dataclass(frozen=True, slots=True)
class _Lister:
    """A printer of directories and names of one image."""

    files: BrowsableTree
    style: _Style
    out: NameWriter
    accounts: _Accounts

    def directories(self, found: Found, top: bytes, *, with_heading: bool) -> None:
        """Print a directory and, with -R, those below it."""
        pending = [(top, found.attributes, self._above(found))]
        is_first = True
        while pending:
            path, attributes, above = pending.pop()
            if with_heading:
                self.out.write(b"" if is_first else b"\n")
                self.out.name(path, b":\n")
            is_first = False
            inside = [one for one in self._children(attributes) if self.style.shows(one[0])]
            dots = [(b".", attributes), (b"..", above)] if self.style.all else []
            listed = sorted([*dots, *inside], key=lambda one: one[0]) if dots else inside
            if self.style.long:
                self._total(listed)
            self.names(listed)
            if self.style.recursive:
                prefix = path if path.endswith(b"/") else path + b"/"
                below = [one for one in inside if stat.S_ISDIR(one[1].mode)]
                pending += [(prefix + name, inner, attributes) for name, inner in below[::-1]]

    def _above(self, found: Found) -> Attributes:
        return self.files.resolve(found.path.rpartition(b"/")[0])

    def _children(self, directory: Attributes) -> Iterator[_Named]:
        cookie = 0
        while entries := self.files.list(directory.node, cookie, _BATCH):
            yield from ((entry.name, entry.attributes) for entry in entries)
            cookie = entries[-1].next

    def _total(self, inside: Sequence[_Named]) -> None:
        blocks = sum(attributes.blocks for _, attributes in inside)
        total = human(blocks * 512) if self.style.human else str(-(-blocks // 2))
        self.out.write(f"total {total}\n".encode("ascii"))

    def names(self, inside: Sequence[_Named]) -> None:
        """Print names in the chosen style."""
        if self.style.long:
            self._long(inside)
            return
        width = max((len(str(found.node)) for _, found in inside), default=0)
        prefixes = [f"{found.node:>{width}} " if self.style.inodes else "" for _, found in inside]
        shown = [
            prefix.encode("ascii") + self.out.shown(name)
            for prefix, (name, _) in zip(prefixes, inside, strict=True)
        ]
        if self.out.is_terminal and not self.style.lines:
            shown = list(in_columns(shown, shutil.get_terminal_size().columns))
        for line in shown:
            self.out.write(line + b"\n")

    def _long(self, inside: Sequence[_Named]) -> None:
        devices = [found for _, found in inside if _is_device(found)]
        major = max((len(str(found.major)) for found in devices), default=0)
        minor = max((len(str(found.minor)) for found in devices), default=0)
        columns = [self._columns(found, major, minor) for _, found in inside]
        widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
        for (name, attributes), cells in zip(inside, columns, strict=True):
            inode, mode, links, user, group, size, when = (
                cell.ljust(width) if number in _NAMES and not cell.isdigit() else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            line = f"{mode} {links} {user} {group} {size} {when} "
            self.out.write((f"{inode} {line}" if self.style.inodes else line).encode())
            target = b""
            if stat.S_ISLNK(attributes.mode):
                target = b" -> " + self.out.shown(self.files.readlink(attributes.node))
            self.out.write(self.out.shown(name) + target + b"\n")

    def _columns(self, found: Attributes, major: int, minor: int) -> tuple[str, ...]:
        size = human(found.size) if self.style.human else str(found.size)
        if _is_device(found):
            size = f"{found.major:>{major}}, {found.minor:>{minor}}"
        has_acl = any(name.startswith(_ACL) for name in self.files.listxattr(found.node))
        return (
            str(found.node),
            stat.filemode(found.mode) + ("+" if has_acl else ""),
            str(found.nlink),
            self.accounts.user(found.uid),
            self.accounts.group(found.gid),
            size,
            _when(found.mtime_ns),
        )


def _is_device(found: Attributes) -> bool:
    return stat.S_ISCHR(found.mode) or stat.S_ISBLK(found.mode)


def _when(mtime_ns: int) -> str:
    """Format a time like ``ls --time-style=long-iso``, or as a number beyond the calendar."""
    seconds = mtime_ns // 1_000_000_000
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def human(size: int) -> str:
    """Format a size like ``ls -h``: in powers of 1024, with two digits or more, rounded up."""
    if size < 1024:
        return str(size)
    for number, unit in enumerate(_UNITS, 1):
        power = 1024**number
        tenths = -(-size * 10 // power)
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10}{unit}"
        if -(-size // power) < 1024 or unit == _UNITS[-1]:
            return f"{-(-size // power)}{unit}"
    raise AssertionError


def in_columns(names: Sequence[bytes], width: int) -> Iterator[bytes]:
    """Yield lines of names in as many columns as fit, sorted downwards."""
    texts = [name.decode("utf-8", "surrogateescape") for name in names]
    most = max(min(len(texts), width // (1 + _GAP) + 1), 1)
    tried = (-(-len(texts) // columns) for columns in range(most, 1, -1))
    rows = next((rows for rows in tried if _fits(texts, rows, width)), len(texts))
    for row in range(rows):
        line = texts[row::rows]
        widths = [_width(texts[at : at + rows]) for at in range(0, len(texts), rows)]
        cells = [text.ljust(size + _GAP) for text, size in zip(line, widths, strict=False)]
        yield "".join(cells).rstrip().encode("utf-8", "surrogateescape")


def _width(texts: Sequence[str]) -> int:
    return max(map(len, texts))


def _fits(texts: Sequence[str], rows: int, width: int) -> bool:
    taken = 0
    for at in range(0, len(texts), rows):
        taken += _width(texts[at : at + rows]) + (_GAP if at else 0)
        if taken > width:
            return False
    return True
