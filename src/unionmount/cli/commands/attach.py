"""``unionmount attach``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.live_containers import connected, live_containers
from unionmount.cli.options import root_option

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings


@click.command("attach")
@click.option(
    "--detach-keys",
    "keys",
    metavar="KEYS",
    default="ctrl-p,ctrl-q",
    show_default=True,
    help="Leave the container when these are typed; empty for none.",
)
@click.option("--no-stdin", is_flag=True, help="Do not pass standard input on.")
@click.option(
    "--sig-proxy",
    type=click.BOOL,
    default=True,
    show_default=True,
    metavar="true|false",
    help="Pass signals on.",
)
@root_option
@click.argument("name", metavar="CONTAINER")
@click.pass_obj
def command(
    settings: Settings,
    name: str,
    keys: str,
    no_stdin: bool,
    sig_proxy: bool,
) -> int:
    """Join a running container: its output, and what is typed here.

    The exit status is that of the container, or 0 after the keys to detach.
    """
    from unionmount.cli.container_words import name_of_container
    from unionmount.runtime.client import Client, Joining, parse_keys

    state = live_containers(settings).state(name_of_container(name))
    joining = Joining(
        interactive=not no_stdin,
        terminal=state.terminal and os.isatty(0) and not no_stdin,
        proxied=sig_proxy,
        keys=parse_keys(keys),
    )
    with connected(settings, name) as channel:
        return Client(channel, joining).run() or 0
