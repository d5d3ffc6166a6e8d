"""``unionmount pull``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import RegistryOptions, platform_option, registry_options, root_option
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform
    from unionmount.transfer.pull import Policy


@click.command("pull")
@click.option("-q", "--quiet", is_flag=True, help="Print the ID only.")
@click.option(
    "--policy",
    type=click.Choice(["always", "missing", "never"]),
    default="always",
    show_default=True,
    help="When to ask the registry: even if the image is here, only if it is missing, or never.",
)
@click.option(
    "--keep-blobs",
    is_flag=True,
    help="Keep compressed layers, too, to push them when no registry has them any more; "
    "UNIONMOUNT_KEEP_BLOBS=1 does the same.",
)
@platform_option
@registry_options
@root_option
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@click.pass_obj
def command(
    settings: Settings,
    name: str,
    quiet: bool,
    policy: Policy,
    keep_blobs: bool,
    platform: Platform | None,
    registry: RegistryOptions,
) -> None:
    """Fetch an image from its registry into the store, and print its ID.

    Layers that the store has are not fetched. A NAME without a registry is searched in those of
    registries.conf, by default in docker.io. The default TAG is "latest". An image that policy.json
    refuses, or requires to be signed and is not, is an error.
    """
    from unionmount.cli.open_image import progress_line, warn_if_foreign
    from unionmount.cli.run_transfer import hint_at_default_tag, keeps_blobs, pull_image
    from unionmount.sources import refuse_file
    from unionmount.transfer.by_name import without_transport

    refuse_file(name)
    name = without_transport(name)
    hint_at_default_tag(name, quiet=quiet)  # first, since there may be no "latest"
    with progress_line(quiet=quiet) as progress:
        if progress is not None:
            progress.note(f"Resolving {printable(name)}")
        from unionmount.transfer.pull import PullOptions  # takes longer than all before

        how = PullOptions(platform, policy, keep_blobs or keeps_blobs(), progress)
        ref, stored = pull_image(settings, registry, name, how)
    if not quiet:
        warn_if_foreign(ref.familiar, settings.store().read_image(stored).config.platform)
    print(stored.id)
