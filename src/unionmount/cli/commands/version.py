"""``unionmount version``."""

from __future__ import annotations

import platform

import unionmount.cli.declared as click
from unionmount.cli.options import details_format_option
from unionmount.version import VERSION


@click.command("version")
@details_format_option("'{{.Version}}'")
def command(form: str) -> None:
    """Print the version. Fields of a template: .Version .Python .Os .Arch .KernelVersion"""
    if not form:
        print(f"unionmount {VERSION}")
        return
    from unionmount.cli.output import Listing, ListRow

    fields = {
        "Version": VERSION,
        "Python": platform.python_version(),
        "Os": platform.system().lower(),
        "Arch": platform.machine(),
        "KernelVersion": platform.release(),
    }
    Listing("system.clientVersion", {}, "").show(form, [ListRow(fields, fields)])
