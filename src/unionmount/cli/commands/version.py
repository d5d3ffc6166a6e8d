"""``unionmount version``."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from unionmount.cli.options import check_form


@click.command("version")
@click.option(
    "-f",
    "--format",
    "form",
    metavar="FORM|TEMPLATE",
    default="",
    callback=check_form("", "json", "jsonl"),
    help="json, jsonl, or a Go template: '{{.Version}}'.",
)
def command(form: str) -> None:
    """Print the version. Fields of a template: .Version .Python .Os .Arch .KernelVersion"""
    version = metadata.version("unionmount")
    if not form:
        print(f"unionmount {version}")
        return
    from unionmount.cli.output import Listing, Row

    fields = {
        "Version": version,
        "Python": platform.python_version(),
        "Os": platform.system().lower(),
        "Arch": platform.machine(),
        "KernelVersion": platform.release(),
    }
    Listing("system.clientVersion", {}, "").show(form, [Row(fields, fields)])
