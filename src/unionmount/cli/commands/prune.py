"""``unionmount prune``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.cli.output import human_size
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.store.containers import Containers
    from unionmount.store.garbage import Item, Removed
    from unionmount.store.unused import PruneChoice

_KINDS = {  # the words for each kind; kinds that are reported with their image are absent
    "image": "{}",
    "layer": "{}",
    "blob": "blob {}",
    "index": "index of {}",
    "container": "ephemeral container {}",
    "work": "container {}",
    "quarantine": "quarantined {}",
    "lease": "lease {}",
    "lock": "lock {}",
    "log": "log {}",
}


@click.command("prune")
@click.option("-a", "--all", "every", is_flag=True, help="Remove unused images with a name, too.")
@click.option(
    "--until",
    metavar="AGE",
    help="Remove all images that were not used for so long, such as 72h or 7d, or since a date.",
)
@click.option(
    "--keep-size",
    metavar="SIZE",
    help="Remove images, least recently used first, until the others take no more than SIZE.",
)
@click.option(
    "--indexes",
    is_flag=True,
    help="Remove all indexes of archives; a mount makes them again.",
)
@click.option(
    "--containers",
    "with_containers",
    is_flag=True,
    help="Remove containers that are not mounted, with all their changes, after a question.",
)
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
@root_option
@click.pass_obj
def command(
    settings: Settings,
    every: bool,
    until: str | None,
    keep_size: str | None,
    indexes: bool,
    with_containers: bool,
    force: bool,
    dry_run: bool,
) -> int | None:
    """Remove unused data from the store.

    That is: images without a name (with --all, every image) that no container and no mount uses;
    layers, documents and blobs of no image; in-place indexes of files that were removed or changed;
    records and logs of mounts that have ended. Data that a running mount, load or pull needs stays.

    --until and --keep-size choose among all unused images, by the time of their last use; with
    both, only images that pass both are removed. Containers, which hold the work of users, stay
    unless --containers is given.
    """
    from unionmount.sources.holds import release_left
    from unionmount.store.containers import Containers
    from unionmount.store.garbage import prune

    choice = _choice(every, until, keep_size, indexes=indexes)
    store = settings.store()
    known = Containers(store)
    gone: list[Item] = []
    if with_containers:
        if until is not None or keep_size is not None:
            raise click.UsageError("--containers cannot be combined with --until or --keep-size")
        idle = _idle(settings, known)
        if idle and not (force or dry_run) and not _is_agreed(idle):
            return 1
        gone = list(_without_containers(known, idle, dry_run=dry_run))
    failed = [] if dry_run else release_left(store.root)
    removed = prune(store, known, choice, dry_run=dry_run)
    _report(removed, [*gone, *removed.items, *_logs(dry_run=dry_run)], dry_run=dry_run)
    for failure in failed:
        print(f"unionmount: {failure}", file=sys.stderr)
    return 1 if failed else None


def _choice(every: bool, until: str | None, keep_size: str | None, *, indexes: bool) -> PruneChoice:
    from unionmount.cli.quantities import parse_moment, parse_size
    from unionmount.store.unused import PruneChoice

    moment = None if until is None else parse_moment(until)
    if moment is not None and moment > time.time():
        raise click.UsageError(
            f"--until {printable(until or '')} is in the future; write an age, such as 72h, or a "
            "date in the past, or --all for all unused images"
        )
    return PruneChoice(
        every or until is not None or keep_size is not None,
        moment,
        None if keep_size is None else parse_size(keep_size),
        indexes,
    )


def _report(removed: Removed, items: Sequence[Item], *, dry_run: bool) -> None:
    untagged, deleted = ("Would untag", "Would delete") if dry_run else ("Untagged", "Deleted")
    for word in removed.untagged:
        print(f"{untagged}: {word}")
    for item in items:
        print(f"{deleted}: {_KINDS[item.kind].format(item.name)}")
    total = human_size(sum(item.size for item in items))
    print(f"Total reclaim{'able' if dry_run else 'ed'} space: {total}")


def _idle(settings: Settings, known: Containers) -> list[str]:
    """Return the names of containers that are neither mounted nor running."""
    from unionmount.mounting.mount_words import mount_of
    from unionmount.mounting.records import MountTable

    table, root = MountTable.of_user(), settings.store_root()
    return [one.name for one in known.all() if mount_of(table, root, one.name) is None]


def _is_agreed(names: Sequence[str]) -> bool:
    """Ask on the terminal; UsageError without one."""
    listed = ", ".join(map(printable, names))
    if not sys.stdin.isatty():
        raise click.UsageError(f"--containers would remove {listed}; add --force to do so unasked")
    question = f"Remove {listed} with all their changes? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _without_containers(
    known: Containers, names: Sequence[str], *, dry_run: bool
) -> Iterator[Item]:
    """Yield the containers after removing them; one that was mounted meanwhile stays."""
    from unionmount.errors import NotFoundError, StoreError
    from unionmount.store.garbage import Item
    from unionmount.store.usage import allocated

    for name in names:
        size = 0
        with suppress(StoreError, NotFoundError):
            size = allocated(known.find(name).path)
            if not dry_run:
                known.remove(name)
            yield Item("work", name, size)


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
