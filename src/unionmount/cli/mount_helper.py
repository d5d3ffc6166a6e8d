"""``mount.unionmount`` and ``mount.fuse.unionmount``: the programs that mount(8) calls.

::

    mount.unionmount IMAGE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

mount(8) looks for them in /sbin when a line of fstab, or ``mount -t``, has the type ``unionmount``
or ``fuse.unionmount``. Exit statuses are those of mount(8): 1 wrong usage, 2 the system, 4 a bug, 8
interrupted, 32 not mounted. Nothing is printed on success.
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from unionmount.cli.helper_options import HelperOptions, parse_helper_options
from unionmount.cli.helper_program import run_helper
from unionmount.cli.settings import Settings
from unionmount.errors import MountError, NotFoundError, UsageError
from unionmount.system.mountinfo import FILE_SYSTEM
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.mount_sources import MountArguments
    from unionmount.mounting.records import MountTable, Record
    from unionmount.transfer.pull import Policy

_TYPES = ("unionmount", FILE_SYSTEM)
_PATIENCE = 10.0  # seconds that an unmounted daemon has to end


@dataclass(frozen=True, slots=True)
class _HelperCall:
    """The command line that mount(8) wrote."""

    source: str
    mountpoint: str
    options: HelperOptions
    fake: bool
    verbose: bool
    namespace: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Mount as mount(8) asks; returns the exit status that it expects."""
    words = sys.argv[1:] if arguments is None else arguments
    return run_helper(lambda: _run(_parse(words)))


def _parse(arguments: Sequence[str]) -> _HelperCall:
    try:
        found, words = getopt.gnu_getopt(list(arguments), "sfnvN:o:t:")
    except getopt.GetoptError as error:
        raise UsageError(f"{error.msg} (see mount(8))") from None
    if len(words) != 2:
        raise UsageError("usage: mount.unionmount IMAGE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS]")
    given = dict(found)
    if (kind := given.get("-t", FILE_SYSTEM)) not in _TYPES:
        raise UsageError(f"type {printable(kind)} is not ours; use {' or '.join(_TYPES)}")
    texts = [value for name, value in found if name == "-o"]
    source, mountpoint = words
    return _HelperCall(
        source,
        mountpoint,
        parse_helper_options(texts, sloppy="-s" in given),
        fake="-f" in given,
        verbose="-v" in given,
        namespace=given.get("-N", ""),
    )


def _run(call: _HelperCall) -> int:
    if call.namespace:
        _enter(call.namespace)
    if call.options.remount:
        _remount(call)
    else:
        _mount(call)
    if call.verbose:
        print(f"{printable(call.source)} mounted on {printable(call.mountpoint)}")
    return 0


def _enter(namespace: str) -> None:
    """Go to another mount namespace: of a process, or a file that stands for one."""
    from unionmount.system import libc

    path = f"/proc/{namespace}/ns/mnt" if namespace.isdecimal() else namespace
    here = os.getcwd()  # noqa: PTH109 - to be entered again as it is
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.call("setns", fd, libc.CLONE_NEWNS)
    except OSError as error:
        raise MountError(f"mount namespace {printable(path)}: {error.strerror}") from None
    finally:
        os.close(fd)
    os.chdir(here)


# ---- a new mount ---------------------------------------------------------------------------------


def _mount(call: _HelperCall) -> None:
    from unionmount.cli.mount_sources import prepared
    from unionmount.cli.mountpoint import place_of
    from unionmount.cli.start_mount import MountStarter
    from unionmount.mounting.options import apply_options

    settings = Settings()
    settings.root = call.options.values.get("store")
    wanted, source = _wanted(settings, call)
    flags = call.options.flags
    parsed = replace(
        apply_options(call.options.mount), suid="allow_suid" in flags, dev="allow_dev" in flags
    )
    wanted = replace(wanted, read_only=parsed.ro or not call.options.keeps_changes)
    wanted.check()
    shown = call.options.values.get("fsname", call.source)  # mount -a looks for it in the table
    parsed = replace(parsed, ro=wanted.shows_only, fsname=shown)
    with place_of(call.mountpoint, advice="unmount it first") as where:
        start = MountStarter(settings, parsed, where, foreground=False, said=call.options.said)
        if call.fake:
            return
        _wait_for_last_mount(start.table, call.options)
        with prepared(settings, wanted, source, start.table) as found:
            start.run(
                *(found.image, found.source, found.plan, lambda _: found.announced(), found.lease)
            )


def _wait_for_last_mount(table: MountTable, options: HelperOptions) -> None:
    """Wait until the daemon has ended that has just been unmounted and had the same changes.

    umount(8) returns before it has, and systemd restarts a mount right then.
    """
    from unionmount.mounting.records import DETACHED, wait_until_all_gone

    name, upper = options.values.get("name"), options.values.get("upper")
    directory = os.path.realpath(upper) if upper else None
    last = [
        one.record
        for one in table.all()
        if one.status == DETACHED
        and ((name and one.record.container == name) or one.record.upper == directory)
    ]
    wait_until_all_gone(last, _PATIENCE)


def _wanted(settings: Settings, call: _HelperCall) -> tuple[MountArguments, str]:
    """The arguments of ``unionmount mount``, and what to mount."""
    from unionmount.cli.mount_sources import MountArguments
    from unionmount.cli.options import RegistryOptions
    from unionmount.images.platform import Platform

    values, flags = call.options.values, call.options.flags
    platform, layer = values.get("platform"), values.get("layer")
    wanted = MountArguments(
        platform=Platform.parse(platform) if platform else None,
        verify="verify" in flags,
        read_only=False,
        name=values.get("name"),
        upper=values.get("upper"),
        work=values.get("work"),
        ephemeral="ephemeral" in flags,
        volatile="volatile" in flags,
        pull=_policy(values.get("pull", "missing")),
        registry=RegistryOptions(authfile=values.get("authfile")),
        layer=int(layer) if layer else None,
        upper_open="upper_open" in flags,
        fstab=True,
    )
    if wanted.name and _is_there(settings, wanted.name, call.source):
        from unionmount.images.reference import CONTAINER_PREFIX

        return replace(wanted, name=None, platform=None), CONTAINER_PREFIX + wanted.name
    return wanted, call.source


def _policy(word: str) -> Policy:
    return cast("Policy", word)  # it was checked


def _is_there(settings: Settings, name: str, source: str) -> bool:
    """Whether an earlier mount of the same line has made the container; MountError: another has."""
    from unionmount.images.reference import CONTAINER_PREFIX
    from unionmount.sources import Location
    from unionmount.store.containers import Containers

    try:
        container = Containers(settings.store()).find(name)
    except NotFoundError:
        return False
    image = container.image
    names = (name, CONTAINER_PREFIX + name, image.source, image.name)
    if source in names or Location.parse(source).absolute() == image.source:
        return True
    raise MountError(
        f"container {name} is not one of {printable(source)}: its image is "
        f"{printable(image.source)}; choose another name=, or remove it (unionmount rm {name})"
    )


# ---- remount -------------------------------------------------------------------------------------


def _remount(call: _HelperCall) -> None:
    from unionmount.mounting.records import MountTable, resolved_mountpoint
    from unionmount.mounting.remount import remount
    from unionmount.system.mountinfo import mounted_at

    path = resolved_mountpoint(call.mountpoint)
    where = printable(str(path))
    mounted = mounted_at(path)
    if mounted is None or mounted.file_system != FILE_SYSTEM:
        raise MountError(f"{where}: no image is mounted there")
    live = [one.record for one in MountTable.of_user().all() if one.alive]
    # None if another user has mounted, for whom root acts
    record = next((one for one in live if one.device == mounted.device), None)
    strange = [] if record is None else _changed(record, call.options)
    if strange:
        raise MountError(
            f"{where}: {printable(strange[0])} can't change while it is mounted: unmount it and "
            "mount it again"
        )
    if not call.fake:
        remount(mounted, record, call.options.mount)


def _changed(record: Record, options: HelperOptions) -> list[str]:
    """Return the options about the image that are not those of the mount."""
    known = record.options.split(",")
    return [word for word in options.said.split(",") if word and word not in known]
