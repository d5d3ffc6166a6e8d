"""``unionmount copy``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.endpoint_options import Endpoints, endpoint_options
from unionmount.cli.options import (
    compress_option,
    one_or_several,
    platforms_option,
    root_option,
)
from unionmount.cli.referrer_options import print_notes, referrer_choice, referrer_options
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unionmount.cli.output import ProgressLine
    from unionmount.cli.settings import Settings
    from unionmount.formats.compression import Compression
    from unionmount.images.opened import OpenImage
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Reference
    from unionmount.registry import RegistryClient
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store, StoredImage
    from unionmount.transfer.copy import CopyOptions, Squash
    from unionmount.transfer.copy_documents import Copied


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
@referrer_options("Copy signatures, SBOMs and attestations, too.")
@platforms_option
@endpoint_options
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
    referrers: bool,
    artifact_types: tuple[str, ...],
    platforms: tuple[Platform, ...],
    endpoints: Endpoints,
) -> None:
    """Copy an image from SRC to DST.

    Both are docker://NAME, docker-archive:FILE[:REF], oci-archive:FILE[:REF], oci:DIR[:REF],
    dir:DIR, docker-daemon:NAME, or the name of an image of the store; SRC may also be
    containers-storage:NAME or docker-overlay2:NAME. Between registries, OCI layouts and dir:, blobs
    and digests stay as they are, and artifacts, such as charts, are copied, too; everything else
    works as pull, load, save and push do. The command prints the digest in a registry or layout, or
    the ID in the store. What policy.json refuses is not copied.

    --referrers also copies what is about the copied manifests, such as signatures, and about that
    in turn, but not to dir:. With several --platform, DST gets an index of these images alone.

    A password in the command line can be read by other users while the command runs: give the user
    alone and type the password, or use --src-password-stdin, or log in before.

    --squash makes another image with the same files: nothing that a later layer removed or replaced
    is left in its layers. The steps stay in its history, where a secret in a command stays, too. If
    SOURCE_DATE_EPOCH is set, it is the creation time of that image.
    """
    from unionmount.cli.commands.push import tell_of_changes
    from unionmount.cli.open_image import progress_line
    from unionmount.transfer.copy import CopyOptions

    one, several = one_or_several(platforms, all_platforms)
    choice = referrer_choice(artifact_types, is_wanted=referrers)
    with progress_line(quiet=quiet) as progress:
        how = CopyOptions(
            *(first_candidate(), one, all_platforms, compress),
            *(keep_digest, progress, _squasher(squash), choice),
            platforms=several,
        )
        copied = _run(settings, endpoints, (source, target), how, progress)
    tell_of_changes(copied.changes)
    print_notes(copied.notes, quiet=quiet)
    if copied.digest is not None:
        print(copied.digest)


def _run(
    settings: Settings,
    endpoints: Endpoints,
    words: tuple[str, str],
    how: CopyOptions,
    progress: ProgressLine | None,
) -> Copied:
    from unionmount.cli.run_transfer import registries_of_user, run_attended
    from unionmount.cli.unpacked_images import enter_namespace_to_load
    from unionmount.sources import Location
    from unionmount.transfer.copy import copy

    places = Location.parse(words[0]), Location.parse_target(words[1])
    enter_namespace_to_load(places[0])
    store, registries = settings.store(), registries_of_user()
    named = [[how.resolve(one.path)] if one.kind == "registry" else [] for one in places]
    endpoints.check(*named)

    async def work(clients: tuple[RegistryClient, RegistryClient]) -> Copied:
        return await copy(store, clients[0], *places, replace(how, destination=clients[1]))

    return run_attended(lambda: endpoints.clients(settings, registries, *named), work, progress)


def first_candidate() -> Callable[[str], Reference]:
    """Return the function that finds the first meaning of a name of a registry."""
    from unionmount.cli.run_transfer import registries_of_user

    registries = registries_of_user()
    return lambda name: registries.candidates(name)[0]


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
