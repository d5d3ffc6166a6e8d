"""``unionmount cp``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import layer_option, platform_option, root_option

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform


@click.command("cp")
@click.option(
    "-a",
    "--archive",
    is_flag=True,
    help="Keep owners, set-ID bits, devices and extended attributes.",
)
@click.option("-L", "--follow-link", is_flag=True, help="Follow a symlink at the end of SOURCE.")
@click.option(
    "-r", "--recursive", is_flag=True, help="Nothing: directories are always copied whole."
)
@platform_option
@layer_option
@root_option
@click.argument("words", metavar="SOURCE DEST", nargs=-1, required=True)
@click.pass_obj
def command(
    settings: Settings,
    words: tuple[str, ...],
    archive: bool,
    follow_link: bool,
    recursive: bool,  # noqa: ARG001 - for the habit of cp(1)
    platform: Platform | None,
    layer: int | None,
) -> None:
    """Copy files out of an image or container, or into a container, without a mount.

    SOURCE and DEST are IMAGE:/PATH, CONTAINER:/PATH, a path of the host, or "-"; IMAGE /PATH as two
    words is the same. IMAGE is anything that "mount" accepts; a CONTAINER is read with its changes.
    A container that is mounted or runs is changed through its mount, any other in its own
    directory.

    The rules are those of "docker cp". A directory is copied whole: into DEST if that is a
    directory, else as DEST; of SOURCE/. only what is in it. A file is copied into DEST if that is a
    directory, else as DEST, whose directory must exist. "-" is a tar: as SOURCE it is unpacked in
    the directory DEST of a container, as DEST it goes to standard output.

    Modes and times are kept. Files on the host belong to you, files in a container to its root;
    with -a they keep their owners, on the host if you are root.

    No symlink is followed below DEST, except those that a container has, and these never lead out
    of it. A file appears under its name when it is complete.
    """
    from unionmount.cli.copy_files import CopyRequest, copy_files, parse_operands

    source, dest = parse_operands(settings, words)
    copy_files(settings, CopyRequest(source, dest, archive, follow_link, platform, layer))
