"""``unionmount df``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.options import list_format_option, root_option
from unionmount.cli.output import Listing, ListRow, human_size, print_json, print_jsonl, print_table

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.store.usage import ImageUsage, Usage, UsageRow

_HEADS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
_TABLE = r"{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
_LISTING = Listing("formatter.diskUsageImagesContext", _HEADS, _TABLE)
_IMAGE_HEADER = ("IMAGE", "IMAGE ID", "SIZE", "SHARED", "UNIQUE", "CONTAINERS")


@click.command("df")
@click.option("-v", "--verbose", is_flag=True, help="Show each image.")
@list_format_option
@root_option
@click.pass_obj
def command(settings: Settings, verbose: bool, form: str) -> None:
    """Show the disk usage of the store, and the space that shared layers save.

    RECLAIMABLE is the space that "prune" would free; for images "prune -a", for containers "rm".
    Fields of a template: .Type .TotalCount .Active .Size .Reclaimable
    """
    from unionmount.store.containers import Containers
    from unionmount.store.usage import measure

    store = settings.store()
    usage = measure(store, Containers(store), _mounted(settings))
    if form in ("json", "jsonl"):
        values = [_row_json(row) for row in usage.rows]
        if verbose:
            values = [_image_json(one) for one in usage.images]
        elif form == "json":
            values.append(_sums(usage))
        _print_values(values, form)
        return
    _LISTING.show(form, [ListRow(_fields(row), _row_json(row)) for row in usage.rows])
    if form != "table":
        return
    print()
    print(
        f"Layers of images: {human_size(usage.shared)} shared, {human_size(usage.unique)} unique; "
        f"saved by sharing: {human_size(usage.saved)}"
    )
    if verbose:
        print()
        print_table(_IMAGE_HEADER, [_image_row(one) for one in usage.images])


def _print_values(values: list[dict[str, Any]], form: str) -> None:
    if form == "json":
        print_json(values)
    else:
        print_jsonl(values)


def _mounted(settings: Settings) -> set[str]:
    """Return the names of the mounted containers of this store."""
    from unionmount.mounting.records import MountTable

    root = os.path.realpath(settings.store_root())
    return {
        one.record.container
        for one in MountTable.of_user().all()
        if one.alive and os.path.realpath(one.record.root) == root
    }


def _fields(row: UsageRow) -> dict[str, str]:
    share = f" ({100 * row.reclaimable // row.size}%)" if row.size else ""
    reclaimable = human_size(row.reclaimable) + share
    return {
        "Type": row.kind,
        "TotalCount": str(row.total),
        "Active": str(row.active),
        "Size": human_size(row.size),
        "Reclaimable": reclaimable,
    }


def _row_json(row: UsageRow) -> dict[str, Any]:
    return {
        "type": row.kind,
        "total": row.total,
        "active": row.active,
        "size": row.size,
        "reclaimable": row.reclaimable,
    }


def _sums(usage: Usage) -> dict[str, Any]:
    return {
        "type": "Sharing",
        "shared": usage.shared,
        "unique": usage.unique,
        "saved": usage.saved,
    }


def _image_row(one: ImageUsage) -> tuple[str, ...]:
    from unionmount.store.image_name import name_of

    sizes = (human_size(size) for size in (one.size, one.shared, one.unique))
    return (name_of(one.image), one.image.id.short, *sizes, str(len(one.containers)))


def _image_json(one: ImageUsage) -> dict[str, Any]:
    return {
        "names": list(one.image.names),
        "id": str(one.image.id),
        "size": one.size,
        "shared": one.shared,
        "unique": one.unique,
        "containers": list(one.containers),
    }
