"""``unionmount shell``."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.container_options import container_options, refuse_others, wanted_container
from unionmount.cli.options import platform_option, pull_option, registry_options, root_option
from unionmount.errors import NotFoundError, UnionmountError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.core import BrowsableTree
    from unionmount.mounting.records import Record
    from unionmount.runtime.assembly import Wanted
    from unionmount.runtime.spec import Terminal

_NOT_STARTED = 125  # exit status, as Docker has it
_OF_EXEC = ("env", "workdir", "user")  # what can be said of a program in a running container
_OF_NEW = ("name", "pull", "platform", "registry")
_HELP = """\
Start a shell in IMAGE, CONTAINER, or an image that is mounted at MOUNTPOINT.

It is the best one that the image has: bash, zsh, ash, dash or sh. For images without a shell,
--with-tools brings in the static BusyBox of the host, read-only.

For IMAGE a container is made, as with "run"; in a CONTAINER that runs, the shell is started as
with "exec". A mount is used as it is: nothing is made in it, and /etc/hosts, /etc/resolv.conf and
/etc/hostname are those of the host only where the image has these files.
"""


@click.command("shell", help=_HELP)
@click.option("--with-tools", is_flag=True, help="Bring in the static BusyBox of the host.")
@click.option("--rm", "remove", is_flag=True, help="Remove the container when it has ended.")
@click.option("--name", metavar="NAME", help="Name the container; default: a random name.")
@click.option("--runtime", metavar="crun|runc|PATH", help="Use this runtime.")
@pull_option
@container_options
@platform_option
@registry_options
@root_option
@click.argument("source", metavar="IMAGE|CONTAINER|MOUNTPOINT")
@click.pass_obj
def command(
    settings: Settings,
    /,
    source: str,
    with_tools: bool,
    remove: bool,
    runtime: str | None,
    **given: Any,
) -> int:
    """Start a shell."""
    from unionmount.cli.shell_in_mount import shell_in_mount

    try:
        if _is_running(settings, source):
            others = given | {"with_tools": with_tools, "rm": remove, "runtime": runtime}
            refuse_others(others, _OF_EXEC, "cannot be changed in a container that runs")
            return _in_running(settings, source, given)
        mounted = _mounted(settings, source)
        if mounted is not None:
            refuse_others(
                {"rm": remove} | {name: given[name] for name in _OF_NEW},
                (),
                "is for a new container, and this image is mounted already",
            )
        wanted = replace(wanted_container((), given), terminal=_terminal())

        def decide(files: BrowsableTree) -> Wanted:
            return _with_shell(wanted, files, with_tools=with_tools)

        if mounted is not None:
            return shell_in_mount(settings, mounted, runtime, decide)
        return _in_new(settings, source, decide, runtime, given, remove=remove)
    except UnionmountError as error:
        error.exit_code = max(error.exit_code, _NOT_STARTED)
        raise


def _terminal() -> Terminal:
    from unionmount.runtime.spec import Terminal

    if not os.isatty(0):
        return Terminal()
    size = os.get_terminal_size(0)
    return Terminal(wanted=True, rows=size.lines, columns=size.columns)


def _with_shell(wanted: Wanted, files: BrowsableTree, *, with_tools: bool) -> Wanted:
    """Return the options with the shell as the program, unless there is another entrypoint."""
    from unionmount.runtime.shells import best_shell, tools

    if wanted.changes.entrypoint is not None:
        return wanted
    if with_tools:
        words, mount = tools()
        changes = replace(wanted.changes, entrypoint=words)
        return replace(wanted, changes=changes, mounts=(*wanted.mounts, mount))
    shell = best_shell(files)
    if shell is None:
        raise NotFoundError("the image has no shell; --with-tools brings one in")
    return replace(wanted, changes=replace(wanted.changes, entrypoint=(shell,)))


def _is_running(settings: Settings, source: str) -> bool:
    from unionmount.cli.container_words import name_of_container
    from unionmount.cli.live_containers import live_containers

    return live_containers(settings).is_running(name_of_container(source))


def _in_running(settings: Settings, source: str, given: dict[str, Any]) -> int:
    from unionmount.browse.open import open_container
    from unionmount.cli.container_options import map_env
    from unionmount.cli.container_words import name_of_container
    from unionmount.cli.exec_program import ExecRequest, exec_program
    from unionmount.cli.live_containers import container_of
    from unionmount.runtime.shells import best_shell

    with open_container(settings.store(), container_of(settings, source)) as opened:
        shell = best_shell(opened.view)
    if shell is None:
        raise NotFoundError("the container has no shell; 'unionmount exec' runs other programs")
    request = ExecRequest(
        name=name_of_container(source),
        words=(shell,),
        env=tuple(map_env(given["env"])),
        workdir=given["workdir"],
        user=given["user"],
        terminal=os.isatty(0),
        interactive=True,
        detach=False,
    )
    return exec_program(settings, request)


def _mounted(settings: Settings, source: str) -> Record | None:
    """Return the record of a live mount that the word names: a place, an ID or a container."""
    from unionmount.cli.container_words import find_mount
    from unionmount.mounting.records import MountTable

    try:
        found = find_mount(MountTable.of_user(), settings, source)
    except UnionmountError:
        return None
    return found.record if found.alive else None


def _in_new(
    settings: Settings,
    source: str,
    decide: Any,
    runtime: str | None,
    given: dict[str, Any],
    *,
    remove: bool,
) -> int:
    from unionmount.cli.run_container import RunRequest, run_container
    from unionmount.runtime.client import Joining

    given["ephemeral"] = False
    joining = Joining(interactive=True, terminal=os.isatty(0))
    request = RunRequest(source, decide, given, joining, runtime, remove, detach=False)
    return run_container(settings, request)
