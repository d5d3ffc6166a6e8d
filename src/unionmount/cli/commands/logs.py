"""``unionmount logs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.live_containers import container_of
from unionmount.cli.options import root_option

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings


@click.command("logs")
@click.option("-t", "--timestamps", is_flag=True, help="Print the time of each line.")
@click.option(
    "-n",
    "--tail",
    "last",
    metavar="N",
    type=click.IntRange(min=0),
    help="Print the last N lines only.",
)
@root_option
@click.argument("name", metavar="CONTAINER")
@click.pass_obj
def command(settings: Settings, name: str, timestamps: bool, last: int | None) -> None:
    """Print the output of a container's last run, to the stream that it was written to."""
    from collections import deque

    from unionmount.runtime.log_file import read_log
    from unionmount.runtime.run_record import LOG, record_of
    from unionmount.system.files import write_all

    container = container_of(settings, name)
    record_of(container.path, name)
    lines = read_log(container.path / LOG)
    for line in lines if last is None else deque(lines, last):
        stamp = f"{line.time} ".encode() if timestamps else b""
        write_all(2 if line.stream == "stderr" else 1, stamp + line.text)
