"""``unionmount mount``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from unionmount.cli.options import (
    RegistryOptions,
    platform_option,
    registry_options,
    root_option,
)

if TYPE_CHECKING:
    from unionmount.cli import Settings
    from unionmount.download import Policy

_OPTIONS_HELP = (
    "Mount options, comma-separated: ro, dev, suid, exec, atime and allow_other, or with 'no' in "
    "front (nosuid,nodev is the default), default_permissions (check modes also where only who "
    "mounts gets in), xattrs=layers (list which layer a file is from), and threads=N (of the fast "
    "path)."
)


@click.command("mount")
@click.option(
    "--name", metavar="NAME", help="Make a container of this name; default: a name of two words."
)
@click.option("--upper", metavar="DIR", help="Keep the changes in DIR, made if need be.")
@click.option("--work", metavar="DIR", help="The work directory of --upper; default: DIR.work.")
@click.option(
    "--upper-open",
    is_flag=True,
    help="Accept a DIR that other users can reach: they see there what was changed.",
)
@click.option("--ephemeral", is_flag=True, help="Throw the changes away at the unmount.")
@click.option("--ro", is_flag=True, help="Mount read-only.")
@click.option(
    "--pull",
    type=click.Choice(["always", "missing", "never"]),
    default="missing",
    show_default=True,
    help="Whether to fetch an image that is given by a name from its registry.",
)
@click.option(
    "--layer",
    metavar="N",
    type=click.IntRange(min=0),
    help="Show the image as of layer N, read-only; 0 is the lowest.",
)
@click.option(
    "--layers", is_flag=True, help="Show each layer by itself, read-only, as MOUNTPOINT/0, 1, …"
)
@click.option("--volatile", is_flag=True, help="Sync nothing: a crash of the system may lose all.")
@platform_option
@click.option("-o", "options", metavar="OPT,…", multiple=True, help=_OPTIONS_HELP)
@click.option("-f", "--foreground", is_flag=True, help="Serve here; Ctrl-C unmounts.")
@click.option("--no-fastpath", is_flag=True, help="Answer the kernel in Python alone; slow.")
@click.option("--verify", is_flag=True, help="Check the digests of all layers first.")
@registry_options
@root_option
@click.argument("source", metavar="IMAGE|CONTAINER")
@click.argument("mountpoint", required=False)
@click.pass_obj
def command(
    settings: Settings,
    platform: str | None,
    options: tuple[str, ...],
    foreground: bool,
    ro: bool,
    verify: bool,
    name: str | None,
    upper: str | None,
    work: str | None,
    upper_open: bool,
    ephemeral: bool,
    volatile: bool,
    pull: Policy,
    registry: RegistryOptions,
    layer: int | None,
    layers: bool,
    no_fastpath: bool,
    source: str,
    mountpoint: str | None,
) -> None:
    """Mount an image, or a container again, at MOUNTPOINT, and print the mount point.

    A background process serves the mount until it is unmounted. Without MOUNTPOINT a directory
    below the runtime directory is made.

    Changes are kept in a container: a directory of the store, which stays when it is unmounted, is
    mounted again by its name, listed by "ps -a" and removed by "rm". The layers of its image are
    kept in the store, too; with --ro, --upper and --ephemeral, uncompressed ones are used where
    they are.

    What root changes gets onto the disk as it is, set-user-ID programs and devices too, where
    nobody else can reach it: DIR is made so, and one that others can reach is refused. With
    --upper-open it is accepted; as long as the mount is nosuid or nodev, owners, modes,
    capabilities and devices are then kept in extended attributes and have no power on disk.

    CONTAINER is one word, without '/' and ':'. One that is also the name of an image or file is
    refused: container:NAME means the container, NAME:TAG the image, ./NAME the file.

    --layer counts layers as "unionmount layers" does, and of a CONTAINER shows its image. With
    --layers, MOUNTPOINT/N holds what layer N has and nothing else, with marks as overlayfs has
    them: a deleted name is a character device 0:0, a directory that hides what is below it has the
    extended attribute user.overlay.opaque. Both are read-only: to go on from an earlier layer,
    "unionmount overlay" takes directories.

    SIGTERM, SIGINT and SIGHUP unmount; files that are open then stay usable. A second one ends the
    process at once.
    """
    from unionmount.cli.prepare import Wanted, prepared
    from unionmount.cli.serving import Starting, check_place, print_mountpoint
    from unionmount.options import parse_options

    parsed = parse_options(options)
    parsed = replace(
        parsed,
        ro=ro or layers or layer is not None or parsed.ro,
        fastpath=parsed.fastpath and not no_fastpath,
    )
    wanted = Wanted(
        *(platform, verify, parsed.ro, name, upper, work, ephemeral, volatile),
        *(pull, registry, layer, layers, upper_open),
    )
    wanted.check()
    start = Starting(settings, parsed, check_place(mountpoint), foreground=foreground)
    with prepared(settings, wanted, source, start.table) as found:

        def announce(path: str) -> None:
            print_mountpoint(path)
            found.announced()

        start.run(found.image, found.source, found.plan, announce, found.lease, apart=layers)
