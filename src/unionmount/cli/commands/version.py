"""``unionmount version``."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from unionmount.cli.options import details_format_option


@click.command("version")
@details_format_option("'{{.Version}}'")
def command(form: str) -> None:
    """Print the version. Fields of a template: .Version .Python .Os .Arch .KernelVersion"""
    version = metadata.version("unionmount")
    if not form:
        print(f"unionmount {version}")
        return
    from unionmount.cli.output import Listing, ListRow

    fields = {
        "Version": version,
        "Python": platform.python_version(),
        "Os": platform.system().lower(),
        "Arch": platform.machine(),
        "KernelVersion": platform.release(),
    }
    Listing("system.clientVersion", {}, "").show(form, [ListRow(fields, fields)])
