"""``unionmount mount``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unionmount.cli.options import platform_option, root_option

if TYPE_CHECKING:
    from unionmount.cli import Settings
    from unionmount.daemon import Ready
    from unionmount.layer import OpenImage
    from unionmount.mounts import MountTable
    from unionmount.options import MountOptions

_OPTIONS_HELP = (
    "Mount options, comma-separated: dev, suid, exec, atime and allow_other, or with 'no' in front "
    "(nosuid,nodev is the default), and xattrs=layers (list which layer a file is from)."
)


@click.command("mount")
@platform_option
@click.option("-o", "options", metavar="OPT,…", multiple=True, help=_OPTIONS_HELP)
@click.option("-f", "--foreground", is_flag=True, help="Serve here; Ctrl-C unmounts.")
@click.option("--ro", is_flag=True, help="Mount read-only: so far every mount is, with or without.")
@click.option("--verify", is_flag=True, help="Check the digests of layers that are used in place.")
@root_option
@click.argument("source")
@click.argument("mountpoint", required=False)
@click.pass_obj
def command(
    settings: Settings,
    platform: str | None,
    options: tuple[str, ...],
    foreground: bool,
    ro: bool,  # noqa: ARG001
    verify: bool,
    source: str,
    mountpoint: str | None,
) -> None:
    """Mount the image SOURCE at MOUNTPOINT, read-only, and print the mount point.

    A background process serves the mount until it is unmounted. Without MOUNTPOINT a directory
    below the runtime directory is made. There are no writable mounts yet.

    SIGTERM, SIGINT and SIGHUP unmount; files that are open then stay readable. A second one ends
    the process at once.
    """
    from unionmount import daemon
    from unionmount.fusemount import check_mountpoint
    from unionmount.mounts import MountTable
    from unionmount.options import parse_options

    inherited = daemon.inherited_descriptors()
    wanted = parse_options(options)
    where = Path(os.path.realpath(mountpoint)) if mountpoint is not None else None
    if where is not None:
        check_mountpoint(where)
    with open_source(settings, source, platform, verify=verify) as image:
        image.tree()  # a damaged index is told here and now
        # the daemon is somewhere else: paths may be relative
        places = os.path.realpath(settings.store_root()), MountTable.of_user()

        def serve(ready: daemon.Ready) -> None:
            _serve(settings.debug, image, (source, where, wanted, *places, not foreground), ready)

        if foreground:
            serve(print_mountpoint)
        else:
            sys.stdout.flush()
            announce(daemon.run_in_background(serve, inherited))


def announce(path: str) -> None:
    """Print the mount point; a mount of which nobody can be told is taken away again."""
    from unionmount.fusemount import unmount_fuse

    try:
        print_mountpoint(path)
    except OSError as error:
        unmount_fuse(Path(path), lazy=True)
        if isinstance(error, BrokenPipeError):
            raise
        raise OSError(error.errno, error.strerror, "standard output") from None


def print_mountpoint(path: str) -> None:
    """Print a path so that a script can use it: as it is."""
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    sys.stdout.flush()


def open_source(
    settings: Settings, source: str, platform: str | None, *, verify: bool = False
) -> OpenImage:
    """Open the image that a user named; tells of an import's progress."""
    from unionmount.cli.output import ProgressLine
    from unionmount.image import Platform
    from unionmount.pull import open_image

    progress = ProgressLine()
    try:
        return open_image(
            settings.store(),
            source,
            platform=Platform.parse(platform) if platform else None,
            verify=verify,
            progress=progress,
        )
    finally:
        progress.clear()


def _serve(
    debug: bool,
    image: OpenImage,
    wanted: tuple[str, Path | None, MountOptions, str, MountTable, bool],
    ready: Ready,
) -> None:
    """Import what serves only here: in the process that does."""
    import logging

    from unionmount.mount import MountRequest, run_mount

    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="unionmount: %(name)s: %(message)s")
    run_mount(image, MountRequest(*wanted), ready)
