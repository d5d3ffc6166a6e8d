"""``unionmount push``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import RegistryOptions, compress_option, registry_options, root_option
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.formats.compression import Compression
    from unionmount.registry import RegistryClient
    from unionmount.transfer.push import Pushed


@click.command("push")
@click.option("-q", "--quiet", is_flag=True, help="Print the digest only.")
@compress_option("Compress layers this way; default: as they came, and gzip for layers made here.")
@click.option("--keep-digest", is_flag=True, help="Fail if the digest would change.")
@registry_options
@root_option
@click.argument("image")
@click.argument("name", metavar="NAME[:TAG]", required=False)
@click.pass_obj
def command(
    settings: Settings,
    image: str,
    name: str | None,
    quiet: bool,
    compress: Compression | None,
    keep_digest: bool,
    registry: RegistryOptions,
) -> None:
    """Send an image of the store to a registry as NAME, and print its digest there.

    Without NAME, the image is pushed under its own name. An image that came from a registry keeps
    its digest: blobs that the store does not keep are taken from the same registry, or from the one
    that the image came from. A layer whose blob cannot be found is compressed again, which changes
    the digest; a line on standard error says so.
    """
    from unionmount.cli.open_image import progress_line
    from unionmount.cli.run_transfer import registries_of_user, run_transfer
    from unionmount.transfer.by_name import push_target
    from unionmount.transfer.push import PushOptions, push

    store, registries = settings.store(), registries_of_user()
    stored = store.find_image(image)
    ref = push_target(stored, image, name)
    with progress_line(quiet=quiet) as progress:
        how = PushOptions(compress, keep_digest, progress)

        async def work(client: RegistryClient) -> Pushed:
            return await push(store, client, stored, ref, how)

        pushed = run_transfer(settings, registry, registries, work, [ref], progress)
    tell_of_changes(pushed.changes)
    print(pushed.digest)


def tell_of_changes(changes: tuple[str, ...]) -> None:
    """Print the reasons why the digest of an image has changed."""
    if changes:
        print("unionmount: the digest has changed:", file=sys.stderr)
    for change in changes:
        print(f"unionmount: {printable(change)}", file=sys.stderr)
