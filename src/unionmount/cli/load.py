"""``unionmount load``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from unionmount.cli.options import platform_option, root_option
from unionmount.reference import printable

if TYPE_CHECKING:
    from unionmount.cli import Settings
    from unionmount.store import StoredImage


@click.command("load")
@click.option("-i", "--input", "source", metavar="SOURCE", help="The archive or layout to read.")
@click.option("-q", "--quiet", is_flag=True, help="Print IDs only.")
@platform_option
@root_option
@click.pass_obj
def command(settings: Settings, source: str | None, quiet: bool, platform: str | None) -> None:
    """Load all images of an archive, from a file or standard input, into the store."""
    from unionmount.cli.output import ProgressLine
    from unionmount.image import Platform
    from unionmount.pull import load

    source = "-" if source is None else source
    if source == "-" and sys.stdin.isatty():
        raise click.UsageError("give an archive with -i, or on standard input (not a terminal)")
    progress = ProgressLine()

    def report(image: StoredImage) -> None:
        progress.clear()
        _print_loaded(image, quiet=quiet)

    try:
        load(
            settings.store(),
            source,
            platform=Platform.parse(platform) if platform else None,
            progress=progress,
            loaded=report,
        )
    finally:
        progress.clear()


def _print_loaded(image: StoredImage, *, quiet: bool) -> None:
    if quiet:
        print(image.id)
    elif not image.names:
        print(f"Loaded image ID: {image.id}")
    else:
        for name in image.names:
            print(f"Loaded image: {printable(name)}")
