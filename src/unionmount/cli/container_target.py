"""A container that files are copied into: through its mount, or by its upper if it has none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unionmount.errors import MountError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.core import BrowsableTree, Node
    from unionmount.extract.destination import Spot
    from unionmount.extract.itself import Place
    from unionmount.extract.target import CopyPolicy, Target
    from unionmount.mounting.records import MountTable, Record

Make = Callable[[bytes, "CopyPolicy", Callable[[str], None]], "Target[int] | Target[Node]"]


@dataclass(frozen=True, slots=True)
class ContainerPlace:
    """An opened container: its files, and a maker of targets at a path in it."""

    files: BrowsableTree
    target: Make
    upper: Place
    finish: Callable[[], None] = field(default=lambda: None)

    def find(self, path: bytes) -> Spot | None:
        """Follow a path in the container; None if there is nothing."""
        from unionmount.browse.paths import follow
        from unionmount.extract.destination import Spot

        try:
            found = follow(self.files, path)
        except FileNotFoundError:
            return None
        return Spot(found.path, found.attributes.mode)


@contextmanager
def opened_container(settings: Settings, word: str) -> Iterator[ContainerPlace]:
    """Open a container for changes; raise UsageError if ``word`` names none."""
    from unionmount.mounting.mount_words import mount_of
    from unionmount.mounting.records import MountTable

    table = MountTable.of_user()
    settings, name = _container(settings, word, table)
    status = mount_of(table, settings.store_root(), name)
    if status is None or not status.alive:
        with _by_its_upper(settings, name, table) as place:
            yield place
        return
    if status.mode != "rw":
        where = printable(status.record.mountpoint)
        raise MountError(f"container '{name}' is mounted read-only at {where}; unmount it first")
    with _through_its_mount(settings, name, status.record) as place:
        yield place


def _container(settings: Settings, word: str, table: MountTable) -> tuple[Settings, str]:
    """Return the store and the name of the container of this name, or of a mount with this ID."""
    from unionmount.browse.open import container_named
    from unionmount.cli.container_words import mount_with_id
    from unionmount.store.containers import Containers

    found = mount_with_id(settings, table, word)
    if found is not None and found.record.container:
        return settings.with_root(found.record.root), found.record.container
    store = settings.store()
    name = container_named(store, Containers(store), word)
    if name is None:
        shown = printable(word)
        raise UsageError(
            f"'{shown}' is not a container, and images do not change; "
            f"'unionmount mount --name NAME {shown} DIR' makes a container of an image"
        )
    Containers(store).find(name)
    return settings, name


# ---- not mounted ---------------------------------------------------------------------------------


@contextmanager
def _by_its_upper(settings: Settings, name: str, table: MountTable) -> Iterator[ContainerPlace]:
    """Lock a container, and open its upper as a mount does."""
    from unionmount import core
    from unionmount.cli.container_words import PREFIX
    from unionmount.cli.mount_sources import MountArguments, prepared
    from unionmount.cli.options import RegistryOptions
    from unionmount.extract.itself import place_of
    from unionmount.extract.upper_target import UpperTarget
    from unionmount.mounting.upper_directory import open_upper
    from unionmount.store.containers import Containers

    arguments = MountArguments(
        platform=None,
        verify=False,
        read_only=False,
        name=None,
        upper=None,
        work=None,
        ephemeral=False,
        volatile=False,
        pull="never",
        registry=RegistryOptions(),
    )
    with prepared(settings, arguments, PREFIX + name, table) as found:
        assert found.plan is not None, "containers are writable"
        with (
            open_upper(found.plan, found.image.tree()) as opened,
            core.View(opened.core) as view,
        ):
            yield ContainerPlace(
                view,
                lambda base, policy, warn: UpperTarget(opened.core, base, policy, warn),
                place_of(Containers(settings.store()).find(name).upper),
            )


# ---- mounted -------------------------------------------------------------------------------------


@contextmanager
def _through_its_mount(settings: Settings, name: str, record: Record) -> Iterator[ContainerPlace]:
    """Open the root of the mount of a container, and see its files as they are on disk."""
    from unionmount.browse.open import open_container
    from unionmount.extract.host_target import HostTarget
    from unionmount.extract.itself import place_of
    from unionmount.store.containers import Containers
    from unionmount.system import libc

    container = Containers(settings.store()).find(name)
    with ExitStack() as stack:
        opened = stack.enter_context(open_container(settings.store(), container))
        disk = os.open(container.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, disk)
        _enter_if_rootless(settings, name)
        root = _open_root(name, record)
        stack.callback(os.close, root)

        def finish() -> None:
            """Have the kernel pass on what it holds, and the disk keep it."""
            libc.call("syncfs", root)
            libc.call("syncfs", disk)

        def target(base: bytes, policy: CopyPolicy, warn: Callable[[str], None]) -> HostTarget:
            return HostTarget(root, base, policy, warn, inside=True)

        yield ContainerPlace(opened.view, target, place_of(disk), finish)


def _enter_if_rootless(settings: Settings, name: str) -> None:
    """Enter the namespaces in which an ordinary user's container runs: its mount is only there."""
    from unionmount.cli.live_containers import live_containers
    from unionmount.system import libc

    live = live_containers(settings)
    if not live.is_running(name):
        return
    state = live.state(name)
    if not state.rootless:
        return
    kinds = (("user", libc.CLONE_NEWUSER), ("mnt", libc.CLONE_NEWNS))
    where = os.getcwd()  # noqa: PTH109
    for path, flag in [(f"/proc/{state.monitor}/ns/{kind}", flag) for kind, flag in kinds]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc.call("setns", fd, flag)
        finally:
            os.close(fd)
    os.chdir(where)


def _open_root(name: str, record: Record) -> int:
    """Open the root of a mount; raise MountError if something else is there.

    That may also be a directory in it, if somebody else can exchange one above the mount point.
    """
    from unionmount.core import ROOT

    where = printable(record.mountpoint)
    try:
        fd = os.open(record.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"the mount of container '{name}' at {where}: {error.strerror}") from None
    found = os.fstat(fd)
    device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    if (device, found.st_ino) != (record.device, ROOT):
        os.close(fd)
        raise MountError(
            f"the mount of container '{name}' is no longer at {where}; unmount it first"
        )
    return fd
