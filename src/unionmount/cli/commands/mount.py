"""``unionmount mount``."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.options import platform_option, pull_option, registry_options, root_option
from unionmount.errors import MountError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.cli.mount_sources import MountArguments
    from unionmount.cli.settings import Settings
    from unionmount.cli.start_mount import MountStarter

_OPTIONS_HELP = (
    "Mount options, separated by commas: ro, dev, suid, exec, atime and allow_other, each also "
    "with 'no' in front (the default is nosuid,nodev); default_permissions (check modes even where "
    "only the mounting user has access); xattrs=layers (list a file's layer among its extended "
    "attributes); threads=N (of the fast path); io_uring (take requests through io_uring)."
)


_HELP = """\
Mount an image or an existing container at MOUNTPOINT, and print the mount point.

A background process serves the mount until it is unmounted. Without MOUNTPOINT, a directory
below the runtime directory is created. IMAGE may also be a tar of a root file system, as
"import" takes it.

Changes are kept in a container: a directory of the store that stays after the unmount. It is
mounted again by its name, listed by "ps -a" and removed by "rm". The store also keeps the
layers of its image. With --ro, --upper and --ephemeral, uncompressed layers are used where they
are. An image that podman or docker has unpacked is also used where it is: containers-storage:NAME,
docker-overlay2:NAME; a container that never runs keeps the tool from removing it meanwhile.

Changes by root are stored as they are, including set-user-ID programs and devices, so other
users must not reach them: DIR is created with mode 0700, and an existing DIR that others can
reach is refused. --upper-open accepts it. Unless the mount is both suid and dev, owners, modes,
capabilities and devices are then kept in extended attributes and have no effect on the disk.

CONTAINER is one word, without '/' and ':'. A word that is also the name of an image or file is
refused as ambiguous: use container:NAME for the container, NAME:TAG for the image, ./NAME for
the file.

--layer counts layers as "unionmount layers" does; of a CONTAINER it shows the image. With
--layers, MOUNTPOINT/N holds the files of layer N alone, with the marks of overlayfs: a deleted
name is a character device 0:0, and a directory that hides the directory below it has the
extended attribute user.overlay.opaque. Both are read-only. To continue from an earlier layer,
mount such directories with "unionmount overlay".

With "-- COMMAND", COMMAND runs while the image is mounted, and the mount is taken away when it
ends; the exit status is that of COMMAND. $UNIONMOUNT_MOUNTPOINT is the mount point. Root
without CAP_SYS_ADMIN, as in most containers, gets a user namespace for the two if possible.
Root's mount also ends with the mount namespace that it was made in.

SIGTERM, SIGINT and SIGHUP unmount; open files stay usable. A second signal ends the process
immediately.
"""


@click.command("mount", takes_command=True, help=_HELP)
@click.option(
    "--name",
    metavar="NAME",
    help="Keep the changes in a new container NAME; default: a random name.",
)
@click.option(
    "--upper", metavar="DIR", help="Keep the changes in DIR, which is created if it is missing."
)
@click.option("--work", metavar="DIR", help="The work directory of --upper; default: DIR.work.")
@click.option(
    "--upper-open",
    is_flag=True,
    help="Accept a DIR that other users can reach, although they can read the changes there.",
)
@click.option("--ephemeral", is_flag=True, help="Discard the changes at the unmount.")
@click.option("--ro", is_flag=True, help="Mount read-only.")
@pull_option
@click.option(
    "--layer",
    metavar="N",
    type=click.IntRange(min=0),
    help="Show the image as of layer N, read-only; 0 is the lowest.",
)
@click.option(
    "--layers", is_flag=True, help="Show each layer by itself, read-only, as MOUNTPOINT/0, 1, …"
)
@click.option(
    "--volatile",
    is_flag=True,
    help="Sync nothing to the disk; a crash of the machine may lose all changes.",
)
@platform_option
@click.option("-o", "options", metavar="OPT,…", multiple=True, help=_OPTIONS_HELP)
@click.option("-f", "--foreground", is_flag=True, help="Serve in the foreground; Ctrl-C unmounts.")
@click.option(
    "--no-fastpath", is_flag=True, help="Let Python alone answer the kernel, which is slow."
)
@click.option("--mkdir", is_flag=True, help="Make MOUNTPOINT, and directories above it.")
@click.option("--over", is_flag=True, help="Mount although an image is mounted at MOUNTPOINT.")
@click.option(
    "--with",
    "until",
    metavar="PID",
    type=click.IntRange(min=1),
    help="Unmount when process PID ends.",
)
@click.option("--verify", is_flag=True, help="Verify the digests of all layers first.")
@registry_options
@root_option
@click.argument("source", metavar="IMAGE|CONTAINER")
@click.argument("mountpoint", required=False)
@click.pass_obj
def command(
    settings: Settings,
    /,
    source: str,
    mountpoint: str | None,
    options: tuple[str, ...],
    foreground: bool,
    ro: bool,
    no_fastpath: bool,
    mkdir: bool,
    over: bool,
    until: int | None,
    words: tuple[str, ...] = (),
    **arguments: Any,
) -> int | None:
    """Mount, and run a command if there is one."""
    from unionmount.cli.mount_sources import MountArguments
    from unionmount.cli.mountpoint import place_of
    from unionmount.cli.start_mount import MountStarter, print_mountpoint
    from unionmount.mounting.options import parse_options

    if words and foreground:
        raise UsageError("--foreground serves in this process, where COMMAND is to run")
    try:
        parsed = parse_options(options)
    except MountError:
        _check_places(options)
        raise
    wanted = MountArguments(**arguments, read_only=ro or parsed.ro)
    wanted.check()
    parsed = replace(parsed, ro=wanted.shows_only, fastpath=parsed.fastpath and not no_fastpath)
    if words:
        from unionmount.cli.run_command import enter_namespace_if_needed, run_with_mount

        enter_namespace_if_needed()
    if words and until is None:
        until = os.getpid()  # should this process be killed
    with place_of(mountpoint, over=over, mkdir=mkdir) as where:
        start = MountStarter(settings, parsed, where, foreground=foreground, until=until)
        if not words:
            _mount(settings, wanted, source, start, print_mountpoint)
            return None
        made: list[str] = []
        _mount(settings, wanted, source, start, made.append)
    return run_with_mount(start.table, made[0], words)


def _check_places(options: tuple[str, ...]) -> None:
    """Raise UsageError for a word of fstab that is an option of its own on the command line."""
    from unionmount.mounting.options import is_known

    own = {name for one in command.parameters for name in one.names}
    for option in ",".join(options).split(","):
        name = "--" + option.partition("=")[0].replace("_", "-")
        if name in own and not is_known(option):
            raise UsageError(f"-o {printable(option)}: on the command line, this is {name}")


def _mount(
    settings: Settings,
    wanted: MountArguments,
    source: str,
    start: MountStarter,
    tell: Callable[[str], None],
) -> None:
    from unionmount.cli.mount_sources import prepared

    with prepared(settings, wanted, source, start.table) as found:

        def announce(path: str) -> None:
            tell(path)
            found.announced()

        start.run(
            found.image, found.source, found.plan, announce, found.lease, unstacked=wanted.layers
        )
