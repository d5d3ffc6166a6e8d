"""The group of all commands, for click; and click's errors as exit statuses."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import click

from unionmount.cli.command_table import COMMANDS, COMPLETE, GROUPS
from unionmount.cli.settings import Settings
from unionmount.system.nearest import did_you_mean
from unionmount.system.text import printable
from unionmount.version import VERSION

_VERSION_HELP = "Print the version."

_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click 8.1 has none


class UnreadOutput(Exception):
    """The reader of standard output has gone."""


class Interrupted(Exception):
    """Ctrl-C, which click would answer with an empty line."""


class LazyGroup(click.Group):
    """A click group whose subcommands are imported on first use."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; unlike click, do not exit at a broken pipe, nor print at Ctrl-C."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise UnreadOutput from error
        except KeyboardInterrupt as error:
            raise Interrupted from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return all names, sorted."""
        return sorted(COMMANDS)

    def about(self, name: str) -> str:
        """Return one line about a subcommand, without importing it."""
        return COMMANDS[name][1]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the subcommand with that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"unionmount.cli.commands.{COMMANDS[cmd_name][0]}")
        from unionmount.cli.examples import add_examples

        command = add_examples(module.command.build())
        command.short_help = self.about(cmd_name)  # for completion and manual pages
        if COMPLETE in os.environ:
            from unionmount.cli.complete_words import add_completion

            return add_completion(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand; UsageError, which names the nearest one, if there is none."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from unionmount.cli.other_words import instead_of

            other = instead_of(args)
            advice = f": {other}" if other else did_you_mean(name, COMMANDS)
            ctx.fail(f"No such command '{printable(name)}'{advice}")
        return super().resolve_command(ctx, args)

    def groups(self) -> dict[str, list[str]]:
        """Return the headings of the help, each with its subcommands in order of importance."""
        return {title: list(commands) for title, commands in GROUPS.items()}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of subcommands without importing them."""
        width = max(map(len, COMMANDS))
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
@click.version_option(
    VERSION, "-V", "--version", message="%(prog)s %(version)s", help=_VERSION_HELP
)
@click.pass_obj
def cli(settings: Settings, root: str | None, additional: tuple[str, ...], debug: bool) -> None:
    """Mount container images as directories.

    SOURCE is docker-archive:FILE[:REF], oci-archive:FILE[:REF], oci:DIR[:REF], dir:DIR, a path to
    one of these, the name or ID of an image in the store, docker-daemon:NAME of a docker daemon's,
    containers-storage:NAME or docker-overlay2:NAME of an image that podman or docker has, or
    scratch, the empty image. CONTAINER is the name of a container, a single word.
    """
    settings.root = root
    settings.additional += additional
    settings.debug = debug


def run(words: Sequence[str], settings: Settings) -> Any:
    """Run a command line by click, and return what the command does."""
    try:
        return command_of(settings).main(
            list(words),
            prog_name=settings.program,
            standalone_mode=False,
            complete_var=COMPLETE,
            obj=settings,
        )
    except UnreadOutput as error:
        raise BrokenPipeError from error
    except Interrupted as error:
        raise KeyboardInterrupt from error


def command_of(settings: Settings) -> click.Command:
    """Return the group, or the one command that the program stands for."""
    if not settings.command:
        return cli
    command = cli.get_command(click.Context(cli, **cli.context_settings), settings.command)
    assert command is not None
    command.context_settings.update(cli.context_settings)
    return click.version_option(
        VERSION,
        "-V",
        "--version",
        message="%(prog)s: version %(version)s",
        help="Print the version.",
    )(command)


def wrong_usage(error: click.ClickException, program: str) -> str | None:
    """Return the message for a wrong command line; None if its help was shown instead."""
    if isinstance(error, _NO_ARGUMENTS):
        error.show()
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else program
    return f"{_text_of(error)} (see {command} --help)"


def _text_of(error: click.ClickException) -> str:
    """Return the message; click names the nearest words itself, in each version otherwise."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return error.format_message()
    from unionmount.cli.not_offered import advice_for

    context, known = error.ctx, ["--help"]
    advice = advice_for(context.command.name or "", error.option_name)
    if advice is not None:
        return advice
    for parameter in context.command.get_params(context):
        known += [*parameter.opts, *parameter.secondary_opts]
    near = did_you_mean(error.option_name, [name for name in known if name.startswith("--")])
    return f"No such option '{printable(error.option_name)}'{near}"
