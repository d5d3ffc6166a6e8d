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

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.formats.compression import Compression
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Reference
    from unionmount.registry import RegistryClient
    from unionmount.transfer.copy import Copied


@click.command("copy")
@click.option("-q", "--quiet", is_flag=True, help="Print the digest or ID only.")
@click.option("--all", "all_platforms", is_flag=True, help="Copy an index with all its images.")
@compress_option("Compress layers from the store or a docker-archive this way.")
@click.option("--keep-digest", is_flag=True, help="Fail if the digest would change.")
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
    platform: Platform | None,
    registry: RegistryOptions,
) -> None:
    """Copy an image from SRC to DST.

    Both are docker://NAME, docker-archive:FILE[:REF], oci-archive:FILE[:REF], oci:DIR[:REF], or the
    name of an image of the store. Between registries and OCI layouts, blobs and digests stay as
    they are; everything else works as pull, load, save and push do. The command prints the digest
    in a registry or layout, or the ID in the store.
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
            resolve,
            platform,
            all_platforms,
            compress,
            keep_digest,
            progress,
        )

        async def work(client: RegistryClient) -> Copied:
            return await copy(store, client, *places, how)

        copied = run_transfer(settings, registry, registries, work, named, progress)
    tell_of_changes(copied.changes)
    if copied.digest is not None:
        print(copied.digest)
