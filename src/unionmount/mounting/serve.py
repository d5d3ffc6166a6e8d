"""The life of a mount, from mount(2) to the last clean-up, under one nursery.

The order matters: the record is written, the upper is opened and recovered, the file system is
mounted, served and announced; then the connection is closed, mounts that remain are unmounted, the
upper is synced and closed, and the record and an automatic mount point are removed. Each step is
undone by the context manager that did it, so that a failure leaves nothing behind. When the process
has ended, all changes are on disk.
"""

from __future__ import annotations

import errno
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

import pyfuse3
import trio

from unionmount.core import LayerTrees, Router, RouterFacts
from unionmount.errors import MountError, UnionmountError
from unionmount.images.opened import OpenImage
from unionmount.mounting.directories import OpenDirectories
from unionmount.mounting.fuse_mount import (
    BusyError,
    StillMountedError,
    check_mountpoint,
    mount_fuse,
    unmount_fuse,
    widen_read_ahead,
)
from unionmount.mounting.lifetime import (
    LeftNamespace,
    end_with,
    leave_namespace,
    let_terminate,
)
from unionmount.mounting.options import THREADS_MAX, MountOptions
from unionmount.mounting.read_operations import ImageFacts, ReadingOperations, ReadOnlyOperations
from unionmount.mounting.records import HeldRecord, MountTable, Record
from unionmount.mounting.statistics import serve_stats
from unionmount.mounting.upper_directory import Counted, OpenUpper, UpperPlan, open_upper
from unionmount.mounting.write_operations import WritableOperations
from unionmount.system import daemon
from unionmount.system.mountinfo import mounted_at, mountpoints_of, unique_id
from unionmount.system.text import printable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from unionmount.store.leases import Lease

log = logging.getLogger(__name__)

_INTERRUPTION = 0.1  # seconds
_THREADS = 8  # default maximum of the router's threads
_SPIN_NS = 50_000  # time for which a thread polls for the next request before it sleeps
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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


class _Interruptions:
    """A context manager during which a signal interrupts the main thread periodically.

    pyfuse3 waits until /dev/fuse has a request, then reads it: a blocking read that holds the GIL.
    If the request is withdrawn in between (because its process was killed), the read waits for the
    next one, and the answers of threads cannot be sent meanwhile, although somebody may wait for
    them. A signal ends the read, and pyfuse3 continues.
    """

    def __init__(self) -> None:
        self._entered = 0

    def __enter__(self) -> None:
        self._entered += 1
        if self._entered == 1:
            signal.setitimer(signal.ITIMER_REAL, _INTERRUPTION, _INTERRUPTION)

    def __exit__(self, *_: object) -> None:
        self._entered -= 1
        if self._entered == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)


class LiveMount:
    """A mounted file system, identified by its device, since it may be moved or bind-mounted.

    ``ended``: the kernel has closed the connection, usually because it is not mounted any more.
    Then another file system may reuse the number of its device.
    """

    def __init__(self, mountpoint: Path, device: str) -> None:
        self.mountpoint = mountpoint
        self.device = device
        # The root is held open, so that nobody unmounts it before it was seen to answer.
        self._root: int | None = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.router: Router | None = None  # None: pyfuse3 serves alone
        self.unique = unique_id(mountpoint)  # now: it does not show where the daemon goes
        self.left: LeftNamespace | None = None  # the namespace of the mount, if the daemon left it
        self.given_up = False  # whether the daemon ends, even if mounts remain
        self.ended = False

    def answers(self) -> bool:
        """Return whether the file system answers; False if another one is mounted there by now."""
        assert self._root is not None, "asked once"
        try:
            os.statvfs(self._root)
            status = os.fstat(self._root)
            return f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}" == self.device
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Close the root, so that others can unmount the file system."""
        root, self._root = self._root, None
        if root is not None:
            os.close(root)

    def unmount(self) -> None:
        """Unmount the file system everywhere; its users keep their open files."""
        if self.left is None:
            self._unmount_here()
        else:
            self.left.run(self._unmount_here)

    def _unmount_here(self) -> None:
        for place in mountpoints_of(self.device):
            if self.ended and not _is_dead(place):
                continue  # another file system
            try:
                note = unmount_fuse(place)
            except BusyError:
                note = unmount_fuse(place, lazy=True)
            if note:
                log.warning("%s", note)


def _is_dead(mountpoint: Path) -> bool:
    """Return whether the file system at the mount point has lost its server."""
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def run_mount(
    layers: OpenImage | OpenDirectories, request: MountRequest, ready: daemon.Ready
) -> None:
    """Mount ``layers`` and serve them until they are unmounted.

    ``ready`` is called with the mount point once the file system answers. The function returns
    after an unmount by somebody else, or after SIGTERM, SIGINT or SIGHUP. A second signal ends it
    even if files are open.
    """
    source = request.options.fsname or layers.name
    if request.until is not None:
        let_terminate()
    with (
        _signals_held(),
        request.lease or nullcontext(),  # released last
        _interruptions() as pending,
        _recorded(layers, request) as held,
        _operations(layers, request, pending) as operations,
        _mounted(held.record.path, source, request, operations) as mount,
    ):
        held.update(device=mount.device, mount=mount.unique)
        if request.until is not None:
            end_with(request.until)
        statistics = request.table.socket_path(held.record.id)
        with _faults_logged(held.record.mountpoint, request):
            trio.run(_serve, mount, functools.partial(ready, held.record.mountpoint), statistics)


@contextmanager
def _operations(
    layers: OpenImage | OpenDirectories,
    request: MountRequest,
    pending: AbstractContextManager[None],
) -> Iterator[ReadingOperations]:
    """Create the handlers, and keep the upper open that they need."""
    options = request.options
    facts, list_layers = _facts(layers), options.list_layers
    facts = replace(facts, view=options.view)
    if request.unstacked:
        with LayerTrees(layers.tree()) as trees:
            yield ReadOnlyOperations(trees, facts, list_layers=list_layers, pending=pending)
        return
    if request.upper is None:
        yield ReadOnlyOperations(layers.tree(), facts, list_layers=list_layers, pending=pending)
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
        operations = WritableOperations(upper.core, facts, list_layers=list_layers, pending=pending)
        try:
            yield operations
        finally:
            operations.close()


@contextmanager
def _opened_upper(
    layers: OpenImage | OpenDirectories, plan: UpperPlan, *, promises: bool, counted: Counted
) -> Iterator[OpenUpper]:
    """Open the upper on the layers; at the end, sync and close it."""
    directories = layers.paths if isinstance(layers, OpenDirectories) else ()
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
    infos = [index.info for index in layers.indexes]
    return ImageFacts(
        layers=tuple(str(layer.diff_id) for layer in layers.layers),
        bytes=sum(info.file_bytes for info in infos),
        inodes=sum(info.inodes for info in infos),
        has_acls=any(info.acls for info in infos),
    )


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delay signals until they can be handled, and ignore them at the end.

    At the end, changes are synced, and another signal must not end the process meanwhile.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    handlers = {one: signal.getsignal(one) for one in _wanted_signals()}
    for one in handlers:
        signal.signal(one, lambda *_: None)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for one, handler in handlers.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)


def _wanted_signals() -> list[signal.Signals]:
    """Return the signals that the caller did not ignore."""
    return [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]


@contextmanager
def _interruptions() -> Iterator[_Interruptions]:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        yield _Interruptions()
    finally:
        signal.signal(signal.SIGALRM, before)


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
        image_id=str(layers.image.id) if isinstance(layers, OpenImage) else "",
        layers=len(layers.layers),
    )
    record = replace(record, options=request.said)
    with table.held(record) as held, _logged(table, record, request):
        if record.automatic:
            made = table.make_mountpoint(record)
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
    mountpoint: Path, name: str, request: MountRequest, operations: ReadingOperations
) -> Iterator[LiveMount]:
    """Mount the file system and connect pyfuse3; at the end, unmount it even if it is in use."""
    fd = mount_fuse(mountpoint, name, request.options, writable=request.writable)
    try:
        mount = _found(mountpoint)
        if request.background:
            mount.left = leave_namespace()
    except BaseException:
        os.close(fd)
        with suppress(MountError):
            unmount_fuse(mountpoint, lazy=True)
        raise
    try:
        with _connected(fd, request, operations) as mount.router:
            yield mount
    finally:
        mount.let_go()
        # The connection is closed now, so unmounting cannot wait for this process.
        _unmount_at_last(mount)


def _unmount_at_last(mount: LiveMount) -> None:
    try:
        mount.unmount()
    except MountError as error:
        log.error("%s", error)  # noqa: TRY400 - nobody waits for an answer any more
        raise StillMountedError(str(error)) from error


@contextmanager
def _connected(
    fd: int, request: MountRequest, operations: ReadingOperations
) -> Iterator[Router | None]:
    """Serve a descriptor by the router and pyfuse3, or by pyfuse3 alone."""
    files = operations.files
    if request.threads == 0 or isinstance(
        files, LayerTrees
    ):  # unstacked layers are served by pyfuse3 only
        with _connected_to_pyfuse3(fd, operations):
            yield None
        return
    spin = _SPIN_NS if len(os.sched_getaffinity(0)) > 1 else 0
    router = Router(files, _router_facts(operations), fd, threads=request.threads, spin_ns=spin)
    with router, _connected_to_pyfuse3(router.slow, operations):
        router.start()
        yield router


@contextmanager
def _connected_to_pyfuse3(fd: int, operations: ReadingOperations) -> Iterator[None]:
    try:
        pyfuse3.init(operations, f"/dev/fd/{fd}", set())  # libfuse closes the descriptor
    except BaseException:
        os.close(fd)
        raise
    try:
        yield
    finally:
        pyfuse3.close(unmount=False)


def _router_facts(operations: ReadingOperations) -> RouterFacts:
    facts = operations.facts
    return RouterFacts(
        layers=facts.layers,
        bytes=facts.bytes,
        inodes=facts.inodes,
        has_acls=facts.has_acls,
        obeys_acls=operations.enable_acl,
        list_layers=operations.list_layers,
        directory=facts.directory,
        ids=operations.ids,
        keeps=operations.seconds,
        static_nlink=facts.view.static_nlink,
        xattrs=facts.view.xattrs,
    )


def _found(mountpoint: Path) -> LiveMount:
    """Return the file system that was just mounted."""
    mounted = mounted_at(mountpoint)
    if mounted is None:
        raise MountError(f"{printable(str(mountpoint))} was unmounted before it was ready")
    return LiveMount(mountpoint, mounted.device)


async def _serve(mount: LiveMount, ready: Callable[[], None], statistics: Path) -> None:
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_unmount_on_signal, mount)
            if mount.router is not None:
                await nursery.start(serve_stats, statistics, mount.router)
                nursery.start_soon(_end_with, mount.router)
            nursery.start_soon(_announce, mount, ready)
            await pyfuse3.main()
            mount.ended = not mount.given_up
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _end_with(router: Router) -> None:
    """Make pyfuse3 end with the mount, of whose end only the router learns."""
    await trio.lowlevel.wait_readable(router.ended)
    pyfuse3.terminate()


def _first(error: BaseException) -> BaseException:
    """Return the first error of a nursery, as users see only one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _announce(mount: LiveMount, ready: Callable[[], None]) -> None:
    """Announce the mount as soon as it answers."""
    where = printable(str(mount.mountpoint))
    try:
        # The thread is abandoned if the main loop ends first; closing the connection wakes it up.
        answers = await trio.to_thread.run_sync(mount.answers, abandon_on_cancel=True)
    except OSError as error:
        raise MountError(f"the new mount at {where} does not answer: {error.strerror}") from None
    if not answers:
        raise MountError(f"{where} was unmounted before it was ready")
    widen_read_ahead(mount.device)  # not before INIT was answered, which would reset it
    ready()


async def _unmount_on_signal(
    mount: LiveMount, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Unmount at the first signal, but serve remaining users; end at the second."""
    with trio.open_signal_receiver(*_wanted_signals()) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        task_status.started()
        await anext(signals)
        try:
            await trio.to_thread.run_sync(mount.unmount)
        except MountError:
            log.exception("after a signal")
        await anext(signals)
        mount.given_up = True
        pyfuse3.terminate()
