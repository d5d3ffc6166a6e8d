"""The opening of images and containers that the command line names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import FormatError, MountError, NotFoundError, UnionmountError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.open import OpenOptions, OpenView
    from unionmount.cli.operands import Operand
    from unionmount.cli.output import ProgressLine
    from unionmount.cli.settings import Settings
    from unionmount.core import BrowsableTree
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
    trusted: bool = False,
) -> OpenImage:
    """Open an image, with plain layers left in their archive, and show progress.

    ``trusted``: the policy of the user must accept the image of a file.
    """
    from unionmount.transfer.load import open_image
    from unionmount.trust.file_trust import FileTrust

    with progress_line() as progress:
        return open_image(
            settings.store(),
            source,
            platform=platform,
            verify=verify,
            progress=progress,
            lease=lease,
            trust=FileTrust() if trusted else None,
        )


open_trusted = partial(open_source, trusted=True)
"""Open an image to use it: the policy of the user must accept the image of a file."""


def open_kept(
    settings: Settings,
    location: Location,
    *,
    platform: Platform | None,
    verify: bool = False,
    lease: Lease | None = None,
) -> OpenImage:
    """Open an image from the store, after importing it if necessary, and show progress."""
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
    """Open an image, up to ``layer``, or a container with its changes, and show progress."""
    from unionmount.browse.open import OpenOptions, OpenView, open_upper_directory, open_view

    settings, word, record = _mounted(settings, word)
    read_as_owner(settings, word if record is None else record.source)
    with progress_line() as progress:
        how = OpenOptions(platform, layer, progress)
        if record is None:
            return open_view(settings.store(), word, how)
        if record.upper and layer is None:
            upper = Path(record.upper)
            return OpenView(open_upper_directory(settings.store(), record.source, upper))
        return OpenView(_image_of(settings, record, how))


def wrong_images(
    settings: Settings,
    operands: Sequence[Operand],
    *,
    platform: Platform | None,
    layer: int | None,
) -> dict[str, UnionmountError | OSError]:
    """Open each of several images and close it; return the errors of those that are wrong.

    If a word that is no image would be a path of the first image, its error says so.
    """
    images = list(dict.fromkeys(operand.image for operand in operands))
    errors: dict[str, UnionmountError | OSError] = {}
    for word in images if len(images) > 1 else ():
        try:
            open_files(settings, word, platform=platform, layer=layer).close()
        except (UnionmountError, OSError) as error:
            errors[word] = error
    if errors and images[0] not in errors:
        with open_files(settings, images[0], platform=platform, layer=layer) as view:
            return {word: _with_path(error, word, view.files) for word, error in errors.items()}
    return errors


def _with_path(
    error: UnionmountError | OSError, word: str, files: BrowsableTree
) -> UnionmountError | OSError:
    """Return the error, with the path that was perhaps meant by the word."""
    from unionmount.browse.paths import follow

    path = f"/{word}"
    try:
        follow(files, os.fsencode(path), last=False)
    except OSError:
        return error
    if not isinstance(error, NotFoundError | FormatError):
        return error
    text = str(error).partition("; did you mean ")[0]
    return NotFoundError(f"{text}; did you mean {printable(path)}?")


def check_images(
    settings: Settings,
    operands: Sequence[Operand],
    *,
    platform: Platform | None,
    layer: int | None,
) -> None:
    """Raise the error of a wrong one among several images, before anything is printed."""
    for error in wrong_images(settings, operands, platform=platform, layer=layer).values():
        raise error


def open_below(settings: Settings, word: str, *, platform: Platform | None) -> OpenImage:
    """Open an image or that of a container, and show progress."""
    from unionmount.browse.open import OpenOptions, open_layers

    settings, word, record = _mounted(settings, word)
    read_as_owner(settings, word if record is None else record.source)
    with progress_line() as progress:
        how = OpenOptions(platform, None, progress)
        if record is None:
            return open_layers(settings.store(), word, how)
        return _image_of(settings, record, how)


def _mounted(settings: Settings, word: str) -> tuple[Settings, str, Record | None]:
    """Resolve the ID of a mount to its container, or to its record if it has none, and its store.

    Any other word is returned as it is.
    """
    from unionmount.cli.container_words import PREFIX, mount_with_id
    from unionmount.mounting.records import MountTable, is_overlay

    found = mount_with_id(settings, MountTable.of_user(), word)
    if found is None:
        return settings, word, None
    record = found.record
    settings = settings.with_root(record.root)  # the mount may belong to another store
    if record.container:
        return settings, PREFIX + record.container, None
    if is_overlay(record.source):
        where = printable(record.mountpoint)
        raise MountError(
            f"{word} is a mount of directories, not of an image; look into {where} instead"
        )
    return settings, word, record


def read_as_owner(settings: Settings, word: str) -> None:
    """Have an ordinary user read images of podman's as podman does; root needs nothing."""
    if os.geteuid():
        from unionmount.cli.unpacked_images import enter_namespace_of

        enter_namespace_of(settings, word)


def _image_of(settings: Settings, record: Record, how: OpenOptions) -> OpenImage:
    from unionmount.browse.open import open_mounted_image

    image_id, layers = record.image_id, record.layers
    return open_mounted_image(settings.store(), record.source, image_id, layers, how)


@contextmanager
def progress_line(*, quiet: bool = False) -> Iterator[ProgressLine | None]:
    """Show progress on one line that is removed at the end; yield None if ``quiet``."""
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
    """Warn on standard error if an image is for a machine whose programs do not run here."""
    from unionmount.images.platform import Platform
    from unionmount.system.emulation import ADVICE, kernel_runs

    host = Platform.host()
    if not host.is_foreign(platform):
        return
    advice = ""
    if platform.os == host.os:
        if kernel_runs(platform.architecture):
            return
        advice = f"; {ADVICE}"
    print(
        f"unionmount: warning: {printable(name)} is for {platform} and this machine is {host}: "
        f"its programs need an emulator to run here{advice}",
        file=sys.stderr,
    )
