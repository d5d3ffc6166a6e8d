"""``unionmount find``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import layer_option, platform_option, root_option
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform

_EPILOG = """Tests, as GNU find has them: -name, -iname GLOB; -path, -wholename, -ipath GLOB; -type
f,d,l,b,c,p,s; -size [+-]N[bcwkMG]; -perm [-/]OCTAL; -newer PATH (a path of the image); -uid, -gid,
-links, -inum [+-]N; -empty; -true, -false. Actions: -print (the default), -print0, -prune.
Operators: ( ) ! -not -a -and -o -or. -maxdepth N and -mindepth N hold wherever they stand. Symlinks
are not followed, but for those on the way to PATH. Everything else of find(1) is refused by its
name."""


@click.command(
    "find",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    epilog=_EPILOG,
)
@platform_option
@layer_option
@root_option
@click.argument("words", metavar="IMAGE[:PATH]… [EXPRESSION]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(
    context: click.Context, platform: Platform | None, layer: int | None, words: tuple[str, ...]
) -> None:
    """Search the files of an image like find(1), without a mount.

    IMAGE is anything that "mount" accepts; a CONTAINER is shown with its changes. PATH begins with
    '/', and is '/' by default. Paths are printed as they are in the image.
    """
    if words == ("-h",):
        click.echo(context.get_help())
        return
    operands, expression = _split(words)
    if not operands:
        raise UsageError("find: no image was given")
    for operand in operands:
        _search(context.obj, operand, expression, platform=platform, layer=layer)


def _split(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Split the arguments into operands and the expression after them."""
    for number, word in enumerate(words):
        if word.startswith("-") or word in ("(", "!"):
            return list(words[:number]), list(words[number:])
    return list(words), []


def _search(
    settings: Settings,
    operand: str,
    words: list[str],
    *,
    platform: Platform | None,
    layer: int | None,
) -> None:
    from unionmount.browse.find import parse_expression
    from unionmount.browse.paths import follow, split_operand
    from unionmount.cli.name_writer import NameWriter
    from unionmount.cli.open_image import open_files
    from unionmount.system.os_errors import naming

    word, path = split_operand(operand)
    path = path or b"/"
    with open_files(settings, word, platform=platform, layer=layer) as view:
        with naming("the file of -newer"):
            expression = parse_expression(words, view.files)
        with naming(printable(operand)):
            start = follow(view.files, path, last=path.endswith(b"/"))
        out = NameWriter()
        for found, end in expression.search(view.files, start, path):
            out.name(found, end)
        out.flush()
