"""``unionmount history``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import (
    RegistryOptions,
    list_format_option,
    platform_option,
    root_option,
)
from unionmount.cli.output import Listing, ListRow, age_of, human_size, shortened, time_of
from unionmount.cli.remote_image import is_remote, read_remote_image, remote_options
from unionmount.system.text import one_line

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.history import HistoryRow
    from unionmount.images.platform import Platform

_MISSING = "<missing>"
_COMMAND_MAX = 45
_NO_TIME = "N/A"
_FIRST = 946_684_800  # the year 2000

_HEADS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
_TABLE = r"{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
_TYPE = "image.historyContext"


class _HistoryCommand(click.Command):
    """A command that accepts ``-H=false`` and ``--human=false``, like docker."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments after replacing a flag with a value by the flag or its opposite."""
        return super().parse_args(ctx, [_without_value(word) for word in args])


def _without_value(word: str) -> str:
    name, sign, value = word.partition("=")
    if name not in ("-H", "--human") or not sign:
        return word
    try:
        wanted = click.BOOL.convert(value, None, None)
    except click.BadParameter as error:
        raise click.UsageError(f"{name}: {error.message}") from None
    return "--human" if wanted else "--no-human"


@click.command("history", cls=_HistoryCommand)
@click.option(
    "-H",
    "--human/--no-human",
    default=True,
    help="Print readable sizes and dates; -H=false prints bytes and RFC 3339.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print IDs only.")
@click.option("--no-trunc", "full", is_flag=True, help="Print IDs and commands in full.")
@list_format_option
@platform_option
@remote_options
@root_option
@click.argument("source", metavar="IMAGE")
@click.pass_obj
def command(
    settings: Settings,
    source: str,
    human: bool,
    quiet: bool,
    full: bool,
    form: str,
    platform: Platform | None,
    remote: bool,
    registry: RegistryOptions,
) -> None:
    """Show the steps that made IMAGE, newest first.

    IMAGE is an image of the store, or any other SOURCE. A row shows the ID of its image, or
    <missing> if the step has no image of its own. SIZE is that of the files in the layer of the
    step, 0B if it has none. Fields of a template: .ID .CreatedSince .CreatedAt .CreatedBy .Size
    .Comment

    With --remote, or docker://NAME, only the manifest and the config are fetched; SIZE is then that
    of the layer as it is transferred, which is usually compressed.
    """
    if is_remote(source, remote, registry):
        found = _read_remote(settings, registry, source, platform)
    else:
        found = _read(settings, source, platform)
    is_table = form.startswith("table")
    rows = [_row(row, human=human, full=full, is_table=is_table) for row in found]
    if quiet:
        for row in rows:
            print(row.fields["ID"])
        return
    table = _TABLE if human else _TABLE.replace("CreatedSince", "CreatedAt")
    Listing(_TYPE, _HEADS, table).show(form, rows, full=full)


def _read(settings: Settings, source: str, platform: Platform | None) -> list[HistoryRow]:
    from unionmount.cli.open_image import open_source
    from unionmount.images.history import history_rows

    with open_source(settings, source, platform=platform) as image:
        return history_rows(image.image.config, image.layer_bytes)


def _read_remote(
    settings: Settings, options: RegistryOptions, source: str, platform: Platform | None
) -> list[HistoryRow]:
    from unionmount.images.history import history_rows

    image = read_remote_image(settings, options, source, platform).image
    return history_rows(image.config, [layer.size for layer in image.layers])


def _row(row: HistoryRow, *, human: bool, full: bool, is_table: bool) -> ListRow:
    step = row.step
    created_by = step.created_by.replace("\t", " ")  # as docker does; it keeps line ends
    if is_table:
        created_by = one_line(created_by, squeezed=False)
    fields = {
        "ID": _shown_id(row, full=full),
        "CreatedSince": _age(step.created) if human else local_time(step.created),
        "CreatedAt": local_time(step.created),
        "CreatedBy": created_by if full else shortened(created_by, _COMMAND_MAX),
        "Size": human_size(row.size) if human else str(row.size),
        "Comment": step.comment,
    }
    json = {
        "id": str(row.id) if row.id else None,
        "created": step.created,
        "created_by": step.created_by,
        "author": step.author,
        "comment": step.comment,
        "empty_layer": row.layer is None,
        "layer": row.layer,
        "size": row.size,
    }
    return ListRow(fields, json)


def _shown_id(row: HistoryRow, *, full: bool) -> str:
    if row.id is None:
        return _MISSING
    return str(row.id) if full else row.id.short


def _age(created: str) -> str:
    """Format the age of a step; like in docker, a time before the year 2000 counts as none."""
    then = time_of(created)
    return _NO_TIME if then is None or then.timestamp() <= _FIRST else age_of(created)


def local_time(created: str) -> str:
    """Format a time as local RFC 3339 in seconds; a missing one is the epoch, as in docker."""
    then = time_of(created) or datetime.fromtimestamp(0, UTC)
    try:
        local = then.astimezone()
    except (OverflowError, ValueError):  # the year 1 in a time zone west of Greenwich
        local = then
    return local.isoformat(timespec="seconds").replace("+00:00", "Z")
