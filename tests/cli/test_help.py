"""The help of the program and of its commands: groups, and examples that are command lines."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter

import click
import pytest

from unionmount.browse.find.parse import parse_expression
from unionmount.cli import main
from unionmount.cli.command_table import COMMANDS, GROUPS
from unionmount.cli.commands.find import _split
from unionmount.cli.examples import EXAMPLES
from unionmount.cli.manpages import page
from unionmount.cli.program import cli
from unionmount.cli.settings import Settings
from unionmount.mounting.options import parse_options

Capture = pytest.CaptureFixture[str]
LINES = [(name, line) for name, examples in EXAMPLES.items() for _, line in examples]


def sections(text: str) -> dict[str, list[str]]:
    """The parts of a help text that have a heading, with the first word of each entry."""
    found = re.split(r"^(\S[^\n]*):$", text, flags=re.MULTILINE)
    return {
        head: re.findall(r"^  ([a-z-]+) ", body, re.MULTILINE)
        for head, body in zip(found[1::2], found[2::2], strict=True)
    }


def test_commands_are_grouped(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    shown = sections(capsys.readouterr().out)
    groups = [
        "Mount and change",
        "Run",
        "Look into images",
        "Images and store",
        "Registries",
        "More",
    ]
    assert list(shown)[1:] == groups
    assert {head: shown[head] for head in groups} == cli.groups()
    once = Counter(name for head in groups for name in shown[head])
    assert once == Counter(cli.list_commands(click.Context(cli)))


def test_each_line_of_the_help_fits(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_every_command_has_examples() -> None:
    names = {module.removesuffix("_") for module, _ in COMMANDS.values()}  # import_
    assert set(EXAMPLES) == names
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_manual_page_end_with_the_examples(name: str, capsys: Capture) -> None:
    examples = EXAMPLES[COMMANDS[name][0].removesuffix("_")]
    for _ in range(2):  # asking twice shows them once
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out.partition("\n  Examples:\n")[2]
        wanted = [word for purpose, line in examples for word in (f"# {purpose}", line)]
        assert [line.strip() for line in shown.splitlines()] == wanted
    source = page(cli, name)
    assert "\n.SH EXAMPLES\n" in source
    assert all(f"\n{purpose}:\n".replace("-", "\\-") in source for purpose, _ in examples)


def command_line(line: str) -> list[str]:
    """The words of the example that unionmount gets: no pipe, no redirection."""
    words = shlex.split(line.rpartition(" | ")[2], comments=True)
    return [word for word in words if not word.startswith(("<", ">"))]


@pytest.mark.parametrize(("name", "line"), LINES, ids=[line for _, line in LINES])
def test_examples_are_command_lines(name: str, line: str) -> None:
    program, used, *words = command_line(line)
    assert (program, used) == ("unionmount", name)
    context = click.Context(cli, info_name=program, obj=Settings(), **cli.context_settings)
    command = cli.get_command(context, used)
    assert command is not None
    parsed = command.make_context(used, words, parent=context).params
    if name == "mount":
        parse_options(parsed["options"])
    if name == "find":
        operands, expression, _ = _split(parsed["words"])
        assert operands
        parse_expression(expression, None, None, 0)  # type: ignore[arg-type]  # no -newer, no -user


def test_a_wrong_example_would_be_noticed() -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        test_examples_are_command_lines("mount", "unionmount mount --nonsense app.tar")


def test_the_manual_page_of_find_has_the_options_of_its_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unionmount", "man", "find"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "\n\\fB\\-\\-help\\fR\n" in done.stdout  # -h alone is a word of find's


def test_the_manual_page_of_find_has_its_expressions() -> None:
    words = page(cli, "find").split()
    assert {"\\-maxdepth", "\\-mindepth", "\\-newer"} <= set(words)


def test_listing_commands_imports_none() -> None:
    code = (
        "import sys; from unionmount.cli import main; main(['--help']); "
        "made = 'unionmount.cli.commands.';"
        "print(*(m for m in sys.modules if m.startswith(made)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.split() == []


def test_groups_have_short_texts() -> None:
    for group in GROUPS.values():
        for name, (_, text) in group.items():
            assert text.endswith("."), name
            assert len(text) < 66, name
