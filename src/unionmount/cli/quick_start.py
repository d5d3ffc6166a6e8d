"""Running a command without click: its help, and the usual command lines of common commands.

Both give up where anything is unusual, and click does it, with its messages. So they need to know
little, and what they do is what click would do; a test compares the two.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from unionmount.cli.command_table import COMMANDS, COMPLETE
from unionmount.cli.settings import Settings

HELP_OPTIONS = ("-h", "--help")
_QUICK_COMMANDS = frozenset({"cp", "mount", "overlay", "umount", "unmount"})
_HELP_WIDTH = 80  # the widest help
_HELP = os.path.join(os.path.dirname(__file__), "help")  # noqa: PTH118, PTH120 - quick


def quick_help(words: Sequence[str], settings: Settings) -> str | None:
    """Return a help that was written before (``scripts/write_reference.py``), if it is asked for.

    None if it is not, or if the terminal is so narrow that click has to lay it out.
    """
    *names, last = words or ("",)
    if last not in HELP_OPTIONS or len(names) > (not settings.command) or COMPLETE in os.environ:
        return None
    name = names[0] if names else settings.program
    if (names and name not in COMMANDS) or not _is_wide():
        return None
    try:
        with open(f"{_HELP}/{name}.txt", encoding="utf-8") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return None


def _is_wide() -> bool:
    """Return whether the terminal has room for the widest help, as shutil finds it out."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns) >= _HELP_WIDTH
    try:
        return os.get_terminal_size(1).columns >= _HELP_WIDTH
    except OSError:
        return True


def quick_run(words: Sequence[str], settings: Settings) -> Any:
    """Run a command line and return what the command does."""
    call = None if COMPLETE in os.environ else _understood(words, settings)
    if call is not None:
        function, arguments = call
        return function(settings, **arguments)
    from unionmount.cli.program import run

    return run(words, settings)


def _understood(
    words: Sequence[str], settings: Settings
) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Return a command and its arguments; ``settings`` are changed only if there is one."""
    from unionmount.cli.quick_parser import NotQuick, parse_command, parse_group

    found = Settings()
    try:
        rest = words if settings.command else parse_group(words, found)
        name, *rest = (settings.command, *rest)[not settings.command :] or ("",)
        if name not in _QUICK_COMMANDS:
            return None
        module = importlib.import_module(f"unionmount.cli.commands.{COMMANDS[name][0]}")
        call = parse_command(module.command, rest, found)
    except NotQuick:
        return None
    settings.root, settings.debug, settings.additional = found.root, found.debug, found.additional
    return call
