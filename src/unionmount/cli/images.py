"""``unionmount images``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from unionmount.cli.options import format_option, root_option
from unionmount.cli.output import age_of, human_size, print_json, print_table

if TYPE_CHECKING:
    from unionmount.cli import Settings
    from unionmount.reference import Digest
    from unionmount.store import Store, StoredImage

_HEADER = ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE")
_NONE = "<none>"


@dataclass(frozen=True, slots=True)
class Listed:
    """One line: a name of an image, or an image without one."""

    repository: str
    tag: str
    digest: str | None
    id: Digest
    created: str
    size: int  # of all its layers, uncompressed

    def row(self, *, full: bool) -> tuple[str, ...]:
        """The line for people."""
        shown = str(self.id) if full else self.id.short
        return (self.repository, self.tag, shown, age_of(self.created), human_size(self.size))

    def json(self) -> dict[str, Any]:
        """The line for programs."""
        return {
            "repository": self.repository,
            "tag": self.tag,
            "digest": self.digest,
            "id": str(self.id),
            "created": self.created,
            "size": self.size,
        }


@click.command("images")
@click.option("-q", "--quiet", is_flag=True, help="Print IDs only.")
@click.option("--no-trunc", "full", is_flag=True, help="Print IDs in full.")
@format_option
@root_option
@click.pass_obj
def command(settings: Settings, quiet: bool, full: bool, form: str) -> None:
    """List the images of the store."""
    store = settings.store()
    if quiet:
        for image in store.list_images():
            print(image.id if full else image.id.short)
        return
    lines = [line for image in store.list_images() for line in _lines(store, image)]
    if form == "json":
        print_json([line.json() for line in lines])
    else:
        print_table(_HEADER, [line.row(full=full) for line in lines])


def _lines(store: Store, stored: StoredImage) -> Iterator[Listed]:
    from unionmount.reference import Reference

    image = store.read_image(stored)
    size = sum(store.layer_info(diff_id).layer_size for diff_id in image.diff_ids)
    for text in stored.names or ("",):
        name = Reference.parse(text) if text else None
        yield Listed(
            repository=replace(name, tag=None, digest=None).familiar if name else _NONE,
            tag=(name.tag if name else None) or _NONE,
            digest=str(name.digest) if name and name.digest else None,
            id=stored.id,
            created=image.config.created,
            size=size,
        )
