"""A shell in an image that is mounted already, by the user or for a container.

There is no scaffold in such a mount, and nothing is made in it: files of the host whose mount
points are missing are left out.
"""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import MountError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.browse.open import OpenChanges, OpenView
    from unionmount.cli.settings import Settings
    from unionmount.core import BrowsableTree
    from unionmount.mounting.records import Record
    from unionmount.runtime.assembly import Assembly, Wanted
    from unionmount.runtime.oci_runtime import OciRuntime

_FAILED = 125


def shell_in_mount(
    settings: Settings,
    record: Record,
    runtime: str | None,
    decide: Callable[[BrowsableTree], Wanted],
) -> int:
    """Run a program in a mount, and return its exit status.

    ``decide`` returns the options of the container, given the files that the mount shows.
    """
    from unionmount.cli.live_containers import live_containers
    from unionmount.cli.mount_container import own_surroundings
    from unionmount.mounting.records import MountTable
    from unionmount.runtime import bundle
    from unionmount.runtime.assembly import Assembly
    from unionmount.runtime.host import find_runtime
    from unionmount.runtime.limits import check
    from unionmount.runtime.oci_runtime import OciRuntime

    path = find_runtime(runtime)
    around, _ = own_surroundings(path)
    name = f"shell-{secrets.token_hex(6)}"
    with ExitStack() as stack:
        opened, files = _opened(settings, record)
        stack.enter_context(opened)
        wanted = decide(files)
        check(wanted.limits, rootless=around.rootless)
        live = live_containers(settings)
        own = stack.enter_context(live.begin(name))
        directory = own.bundle
        config = opened.image.image.config
        assembly = Assembly(config, record.image, files, wanted, around)
        _fit(assembly, files, directory, record)
        document = assembly.document(record.mountpoint, directory)
        bundle.write(directory, document, assembly.host_files, record.path)
        sys.stdout.flush()
        runtime_directory = MountTable.of_user().directory
        called = OciRuntime(path, live.oci, rootless=around.rootless)
        has_terminal = assembly.wanted.terminal.wanted
        return _run(called, runtime_directory, own.id, directory, terminal=has_terminal)


def _opened(settings: Settings, record: Record) -> tuple[OpenChanges | OpenView, BrowsableTree]:
    """Open the files that a mount shows."""
    from unionmount.browse.open import OpenOptions, OpenView, open_mounted_image
    from unionmount.cli.open_change import open_changes
    from unionmount.mounting.records import is_overlay

    if is_overlay(record.source):
        where = printable(record.mountpoint)
        raise UsageError(f"{where} is a mount of directories, which have no config to run")
    if record.upper:
        changes = open_changes(settings, record.id)
        return changes, changes.view
    settings.root = record.root
    image = open_mounted_image(
        settings.store(), record.source, record.image_id, record.layers, OpenOptions()
    )
    view = OpenView(image)
    return view, view.files


def _fit(assembly: Assembly, files: BrowsableTree, directory: Path, record: Record) -> None:
    """Leave out what has no mount point; MountError if something necessary has none."""
    from unionmount.runtime.assembly import is_there

    assembly.host_files = [one for one in assembly.host_files if is_there(files, one.path)]
    assembly.parameters = replace(assembly.parameters, volumes=())  # none is made
    if not is_there(files, assembly.parameters.cwd):
        assembly.parameters = replace(assembly.parameters, cwd="/")
    lacking = [
        os.fsdecode(place.path)
        for place in assembly.places(directory)
        if not is_there(files, os.fsdecode(place.path))
    ]
    if lacking:
        where = printable(record.mountpoint)
        raise MountError(
            f"{where} has no {printable(lacking[0])} to mount on; make it there, or unmount the "
            "image and give its name instead"
        )


def _run(
    runtime: OciRuntime, runtime_directory: Path, name: str, directory: Path, *, terminal: bool
) -> int:
    """Run a bundle in this terminal; an ordinary user's is run by a child in a user namespace."""
    if not runtime.rootless:
        return runtime.run(name, directory, terminal=terminal)
    child = os.fork()
    if child == 0:
        status = _FAILED
        try:
            from unionmount.cli.mount_container import enter_namespace

            enter_namespace(runtime_directory)
            status = runtime.run(name, directory, terminal=terminal)
        except MountError as error:
            print(f"unionmount: {error}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
