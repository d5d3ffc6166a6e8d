"""``unionmount packages``."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.options import layer_option, platform_option, root_option
from unionmount.cli.output import print_table
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.open import OpenView
    from unionmount.browse.packages.model import Catalogue, FoundPackage
    from unionmount.browse.packages.subject import Subject
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform

_HEADER = ("NAME", "VERSION", "KIND", "ARCH", "LAYER", "LICENSE")
_LICENSE_MAX = 40
_EPOCH = "SOURCE_DATE_EPOCH"


@click.command("packages")
@platform_option
@layer_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "jsonl", "spdx", "cyclonedx"]),
    default="table",
    help="The output format; spdx is SPDX 2.3, cyclonedx is CycloneDX 1.5, both in JSON.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["deb", "apk", "rpm", "python", "npm"]),
    help="List packages of this kind only; repeatable.",
)
@root_option
@click.argument("source", metavar="IMAGE")
@click.pass_obj
def command(
    settings: Settings,
    source: str,
    form: str,
    kinds: tuple[str, ...],
    platform: Platform | None,
    layer: int | None,
) -> int:
    """List the packages of an image, each with the layer that brought it.

    IMAGE is anything that "mount" accepts; a CONTAINER is shown with its changes. The packages are
    those of dpkg, apk and rpm, of Python (dist-info, egg-info) and of npm (node_modules), as their
    databases in the image tell. Nothing of the image is run.

    A package comes from the lowest layer since which its database has listed it without a break, in
    this version. The licenses of Debian's packages are those of their copyright files, if these
    are machine-readable.

    A database that cannot be read is named on standard error; the list is then not complete, and
    the exit status is 1. The time in a document is now, or that of SOURCE_DATE_EPOCH.
    """
    from unionmount.browse.packages.catalogue import read_packages
    from unionmount.cli.open_image import open_files

    with open_files(settings, source, platform=platform, layer=layer) as view:
        catalogue = _only(read_packages(view), kinds)
        _print(source, view, catalogue, form)
    sys.stdout.flush()
    for problem in catalogue.problems:
        print(f"unionmount: {problem}", file=sys.stderr)
    return 1 if catalogue.problems else 0


def _only(catalogue: Catalogue, kinds: tuple[str, ...]) -> Catalogue:
    from dataclasses import replace

    if not kinds:
        return catalogue
    kept = tuple(one for one in catalogue.packages if one.package.kind in kinds)
    return replace(catalogue, packages=kept)


def _print(source: str, view: OpenView, catalogue: Catalogue, form: str) -> None:
    from unionmount.browse.packages.cyclonedx import cyclonedx_document
    from unionmount.browse.packages.spdx import spdx_document
    from unionmount.cli.name_writer import write_objects

    if form == "table":
        print_table(_HEADER, map(_row, catalogue.packages))
    elif form in ("json", "jsonl"):
        distribution = catalogue.distribution
        write_objects((package_object(one, distribution) for one in catalogue.packages), form)
    else:
        make = spdx_document if form == "spdx" else cyclonedx_document
        print(json.dumps(make(_subject(source, view, catalogue), catalogue), indent=2))


def _row(found: FoundPackage) -> tuple[str, ...]:
    package = found.package
    license_ = package.license
    if len(license_) > _LICENSE_MAX:
        license_ = license_[: _LICENSE_MAX - 1] + "…"
    return (
        package.name,
        package.version,
        package.kind,
        package.architecture or "-",
        str(found.layer) if found.diff_id is not None else "container",
        license_ or "-",
    )


def package_object(found: FoundPackage, distribution: Any) -> dict[str, Any]:
    """Return a package for JSON; what is not known is null."""
    from unionmount.browse.packages.purl import purl_of
    from unionmount.cli.name_writer import json_path

    package = found.package
    return {
        "kind": package.kind,
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture or None,
        "source": package.source or None,
        "source_version": package.source_version or None,
        "license": package.license or None,
        "purl": purl_of(package, distribution),
        "layer": found.layer if found.diff_id is not None else None,
        "diff_id": str(found.diff_id) if found.diff_id is not None else None,
        "path": json_path(found.path),
    }


def _subject(source: str, view: OpenView, catalogue: Catalogue) -> Subject:
    from unionmount.browse.packages.subject import Subject

    image, created = view.image, _created()
    diff_ids = tuple(layer.diff_id for layer in image.layers)
    contents = [(*one.package.key, one.layer) for one in catalogue.packages]
    identity = f"{image.image.id} {diff_ids} {created} {contents}"
    return Subject(printable(source), image.image.id, diff_ids, created, identity)


def _created() -> str:
    text = os.environ.get(_EPOCH, "")
    if text and not (text.isdecimal() and len(text) <= 11):
        raise UsageError(f"{_EPOCH} must be a number of seconds, not '{printable(text)}'")
    seconds = int(text) if text else int(time.time())
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
