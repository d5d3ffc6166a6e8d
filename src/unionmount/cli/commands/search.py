"""``unionmount search``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import (
    RegistryOptions,
    registry_client,
    registry_options,
    stream_format_option,
)
from unionmount.cli.output import print_json, print_table

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.registry import SearchResult

_HEADER = ("NAME", "DESCRIPTION", "STARS", "OFFICIAL")
_LIMIT = 25
_DESCRIPTION = 45  # characters, as docker shortens it


@click.command("search")
@click.option(
    "--limit", type=click.IntRange(1, 100), default=_LIMIT, show_default=True, help="How many."
)
@click.option("--no-trunc", "full", is_flag=True, help="Print descriptions in full.")
@stream_format_option
@registry_options
@click.argument("term", metavar="[REGISTRY/]TERM")
@click.pass_obj
def command(
    settings: Settings, limit: int, full: bool, form: str, term: str, registry: RegistryOptions
) -> None:
    """Search for images in a registry, or in the registries of short names.

    Docker Hub has a search; of other registries, the list of repositories is searched if there is
    one.
    """
    import trio

    found = trio.run(_search, settings, registry, term, limit)
    if form == "table":
        print_table(_HEADER, [_row(one, full=full) for one in found], full=full)
        return
    rows = [asdict(one) for one in found]
    if form == "json":
        print_json(rows)
    else:
        for row in rows:
            print(json.dumps(row))


async def _search(
    settings: Settings, options: RegistryOptions, term: str, limit: int
) -> list[SearchResult]:
    from unionmount.images.reference import has_registry, registry_itself
    from unionmount.registry import Registries

    registries = Registries.load(os.environ)
    where = list(registries.search)
    if has_registry(term):
        place, _, term = term.partition("/")
        where = [place]
    if not term:
        raise click.UsageError("the search term is empty")
    named = [registry_itself(place) for place in where]
    async with registry_client(settings, options, registries, named) as client:
        return [one for place in where for one in await client.search(place, term, limit)]


def _row(one: SearchResult, *, full: bool) -> tuple[str, ...]:
    text = " ".join(one.description.split())
    if not full and len(text) > _DESCRIPTION:
        text = text[: _DESCRIPTION - 1] + "…"
    return one.name, text, str(one.stars), "[OK]" if one.official else ""
