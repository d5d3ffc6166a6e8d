"""``unionmount check``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import platform_option, root_option
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform
    from unionmount.sources import Location
    from unionmount.store.check import Finding


@click.command("check")
@click.option("--repair", is_flag=True, help="Repair damage if possible.")
@platform_option
@root_option
@click.argument("source", metavar="[IMAGE]", required=False)
@click.pass_obj
def command(settings: Settings, source: str | None, platform: Platform | None, repair: bool) -> int:
    """Verify every byte of an image or of the whole store: digests, indexes, references.

    For an IMAGE, broken hard links are reported, too. Each problem is printed on one line; the exit
    status is 1 if any remains.

    --repair rebuilds indexes and removes damaged data that nothing refers to. A damaged layer that
    an image needs is moved to the quarantine of the store, so that a load or pull can replace it.
    """
    from unionmount.sources import Location

    if source is None:
        if platform is not None:
            raise UsageError("--platform needs an IMAGE")
        return _print(_check_store(settings, repair=repair))
    location = Location.parse(source)
    status = _print(_check_parts(settings, location)) if repair else 0
    return max(status, _check_image(settings, location, platform))


def _check_store(settings: Settings, *, repair: bool) -> Iterator[Finding]:
    from unionmount.store.check import StoreCheck
    from unionmount.store.containers import Containers

    store = settings.store()
    return StoreCheck(store, Containers(store), repair=repair).run()


def _check_parts(settings: Settings, location: Location) -> Iterator[Finding]:
    """Check and repair the parts of an image in the store."""
    from unionmount.store.check import StoreCheck
    from unionmount.store.containers import Containers
    from unionmount.store.references import digests_of

    if location.kind != "stored":
        raise UsageError("--repair is only for images of the store")
    store = settings.store()
    only = digests_of(store, store.find_image(location.path), f"image '{location}'")
    return StoreCheck(store, Containers(store), repair=True, only=only).run()


def _print(findings: Iterator[Finding]) -> int:
    status = 0
    for finding in findings:
        print(printable(finding.text), flush=True)
        status = max(status, 0 if finding.repaired else 1)
    return status


def _check_image(settings: Settings, location: Location, platform: Platform | None) -> int:
    from unionmount.transfer.check_image import check_image

    status = 0
    for problem in check_image(settings.store(), location, platform=platform):
        status = 1
        where = f"layer {problem.layer}: " if problem.layer else ""
        print(printable(where + problem.text))
    return status
