"""Write docs/reference/commands.md: what the program itself says of its commands.

    scripts/write_reference.py [FILE]

A test compares the page with what this writes, so that the page can't be out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import click

from unionmount.cli import LazyGroup, cli
from unionmount.cli.examples import examples_of, without_examples

PAGE = Path(__file__).parents[1] / "docs/reference/commands.md"

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


def main(arguments: list[str]) -> int:
    """Write the page."""
    page = Path(arguments[0]) if arguments else PAGE
    assert isinstance(cli, LazyGroup)
    page.write_text(reference(cli), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
