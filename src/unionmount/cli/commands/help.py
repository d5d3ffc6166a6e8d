"""``unionmount help``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unionmount.cli.declared as click

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings


@click.command("help")
@click.argument("name", metavar="COMMAND", required=False)
@click.pass_obj
def command(settings: Settings, name: str | None) -> None:
    """Show the help of unionmount or of one command, as --help does."""
    from unionmount.cli.program import run

    run([*([] if name is None else [name]), "--help"], settings)
