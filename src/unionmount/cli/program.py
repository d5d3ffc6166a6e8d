"""The command line: it parses arguments and prints results, and does nothing else.

A subcommand is a module of this package that is imported on first use, and that imports the code it
needs only when it runs, so that ``--help`` is fast. Data goes to standard output, everything else
to standard error. An error is one line with exit status 1; wrong usage has status 2.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import click

from unionmount.cli.settings import Settings
from unionmount.errors import UnionmountError, UsageError
from unionmount.system.text import printable

_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click 8.1 has none

_COMPLETE = "_UNIONMOUNT_COMPLETE"  # set by a shell that asks for completions

_GROUPS: dict[
    str, dict[str, tuple[str, str]]
] = {  # name: (module, help); listing commands imports no module
    "Mount and change": {
        "mount": ("mount", "Mount an image, writable or read-only."),
        "umount": ("umount", "Unmount images."),
        "unmount": ("umount", "Alias of umount."),
        "ps": ("ps", "List mounts and containers."),
        "diff": ("diff", "Show the changes in a container, or between two images."),
        "commit": ("commit", "Make an image of a container."),
        "rm": ("rm", "Remove containers."),
        "overlay": ("overlay", "Mount directories on top of each other, as overlayfs does."),
        "stats": ("stats", "Show the kernel's requests to a mount, and their times."),
    },
    "Look into images": {
        "ls": ("ls", "List files of an image."),
        "cat": ("cat", "Write files of an image to standard output."),
        "find": ("find", "Search the files of an image."),
        "which": ("which", "Show what each layer of an image did to a path."),
        "layers": ("layers", "Show the layers of an image, or the changes of one layer."),
        "history": ("history", "Show the steps that made an image."),
        "inspect": ("inspect", "Show the details of images and containers."),
    },
    "Images and store": {
        "images": ("images", "List the images of the store."),
        "load": ("load", "Load the images of an archive into the store."),
        "save": ("save", "Write images of the store to an archive or a layout."),
        "tag": ("tag", "Give an image another name."),
        "rmi": ("rmi", "Remove images."),
        "df": ("df", "Show the disk usage of the store."),
        "prune": ("prune", "Remove unused data from the store."),
        "check": ("check", "Verify an image or the whole store, and repair the store."),
    },
    "Registries": {
        "pull": ("pull", "Fetch an image from a registry."),
        "push": ("push", "Send an image to a registry."),
        "copy": ("copy", "Copy an image between registries, files and the store."),
        "tags": ("tags", "List the tags of a repository."),
        "search": ("search", "Search registries for images."),
        "login": ("login", "Log in to a registry."),
        "logout": ("logout", "Log out of a registry."),
    },
    "More": {
        "completion": ("completion", "Print a completion script for a shell."),
        "man": ("man", "Show the manual page of unionmount or a command."),
        "version": ("version", "Print the version."),
    },
}
_COMMANDS = {name: entry for group in _GROUPS.values() for name, entry in group.items()}


class _UnreadOutput(Exception):
    """The reader of standard output has gone."""


class LazyGroup(click.Group):
    """A click group whose subcommands are imported on first use."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; unlike click, do not exit at a broken pipe."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _UnreadOutput from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return all names, sorted."""
        return sorted(_COMMANDS)

    def about(self, name: str) -> str:
        """Return one line about a subcommand, without importing it."""
        return _COMMANDS[name][1]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the subcommand with that name."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"unionmount.cli.commands.{_COMMANDS[cmd_name][0]}")
        from unionmount.cli.examples import add_examples

        command = add_examples(module.command)
        command.short_help = self.about(cmd_name)  # for completion and manual pages
        if _COMPLETE in os.environ:
            from unionmount.cli.complete_words import add_completion

            return add_completion(command, cmd_name)
        return command

    def groups(self) -> dict[str, list[str]]:
        """Return the headings of the help, each with its subcommands in order of importance."""
        return {title: list(commands) for title, commands in _GROUPS.items()}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of subcommands without importing them."""
        width = max(map(len, _COMMANDS))
        for title, names in self.groups().items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), self.about(name)) for name in names])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'unionmount COMMAND --help' shows the options of a command, and examples.",
)
@click.option(
    "--root", metavar="DIR", help="Use this store; default: $UNIONMOUNT_ROOT or the user's own."
)
@click.option(
    "--additional-store",
    "additional",
    metavar="DIR",
    multiple=True,
    help="Read this store, too, for what the own store lacks; repeatable.",
)
@click.option(
    "--debug", is_flag=True, help="Show a traceback for an error, and each request to a registry."
)
@click.pass_obj
def cli(settings: Settings, root: str | None, additional: tuple[str, ...], debug: bool) -> None:
    """Mount container images as directories.

    SOURCE is docker-archive:FILE[:REF], oci-archive:FILE[:REF], oci:DIR[:REF], a path to one of
    these, the name or ID of an image in the store, or scratch, the empty image. CONTAINER is the
    name of a container, a single word.
    """
    settings.root = root
    settings.additional += additional
    settings.debug = debug


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    settings = Settings()
    _open_standard_streams()
    try:
        result: Any = cli.main(
            arguments,
            prog_name="unionmount",
            standalone_mode=False,
            complete_var=_COMPLETE,
            obj=settings,
        )
        sys.stdout.flush()
    except click.ClickException as error:
        return _wrong_usage(error, settings)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (_UnreadOutput, BrokenPipeError):
        _drop_output()  # the reader has seen enough
        return 141
    except (UnionmountError, OSError) as error:
        return _complain(error, settings, _line(error))
    except Exception as error:  # noqa: BLE001 - the last resort of the program
        text = f"internal error: {type(error).__name__}: {error} (--debug shows where)"
        return _complain(error, settings, text)
    return result if isinstance(result, int) else 0


def _drop_output() -> None:
    """Drop output that cannot be written: the interpreter would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


def _open_standard_streams() -> None:
    """Open those of descriptors 0, 1 and 2 that are closed, so that no other file gets them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # open() returns the lowest free number
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like standard error


def _wrong_usage(error: click.ClickException, settings: Settings) -> int:
    if isinstance(error, _NO_ARGUMENTS):
        error.show()
        return 2
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "unionmount"
    _complain(error, settings, f"{error.format_message()} (see {command} --help)")
    return error.exit_code


def _complain(error: Exception, settings: Settings, text: str) -> int:
    _drop_output()
    if settings.debug:
        import traceback

        traceback.print_exception(error)
    line = "".join(c if c.isprintable() else printable(c) for c in text)
    print(f"unionmount: {line}", file=sys.stderr)
    return error.exit_code if isinstance(error, UnionmountError) else 1


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
        return where + error.strerror
    if isinstance(error, UsageError):
        return f"{error} (see unionmount --help)"
    return str(error)
