"""``unionmount stop``."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.live_containers import connected, container_of, signal_number, wait_for_end
from unionmount.cli.options import root_option
from unionmount.errors import UnionmountError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.runtime.channel import MonitorChannel


@click.command("stop")
@click.option(
    "-t",
    "--time",
    "patience",
    metavar="SECONDS",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Wait so long before the container is killed.",
)
@root_option
@click.argument("names", metavar="CONTAINER…", nargs=-1, required=True)
@click.pass_obj
def command(settings: Settings, names: tuple[str, ...], patience: int) -> int:
    """Stop running containers: send the image's stop signal, or SIGTERM, and later SIGKILL.

    The command returns when the containers have ended and their changes are on the disk.
    """
    failed = False
    for name in names:
        try:
            with connected(settings, name) as channel:
                _stop(channel, _signal_of(settings, name), patience)
            print(name)
        except UnionmountError as error:
            failed = True
            print(f"unionmount: {error}", file=sys.stderr)
    return 1 if failed else 0


def _signal_of(settings: Settings, name: str) -> int:
    from unionmount.browse.open import open_lowers
    from unionmount.runtime.parameters import ImageParameters

    container = container_of(settings, name)
    with open_lowers(settings.store(), container) as image:
        named = ImageParameters.of(image.image.config, container.image.name).stop_signal
    return signal_number(named) if named else signal.SIGTERM


def _stop(channel: MonitorChannel, number: int, patience: int) -> None:
    from unionmount.runtime.protocol import Kind, encode_number

    channel.send(encode_number(Kind.SIGNAL, number))
    if not wait_for_end(channel, time.monotonic() + patience):
        channel.send(encode_number(Kind.SIGNAL, signal.SIGKILL))
        wait_for_end(channel)
