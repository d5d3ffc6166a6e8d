"""Opening the image that a user named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import MountError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.open import OpenOptions, OpenView
    from unionmount.cli.output import ProgressLine
    from unionmount.cli.settings import Settings
    from unionmount.images.opened import OpenImage
    from unionmount.images.platform import Platform
    from unionmount.mounting.records import Record
    from unionmount.sources import Location
    from unionmount.store.leases import Lease


def open_source(
    settings: Settings,
    source: Location | str,
    *,
    platform: Platform | None,
    verify: bool = False,
    lease: Lease | None = None,
) -> OpenImage:
    """Open an image, its layers where they are if they are plain; tells of progress."""
    from unionmount.transfer.load import open_image

    with progress_line() as progress:
        return open_image(
            settings.store(),
            source,
            platform=platform,
            verify=verify,
            progress=progress,
            lease=lease,
        )


def open_kept(
    settings: Settings,
    location: Location,
    *,
    platform: Platform | None,
    verify: bool = False,
    lease: Lease | None = None,
) -> OpenImage:
    """Open an image from the store, where it is put if need be; tells of progress."""
    from unionmount.store.image_name import name_of
    from unionmount.transfer.load import keep_image, open_stored

    store = settings.store()
    with progress_line() as progress:
        stored = keep_image(store, location, platform=platform, progress=progress, lease=lease)
        has_name = stored.names or location.kind == "stored"
        name = name_of(stored) if has_name else str(location)
        return open_stored(store, stored, name, verify=verify, progress=progress, lease=lease)


def open_files(
    settings: Settings, word: str, *, platform: Platform | None, layer: int | None = None
) -> OpenView:
    """Open an image, as of ``layer``, or a container with its changes; tells of progress."""
    from unionmount.browse.open import OpenOptions, OpenView, open_upper_directory, open_view

    settings, word, record = _mounted(settings, word)
    with progress_line() as progress:
        how = OpenOptions(platform, layer, progress)
        if record is None:
            return open_view(settings.store(), word, how)
        if record.upper and layer is None:
            upper = Path(record.upper)
            return OpenView(open_upper_directory(settings.store(), record.source, upper))
        return OpenView(_image_of(settings, record, how))


def open_below(settings: Settings, word: str, *, platform: Platform | None) -> OpenImage:
    """Open an image, or that of a container; tells of progress."""
    from unionmount.browse.open import OpenOptions, open_layers

    settings, word, record = _mounted(settings, word)
    with progress_line() as progress:
        how = OpenOptions(platform, None, progress)
        if record is None:
            return open_layers(settings.store(), word, how)
        return _image_of(settings, record, how)


def _mounted(settings: Settings, word: str) -> tuple[Settings, str, Record | None]:
    """What a word means that is a mount's ID: a container, or a mount without one; in which store.

    Another word stays as it is.
    """
    from unionmount.cli.container_words import PREFIX, is_overlay, mount_with_id
    from unionmount.mounting.records import MountTable

    found = mount_with_id(settings, MountTable.of_user(), word)
    if found is None:
        return settings, word, None
    record = found.record
    settings = replace(settings, root=record.root)  # a mount belongs to a store
    if record.container:
        return settings, PREFIX + record.container, None
    if is_overlay(record.source):
        where = printable(record.mountpoint)
        raise MountError(f"{word} is a mount of directories, not of an image: look into {where}")
    return settings, word, record


def _image_of(settings: Settings, record: Record, how: OpenOptions) -> OpenImage:
    from unionmount.browse.open import open_mounted_image

    image_id, layers = record.image_id, record.layers
    return open_mounted_image(settings.store(), record.source, image_id, layers, how)


def split_with_path(operand: str) -> tuple[str, bytes]:
    """IMAGE and PATH of an operand that needs both."""
    from unionmount.browse.paths import split_operand

    word, path = split_operand(operand)
    if path is None:
        raise UsageError(f"'{printable(operand)}' has no path: IMAGE:/PATH")
    return word, path


@contextmanager
def progress_line(*, quiet: bool = False) -> Iterator[ProgressLine | None]:
    """A line about progress, removed at the end; None where it is not wanted."""
    from unionmount.cli.output import ProgressLine

    if quiet:
        yield None
        return

    progress = ProgressLine()
    try:
        yield progress
    finally:
        progress.clear()


def warn_if_foreign(name: str, platform: Platform) -> None:
    """Say on standard error that an image is for another machine, where it is."""
    from unionmount.images.platform import Platform

    host = Platform.host()
    if host.is_foreign(platform):
        print(
            f"unionmount: warning: {printable(name)} is for {platform} and this machine is {host}: "
            "without an emulator its programs do not run here",
            file=sys.stderr,
        )
