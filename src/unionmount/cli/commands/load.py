"""``unionmount load``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import platform_option, root_option
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Reference
    from unionmount.store.store import StoredImage


@click.command("load")
@click.option(
    "-i",
    "--input",
    "source",
    metavar="SOURCE",
    help="The archive or layout; -i may be left out.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print IDs only.")
@platform_option
@root_option
@click.argument("file", metavar="[SOURCE]", required=False)
@click.pass_obj
def command(
    settings: Settings,
    source: str | None,
    file: str | None,
    quiet: bool,
    platform: Platform | None,
) -> None:
    """Load all images of an archive, from a file or standard input, into the store.

    SOURCE may also be a directory with images, docker-daemon:NAME, or containers-storage:NAME or
    docker-overlay2:NAME, whose layers are made again as they were. Images that policy.json refuses
    are not loaded.
    """
    from unionmount.cli.output import ProgressLine
    from unionmount.cli.unpacked_images import enter_namespace_to_load
    from unionmount.sources import Location
    from unionmount.transfer.load import load

    if source is not None and file is not None:
        raise click.UsageError("name the archive once, with -i or without")
    source = source if source is not None else "-" if file is None else file
    if source == "-" and sys.stdin.isatty():
        raise click.UsageError("give an archive with -i, or on standard input, which is a terminal")
    enter_namespace_to_load(Location.parse(source))
    progress = ProgressLine()

    shown: set[str] = set()

    def report(image: StoredImage, names: tuple[Reference, ...]) -> None:
        progress.clear()
        _print_loaded(image, names, shown, quiet=quiet)

    try:
        load(
            settings.store(),
            source,
            platform=platform,
            progress=progress,
            loaded=report,
        )
    finally:
        progress.clear()


def _print_loaded(
    image: StoredImage, names: Sequence[Reference], shown: set[str], *, quiet: bool
) -> None:
    """Print the ID or the names of a loaded image, unless they are in ``shown``."""
    lines = [f"Loaded image: {printable(str(name))}" for name in names]
    lines = [str(image.id)] if quiet else lines or [f"Loaded image ID: {image.id}"]
    for line in lines:
        if line not in shown:
            print(line)
    shown.update(lines)
