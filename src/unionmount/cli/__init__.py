"""The command line: it parses arguments and prints results, and does nothing else.

A subcommand is a module of this package that is imported on first use, and that imports the code it
needs only when it runs. click is imported where the quick ways are not enough: for completion, for
wrong usage, and for most commands. Data goes to standard output, everything else to standard error.
An error is one line with exit status 1; wrong usage has status 2.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from unionmount.cli.settings import Settings
from unionmount.errors import ImageNotFound, UnionmountError, UsageError
from unionmount.system.text import printable
from unionmount.version import VERSION

PROGRAM = "unionmount"
OVERLAY = "unionmount-overlay"

_VERSION_OPTIONS = ("--version", "-V")

_OF_PROGRAMS = frozenset({"exec", "run", "shell", "start"})
"""Commands that exit with the status of a program."""
_PULLS = frozenset({"mount", "run", "shell", "bundle"})
_ONLY_STORED = frozenset({"rmi", "tag"})
_NOT_STARTED = 125  # their status where no program was started, as Docker has it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``unionmount`` and return the exit status."""
    return _run(sys.argv[1:] if arguments is None else arguments, Settings())


def overlay(arguments: Sequence[str] | None = None) -> int:
    """Run ``unionmount-overlay``, which takes the command line of fuse-overlayfs."""
    words = sys.argv[1:] if arguments is None else arguments
    return _run(words, Settings(command="overlay", program=OVERLAY))


def leave(status: int) -> NoReturn:
    """End the process without taking the interpreter apart, which takes as long as starting it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # reported before, if anything can be reported
            stream.flush()
    os._exit(status)


def version_line(program: str) -> str:
    """Return what ``--version`` prints; fuse-overlayfs has the same words before its version."""
    return f"{program}: version {VERSION}" if program == OVERLAY else f"{program} {VERSION}"


def _run(words: Sequence[str], settings: Settings) -> int:
    open_standard_streams()
    try:
        result = _execute(words, settings)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()  # the reader has seen enough
        return 141
    except (UnionmountError, OSError) as error:
        return _failed(words, _complain(error, settings, _line(error, words, settings)))
    except Exception as error:  # noqa: BLE001 - the last resort of the program
        if isinstance(error.__cause__, KeyboardInterrupt):
            return 130  # in the body of a class: up to 3.11, Python makes a RuntimeError of it
        return _failed(words, _other_error(error, settings))
    return result if isinstance(result, int) else 0


def _failed(words: Sequence[str], status: int) -> int:
    """Return the exit status of a command that failed, apart from those of programs."""
    command = next((word for word in words if not word.startswith("-")), "")
    return max(status, _NOT_STARTED) if status and command in _OF_PROGRAMS else status


def _execute(words: Sequence[str], settings: Settings) -> Any:
    """Run a command line, in the quickest way that understands it."""
    from unionmount.cli.quick_start import quick_help, quick_run

    if words and words[0] in _VERSION_OPTIONS:
        print(version_line(settings.program))
        return 0
    if (text := quick_help(words, settings)) is not None:
        sys.stdout.write(text)
        return 0
    return quick_run(words, settings)


def _drop_output() -> None:
    """Drop output that cannot be written: the interpreter would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


class _ClosedOutput(io.FileIO):
    """Standard output that was closed: output is an error, as it is for other programs.

    Its descriptor can only be read, so whoever writes to that has the same error.
    """

    def write(self, _data: object) -> NoReturn:
        """Raise OSError."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")


def open_standard_streams() -> None:
    """Open those of descriptors 0, 1 and 2 that are closed, so that no other file gets them."""
    if sys.stdin is None:  # open() returns the lowest free number
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        raw = _ClosedOutput(os.open(os.devnull, os.O_RDONLY), "w")
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout is sys.__stdout__ and isinstance(sys.stdout.buffer, io.RawIOBase):
            sys.stdout = _buffered(sys.stdout)
        sys.stdout.reconfigure(errors="backslashreplace")  # like standard error


def _buffered(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream with a buffer, which PYTHONUNBUFFERED takes away.

    Without one, the end of a piece that a full disk takes in part is lost without an error.
    """
    raw = io.FileIO(stream.fileno(), "w", closefd=False)
    buffer, is_terminal = io.BufferedWriter(raw), stream.isatty()
    return io.TextIOWrapper(buffer, encoding=stream.encoding, line_buffering=is_terminal)


def _other_error(error: Exception, settings: Settings) -> int:
    """Report an error of click, which is imported if there is one, or of the program."""
    click = sys.modules.get("click")
    if click is None or not isinstance(error, (click.ClickException, click.Abort)):
        text = f"internal error: {type(error).__name__}: {error} (--debug shows where)"
        return _complain(error, settings, text)
    from unionmount.cli.program import wrong_usage

    if isinstance(error, click.Abort):
        return 130
    message = wrong_usage(error, settings.program)
    if message is not None:
        _complain(error, settings, message)
    return 2 if message is None else int(error.exit_code)


def _complain(error: Exception, settings: Settings, text: str) -> int:
    _drop_output()
    if settings.debug:
        import traceback

        traceback.print_exception(error)
    line = "".join(c if c.isprintable() else printable(c) for c in text)
    print(f"{settings.program}: {line}", file=sys.stderr)
    return error.exit_code if isinstance(error, UnionmountError) else 1


def _line(error: Exception, words: Sequence[str], settings: Settings) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
        return where + error.strerror
    if isinstance(error, UsageError):
        return f"{error} (see {_called(words, settings)} --help)"
    if isinstance(error, ImageNotFound) and ";" not in str(error):
        return str(error) + _ways_to(error.word, words)
    return str(error)


def _ways_to(image: str, words: Sequence[str]) -> str:
    """Return how to get an image that the store lacks, for the end of the message."""
    from unionmount.sources import is_elsewhere, refuse_file

    if not _PULLS.isdisjoint(words):  # the command can fetch it itself, or was told not to
        return ""
    if os.path.exists(image):  # noqa: PTH110 - quick
        return (
            f", but a file; bring it there with 'unionmount load {image}', or send it elsewhere "
            f"with 'unionmount copy {image} TARGET'"
        )
    if is_elsewhere(image):
        return (
            f"; load it with 'unionmount load {image}', or send it elsewhere with "
            f"'unionmount copy {image} TARGET'"
        )
    with suppress(UnionmountError):
        refuse_file(image)
        if not _ONLY_STORED.isdisjoint(words):
            return "; 'unionmount images' lists those that are there"
        return f"; 'unionmount pull {image}' fetches it"
    return ""


def _called(words: Sequence[str], settings: Settings) -> str:
    """Return the program, with its command if the words name one."""
    from unionmount.cli.command_table import COMMANDS
    from unionmount.cli.quick_parser import NotQuick, parse_group

    with suppress(NotQuick):
        if not settings.command and (rest := parse_group(words, Settings())):
            return f"{settings.program} {rest[0]}" if rest[0] in COMMANDS else settings.program
    return settings.program
