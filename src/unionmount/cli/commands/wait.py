"""``unionmount wait``."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.live_containers import connected, container_of
from unionmount.cli.options import root_option
from unionmount.errors import MountError, NotFoundError, UnionmountError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings


@click.command("wait")
@root_option
@click.argument("names", metavar="CONTAINER…", nargs=-1, required=True)
@click.pass_obj
def command(settings: Settings, names: tuple[str, ...]) -> int:
    """Wait until containers have ended, and print the exit status of each."""
    failed = False
    for name in names:
        try:
            print(_status(settings, name), flush=True)
        except UnionmountError as error:
            failed = True
            print(f"unionmount: {error}", file=sys.stderr)
    return 1 if failed else 0


def _status(settings: Settings, name: str) -> int:
    from unionmount.runtime.protocol import Kind, number_of
    from unionmount.runtime.run_record import record_of

    try:
        channel = connected(settings, name)
    except NotFoundError:
        status = record_of(container_of(settings, name).path, name).exit_status
        if status is None:
            raise MountError(f"container '{name}' ended without an exit status") from None
        return status
    with channel:
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        while not channel.ended:
            poll.poll()
            for message in channel.receive():
                if message.kind is Kind.EXITED:
                    return number_of(message.body)[0]
    raise MountError(f"container '{name}' ended without an exit status")
