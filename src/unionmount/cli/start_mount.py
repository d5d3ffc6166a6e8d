"""The start of a mount's server, in the foreground or as a daemon."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import UsageError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.opened import OpenImage
    from unionmount.mounting.directories import OpenDirectories
    from unionmount.mounting.options import MountOptions
    from unionmount.mounting.upper_directory import UpperPlan
    from unionmount.store.leases import Lease
    from unionmount.system.daemon import Ready


def check_place(mountpoint: str | None) -> Path | None:
    """Return the mount point as an absolute path; raise an error if it is unusable."""
    from unionmount.mounting.fuse_mount import check_mountpoint

    if mountpoint is None:
        return None
    if not mountpoint:  # Path("") would be the working directory
        raise UsageError("the mount point is empty")
    where = Path(os.path.realpath(mountpoint))
    check_mountpoint(where)
    return where


class MountStarter:
    """The parameters that all mounts have; create it before any file is opened."""

    def __init__(
        self,
        settings: Settings,
        options: MountOptions,
        where: Path | None,
        *,
        foreground: bool,
        said: str = "",
        until: int | None = None,
        private: bool = False,
    ) -> None:
        from unionmount.mounting.records import MountTable
        from unionmount.system import daemon

        self._inherited = daemon.inherited_descriptors()
        self._settings = settings
        self._options = options
        self._where = where
        self._foreground = foreground
        self._said = said
        self._private = private
        self._until = _opened_process(until)
        self.table = MountTable.of_user()
        if where is not None:
            self.table.check_visible(where)

    def run(
        self,
        layers: OpenImage | OpenDirectories,
        source: str,
        plan: UpperPlan | None,
        announce: Callable[[str], None],
        lease: Lease | None = None,
        *,
        unstacked: bool = False,
        until: int | None = None,
        closed: Iterable[int] = (),
    ) -> None:
        """Mount and ``announce`` the mount point; in the foreground, serve until the unmount.

        The serving process holds ``lease`` to the end. With ``unstacked``, each layer is a
        directory. ``until`` is a pidfd of the process that the mount ends with, instead of the one
        that was given before; ``closed`` are descriptors that a daemon does not inherit.
        """
        from unionmount.system import daemon

        layers.tree()  # reports a damaged index before the daemon starts
        root = os.path.realpath(self._settings.store_root())  # the daemon works elsewhere

        def serve(ready: Ready) -> None:
            # imported only by the process that serves
            from unionmount.mounting.serve import MountRequest, run_mount

            _log(self._settings)
            request = MountRequest(
                source=source,
                mountpoint=self._where,
                options=self._options,
                root=root,
                table=self.table,
                background=not self._foreground,
                upper=plan,
                lease=lease,
                unstacked=unstacked,
                said=self._said,
                private=self._private,
                until=self._until if until is None else until,
            )
            run_mount(layers, request, ready)

        if self._foreground:
            serve(announce)
        else:
            sys.stdout.flush()
            inherited = {*self._inherited, *closed}
            _announce_or_undo(daemon.run_in_background(serve, inherited), announce)


def _opened_process(pid: int | None) -> int | None:
    """A descriptor of the process that the mount is to end with."""
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise UsageError(f"--with {pid}: {error.strerror}") from None


def _announce_or_undo(path: str, announce: Callable[[str], None]) -> None:
    """Announce a mount; unmount it again if that fails."""
    from unionmount.mounting.fuse_mount import unmount_fuse

    try:
        announce(path)
    except OSError as error:
        unmount_fuse(Path(path), lazy=True)
        if isinstance(error, BrokenPipeError):
            raise
        raise OSError(error.errno, error.strerror, "standard output") from None


def print_mountpoint(path: str) -> None:
    """Print a path byte for byte, so that a script can use it.

    A standard output that was closed at the start does not want it.
    """
    if sys.__stdout__ is None:
        return
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    sys.stdout.flush()


def _log(settings: Settings) -> None:
    import logging

    level = logging.DEBUG if settings.debug else logging.WARNING
    logging.basicConfig(level=level, format="unionmount: %(name)s: %(message)s")
