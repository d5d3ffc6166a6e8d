"""``unionmount prune``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.cli.output import human_size

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.store.garbage import Item

_KINDS = {  # the words for each kind; kinds that are reported with their image are absent
    "image": "{}",
    "layer": "{}",
    "blob": "blob {}",
    "index": "index of {}",
    "container": "ephemeral container {}",
    "quarantine": "quarantined {}",
    "lease": "lease {}",
    "lock": "lock {}",
    "log": "log {}",
}


@click.command("prune")
@click.option("-a", "--all", "every", is_flag=True, help="Remove unused images with a name, too.")
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
@root_option
@click.pass_obj
def command(settings: Settings, every: bool, dry_run: bool) -> None:
    """Remove unused data from the store.

    That is: images without a name (with --all, every image) that no container and no mount uses;
    layers, documents and blobs of no image; in-place indexes of files that were removed or changed;
    records and logs of mounts that have ended. Data that a running mount, load or pull needs stays.
    """
    from unionmount.store.containers import Containers
    from unionmount.store.garbage import prune

    store = settings.store()
    removed = prune(store, Containers(store), every=every, dry_run=dry_run)
    items = [*removed.items, *_logs(dry_run=dry_run)]
    untagged, deleted = ("Would untag", "Would delete") if dry_run else ("Untagged", "Deleted")
    for word in removed.untagged:
        print(f"{untagged}: {word}")
    for item in items:
        print(f"{deleted}: {_KINDS[item.kind].format(item.name)}")
    total = human_size(sum(item.size for item in items))
    print(f"Total reclaim{'able' if dry_run else 'ed'} space: {total}")


def _logs(*, dry_run: bool) -> Iterator[Item]:
    """Yield the logs of mounts that have ended."""
    from unionmount.mounting.records import MountTable
    from unionmount.store.garbage import Item
    from unionmount.store.usage import allocated

    for path in MountTable.of_user().ended_logs():
        size = allocated(path)
        if not dry_run:
            path.unlink(missing_ok=True)
        yield Item("log", path.name, size)
