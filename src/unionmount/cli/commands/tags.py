"""``unionmount tags``."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import (
    RegistryOptions,
    registry_client,
    registry_options,
    stream_format_option,
)
from unionmount.cli.output import print_json
from unionmount.errors import NotFoundError, RegistryError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.reference import Reference


@click.command("tags")
@stream_format_option
@registry_options
@click.argument("name", metavar="NAME")
@click.pass_obj
def command(settings: Settings, form: str, name: str, registry: RegistryOptions) -> None:
    """List the tags of a repository: versions in their order, then all others.

    NAME may begin with docker://, as in other commands.
    """
    import trio

    from unionmount.registry.versions import in_order

    ref, tags = trio.run(_find, settings, registry, name)
    rows = [{"repository": ref.name, "tag": tag} for tag in in_order(tags)]
    if form == "json":
        print_json(rows)
    else:
        for row in rows:
            print(json.dumps(row) if form == "jsonl" else printable(row["tag"]))


async def _find(
    settings: Settings, options: RegistryOptions, name: str
) -> tuple[Reference, list[str]]:
    """Return the first existing repository that a name may mean, and its tags."""
    from unionmount.registry import Registries
    from unionmount.transfer.by_name import without_transport

    registries = Registries.load(os.environ)
    candidates = registries.candidates(without_transport(name))
    if candidates[0].tag is not None or candidates[0].digest is not None:
        raise UsageError(f"'{printable(name)}' has a tag or digest; give the name without it")
    async with registry_client(settings, options, registries, candidates) as client:
        for candidate in candidates[:-1]:
            try:
                return candidate, await client.tags(candidate)
            except (NotFoundError, RegistryError):
                continue
        return candidates[-1], await client.tags(candidates[-1])
