"""``unionmount version``."""

from __future__ import annotations

from importlib import metadata

import click


@click.command("version")
def command() -> None:
    """Print the version."""
    print(f"unionmount {metadata.version('unionmount')}")
