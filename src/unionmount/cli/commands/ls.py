"""``unionmount ls``."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import (
    all_layers_option,
    layer_option,
    platform_option,
    root_option,
    text_format_option,
)
from unionmount.errors import NotFoundError, UsageError
from unionmount.system.os_errors import naming

if TYPE_CHECKING:
    from unionmount.browse.accounts import Accounts
    from unionmount.browse.layer_states import LayerStates
    from unionmount.browse.open import OpenView
    from unionmount.browse.paths import Found
    from unionmount.cli.file_objects import FileDescriber
    from unionmount.cli.name_writer import NameWriter, ObjectWriter
    from unionmount.cli.operands import Operand
    from unionmount.cli.settings import Settings
    from unionmount.core import Attributes, BrowsableTree
    from unionmount.images.platform import Platform

_BATCH = 256
_UNITS = "KMGTPE"
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
@all_layers_option
@text_format_option
@root_option
@click.argument("words", metavar="IMAGE [PATH…]", nargs=-1)
@click.pass_context
def command(
    context: click.Context,
    /,
    platform: Platform | None,
    layer: int | None,
    all_layers: bool,
    form: str,
    words: tuple[str, ...],
    **options: bool,
) -> None:
    """List files of an image like ls(1), without a mount.

    IMAGE is anything that "mount" accepts; a CONTAINER is shown with its changes. PATH begins with
    '/', and is '/' by default; IMAGE:PATH is the same, and several images can be given. Names are
    sorted bytewise. The names of owners and groups are those in /etc/passwd and /etc/group of the
    image; times are printed as by "ls --time-style=long-iso". With --all-layers, each layer that
    has PATH is listed by itself; a name that a layer removes has type w, and % behind it.
    """
    if not words and options["human"] and sum(options.values()) == 1:  # "ls -h"
        click.echo(context.get_help())
        return
    if not words:
        raise UsageError("ls: no image was given")
    from unionmount.cli.name_writer import NameWriter, ObjectWriter
    from unionmount.cli.open_image import check_images
    from unionmount.cli.operands import by_image, image_and_paths

    operands = image_and_paths(words)
    check_images(context.obj, operands, platform=platform, layer=layer)
    out = NameWriter()
    objects = None if form == "text" else ObjectWriter(form)
    ls = _Ls(_style_of(options), out, objects, has_headings=len(operands) > 1)
    for image, group in by_image(operands):
        ls.image(context.obj, image, group, platform, layer, all_layers=all_layers)
    out.flush()
    if objects is not None:
        objects.end()


def _style_of(options: dict[str, bool]) -> _Style:
    numbers = options["numbers"]
    return _Style(
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


@dataclass(slots=True)
class _Ls:
    """The listings of one command."""

    style: _Style
    out: NameWriter
    objects: ObjectWriter | None  # of JSON
    has_headings: bool
    is_first: bool = True

    def image(
        self,
        settings: Settings,
        image: str,
        operands: Sequence[Operand],
        platform: Platform | None,
        layer: int | None,
        *,
        all_layers: bool,
    ) -> None:
        """List the operands of one image."""
        from unionmount.browse.accounts import Accounts
        from unionmount.cli.open_image import open_files

        with open_files(settings, image, platform=platform, layer=layer) as view:
            is_text = self.objects is None
            numbers = is_text and (self.style.numbers or not self.style.long)
            accounts = Accounts(view.files, numbers=numbers)
            for operand in operands:
                if all_layers:
                    self._layers(view, operand, accounts)
                else:
                    self._operand(view, operand, accounts)

    def _operand(self, view: OpenView, operand: Operand, accounts: Accounts) -> None:
        from unionmount.browse.paths import follow

        path, style = operand.start, self.style
        with operand.naming():
            found = follow(view.files, path, last=path.endswith(b"/"))
            if stat.S_ISLNK(found.attributes.mode) and not (style.long or style.directory):
                found = _through_link(view.files, path, found)
        heading = operand.word if self.has_headings else None
        layers = _OneLayer(operand.image, view.upper)
        self._list(view.files, found, path, heading, accounts, layers)

    def _layers(self, view: OpenView, operand: Operand, accounts: Accounts) -> None:
        from unionmount.browse.layer_states import LayerStates
        from unionmount.browse.paths import Found

        layers, is_anywhere, path = len(view.image.layers), False, operand.start
        with view.layer_trees() as trees:
            states = LayerStates(trees, layers)
            for layer in range(layers):
                inside = b"%d/%b" % (layer, path)
                try:
                    found = Found(inside.rstrip(b"/"), trees.resolve(inside))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                is_anywhere = True
                word = f"{operand.word}, " if self.has_headings else ""
                one = _OneLayer(operand.image, view.upper, layer, states)
                self._list(trees, found, path, f"{word}layer {layer}", accounts, one)
        if not is_anywhere:
            raise NotFoundError(f"{operand.word}: no layer has this path")

    def _list(
        self,
        files: BrowsableTree,
        found: Found,
        path: bytes,
        heading: str | None,
        accounts: Accounts,
        layers: _OneLayer,
    ) -> None:
        if self.objects is not None:
            lister = _JsonLister(files, self.style, self.objects, layers.describer(files, accounts))
            lister.list(found, path, layers)
            return
        if not self.is_first:
            self.out.write(b"\n")
        self.is_first = False
        printer = _Printer(files, self.style, self.out, accounts, marks=layers.number is not None)
        if heading is not None and layers.number is not None:
            self.out.write(f"{heading}:\n".encode("utf-8", "surrogateescape"))
            heading = None
        if found.is_directory and not self.style.directory:
            top = path if heading is None else heading.encode("utf-8", "surrogateescape")
            printer.directories(
                found, top, with_heading=self.style.recursive or heading is not None
            )
        else:
            printer.names([(path, found.attributes)])


@dataclass(frozen=True, slots=True)
class _OneLayer:
    """What JSON tells of the place of a file: the image and, with --all-layers, the layer."""

    image: str
    upper: int | None
    number: int | None = None
    states: LayerStates | None = None

    def describer(self, files: BrowsableTree, accounts: Accounts) -> FileDescriber:
        """Return the maker of objects."""
        from unionmount.cli.file_objects import FileDescriber

        return FileDescriber(self.image, files, accounts, self.upper)


def _through_link(files: BrowsableTree, path: bytes, found: Found) -> Found:
    """Return the directory that a symlink leads to, or the symlink if it leads to none."""
    from unionmount.browse.paths import follow

    try:
        target = follow(files, path)
    except OSError:
        return found
    return target if target.is_directory else found


# ---- listing -------------------------------------------------------------------------------------

_Named = tuple[bytes, "Attributes"]


@dataclass(frozen=True, slots=True)
class _Page:
    """A directory and the names in it that are listed."""

    path: bytes
    attributes: Attributes
    above: Attributes
    inside: Sequence[_Named]


@dataclass(frozen=True, slots=True)
class _Lister:
    """A reader of directories of one image."""

    files: BrowsableTree
    style: _Style

    def pages(self, found: Found, top: bytes) -> Iterator[_Page]:
        """Yield a directory and, with -R, those below it."""
        above = self.files.resolve(found.path.rpartition(b"/")[0])
        pending = [(top, found.attributes, above)]
        while pending:
            path, attributes, above = pending.pop()
            with naming(os.fsdecode(path)):
                inside = [one for one in self._children(attributes) if self.style.shows(one[0])]
            yield _Page(path, attributes, above, inside)
            if self.style.recursive:
                prefix = path if path.endswith(b"/") else path + b"/"
                below = [one for one in inside if stat.S_ISDIR(one[1].mode)]
                pending += [(prefix + name, inner, attributes) for name, inner in below[::-1]]

    def _children(self, directory: Attributes) -> Iterator[_Named]:
        cookie = 0
        while entries := self.files.list(directory.node, cookie, _BATCH):
            yield from ((entry.name, entry.attributes) for entry in entries)
            cookie = entries[-1].next


@dataclass(frozen=True, slots=True)
class _JsonLister(_Lister):
    """A printer of objects, one for each name."""

    objects: ObjectWriter
    describer: FileDescriber

    def list(self, found: Found, path: bytes, layers: _OneLayer) -> None:
        """Print what ls lists: the names in a directory, or the file itself."""
        if not found.is_directory or self.style.directory:
            self._add(path, found.attributes, layers)
            return
        for page in self.pages(found, path):
            prefix = page.path if page.path.endswith(b"/") else page.path + b"/"
            for name, attributes in page.inside:
                self._add(prefix + name, attributes, layers)

    def _add(self, path: bytes, attributes: Attributes, layers: _OneLayer) -> None:
        state = None
        if layers.states is not None and layers.number is not None:
            state = layers.states.of(layers.number, path.strip(b"/"), attributes)
        self.objects.add(self.describer.describe(path, attributes, layers.number, state))


@dataclass(frozen=True, slots=True)
class _Printer(_Lister):
    """A printer of directories and names of one image; ``marks``: of a layer, with whiteouts."""

    out: NameWriter
    accounts: Accounts
    marks: bool

    def directories(self, found: Found, top: bytes, *, with_heading: bool) -> None:
        """Print a directory and, with -R, those below it."""
        is_first = True
        for page in self.pages(found, top):
            if with_heading:
                self.out.write(b"" if is_first else b"\n")
                self.out.name(page.path, b":\n")
            is_first = False
            dots = [(b".", page.attributes), (b"..", page.above)] if self.style.all else []
            listed = sorted([*dots, *page.inside], key=lambda one: one[0]) if dots else page.inside
            if self.style.long:
                self._total(listed)
            self.names(listed)

    def _is_whiteout(self, found: Attributes) -> bool:
        return self.marks and _is_device(found) and not found.major and not found.minor

    def _shown(self, name: bytes, found: Attributes) -> bytes:
        return self.out.shown(name) + (b"%" if self._is_whiteout(found) else b"")

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
            prefix.encode("ascii") + self._shown(name, found)
            for prefix, (name, found) in zip(prefixes, inside, strict=True)
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
            self.out.write(self._shown(name, attributes) + target + b"\n")

    def _columns(self, found: Attributes, major: int, minor: int) -> tuple[str, ...]:
        size = human(found.size) if self.style.human else str(found.size)
        if _is_device(found):
            size = f"{found.major:>{major}}, {found.minor:>{minor}}"
        has_acl = any(name.startswith(_ACL) for name in self.files.listxattr(found.node))
        return (
            str(found.node),
            ("w---------" if self._is_whiteout(found) else stat.filemode(found.mode))
            + ("+" if has_acl else ""),
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
