"""The options of ``unionmount grep``, as grep(1) understands them together."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unionmount import core
from unionmount.browse.grep_python import python_find
from unionmount.errors import UsageError
from unionmount.system.os_errors import naming
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.images.platform import Platform

_UNLIMITED = (1 << 63) - 1
_SGR = re.compile(rb"[0-9;]*")


@dataclass(frozen=True, slots=True)
class GrepOptions:
    """What to search for, where, and how to print it.

    ``filename`` says whether names are printed; None if that depends on what is searched.
    """

    setup: core.SearchSetup
    filename: bool | None
    form: str
    silent: bool  # no messages about files
    patterns: tuple[bytes, ...]  # of files: 'i' or 'e', and a pattern of the shell
    directories: tuple[bytes, ...]
    platform: Platform | None
    layer: int | None
    all_layers: bool
    finds_nothing: bool  # no line can be selected, which needs no image

    @classmethod
    def parse(
        cls, words: Sequence[str], options: Mapping[str, Any]
    ) -> tuple[GrepOptions, list[str]]:
        """Return the options and the operands; raise UsageError if they are not valid."""
        operands = list(words)
        patterns = _patterns(operands, options)
        if options["all_layers"] and options["layer"] is not None:
            raise UsageError("--all-layers cannot be combined with --layer: choose all or one")
        max_count = _max_count(options["max_count"])
        flags = _flags(options)
        if not patterns:  # such as -f /dev/null: no line matches
            flags = _changed(flags, invert=not flags.invert, words=False, lines=False)
            patterns = [b""]
        only_empty = patterns == [b""] and flags.invert and not (flags.words or flags.lines)
        finds_nothing = (max_count == 0 or only_empty) and not flags.list_others
        setup = _setup(patterns, flags, max_count, options)
        filename = None if options["filename"] is None else options["filename"] == "yes"
        return (
            cls(
                setup=setup,
                filename=filename,
                form=options["form"],
                silent=options["no_messages"],
                patterns=tuple(os.fsencode(glob) for glob in options["globs"]),
                directories=tuple(
                    b"e" + os.fsencode(glob.rstrip("/") or "/") for glob in options["exclude_dir"]
                ),
                platform=options["platform"],
                layer=options["layer"],
                all_layers=options["all_layers"],
                finds_nothing=finds_nothing,
            ),
            operands,
        )


def _changed(flags: core.SearchFlags, **values: bool) -> core.SearchFlags:
    from dataclasses import replace

    return replace(flags, **values)


# ---- patterns ------------------------------------------------------------------------------------


def _patterns(operands: list[str], options: Mapping[str, Any]) -> list[bytes]:
    """Return the patterns; the first operand is one if no option gives any."""
    given = [os.fsencode(pattern) for pattern in options["patterns"]]
    if not given and not options["files"]:
        if not operands:
            raise UsageError("grep: no pattern was given; write grep PATTERN IMAGE")
        word = os.fsencode(operands.pop(0))
        is_escaped = word.startswith(rb"\-") and "fixed" not in options["syntax"]
        given = [word[1:] if is_escaped else word]
    lines = [line for pattern in given for line in pattern.split(b"\n")]
    for file in options["files"]:
        lines += _lines_of(file)
    return list(dict.fromkeys(lines))


def _lines_of(file: str) -> list[bytes]:
    """Return the lines of a file of patterns; '-' is standard input."""
    if file == "-":
        data = sys.stdin.buffer.read()
    else:
        with naming(printable(file)), open(file, "rb") as opened:  # noqa: PTH123 - a word
            data = opened.read()
    if b"\0" in data:
        raise UsageError(f"{printable(file)}: a pattern has a NUL in it")
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


# ---- what is printed -----------------------------------------------------------------------------


def _max_count(text: str | None) -> int:
    if text is None:
        return _UNLIMITED
    if re.fullmatch(r"[+-]?[0-9]{1,400}", text) is None:
        raise UsageError(f"grep: -m takes a number, not '{printable(text)}'")
    number = int(text)
    return _UNLIMITED if number < 0 else min(number, _UNLIMITED)


def _flags(options: Mapping[str, Any]) -> core.SearchFlags:
    quiet, listing = options["quiet"], options["listing"]
    records = options["form"] != "text"
    color = _is_colored(options["color"]) and not records
    reverse, no_erase, _ = _colors() if color else (False, False, {})
    if records and options["null_data"]:
        raise UsageError("--format cannot be combined with -z: lines may be whole files")
    return core.SearchFlags(
        icase=options["icase"] == "yes",
        words=options["word_regexp"],
        lines=options["line_regexp"],
        invert=options["invert_match"],
        nul_data=options["null_data"],
        text=options["binary"] == "text",
        skip_binary=options["binary"] == "without-match",
        line_number=options["line_number"],
        byte_offset=options["byte_offset"],
        nul_name=options["null"],
        only_matching=options["only_matching"],
        count=options["count"] and not quiet and listing is None,
        list=listing == "with" and not quiet,
        list_others=listing == "without" and not quiet,
        quiet=quiet,
        tab=options["initial_tab"],
        color=color,
        reverse=reverse,
        no_erase=no_erase,
        escape=not records and sys.stdout.isatty(),
        records=records,
    )


def _setup(
    patterns: Sequence[bytes],
    flags: core.SearchFlags,
    max_count: int,
    options: Mapping[str, Any],
) -> core.SearchSetup:
    default = options["around"]
    if default is None and options["digits"]:
        default = int("".join(options["digits"])[:18])
    before, after = options["before_context"], options["after_context"]
    before, after = (default if one is None else one for one in (before, after))
    syntax, find = _syntax(options["syntax"]), None
    if syntax == "foreign":
        find = python_find(
            patterns,
            icase=flags.icase,
            words=flags.words,
            lines=flags.lines,
            nul_data=flags.nul_data,
        )
    separator = None if options["no_group_separator"] else os.fsencode(options["group_separator"])
    return core.SearchSetup(
        patterns=b"\n".join(patterns),
        syntax=syntax,
        flags=flags,
        max_count=max_count,
        before=-1 if before is None else min(before, _UNLIMITED),
        after=-1 if after is None else min(after, _UNLIMITED),
        separator=separator,
        colors=_colors()[2] if flags.color else {},
        find=find,
    )


def _syntax(given: Sequence[str]) -> str:
    if len(set(given)) > 1:
        raise UsageError("grep: only one of -G, -E, -F and -P can be given")
    return given[0] if given else "basic"


def _is_colored(when: str) -> bool:
    if when.lower() in ("always", "yes", "force"):
        return True
    if when.lower() in ("never", "no", "none"):
        return False
    if when.lower() not in ("auto", "tty", "if-tty"):
        raise UsageError(f"--color takes always, never or auto, not '{printable(when)}'")
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _colors() -> tuple[bool, bool, dict[str, bytes]]:
    """Parse GREP_COLORS: whether it has rv and ne, and the colours; stop at what is not valid."""
    reverse = no_erase = False
    colors: dict[str, bytes] = {}
    for word in os.environb.get(b"GREP_COLORS", b"").split(b":"):
        name, equals, value = word.partition(b"=")
        if name == b"rv" and not equals:
            reverse = True
        elif name == b"ne" and not equals:
            no_erase = True
        elif equals and _SGR.fullmatch(value) is None:
            break
        elif equals:
            key = name.decode("ascii", "replace")
            for one in ("ms", "mc") if key == "mt" else (key,):
                if one in core.COLORS:
                    colors[one] = value
    return reverse, no_erase, colors
