"""The life of a mount, from mount(2) to the last clean-up, under one nursery.

The order matters: the record is written, the upper is opened and recovered, the file system is
mounted, served and announced; then the connection is closed, mounts that remain are unmounted, the
upper is synced and closed, and the record and an automatic mount point are removed. Each step is
undone by the context manager that did it, so that a failure leaves nothing behind. When the process
has ended, all changes are on disk.
"""

from __future__ import annotations

import functools
import logging
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.core import IdMaps, LayerTrees, Router, RouterFacts
from unionmount.errors import MountError, UnionmountError
from unionmount.mounting.directories import OpenDirectories
from unionmount.mounting.facts import ImageFacts, ShownFiles
from unionmount.mounting.fuse_mount import (
    StillMountedError,
    check_mountpoint,
    mount_fuse,
    unmount_fuse,
)
from unionmount.mounting.late_import import hold_python, import_python
from unionmount.mounting.lifetime import end_with, leave_namespace, let_terminate
from unionmount.mounting.live_mount import (
    SIGNALS,
    Announcement,
    LiveMount,
    Serving,
    wanted_signals,
)
from unionmount.mounting.options import THREADS_MAX, MountOptions
from unionmount.mounting.passthrough import check_passthrough, try_passthrough
from unionmount.mounting.records import HeldRecord, MountTable, Record
from unionmount.mounting.standby import stand_by
from unionmount.mounting.statistics import listening
from unionmount.mounting.transport import describe, queues_of, refused
from unionmount.mounting.upper_directory import Counted, OpenUpper, UpperPlan, open_upper
from unionmount.system import daemon
from unionmount.system.file_descriptor import FileDescriptor
from unionmount.system.mountinfo import mounted_at
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.images.opened import OpenImage
    from unionmount.mounting.keeper import Keeper
    from unionmount.mounting.late_import import ServePython
    from unionmount.mounting.unpacked import UnpackedImage
    from unionmount.store.leases import Lease
    from unionmount.system.id_map import NamespaceIds

log = logging.getLogger(__name__)

_THREADS = 8  # default maximum of the router's threads
_SPIN_NS = 50_000  # time for which a thread polls for the next request before it sleeps


@dataclass(frozen=True, slots=True)
class MountRequest:
    """A mount to be served; without a mount point, one is created."""

    source: str
    mountpoint: Path | None
    options: MountOptions
    root: str  # of the store
    table: MountTable  # the table of the mount's record
    background: bool  # messages go to a log file
    upper: UpperPlan | None = None  # the place of the changes; None: the mount is read-only
    lease: Lease | None = None  # protects the layers in the store
    unstacked: bool = False  # whether each layer is a directory (core.LayerTrees)
    until: int | None = None  # a pidfd: the mount ends with that process
    private: bool = False  # whether a mount point that is created is closed to other users
    said: str = ""  # options about the image that mount(8) gave; recorded

    @property
    def threads(self) -> int:
        """The number of router threads that answer the kernel; 0: only pyfuse3 does."""
        chosen = os.environ.get("UNIONMOUNT_FASTPATH", "")
        if not self.options.fastpath or chosen == "0":
            return 0
        if self.options.threads is not None:
            return self.options.threads
        if chosen.isdecimal():
            return min(int(chosen), THREADS_MAX)
        return min(len(os.sched_getaffinity(0)), _THREADS)

    @property
    def counted(self) -> Counted:
        """The files whose access times change; none in a read-only mount."""
        if not self.writable or not self.options.atime:
            return Counted.NOTHING
        return Counted.ALL if self.options.diratime else Counted.FILES

    @property
    def writable(self) -> bool:
        """Whether the kernel permits changes."""
        return self.upper is not None and not self.options.ro


def run_mount(
    layers: OpenImage | OpenDirectories, request: MountRequest, ready: daemon.Ready
) -> None:
    """Mount ``layers`` and serve them until they are unmounted.

    ``ready`` is called with the mount point once the file system answers. The function returns
    after an unmount by somebody else, or after SIGTERM, SIGINT or SIGHUP. A second signal ends it
    even if files are open.
    """
    if request.options.passthrough:
        check_passthrough(
            writable=request.writable,
            routed=request.threads != 0 and not request.unstacked,
            counts_access=request.options.atime,
        )
    source = request.options.fsname or layers.name
    if request.until is not None:
        let_terminate()
    with (
        _signals_held(),
        _kept(layers) as keeper,
        request.lease or nullcontext(),  # released last, but for the hold
        _recorded(layers, request) as held,
        _shown(layers, request) as shown,
    ):
        server = _Server(shown, request)
        with _mounted(held.record.path, source, request) as (mount, connection):
            _enter(layers, mount, keeper)
            held.update(device=mount.device, mount=mount.unique)
            if request.until is not None:
                end_with(request.until)
            statistics = request.table.socket_path(held.record.id)
            with _faults_logged(held.record.mountpoint, request):
                tell = functools.partial(ready, held.record.mountpoint)
                server.run(connection, mount, tell, statistics)


@contextmanager
def _shown(layers: OpenImage | OpenDirectories, request: MountRequest) -> Iterator[ShownFiles]:
    """Open the files that the mount shows."""
    options = request.options
    list_layers = options.list_layers
    facts = replace(_facts(layers), view=options.view)
    if request.unstacked:
        with LayerTrees(layers.tree()) as trees:
            yield ShownFiles(trees, facts, list_layers)
        return
    if request.upper is None:
        yield ShownFiles(layers.tree(), facts, list_layers)
        return
    promises = request.options.promises
    opened = _opened_upper(layers, request.upper, promises=promises, counted=request.counted)
    with _making_files(), opened as upper:
        facts = replace(
            facts,
            layers=(*facts.layers, "upper"),
            has_acls=upper.abilities.acls,
            directory=upper.fd,
        )
        yield ShownFiles(upper.core, facts, list_layers)


@contextmanager
def _opened_upper(
    layers: OpenImage | OpenDirectories, plan: UpperPlan, *, promises: bool, counted: Counted
) -> Iterator[OpenUpper]:
    """Open the upper on the layers; at the end, sync and close it."""
    unpacked = _unpacked(layers)
    has_paths = layers if isinstance(layers, OpenDirectories) else unpacked
    directories = () if has_paths is None else has_paths.paths
    upper = open_upper(plan, layers.tree(), directories, promises=promises, counted=counted)
    try:
        yield upper
    finally:
        _sync(upper)
        upper.close()
        if plan.ended is not None:
            plan.ended()


def _sync(upper: OpenUpper) -> None:
    try:
        upper.core.sync()  # does nothing for a volatile upper
    except OSError:
        log.exception("syncing the upper directory %s", upper.plan.upper)


@contextmanager
def _making_files() -> Iterator[None]:
    """Create files with the requested modes, and open as many as the user may."""
    umask = os.umask(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.umask(umask)


def _facts(layers: OpenImage | OpenDirectories) -> ImageFacts:
    if isinstance(layers, OpenDirectories):
        # It is unknown which files have ACLs, so the kernel has to ask.
        paths = tuple(os.fsdecode(path) for path in layers.paths)
        return ImageFacts(paths, 0, 0, has_acls=True, directory=layers.layers[-1].fd)
    if (unpacked := _unpacked(layers)) is not None:
        names = unpacked.layer_names + ["scaffold"] * layers.has_scaffold
        # As above; what the tool recorded of sizes is that of tars.
        return ImageFacts(tuple(names), 0, 0, has_acls=True, directory=unpacked.descriptor)
    infos = [index.info for index in layers.indexes]
    names = [str(layer.diff_id) for layer in layers.layers]
    return ImageFacts(
        layers=(*names, "scaffold") if layers.has_scaffold else tuple(names),
        bytes=sum(info.file_bytes for info in infos),
        inodes=sum(info.inodes for info in infos),
        has_acls=any(info.acls for info in infos),
    )


def _unpacked(layers: OpenImage | OpenDirectories) -> UnpackedImage | None:
    """Return an image whose layers are directories of another tool; None for all others."""
    if isinstance(layers, OpenDirectories) or not layers.is_unpacked:
        return None
    from unionmount.mounting.unpacked import UnpackedImage  # noqa: PLC0415 - others do without

    assert isinstance(layers, UnpackedImage)
    return layers


@contextmanager
def _kept(layers: OpenImage | OpenDirectories) -> Iterator[Keeper | None]:
    """Have a keeper for an image of another tool, as long as the mount lives."""
    unpacked = _unpacked(layers)
    if unpacked is None or (unpacked.hold is None and unpacked.ids is None):
        yield None
        return
    from unionmount.mounting.keeper import kept  # noqa: PLC0415 - others do without

    with kept(unpacked.hold) as keeper:
        yield keeper


def _enter(layers: OpenImage | OpenDirectories, mount: LiveMount, keeper: Keeper | None) -> None:
    """Go where the files of another tool's image can be read, and watch them.

    If they belong to a user namespace, this process enters it and sees the IDs of the image. The
    mount is outside, where the keeper unmounts it.
    """
    unpacked = _unpacked(layers)
    if unpacked is None:
        return
    from unionmount.mounting.removals import watch  # noqa: PLC0415 - others do without

    if unpacked.ids is not None and os.geteuid():  # root is in the namespace already, as in run
        _enter_users(unpacked.ids, mount, keeper)
    watch(unpacked.paths, unpacked.name)


def _enter_users(ids: NamespaceIds, mount: LiveMount, keeper: Keeper | None) -> None:
    from unionmount.system.user_namespace import enter_users  # noqa: PLC0415 - others do without

    enter_users(ids)
    assert keeper is not None, "it is made for them"
    mount.outside = keeper.unmount


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delay signals until they can be handled, and ignore them at the end.

    At the end, changes are synced, and another signal must not end the process meanwhile.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    handlers = {one: signal.getsignal(one) for one in wanted_signals()}
    for one in handlers:
        signal.signal(one, lambda *_: None)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for one, handler in handlers.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _recorded(layers: OpenImage | OpenDirectories, request: MountRequest) -> Iterator[HeldRecord]:
    """Record the mount, and create its mount point if none was given."""
    table = request.table
    if request.mountpoint is not None:
        check_mountpoint(request.mountpoint)
    plan = request.upper
    record = Record.new(
        image=printable(layers.name),
        source=request.source,
        mountpoint=request.mountpoint,
        root=request.root,
        mode="rw" if request.writable else "ro",
        container="" if plan is None else plan.container,
        upper="" if plan is None else os.fsdecode(plan.upper),
        image_id="" if isinstance(layers, OpenDirectories) else str(layers.image.id),
        layers=len(layers.layers),
    )
    unpacked = _unpacked(layers)
    held_by = str(unpacked.hold) if unpacked is not None and unpacked.hold is not None else ""
    record = replace(record, options=request.said, hold=held_by)
    with table.held(record) as held, _logged(table, record, request):
        if record.automatic:
            made = table.make_mountpoint(record, private=request.private)
            held.update(mountpoint=str(made))
        if request.lease is not None:
            request.lease.describe(f"mounted at {printable(held.record.mountpoint)}")
        try:
            yield held
        finally:
            if record.automatic:
                with suppress(OSError):  # it may not be empty any more
                    held.record.path.rmdir()


@contextmanager
def _logged(table: MountTable, record: Record, request: MountRequest) -> Iterator[None]:
    """Send messages to a log file, which stays if it is not empty."""
    if not request.background:
        yield
        return
    path = table.log_path(record.id)
    daemon.log_to(path)
    try:
        yield
    finally:
        if path.stat().st_size == 0:
            path.unlink()


@contextmanager
def _faults_logged(mountpoint: str, request: MountRequest) -> Iterator[None]:
    """Log why serving ended; an empty log is removed later."""
    try:
        yield
    except UnionmountError:
        raise  # the error is reported to the user, as the mount was not ready
    except Exception as error:
        if request.background:
            what = f"{type(error).__name__}: {error}"
            log.error("serving %s ended: %s", printable(mountpoint), what)  # noqa: TRY400
        raise


@contextmanager
def _mounted(
    mountpoint: Path, name: str, request: MountRequest
) -> Iterator[tuple[LiveMount, FileDescriptor]]:
    """Mount the file system; afterwards it is unmounted, even if it is in use.

    The descriptor is that of the connection. It may be taken over, and is to be closed before the
    block ends.
    """
    fd = mount_fuse(mountpoint, name, request.options, writable=request.writable)
    with FileDescriptor(fd) as connection:
        try:
            mount = _found(mountpoint)
            if request.background:
                mount.left = leave_namespace([request.table.directory, Path(request.root)])
        except BaseException:
            connection.close()
            with suppress(MountError):
                unmount_fuse(mountpoint, lazy=True)
            raise
        try:
            yield mount, connection
        finally:
            connection.close()
            mount.let_go()
            # The connection is closed by now, so unmounting cannot wait for this process.
            _unmount_at_last(mount)


def _found(mountpoint: Path) -> LiveMount:
    """Return the mount that was just made."""
    mounted = mounted_at(mountpoint)
    if mounted is None:
        raise MountError(f"{printable(str(mountpoint))} was unmounted before it was ready")
    return LiveMount(mountpoint, mounted.device)


def _unmount_at_last(mount: LiveMount) -> None:
    try:
        mount.unmount()
    except MountError as error:
        log.error("%s", error)  # noqa: TRY400 - there is no caller left to report to
        raise StillMountedError(str(error)) from error


# ---- serving -------------------------------------------------------------------------------------


class _Server:
    """What answers the kernel; created before the mount, since it imports modules or holds them."""

    def __init__(self, shown: ShownFiles, request: MountRequest) -> None:
        self._shown = shown
        self._passthrough = request.options.passthrough
        self._threads = 0 if isinstance(shown.files, LayerTrees) else request.threads
        self._queues = queues_of(request.options, routed=self._threads > 0)
        self._transport = describe(self._queues)  # the daemon opens no paths later
        self._held = hold_python() if self._threads else None
        self._serve_python = import_python() if self._held is None else None

    def run(
        self,
        connection: FileDescriptor,
        mount: LiveMount,
        ready: Callable[[], None],
        statistics: Path,
    ) -> None:
        """Serve until the mount has ended."""
        if self._held is not None:
            self._held.install()
        with Announcement(mount, ready) as announcement:
            if self._threads:
                self._run_router(connection, Serving(mount, announcement), statistics)
            else:
                announcement.begin()
                self._python()(connection.take(), self._shown, Serving(mount, announcement))

    def _run_router(self, connection: FileDescriptor, serving: Serving, statistics: Path) -> None:
        files = self._shown.files
        assert not isinstance(files, LayerTrees)
        spin = _SPIN_NS if len(os.sched_getaffinity(0)) > 1 else 0
        facts = replace(_router_facts(self._shown), passthrough=self._passthrough)
        fd = connection.take()
        router = Router(files, facts, fd, threads=self._threads, spin_ns=spin, queues=self._queues)
        listener = listening(statistics, router, self._transport)
        with router, FileDescriptor(router.slow) as slow, listener as stats:
            serving.router_ended, serving.stats = router.ended, stats
            router.start()
            self._pass_through(router)
            serving.announcement.begin()
            if self._serve_python is not None or stand_by(serving, slow.fd):
                self._python()(slow.take(), self._shown, serving)
            if router.refused:
                raise refused(router.refused)

    def _pass_through(self, router: Router) -> None:
        if self._passthrough:
            assert self._shown.facts.directory is not None, "check_passthrough wants an upper"
            try_passthrough(router, self._shown.facts.directory)

    def _python(self) -> ServePython:
        """Return what serves requests in Python, imported by now at the latest."""
        if self._serve_python is None:
            self._serve_python = import_python()
        return self._serve_python


def _router_facts(shown: ShownFiles) -> RouterFacts:
    facts = shown.facts
    return RouterFacts(
        layers=facts.layers,
        bytes=facts.bytes,
        inodes=facts.inodes,
        has_acls=facts.has_acls,
        obeys_acls=facts.obeys_acls,
        list_layers=shown.list_layers,
        directory=facts.directory,
        ids=IdMaps(facts.view.users, facts.view.groups),
        keeps=facts.seconds,
        static_nlink=facts.view.static_nlink,
        xattrs=facts.view.xattrs,
    )
