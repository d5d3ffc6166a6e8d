"""``unionmount exec``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.container_options import env_files, map_env
from unionmount.cli.container_words import name_of_container
from unionmount.cli.options import root_option

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the program a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running, and discard its output.")
@click.option(
    "-e",
    "--env",
    metavar="NAME[=VALUE]",
    multiple=True,
    help="Set a variable; without VALUE, take it from here. Repeatable.",
)
@click.option(
    "--env-file", metavar="FILE", multiple=True, help="Set the variables in FILE, one a line."
)
@click.option("-w", "--workdir", metavar="DIR", help="Start in DIR.")
@click.option(
    "-u",
    "--user",
    metavar="USER[:GROUP]",
    help="Run as this user of the container; names or numbers.",
)
@root_option
@click.argument("name", metavar="CONTAINER")
@click.argument("words", metavar="COMMAND…", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def command(
    settings: Settings,
    name: str,
    words: tuple[str, ...],
    interactive: bool,
    tty: bool,
    detach: bool,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    workdir: str | None,
    user: str | None,
) -> int:
    """Run another program in a running container.

    The exit status is that of the program; 125 if it could not be started, as with "run".
    """
    from unionmount.cli.exec_program import ExecRequest, exec_program

    request = ExecRequest(
        name=name_of_container(name),
        words=words,
        env=(*env_files(env_file), *map_env(env)),
        workdir=workdir,
        user=user,
        terminal=tty,
        interactive=interactive,
        detach=detach,
    )
    return exec_program(settings, request)
