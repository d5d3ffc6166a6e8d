"""Manual pages, made from the texts of ``--help``: one for the program and one for each command."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import click

from unionmount.cli.examples import examples_of, without_examples
from unionmount.cli.program import LazyGroup
from unionmount.system.text import printable

PROGRAM = "unionmount"
_SECTION = 1
_WIDTH = 68  # columns of a line of the source, before escaping
_ESCAPES = {
    "\\": "\\(rs",
    "-": "\\-",
    "'": "\\(aq",
    "`": "\\(ga",
    "^": "\\(ha",
    "~": "\\(ti",
    "…": "\\&...",
    "µ": "\\(mc",
}


def page_name(command: str | None) -> str:
    """Return the name of a page: ``unionmount-mount``."""
    return PROGRAM if command is None else f"{PROGRAM}-{command}"


def pages(group: LazyGroup) -> Iterator[tuple[str, str]]:
    """Yield the name of each page and its text in the language of man(7)."""
    context = _context(group)
    yield page_name(None), page(group, None)
    for name in group.list_commands(context):
        yield page_name(name), page(group, name)


def page(group: LazyGroup, name: str | None) -> str:
    """Return the page of the program or of one command."""
    context = _context(group)
    command: click.Command | None = group
    if name is not None:
        command = group.get_command(context, name)
        if command is None:
            raise click.UsageError(f"there is no command '{printable(name)}'")
        context = click.Context(command, info_name=name, parent=context, **command.context_settings)
    assert command is not None
    short = group.about(name) if name is not None else group.help or ""
    lines = [*_head(page_name(name), short), *_usage(context, command)]
    lines += _section("DESCRIPTION", _description(command))
    lines += _section("OPTIONS", _options(context, command))
    if isinstance(command, LazyGroup):
        lines += _section("COMMANDS", _commands(context, command))
    elif command.name is not None:
        lines += _section("EXAMPLES", _examples(command.name))
    lines += _section("EXIT STATUS", _statuses())
    lines += _section("SEE ALSO", _see_also(context, command))
    return "\n".join(lines) + "\n"


def _context(group: LazyGroup) -> click.Context:
    return click.Context(group, info_name=PROGRAM, **group.context_settings)


def _head(title: str, short: str) -> Iterator[str]:
    version = metadata.version(PROGRAM)
    yield f'.TH {title.upper()} {_SECTION} {_date()} "{PROGRAM} {version}" "User Commands"'
    yield ".nh"
    yield ".ad l"
    yield ".SH NAME"
    first = " ".join(short.partition("\n\n")[0].split()).rstrip(".")
    yield f"{_escaped(title)} \\- {_escaped(first[:1].lower() + first[1:])}"


def _date() -> str:
    """Return the date of these sources, or that of ``SOURCE_DATE_EPOCH``."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.rglob("*.py"))
    seconds = float(epoch) if epoch.isdecimal() else newest
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _usage(context: click.Context, command: click.Command) -> Iterator[str]:
    yield ".SH SYNOPSIS"
    yield f".B {_escaped(context.command_path)}"
    pieces = command.collect_usage_pieces(context)
    yield from (_usage_piece(piece) for piece in pieces)  # a line for each: mandoc wants short ones


def _usage_piece(piece: str) -> str:
    return re.sub(r"[A-Za-z][A-Za-z_|-]*", lambda word: f"\\fI{_escaped(word[0])}\\fR", piece)


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield f".SH {title}"
        yield from found


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        _, kept, lines = paragraph.rpartition("\b\n")
        if kept:  # lines that are not filled
            yield from (".nf", *map(_escaped, textwrap.dedent(lines).splitlines()), ".fi")
        else:
            yield _text(" ".join(paragraph.split()))


def _description(command: click.Command) -> Iterator[str]:
    yield from _paragraphs(command.help or "")
    more = without_examples(command.epilog)
    if more:
        yield ".PP"
        yield from _paragraphs(more)


def _options(context: click.Context, command: click.Command) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or parameter.param_type_name == "argument":
            continue
        names, explained = record
        yield ".TP"
        yield _option(names)
        yield _text(explained) or "\\&"


def _option(names: str) -> str:
    shown = []
    for name in re.split(r"(,? )", names):
        if name.startswith("-"):
            shown.append(f"\\fB{_escaped(name)}\\fR")
        else:
            shown.append(f"\\fI{_escaped(name)}\\fR" if name.strip(", ") else name)
    return "".join(shown)


def _commands(context: click.Context, group: LazyGroup) -> Iterator[str]:
    for title, names in group.groups().items():
        yield f".SS {_escaped(title)}"
        for name in names:
            command = group.get_command(context, name)
            assert command is not None
            yield ".TP"
            yield f"\\fB{_escaped(page_name(name))}\\fR({_SECTION})"
            yield _text(command.get_short_help_str(200))


def _examples(name: str) -> Iterator[str]:
    for purpose, line in examples_of(name):
        yield ".TP"
        yield _text(f"{purpose}:")
        yield f"\\fB{_escaped(line)}\\fR"


def _statuses() -> Iterator[str]:
    for status, meaning in (
        ("0", "Success."),
        ("1", "Failure, or failure of a part; standard error has one line for each."),
        ("2", "Wrong usage."),
    ):
        yield ".TP"
        yield status
        yield meaning


def _see_also(context: click.Context, command: click.Command) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield f".BR {_escaped(PROGRAM)} ({_SECTION})"
        return
    names = command.list_commands(context)
    for number, name in enumerate(names):
        comma = " ," if number < len(names) - 1 else ""
        yield f".BR {_escaped(page_name(name))} ({_SECTION}){comma}"


def _text(text: str) -> str:
    """Format running text in short lines."""
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(_escaped, lines))


def _escaped(text: str) -> str:
    """Escape text, so that nothing in it is a request or an escape of roff."""
    shown = "".join(_ESCAPES.get(character, character) for character in text)
    return f"\\&{shown}" if shown.startswith((".", "\\(aq")) else shown
