"""``unionmount bundle``."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.container_options import container_options, refuse_others, wanted_container
from unionmount.cli.options import platform_option, pull_option, registry_options, root_option
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.runtime.assembly import Wanted

_HELP = """\
Make a bundle in DIR, from which an OCI runtime runs IMAGE or CONTAINER.

A bundle is a directory with config.json, made from the image's config and the options, and
rootfs, a link to the mounted image. "crun run --bundle DIR NAME" or "runc run --bundle DIR NAME"
starts it. The image stays mounted until "unionmount bundle --remove DIR", which unmounts it and
then removes the bundle; a container keeps its changes.

What the runtime brings into the root directory is mounted over it, and appears neither in "diff"
nor in "commit".

With --rootless, the bundle is for a runtime that is called by an ordinary user: it makes a user
namespace with the ranges of /etc/subuid and /etc/subgid.
"""


@click.command("bundle", takes_command=True, help=_HELP)
@click.option("--remove", is_flag=True, help="Unmount and remove the bundle in DIR.")
@click.option("--rootless", is_flag=True, help="Make it for a runtime that an ordinary user calls.")
@click.option(
    "--runtime-spec-version",
    "version",
    metavar="V",
    help="Write this version of the runtime specification; default: 1.0.2.",
)
@click.option("-t", "--tty", is_flag=True, help="Give the process a terminal.")
@click.option("--name", metavar="NAME", help="Keep the changes in a new container NAME.")
@click.option("--ephemeral", is_flag=True, help="Discard the changes at the unmount.")
@pull_option
@container_options
@platform_option
@registry_options
@root_option
@click.argument("source", metavar="IMAGE|CONTAINER")
@click.argument("directory", metavar="DIR", required=False)
@click.pass_obj
def command(
    settings: Settings,
    /,
    source: str,
    directory: str | None,
    remove: bool,
    rootless: bool,
    version: str | None,
    tty: bool,
    words: tuple[str, ...] = (),
    **given: Any,
) -> None:
    """Make a bundle, or remove one."""
    from unionmount.runtime.spec import VERSION, Terminal

    if remove:
        others = given | {"rootless": rootless, "runtime_spec_version": version, "tty": tty}
        refuse_others(others, (), "cannot be combined with --remove")
        if directory is not None or words:
            raise UsageError("--remove takes DIR alone")
        _remove(Path(os.path.realpath(source)))
        return
    wanted = wanted_container(words, given)
    wanted = replace(wanted, terminal=Terminal(tty), version=version or VERSION)
    if directory is None:
        raise UsageError("DIR is missing: unionmount bundle IMAGE|CONTAINER DIR")
    _make(settings, source, directory, wanted, given, rootless=rootless)


def _make(
    settings: Settings,
    source: str,
    directory: str,
    wanted: Wanted,
    given: dict[str, Any],
    *,
    rootless: bool,
) -> None:
    from unionmount.cli.mount_container import mount_container
    from unionmount.runtime import bundle

    if not directory:
        raise UsageError("DIR is empty")
    path = Path(os.path.realpath(directory))
    with ExitStack() as undo:
        if bundle.make_directory(path):
            undo.callback(os.rmdir, path)
        with mount_container(settings, source, path, wanted, given, rootless=rootless) as mounted:
            bundle.write(path, mounted.document, mounted.files, mounted.root)
        undo.pop_all()


def _remove(path: Path) -> None:
    from unionmount.cli.commands.umount import unmount
    from unionmount.errors import NotFoundError
    from unionmount.mounting.records import MountTable
    from unionmount.runtime import bundle
    from unionmount.runtime.host import HOST_FILES

    root = bundle.root_of(path)
    table = MountTable.of_user()
    try:
        found = table.find(str(root))
    except NotFoundError:  # it was unmounted before
        pass
    else:
        unmount(table, found)
    left = bundle.remove(path, HOST_FILES)
    if left:
        names = ", ".join(map(printable, left))
        print(
            f"unionmount: {printable(str(path))} stays, with files of others: {names}",
            file=sys.stderr,
        )
