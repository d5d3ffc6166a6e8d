"""``unionmount check``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from unionmount.cli.options import platform_option, root_option
from unionmount.reference import printable

if TYPE_CHECKING:
    from unionmount.cli import Settings


@click.command("check")
@platform_option
@root_option
@click.argument("source")
@click.pass_obj
def command(settings: Settings, source: str, platform: str | None) -> int:
    """Verify every byte of the image SOURCE: digests, indexes, and links that lead nowhere.

    Prints one line for each problem; the status is 1 where there are any.
    """
    from unionmount.image import Platform
    from unionmount.pull import check_image

    wanted = Platform.parse(platform) if platform else None
    status = 0
    for problem in check_image(settings.store(), source, platform=wanted):
        status = 1
        where = f"layer {problem.layer}: " if problem.layer else ""
        print(printable(where + problem.text))
    return status
