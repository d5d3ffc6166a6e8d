"""``unionmount find``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
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

if TYPE_CHECKING:
    from unionmount.browse.accounts import Accounts
    from unionmount.browse.find.columns import Columns
    from unionmount.browse.find.expression import Expression, SearchPlace
    from unionmount.browse.open import OpenView
    from unionmount.cli.find_output import Complaints, JsonOutput, LineOutput
    from unionmount.cli.operands import Operand
    from unionmount.cli.settings import Settings
    from unionmount.core import LayerTrees, Node
    from unionmount.images.platform import Platform

_EPILOG = """EXPRESSION is that of GNU find, with its output and its order.

Tests: -name, -iname, -path, -ipath, -lname, -ilname GLOB; -regex, -iregex (-regextype); -type,
-xtype f,d,l,b,c,p,s; -size [+-]N[bcwkMG]; -empty; -perm [-/]MODE, octal or symbolic; -user, -group
(names in /etc/passwd and /etc/group of the image), -uid, -gid, -nouser, -nogroup; -links, -inum,
-samefile; -mtime, -atime, -ctime, -mmin, -amin, -cmin, -used (-daystart); -newer PATH (of the
image), -anewer, -cnewer, -newerXY; -newermt DATE; -true, -false. Ours: -xattr GLOB, a name of an
extended attribute; -type w, a whiteout, with --all-layers.

Actions: -print, -print0, -printf, -ls, -prune, -quit. -printf also has %{layer} and %{state}.
Options: -maxdepth N and -mindepth N hold wherever they stand; -depth; -xdev has no effect.
Operators: ( ) ! -not -a -and -o -or and a comma.

Symlinks are not followed, but for those on the way to PATH. What runs programs, writes files or
deletes is refused: mount the image, or pipe -print0 to another program."""


@click.command(
    "find",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    epilog=_EPILOG,
)
@platform_option
@layer_option
@all_layers_option
@text_format_option
@root_option
@click.argument("words", metavar="IMAGE [PATH…] [EXPRESSION]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(
    context: click.Context,
    platform: Platform | None,
    layer: int | None,
    all_layers: bool,
    form: str,
    words: tuple[str, ...],
) -> int:
    """Search the files of an image like find(1), without a mount.

    IMAGE is anything that "mount" accepts; a CONTAINER is shown with its changes. PATH begins with
    '/', and is '/' by default; IMAGE:PATH is the same, and several images can be given. Paths are
    printed as they are in the image. With --all-layers, each layer is searched by itself, and lines
    begin with the number of the layer and what became of the file: visible, hidden by a later
    layer, mentioned (as the parent of other entries), or whiteout (it removes the path).
    """
    if words == ("-h",):
        click.echo(context.get_help())
        return 0
    from unionmount.browse.find.columns import Columns
    from unionmount.cli.find_output import Complaints, JsonOutput, LineOutput
    from unionmount.cli.open_image import check_images
    from unionmount.cli.operands import by_image, image_and_paths

    given, expression, follows = _split(words)
    if not given:
        raise UsageError("find: no image was given")
    settings: Settings = context.obj
    operands = image_and_paths(given)
    check_images(settings, operands, platform=platform, layer=layer)
    complaints = Complaints(settings.program)
    out: LineOutput | JsonOutput = LineOutput(complaints, of_layers=all_layers)
    if form != "text":
        out = JsonOutput(complaints, form)
    search = _Search(
        settings, platform, layer, all_layers, expression, follows, out, complaints, Columns()
    )
    for image, group in by_image(operands):
        if not search.run(image, group):
            break
    out.end()
    return complaints.status


def _split(words: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """Split the arguments into operands and the expression after them.

    Return also whether symlinks that are starting points are followed (-H).
    """
    rest, follows = list(words), False
    while rest and rest[0][:2] in ("-H", "-L", "-P", "-O") and rest[0] != "-Or":
        option = rest.pop(0)
        if option == "-L":
            raise UsageError("find: -L is not supported: mount the image and run find(1) there")
        follows = option == "-H" or (follows and option != "-P")
    for number, word in enumerate(rest):
        if word.startswith("-") or word in ("(", "!"):
            return rest[:number], rest[number:], follows
    return rest, [], follows


@dataclass(slots=True)
class _Search:
    """The searches of one command."""

    settings: Settings
    platform: Platform | None
    layer: int | None
    all_layers: bool
    words: list[str]
    follows: bool
    out: LineOutput | JsonOutput
    complaints: Complaints
    columns: Columns

    def run(self, image: str, operands: Sequence[Operand]) -> bool:
        """Search one image; return whether the search may go on."""
        from unionmount.browse.accounts import Accounts
        from unionmount.cli.file_objects import FileDescriber
        from unionmount.cli.find_output import JsonOutput
        from unionmount.cli.open_image import open_files

        now = time.time_ns()
        with ExitStack() as stack:
            view = stack.enter_context(
                open_files(self.settings, image, platform=self.platform, layer=self.layer)
            )
            accounts = Accounts(view.files)
            expression = self._parse(view, accounts, now)
            trees = stack.enter_context(view.layer_trees()) if self.all_layers else None
            if isinstance(self.out, JsonOutput):
                files = view.files if trees is None else trees
                self.out.describer = FileDescriber(image, files, accounts, view.upper)
            return all(
                self._search(expression, start, place, now)
                for operand in operands
                for start, place in self._starts(view, trees, operand, accounts)
            )

    def _parse(self, view: OpenView, accounts: Accounts, now: int) -> Expression:
        import locale
        from contextlib import suppress

        from unionmount.browse.find.parse import parse_expression

        expression = parse_expression(
            self.words, view.files, accounts, now, of_layers=self.all_layers
        )
        for warning in expression.warnings:
            self.complaints.warn(warning)
        if not expression.prints_only:
            if not self.out.has_lines:
                raise UsageError("find: --format cannot be combined with -printf and -ls")
            with suppress(locale.Error):
                locale.setlocale(locale.LC_TIME, "")  # names of days and months
        return expression

    def _search(self, expression: Expression, start: Node, place: SearchPlace, now: int) -> bool:
        from unionmount.browse.find.search import search

        return search(expression, start, place, self.out, self.columns, now)

    def _starts(
        self, view: OpenView, trees: LayerTrees | None, operand: Operand, accounts: Accounts
    ) -> Iterator[tuple[Node, SearchPlace]]:
        """Yield where to search; an operand that is not there is an error, which ends nothing."""
        from unionmount.browse.find.expression import SearchPlace
        from unionmount.browse.paths import follow

        path = operand.start
        if trees is not None:
            yield from self._starts_in_layers(view, trees, operand, accounts)
            return
        try:
            with operand.naming():
                found = follow(view.files, path, last=self.follows or path.endswith(b"/"))
        except (OSError, NotFoundError) as error:
            self._complain(operand, error)
            return
        yield found.attributes.node, SearchPlace(view.files, path, accounts)

    def _starts_in_layers(
        self, view: OpenView, trees: LayerTrees, operand: Operand, accounts: Accounts
    ) -> Iterator[tuple[Node, SearchPlace]]:
        from unionmount.browse.find.expression import SearchPlace
        from unionmount.browse.layer_states import LayerStates

        layers = len(view.image.layers)
        states, is_anywhere = LayerStates(trees, layers), False
        for layer in range(layers):
            try:
                start = trees.resolve(b"%d/%b" % (layer, operand.start)).node
            except (FileNotFoundError, NotADirectoryError):
                continue
            is_anywhere = True
            yield start, SearchPlace(trees, operand.start, accounts, layer, states)
        if not is_anywhere:
            self._complain(operand, NotFoundError(f"{operand.word}: no layer has this path"))

    def _complain(self, operand: Operand, error: Exception) -> None:
        from unionmount.system.text import printable

        text = str(error)
        if isinstance(error, OSError):
            text = f"{printable(operand.word)}: {error.strerror}"
        self.complaints.tell(text)
