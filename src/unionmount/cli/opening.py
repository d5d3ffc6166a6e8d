"""Opening the image that a user named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionmount.cli import Settings
    from unionmount.cli.output import ProgressLine
    from unionmount.image import Platform
    from unionmount.layer import OpenImage
    from unionmount.leases import Lease


def open_source(
    settings: Settings,
    source: str,
    *,
    platform: str | None,
    verify: bool = False,
    lease: Lease | None = None,
) -> OpenImage:
    """Open an image, its layers where they are if they are plain; tells of progress."""
    from unionmount.pull import open_image

    with progress_line() as progress:
        return open_image(
            settings.store(),
            source,
            platform=_parsed(platform),
            verify=verify,
            progress=progress,
            lease=lease,
        )


def open_kept(
    settings: Settings,
    source: str,
    *,
    platform: str | None,
    verify: bool = False,
    lease: Lease | None = None,
) -> OpenImage:
    """Open an image from the store, where it is put if need be; tells of progress."""
    from unionmount.pull import keep_image, name_of, open_stored
    from unionmount.sources import Location

    store, location = settings.store(), Location.parse(source)
    with progress_line() as progress:
        stored = keep_image(
            store, source, platform=_parsed(platform), progress=progress, lease=lease
        )
        has_name = stored.names or location.kind == "stored"
        name = name_of(stored) if has_name else str(location)
        return open_stored(store, stored, name, verify=verify, progress=progress, lease=lease)


@contextmanager
def progress_line() -> Iterator[ProgressLine]:
    """A line about progress, removed at the end."""
    from unionmount.cli.output import ProgressLine

    progress = ProgressLine()
    try:
        yield progress
    finally:
        progress.clear()


def _parsed(platform: str | None) -> Platform | None:
    from unionmount.image import Platform

    return Platform.parse(platform) if platform else None
