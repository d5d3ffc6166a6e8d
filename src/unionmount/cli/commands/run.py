"""``unionmount run``."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.container_options import container_options, wanted_container
from unionmount.cli.options import platform_option, pull_option, registry_options, root_option
from unionmount.errors import UsageError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.runtime.spec import Terminal

_HELP = """\
Run a program of IMAGE, or of an existing CONTAINER, in an OCI runtime (crun or runc).

COMMAND takes the place of the image's Cmd. The exit status is that of the program; 128 and its
number if a signal ended it; 125 if the container could not be made, 126 if the program cannot be
executed, 127 if it does not exist.

The changes are kept in a container, as with "mount": look at it from outside while it runs, see
"diff", make an image with "commit", and "run" it again. What the runtime mounts over the root
directory, such as /proc, /etc/hosts and volumes, is not part of the changes.

The network is that of the host unless "--network none" is given.
"""


@click.command("run", context_settings={"allow_interspersed_args": False}, help=_HELP)
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the program a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Print the name, and leave it running.")
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it has ended.")
@click.option("--name", metavar="NAME", help="Name the container; default: a random name.")
@click.option("--runtime", metavar="crun|runc|PATH", help="Use this runtime.")
@click.option(
    "--detach-keys",
    "keys",
    metavar="KEYS",
    default="ctrl-p,ctrl-q",
    show_default=True,
    help="Leave the container running when these are typed; empty for none.",
)
@pull_option
@container_options
@platform_option
@registry_options
@root_option
@click.argument("source", metavar="IMAGE|CONTAINER")
@click.argument("words", metavar="[COMMAND …]", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(
    settings: Settings,
    /,
    source: str,
    words: tuple[str, ...],
    interactive: bool,
    tty: bool,
    detach: bool,
    remove: bool,
    runtime: str | None,
    keys: str,
    **given: Any,
) -> int:
    """Run a program of an image."""
    from unionmount.cli.run_container import RunRequest, run_container
    from unionmount.runtime.client import Joining, parse_keys

    wanted = wanted_container(words, given)
    wanted = replace(wanted, terminal=_terminal(tty=tty, here=not detach))
    joining = Joining(
        interactive=interactive,
        terminal=tty and interactive and not detach,
        keys=parse_keys(keys),
        stay=not detach,
    )
    given["ephemeral"] = False
    request = RunRequest(source, wanted, given, joining, runtime, remove, detach)
    return run_container(settings, request)


def _terminal(*, tty: bool, here: bool) -> Terminal:
    """Return the terminal that the program gets, with the size of ours."""
    from unionmount.runtime.spec import Terminal

    if not tty:
        return Terminal()
    if here and not os.isatty(0):
        raise UsageError("--tty: standard input is not a terminal; leave --tty out")
    size = os.get_terminal_size(0) if here else os.terminal_size((0, 0))
    return Terminal(wanted=True, rows=size.lines, columns=size.columns)
