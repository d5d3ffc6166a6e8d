"""``unionmount kill``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.live_containers import connected, signal_number
from unionmount.cli.options import root_option
from unionmount.errors import UnionmountError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings


@click.command("kill")
@click.option(
    "-s",
    "--signal",
    "sent",
    metavar="SIGNAL",
    default="KILL",
    show_default=True,
    help="Send this signal, by name or number.",
)
@root_option
@click.argument("names", metavar="CONTAINER…", nargs=-1, required=True)
@click.pass_obj
def command(settings: Settings, names: tuple[str, ...], sent: str) -> int:
    """Send a signal to the first process of running containers."""
    from unionmount.runtime.protocol import Kind, encode_number

    number, failed = signal_number(sent), False
    for name in names:
        try:
            with connected(settings, name) as channel:
                channel.send(encode_number(Kind.SIGNAL, number))
            print(name)
        except UnionmountError as error:
            failed = True
            print(f"unionmount: {error}", file=sys.stderr)
    return 1 if failed else 0
