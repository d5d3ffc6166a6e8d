"""``unionmount stats``."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unionmount.cli.settings import Settings

_HEADER = ("MESSAGE", "FAST", "FORWARDED", "P50 µS", "P90 µS", "P99 µS")
_TOTALS = {
    "bytes_read": "bytes read",
    "bytes_written": "bytes written",
    "copy_ups": "files copied up",
    "waits": "waited for a disk",
    "sleeps": "threads went to sleep",
    "notifications": "notifications",
    "failed": "not answered by Python",
    "in_flight": "now in Python",
    "threads": "threads",
    "held": "open files",
    "transport": "transport",
}


@click.command("stats")
@click.option("--watch", is_flag=True, help="Show it again every second, until interrupted.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "jsonl"]),
    default="table",
    help="The output format; jsonl is one line each time.",
)
@root_option
@click.argument("target", metavar="MOUNTPOINT|ID|CONTAINER")
@click.pass_obj
def command(settings: Settings, target: str, watch: bool, form: str) -> None:
    """Show the kernel's requests to a mount by type, and how long they took.

    FAST requests were answered in C, FORWARDED ones by Python. Percentiles cover the time since the
    mount, from the arrival of a request to its answer.
    """
    from unionmount.cli.container_words import find_mount
    from unionmount.mounting.records import MountTable
    from unionmount.mounting.statistics import ask_stats
    from unionmount.system.text import printable

    table = MountTable.of_user()
    path = table.socket_path(find_mount(table, settings, target).record.id)
    where = printable(target)
    _print(ask_stats(path, where), form)
    while watch:
        time.sleep(1)
        told = ask_stats(path, where)
        if form == "table":
            print()
        _print(told, form)


def _print(told: Mapping[str, Any], form: str) -> None:
    if form == "json":
        print_json([told])
        return
    if form == "jsonl":
        print(json.dumps(told), flush=True)
        return
    rows = [
        (name, *(str(one[key]) for key in ("fast", "forwarded", "p50_us", "p90_us", "p99_us")))
        for name, one in told["messages"].items()
    ]
    print_table(_HEADER, rows)
    print()
    for key, label in _TOTALS.items():
        print(f"{label + ':':24}{told[key]}")
