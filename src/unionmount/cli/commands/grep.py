"""``unionmount grep``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import unionmount.cli.declared as click
from unionmount.cli.exit_status import failing_with
from unionmount.cli.options import (
    all_layers_option,
    layer_option,
    platform_option,
    root_option,
    text_format_option,
)
from unionmount.errors import UsageError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_TROUBLE = 2  # 1 means "not found", as in grep(1)

_EPILOG = """Expressions, output and exit status are those of GNU grep 3.8 with UTF-8: 0 if a line
was selected, 1 if none was, 2 after an error. -P takes expressions of Python's re module instead.
Patterns that a newline separates are alternatives. Options of grep that are not listed here are
refused."""


def _flags(*declared: tuple[tuple[str, ...], str]) -> Callable[[F], F]:
    """Add options without a value, each with its names and its help."""

    def add(function: F) -> F:
        for names, text in reversed(declared):
            function = click.option(*names, is_flag=True, help=text)(function)
        return function

    return add


def _choice(
    name: str, *declared: tuple[tuple[str, ...], str, str], multiple: bool = False
) -> Callable[[F], F]:
    """Add options of which the last one counts, each with its value; or all, with ``multiple``."""

    def add(function: F) -> F:
        for names, value, text in reversed(declared):
            add_one = click.option(*names, name, flag_value=value, multiple=multiple, help=text)
            function = add_one(function)
        return function

    return add


def _digits(function: F) -> F:
    """Add -NUM: a flag for each digit."""
    for digit in "0123456789":
        function = click.option(
            f"-{digit}", "digits", flag_value=digit, multiple=True, hidden=True
        )(function)
    return function


class _TaggedKind(click.DeclaredType):
    """The class of an option whose values get a letter before them (``tagged_option``)."""

    def build(self) -> Any:
        """Return the class."""
        from unionmount.cli.tagged_option import tagged_option

        return tagged_option(*self.arguments)


def _glob(name: str, letter: str, text: str) -> Callable[[F], F]:
    """Add --include or --exclude; both give ``globs``, since their order counts."""
    kind = _TaggedKind("", letter)
    return click.option(name, "globs", metavar="GLOB", multiple=True, cls=kind, help=text)


def _number(*names: str, text: str) -> Callable[[F], F]:
    return click.option(*names, metavar="NUM", type=click.IntRange(min=0), help=text)


@click.command("grep", context_settings={"help_option_names": ["--help"]}, epilog=_EPILOG)
@click.option("-e", "--regexp", "patterns", metavar="PATTERN", multiple=True, help="Search this.")
@click.option(
    "-f", "--file", "files", metavar="FILE", multiple=True, help="Search the lines of FILE."
)
@_choice(
    "syntax",
    (("-G", "--basic-regexp"), "basic", "PATTERN is a basic expression of POSIX (default)."),
    (("-E", "--extended-regexp"), "extended", "PATTERN is an extended expression."),
    (("-F", "--fixed-strings"), "fixed", "PATTERN is a string."),
    (("-P", "--python-regexp", "--perl-regexp"), "foreign", "PATTERN is an expression of Python."),
    multiple=True,
)
@_choice(
    "icase",
    (("-i", "-y", "--ignore-case"), "yes", "Ignore case."),
    (("--no-ignore-case",), "no", "Do not ignore case (default)."),
)
@_flags(
    (("-w", "--word-regexp"), "Match whole words only."),
    (("-x", "--line-regexp"), "Match whole lines only."),
    (("-v", "--invert-match"), "Select lines that do not match."),
    (("-c", "--count"), "Print the number of selected lines of each file."),
)
@_choice(
    "listing",
    (("-l", "--files-with-matches"), "with", "Print the names of files with selected lines."),
    (("-L", "--files-without-match"), "without", "Print the names of files without any."),
)
@_flags(
    (("-o", "--only-matching"), "Print the matches only, each on its own line."),
    (("-q", "--quiet", "--silent"), "Print nothing, and stop at the first selected line."),
    (("-s", "--no-messages"), "Print no messages about files that cannot be read."),
)
@click.option("-m", "--max-count", metavar="NUM", help="Stop after NUM selected lines of a file.")
@_flags(
    (("-b", "--byte-offset"), "Print the offset of each line in its file."),
    (("-n", "--line-number"), "Print the number of each line."),
)
@_choice(
    "filename",
    (("-H", "--with-filename"), "yes", "Print the name of the file with each line."),
    (("-h", "--no-filename"), "no", "Print no names."),
)
@_flags(
    (("-T", "--initial-tab"), "Align the content of lines."),
    (("-Z", "--null"), "Print a zero byte after names instead of what is usual."),
    (("-z", "--null-data"), "Lines end with a zero byte, not with a newline."),
)
@_number("-A", "--after-context", text="Print NUM lines after selected ones.")
@_number("-B", "--before-context", text="Print NUM lines before selected ones.")
@_number("-C", "--context", "around", text="Print NUM lines before and after; also -NUM.")
@_digits
@click.option(
    "--group-separator", metavar="TEXT", default="--", help="Separate groups of lines by TEXT."
)
@click.option("--no-group-separator", is_flag=True, help="Do not separate groups.")
@_choice(
    "binary",
    (("-a", "--text"), "text", "Treat all files as text."),
    (("-I",), "without-match", "Treat binary files as if nothing in them matched."),
)
@click.option(
    "--binary-files",
    "binary",
    metavar="TYPE",
    type=click.Choice(["binary", "text", "without-match"]),
    help="binary (default), text or without-match.",
)
@_glob("--include", "i", "Search only such files.")
@_glob("--exclude", "e", "Skip such files.")
@click.option("--exclude-dir", metavar="GLOB", multiple=True, help="Skip such directories.")
@click.option(
    "--color",
    "--colour",
    metavar="WHEN",
    is_flag=False,
    flag_value="auto",
    default="never",
    help="Highlight matches: always, never, or auto, which is on a terminal.",
)
@click.option("-r", "--recursive", is_flag=True, help="Search directories; this is always done.")
@text_format_option
@platform_option
@layer_option
@all_layers_option
@root_option
@click.argument("words", metavar="[PATTERN] IMAGE [PATH…]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, words: tuple[str, ...], **options: Any) -> int:
    """Search the files of an image for lines that match PATTERN, without a mount.

    IMAGE is anything that "mount" accepts; a CONTAINER is shown with its changes. PATH begins with
    '/', and is '/' by default; IMAGE:PATH is the same, and several images can be given: lines then
    begin with the image. Directories are searched with everything below; symlinks are followed on
    the way to PATH only; devices and pipes are skipped.

    With --all-layers, every layer is searched by itself, so that what a later layer changed or
    removed is found as well. Lines then begin with the number of the layer and the first 12 digits
    of its diff ID: "4:a2a587855a0e:/root/credentials:password=…". Of a CONTAINER, the layers of its
    image are searched.
    """
    if not words and options["filename"] == "no":  # -h alone
        click.echo(context.get_help())
        return 0
    settings: Settings = context.obj
    with failing_with(_TROUBLE):
        return _run(settings, words, options)


def _run(settings: Settings, words: tuple[str, ...], options: dict[str, Any]) -> int:
    from unionmount.cli.grep_options import GrepOptions
    from unionmount.cli.grep_run import run_grep

    parsed, operands = GrepOptions.parse(words, options)
    if not operands:
        raise UsageError("grep: no image was given; write grep PATTERN IMAGE")
    return run_grep(settings, operands, parsed)
