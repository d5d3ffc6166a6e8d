"""``unionmount start``."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.live_containers import container_of, live_containers
from unionmount.cli.options import root_option

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings


@click.command("start")
@click.option("-a", "--attach", is_flag=True, help="Stay, print the output, exit with its status.")
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on, with --attach.")
@root_option
@click.argument("name", metavar="CONTAINER")
@click.pass_obj
def command(settings: Settings, name: str, attach: bool, interactive: bool) -> int:
    """Run a container again, with the options of its last "run"; one that runs is left alone."""
    from unionmount.cli.options import RegistryOptions
    from unionmount.cli.run_container import RunRequest, run_container
    from unionmount.images.reference import CONTAINER_PREFIX
    from unionmount.runtime.client import Joining
    from unionmount.runtime.run_record import record_of

    container = container_of(settings, name)
    record = record_of(container.path, name)
    if not attach and live_containers(settings).is_running(container.name):
        print(name)
        return 0
    wanted = record.wanted
    terminal = wanted.terminal.wanted and attach and os.isatty(0)
    if terminal:
        size = os.get_terminal_size(0)
        wanted = replace(
            wanted, terminal=replace(wanted.terminal, rows=size.lines, columns=size.columns)
        )
    given = {
        "platform": None,
        "pull": "never",
        "name": None,
        "ephemeral": False,
        "registry": RegistryOptions(),
    }
    request = RunRequest(
        source=f"{CONTAINER_PREFIX}{container.name}",
        wanted=wanted,
        given=given,
        joining=Joining(
            interactive=record.interactive and (interactive or not attach),
            terminal=terminal and interactive,
            stay=attach,
        ),
        runtime=record.runtime,
        remove=False,
        detach=not attach,
    )
    return run_container(settings, request)
