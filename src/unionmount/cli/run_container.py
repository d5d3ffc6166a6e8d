"""``run`` and ``start``: a container with its monitor, which this process is a client of."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from unionmount.errors import UnionmountError
from unionmount.system import libc
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.cli.mount_sources import Prepared
    from unionmount.cli.settings import Settings
    from unionmount.cli.start_mount import MountStarter
    from unionmount.core import BrowsableTree
    from unionmount.mounting.records import Record
    from unionmount.runtime.assembly import Assembly, Wanted
    from unionmount.runtime.client import Joining
    from unionmount.runtime.live import LiveContainer
    from unionmount.runtime.run_record import RunRecord

_INTERNAL = 125  # exit status where no program was started
_PATIENCE = 60.0  # seconds for a mount to write its changes to the disk


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A container to run, and how this process takes part in it."""

    source: str
    wanted: Wanted | Callable[[BrowsableTree], Wanted]  # or decided by the files of the container
    given: dict[str, Any]  # options of the mount
    joining: Joining
    runtime: str | None
    remove: bool  # the container, once it has ended
    detach: bool


def run_container(settings: Settings, request: RunRequest) -> int:
    """Run a container, and return the exit status of this command."""
    from unionmount.cli.live_containers import live_containers
    from unionmount.cli.mount_container import arguments_of, assembled, own_surroundings
    from unionmount.cli.mount_sources import prepared
    from unionmount.cli.mountpoint import clean_dead
    from unionmount.cli.start_mount import MountStarter
    from unionmount.runtime.client import Client
    from unionmount.runtime.host import find_runtime
    from unionmount.runtime.limits import check

    runtime = find_runtime(request.runtime)
    settings.root = str(settings.store_root())  # root of a user namespace would have another
    around, options = own_surroundings(runtime)
    start = MountStarter(settings, options, None, foreground=False, private=True)
    clean_dead(start.table)
    wanted = arguments_of(request.given)
    with prepared(settings, wanted, request.source, start.table, warns=False) as found:
        name = found.plan.container if found.plan is not None else ""
        live = live_containers(settings).begin(name)
        if around.rootless and found.plan is not None:
            found.plan = replace(found.plan, owners=False)
        with ExitStack() as undo:
            undo.callback(live.close)
            assembly = assembled(found, request.wanted, around, live.bundle, runs_here=True)
            found.warn_if_foreign()
            check(assembly.wanted.limits, rootless=around.rootless)
            ours, theirs = socket.socketpair()
            undo.pop_all()
        if os.fork() == 0:
            ours.close()
            _Child(settings, request, start, found, live, runtime).run(assembly, theirs)
        theirs.close()
        live.abandon()
        found.made.pop_all()
    from unionmount.runtime.channel import MonitorChannel

    sys.stdout.flush()
    with MonitorChannel(ours) as channel:
        status = Client(channel, request.joining).run()
    if status is None and request.detach:
        print(name)
    return status or 0


class _Child:
    """The process that becomes the monitor; it never returns to the caller's code."""

    def __init__(
        self,
        settings: Settings,
        request: RunRequest,
        start: MountStarter,
        found: Prepared,
        live: LiveContainer,
        runtime: str,
    ) -> None:
        self._settings = settings
        self._request = request
        self._start = start
        self._found = found
        self._live = live
        self._runtime = runtime
        self._record: Record | None = None  # of the mount
        self._run_record: RunRecord | None = None
        self._has_started = False

    def run(self, assembly: Assembly, connection: socket.socket) -> NoReturn:
        """Run the container to its end, and exit."""
        from unionmount.runtime.channel import MonitorChannel
        from unionmount.runtime.monitor import failed

        status = 1
        try:
            channel = MonitorChannel(connection)
            try:
                self._run(assembly, channel)
                status = 0
            except UnionmountError as error:
                code = error.exit_code if error.exit_code >= _INTERNAL else _INTERNAL
                self._note_end(code)
                _send_last(channel, failed(code, str(error)))
            except OSError as error:
                where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
                _send_last(channel, failed(_INTERNAL, where + (error.strerror or str(error))))
            except BaseException as error:
                text = f"internal error: {type(error).__name__}: {error}"
                _send_last(channel, failed(_INTERNAL, text))
                raise
        finally:
            os._exit(status)

    def _run(self, assembly: Assembly, channel: Any) -> None:
        from unionmount.cli.mount_container import enter_namespace
        from unionmount.runtime import bundle
        from unionmount.runtime.launch import Launch, become_subreaper, run_to_its_end
        from unionmount.runtime.oci_runtime import OciRuntime
        from unionmount.runtime.run_record import forget

        os.setsid()
        become_subreaper()
        os.chdir("/")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        with ExitStack() as undo:
            undo.callback(self._live.close)
            undo.callback(self._remove_if_wanted)
            if assembly.rootless:
                enter_namespace(self._start.table.directory)
            root = self._mount(channel)
            undo.callback(self._unmount)
            _leave_standard_streams()
            document = assembly.document(root, self._live.bundle, self._cgroup(assembly))
            bundle.write(self._live.bundle, document, assembly.host_files, Path(root))
            runtime = OciRuntime(self._runtime, self._live.oci, rootless=assembly.rootless)
            launch = Launch(
                live=self._live,
                runtime=runtime,
                terminal=assembly.wanted.terminal.wanted,
                interactive=self._request.joining.interactive,
                log=self._log,
                daemon=self._daemon,
                started=lambda pid: self._publish(assembly, pid),
            )
            forget(self._container_path)
            self._keep_record(assembly)  # now: the program may fill the disk
            run_to_its_end(launch, channel, self._note_end, undo.close)

    def _cgroup(self, assembly: Assembly) -> str:
        """Return the path of the control group; empty where there is none of its own."""
        return "" if assembly.rootless else f"/unionmount-{self._live.id}"

    @property
    def _name(self) -> str:
        assert self._found.plan is not None, "containers are writable"
        return self._found.plan.container

    @property
    def _container_path(self) -> Path:
        assert self._found.plan is not None, "containers are writable"
        return self._found.plan.upper.parent

    @property
    def _daemon(self) -> int:
        assert self._record is not None, "called after the mount"
        return self._record.pid

    @property
    def _log(self) -> Path:
        from unionmount.runtime.run_record import LOG

        return self._container_path / LOG

    def _mount(self, channel: Any) -> str:
        roots: list[str] = []
        found = self._found
        self._start.run(
            *(found.image, found.source, found.plan, roots.append, found.lease),
            until=os.pidfd_open(os.getpid()),
            closed=[channel.fileno(), self._live.fileno()],
        )
        if found.held is not None:
            found.held.close()  # the daemon holds the container from now on
        self._record = self._start.table.find(roots[0]).record
        return roots[0]

    def _unmount(self) -> None:
        """End the daemon of the mount, and wait for it: then all changes are on disk.

        A mount namespace that somebody has made meanwhile may have a copy of the mount; the daemon
        does not wait for that.
        """
        from unionmount.cli.mountpoint import clean_dead
        from unionmount.mounting.records import end

        assert self._record is not None, "called after the mount"
        _write_back(self._record.mountpoint)
        end(self._record, _PATIENCE)
        with suppress(ChildProcessError):
            os.waitpid(self._daemon, 0)
        clean_dead(self._start.table)

    def _remove_if_wanted(self) -> None:
        """Remove the container after its end, or if it was made for a start that failed."""
        from unionmount.store.containers import Containers

        held, found = self._found.held, self._found
        if self._request.remove or (found.is_new and not self._has_started):
            if held is not None:
                held.close()
            Containers(self._settings.store()).remove(self._name)

    def _note_end(self, status: int) -> None:
        if self._run_record is not None:
            now = datetime.now(UTC).isoformat()
            ended = replace(self._run_record, exit_status=status, finished=now)
            with suppress(UnionmountError):  # the disk may be full; clients learn of it anyway
                ended.write(self._container_path)

    def _keep_record(self, assembly: Assembly) -> None:
        from unionmount.runtime.run_record import RunRecord

        self._run_record = RunRecord(
            wanted=assembly.wanted,
            interactive=self._request.joining.interactive,
            runtime=self._request.runtime,
            command=shlex.join(assembly.parameters.args),
            started=datetime.now(UTC).isoformat(),
            rootless=assembly.rootless,
        )
        self._run_record.write(self._container_path)

    def _publish(self, assembly: Assembly, pid: int) -> None:
        from unionmount.runtime.live import LiveState

        self._has_started = True
        assert self._record is not None, "called after the mount"
        self._live.write(
            LiveState(
                monitor=os.getpid(),
                pid=pid,
                runtime=self._runtime,
                rootless=assembly.rootless,
                mount=self._record.id,
                command=shlex.join(assembly.parameters.args),
                terminal=assembly.wanted.terminal.wanted,
                started=datetime.now(UTC).isoformat(),
            )
        )


def _write_back(mountpoint: str) -> None:
    """Have the kernel write to the daemon what it still has in memory."""
    with suppress(OSError):
        fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc.call("syncfs", fd)
        finally:
            os.close(fd)


def _send_last(channel: Any, message: bytes) -> None:
    """Send the last message of a monitor that failed; it may wait for its client."""
    os.set_blocking(channel.fileno(), True)
    channel.send(message)


def _leave_standard_streams() -> None:
    """Give up the caller's streams, so that a pipe from ``run -d`` ends."""
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
