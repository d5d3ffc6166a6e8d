"""``unionmount copy``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import (
    RegistryOptions,
    compress_option,
    platform_option,
    registry_options,
    root_option,
)
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.cli.settings import Settings
    from unionmount.formats.compression import Compression
    from unionmount.images.opened import OpenImage
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Reference
    from unionmount.registry import RegistryClient
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store, StoredImage
    from unionmount.transfer.copy import Copied, Squash


def _parse_squash(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | str | None:
    """Return the number of layers, "all", or None."""
    if value is None or value == "all":
        return value
    if not (value.isascii() and value.isdecimal() and int(value[:9]) > 0 and len(value) < 9):
        raise click.BadParameter(f"'{printable(value)}' is not a number of layers")
    return int(value)


@click.command("copy", optional="--squash")
@click.option("-q", "--quiet", is_flag=True, help="Print the digest or ID only.")
@click.option("--all", "all_platforms", is_flag=True, help="Copy an index with all its images.")
@compress_option("Compress layers from the store or a docker-archive this way.")
@click.option("--keep-digest", is_flag=True, help="Fail if the digest would change.")
@click.option(
    "--squash",
    metavar="[=N]",
    callback=_parse_squash,
    help="Make one layer of all layers, or of the topmost N.",
)
@platform_option
@registry_options
@root_option
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.pass_obj
def command(
    settings: Settings,
    source: str,
    target: str,
    quiet: bool,
    all_platforms: bool,
    compress: Compression | None,
    keep_digest: bool,
    squash: int | str | None,
    platform: Platform | None,
    registry: RegistryOptions,
) -> None:
    """Copy an image from SRC to DST.

    Both are docker://NAME, docker-archive:FILE[:REF], oci-archive:FILE[:REF], oci:DIR[:REF], or the
    name of an image of the store. Between registries and OCI layouts, blobs and digests stay as
    they are; everything else works as pull, load, save and push do. The command prints the digest
    in a registry or layout, or the ID in the store. What policy.json refuses is not copied.

    --squash makes another image with the same files: nothing that a later layer removed or replaced
    is left in its layers. The steps stay in its history, where a secret in a command stays, too. If
    SOURCE_DATE_EPOCH is set, it is the creation time of that image.
    """
    from unionmount.cli.commands.push import tell_of_changes
    from unionmount.cli.open_image import progress_line
    from unionmount.cli.run_transfer import registries_of_user, run_transfer
    from unionmount.sources import Location
    from unionmount.transfer.copy import CopyOptions, copy

    store, registries = settings.store(), registries_of_user()
    places = Location.parse(source), Location.parse_target(target)

    def resolve(name: str) -> Reference:
        return registries.candidates(name)[0]

    named = [resolve(place.path) for place in places if place.kind == "registry"]
    with progress_line(quiet=quiet) as progress:
        how = CopyOptions(
            *(resolve, platform, all_platforms, compress),
            *(keep_digest, progress, _squasher(squash)),
        )

        async def work(client: RegistryClient) -> Copied:
            return await copy(store, client, *places, how)

        copied = run_transfer(settings, registry, registries, work, named, progress)
    tell_of_changes(copied.changes)
    if copied.digest is not None:
        print(copied.digest)


def _squasher(layers: int | str | None) -> Squash | None:
    """Return the function that squashes a number of layers, or all; None for none."""
    if layers is None:
        return None
    from unionmount.cli.commands.commit import print_warning, source_date_epoch
    from unionmount.squash import SquashRequest, squash

    request = SquashRequest(layers if isinstance(layers, int) else None, source_date_epoch())

    def run(
        store: Store, image: OpenImage, names: Sequence[Reference], progress: Progress
    ) -> StoredImage:
        return squash(store, image, names, request, print_warning, progress)

    return run
