"""Write docs/reference/commands.md: what the program itself says of its commands.

    scripts/write_reference.py [FILE]

Without FILE, the texts that ``--help`` prints are written as well (src/unionmount/cli/help), so
that the program prints them quickly. Tests compare all of them with what click says.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import click

from unionmount.cli import OVERLAY, PROGRAM
from unionmount.cli.examples import examples_of, without_examples
from unionmount.cli.program import LazyGroup, cli, command_of
from unionmount.cli.settings import Settings

_PROJECT = Path(__file__).parents[1]
PAGE = _PROJECT / "docs/reference/commands.md"
HELP = _PROJECT / "src/unionmount/cli/help"
_HELP_WIDTH = 78  # click's own, on a terminal of 80 columns or more

_HEAD = """# Commands

<!-- Written by scripts/write_reference.py from the program itself; do not edit. -->

`unionmount COMMAND --help` prints the same, and `unionmount man COMMAND` shows it as a manual page.

A command exits with status 0 for success, 1 for failure, and 2 for wrong usage; a failure is one
line on standard error. (`diff` of two images exits with 1 when they differ and with 2 for failures,
as diff(1) does.)
"""


def reference(group: LazyGroup) -> str:
    """The whole page."""
    context = click.Context(group, info_name="unionmount", **group.context_settings)
    lines = [_HEAD, *_usage(context, group), *_description(group), *_options(context, group)]
    for title, names in group.groups().items():
        lines += [f"## {title}", ""]
        for name in names:
            command = group.get_command(context, name)
            assert command is not None
            lines += [f"### {name}", "", group.about(name), ""]
            if command.name == name:
                settings = command.context_settings
                inner = click.Context(command, info_name=name, parent=context, **settings)
                lines += _command(inner, command)
    return "\n".join(lines).rstrip("\n") + "\n"


def _command(context: click.Context, command: click.Command) -> Iterator[str]:
    yield from _usage(context, command)
    yield from _description(command)
    yield from _options(context, command)
    yield from ("Examples:", "", "```sh")
    for purpose, line in examples_of(command.name or ""):
        yield from (f"# {purpose}", line)
    yield from ("```", "")


def _usage(context: click.Context, command: click.Command) -> Iterator[str]:
    words = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from ("```", words, "```", "")


def _description(command: click.Command) -> Iterator[str]:
    for text in (command.help or "", without_examples(command.epilog)):
        for paragraph in re.split(r"\n\s*\n", text.strip()):
            kept, _, lines = paragraph.partition("\b\n")
            if lines and not kept.strip():  # click keeps the lines of such a paragraph
                yield from ("```", *dedent(lines).splitlines(), "```", "")
            elif paragraph:
                yield from (_escaped(" ".join(paragraph.split())), "")


def _options(context: click.Context, command: click.Command) -> Iterator[str]:
    yield from ("| option | meaning |", "|---|---|")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.param_type_name == "option":
            names, text = record
            shown = names.replace("|", "\\|")
            yield f"| `{shown}` | {_escaped(' '.join(text.split()))} |"
    yield ""


def _escaped(text: str) -> str:
    """Text in which Markdown finds nothing to do."""
    return re.sub(r"([\\`*_<>\[\]|$~])", r"\\\1", text)


def help_texts(group: LazyGroup) -> dict[str, str]:
    """What ``--help`` prints, by the names of the commands and programs."""
    settings = dict(group.context_settings)
    context = click.Context(group, info_name=PROGRAM, max_content_width=80, **settings)
    found = {PROGRAM: _help(context, group)}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, **command.context_settings)
        found[name] = _help(inner, command)
    overlay = command_of(Settings(command="overlay", program=OVERLAY))
    found[OVERLAY] = _help(click.Context(overlay, info_name=OVERLAY, **settings), overlay)
    return found


def _help(context: click.Context, command: click.Command) -> str:
    context.terminal_width = _HELP_WIDTH
    return command.get_help(context) + "\n"


def write_help() -> None:
    """Write the texts of ``--help``."""
    assert isinstance(cli, LazyGroup)
    HELP.mkdir(exist_ok=True)
    for name, text in help_texts(cli).items():
        (HELP / f"{name}.txt").write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write the page."""
    page = Path(arguments[0]) if arguments else PAGE
    assert isinstance(cli, LazyGroup)
    page.write_text(reference(cli), encoding="utf-8")
    if not arguments:
        write_help()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
