"""``unionmount images``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import list_format_option, root_option
from unionmount.cli.output import Listing, ListRow, age_of, human_size, time_of

if TYPE_CHECKING:
    from unionmount.cli.image_filters import Candidate
    from unionmount.cli.settings import Settings
    from unionmount.images.reference import Reference

_NONE = "<none>"
_UNKNOWN = "N/A"
_HEADS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "CONTAINERS",
}
_CREATED = "{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}"
_TABLE = rf"{{{{.Repository}}}}\t{{{{.Tag}}}}\t{{{{.ID}}}}\t{_CREATED}\t{{{{.Size}}}}"
_TABLE_WITH_DIGEST = _TABLE.replace("{{.ID}}", r"{{.Digest}}\t{{.ID}}")
_TYPE = "formatter.imageContext"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: an image by one of its names, or without one."""

    image: Candidate
    repository: str = _NONE
    tag: str = _NONE
    digest: str = _NONE

    def row(self, *, full: bool) -> ListRow:
        """Return the line as fields for templates and as JSON."""
        image, created = self.image, self.image.created
        age, size = age_of(created), human_size(image.size)
        fields = {
            "Repository": self.repository,
            "Tag": self.tag,
            "Digest": self.digest,
            "ID": str(image.id) if full else image.id.short,
            "CreatedSince": "" if age == _UNKNOWN else age,
            "CreatedAt": _created_at(created),
            "Size": size,
            "VirtualSize": human_size(image.size, 4),
            "SharedSize": _UNKNOWN,
            "UniqueSize": _UNKNOWN,
            "Containers": _UNKNOWN,
        }
        json = {
            "repository": self.repository,
            "tag": self.tag,
            "digest": None if self.digest == _NONE else self.digest,
            "id": str(image.id),
            "created": created,
            "size": image.size,
        }
        return ListRow(fields, json)


@click.command("images")
@click.option(
    "-a",
    "--all",
    "_every",
    is_flag=True,
    help="Has no effect (all images are always listed); accepted as in docker.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print IDs only.")
@click.option("--no-trunc", "full", is_flag=True, help="Print IDs in full.")
@click.option("--digests", is_flag=True, help="Show the digests of the images in registries.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help="List those with dangling=true|false, reference=PATTERN, before=IMAGE, since=IMAGE, "
    "until=TIME, label=KEY[=VALUE]; repeatable.",
)
@list_format_option
@root_option
@click.argument("name", required=False)
@click.pass_obj
def command(
    settings: Settings,
    name: str | None,
    _every: bool,
    quiet: bool,
    full: bool,
    digests: bool,
    filters: tuple[str, ...],
    form: str,
) -> None:
    """List the images of the store, or those that match NAME: a repository, a tag or a pattern.

    SIZE is the size of all files of the image. Fields of a template: .Repository .Tag .Digest .ID
    .CreatedSince .CreatedAt .Size
    """
    from unionmount.cli.image_filters import select

    found = select(settings.store(), filters, name)
    needs_digest = digests or ".Digest" in form or form in ("json", "jsonl")
    lines = [line for image in found for line in _lines(image, needs_digest=needs_digest)]
    rows = [line.row(full=full) for line in lines]
    if quiet:
        for row in rows:
            print(row.fields["ID"])
        return
    Listing(_TYPE, _HEADS, _TABLE_WITH_DIGEST if digests else _TABLE).show(form, rows, full=full)


def _lines(image: Candidate, *, needs_digest: bool) -> Iterator[Line]:
    """Yield a line for each tag, and one for each repository with digests only, as docker does."""
    by_repository: dict[str, list[Reference]] = {}
    for digest in image.digests:
        by_repository.setdefault(_repository(digest), []).append(digest)
    if not image.names and not image.digests:
        yield Line(image)
    for name in image.names:
        repository, tag = _repository(name), name.tag or _NONE
        known = by_repository.get(repository, []) if needs_digest else []
        for digest in known:
            yield Line(image, repository, tag, str(digest.digest))
        if not known:
            yield Line(image, repository, tag)
    tagged = {_repository(name) for name in image.names}
    for repository, known in by_repository.items():
        if repository not in tagged:
            shown = known if needs_digest else known[:1]
            yield from (Line(image, repository, digest=str(one.digest)) for one in shown)


def _repository(name: Reference) -> str:
    return replace(name, tag=None, digest=None).familiar


def _created_at(created: str) -> str:
    """Format a time as Go prints it: ``2024-05-06 07:08:09 +0000 UTC``."""
    then = time_of(created)
    if then is None:
        return _UNKNOWN
    try:
        local = then.astimezone()
    except (OverflowError, ValueError):
        local = then
    return f"{local.year:04d}-{local:%m-%d %H:%M:%S %z %Z}"
