"""``unionmount logout``."""

from __future__ import annotations

import os
import sys

import unionmount.cli.declared as click
from unionmount.cli.commands.login import registry_place
from unionmount.errors import NotFoundError
from unionmount.system.text import printable


@click.command("logout")
@click.option("-a", "--all", "everywhere", is_flag=True, help="Log out of all registries.")
@click.option(
    "--authfile", metavar="FILE", help="The file with logins; default: the one that login writes."
)
@click.argument("place", metavar="[REGISTRY[/PATH]]", required=False)
def command(everywhere: bool, authfile: str | None, place: str | None) -> None:
    """Log out of a registry."""
    from unionmount.registry import Credentials

    if everywhere == (place is not None):
        raise click.UsageError("give a registry, or --all")
    credentials = Credentials.load(os.environ, authfile)
    if place is None:
        count = credentials.erase_all()
        print(f"Logged out of {count} registries", file=sys.stderr)
        return
    place = registry_place(place)
    erased = credentials.erase(place)
    left = ", ".join(printable(str(path)) for path in credentials.holders(place))
    if not erased:
        raise NotFoundError(
            f"not logged in to {place}"
            + (f" by {printable(str(credentials.primary))}, but by {left}" if left else "")
        )
    print(f"Logged out of {place}", file=sys.stderr)
    if left:
        print(f"{left}: still logs in to {place}", file=sys.stderr)
