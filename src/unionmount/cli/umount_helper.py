"""``umount.fuse.unionmount``: the program that umount(8) calls for our mounts.

::

    umount.fuse.unionmount DIR [-flnrv] [-N NAMESPACE] [-t TYPE]

The kernel returns from the unmount of a FUSE file system before the daemon has written all changes
to the disk and closed the directories that it holds. A second umount(8), of the disk below, or the
stop of the next unit of systemd, would find that disk busy. So this program has umount(8) unmount,
with its own rights, rules and exit status (``umount -i``), and then waits for the daemon. Of a busy
mount it names the processes that use it.
"""

from __future__ import annotations

import getopt
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unionmount.cli.helper_program import SYSTEM, program_name, run_helper
from unionmount.errors import UnionmountError, UsageError
from unionmount.mounting.records import (
    MountTable,
    Record,
    process_start,
    process_state,
    wait_until_gone,
)
from unionmount.system.mountinfo import FILE_SYSTEM, MountedAt, mounted_at, mountpoints_of
from unionmount.system.text import printable

_PATIENCE = 60.0  # seconds that a daemon has to write its changes
_DOUBT = 10.0  # the same, if the file system may exist elsewhere for all that is known
_PROGRAMS = ("/usr/bin/umount", "/bin/umount")
_BUSY = b"busy"  # EBUSY, in the words of umount(8) without translations


@dataclass(frozen=True, slots=True)
class _UnmountCall:
    """The command line that umount(8) wrote."""

    target: str
    flags: tuple[str, ...]  # for the other umount(8)
    lazy: bool
    elsewhere: bool  # in another mount namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Unmount as umount(8) asks; returns the exit status that it expects."""
    words = sys.argv[1:] if arguments is None else arguments
    return run_helper(lambda: _run(_parse(words)))


def _parse(arguments: Sequence[str]) -> _UnmountCall:
    try:
        found, words = getopt.gnu_getopt(list(arguments), "flnrvN:t:")
    except getopt.GetoptError as error:
        raise UsageError(f"{error.msg} (see umount(8))") from None
    if len(words) != 1:
        raise UsageError("usage: umount.fuse.unionmount DIR [-flnrv] [-N NAMESPACE] [-t TYPE]")
    flags = [word for option in found if option[0] != "-t" for word in option if word]
    return _UnmountCall(words[0], tuple(flags), lazy="-l" in flags, elsewhere="-N" in flags)


def _run(call: _UnmountCall) -> int:
    mounted = None if call.elsewhere else _mounted(call.target)
    record = _record_of(mounted)
    done = _umount(call, mounted)
    if done == 0 and record is not None and not call.lazy:
        _wait_for(record)
    if done == 0 and mounted is not None:
        _clean()
    return done


def _mounted(target: str) -> MountedAt | None:
    """Return the mount of ours at the target, which umount(8) names by its real path."""
    found = mounted_at(Path(target))
    return found if found is not None and found.file_system == FILE_SYSTEM else None


def _record_of(mounted: MountedAt | None) -> Record | None:
    """Return the record of a mount; None for that of another user, for one."""
    if mounted is None:
        return None
    with suppress(UnionmountError, OSError):  # the unmount itself does not need it
        for one in MountTable.of_user().all():
            if one.alive and one.record.device == mounted.device:
                return one.record
    return None


def _umount(call: _UnmountCall, mounted: MountedAt | None) -> int:
    """Have umount(8) unmount without this program, and pass on what it says."""
    program = next((path for path in _PROGRAMS if os.access(path, os.X_OK)), "umount")
    # Without -c, which only root may use, the daemon would be asked, and it may be stopped.
    alone = ["-i"] if os.geteuid() else ["-i", "-c"]
    command = [program, *alone, *call.flags, "--", call.target]
    try:
        done = subprocess.run(
            command, stderr=subprocess.PIPE, env=os.environ | {"LC_ALL": "C"}, check=False
        )
    except OSError as error:
        print(f"{program_name()}: {program}: {error.strerror}", file=sys.stderr)
        return SYSTEM
    sys.stderr.buffer.write(done.stderr)
    sys.stderr.buffer.flush()
    if done.returncode and _BUSY in done.stderr and mounted is not None:
        _name_holders(mounted)
    return done.returncode if done.returncode >= 0 else SYSTEM


def _name_holders(mounted: MountedAt) -> None:
    from unionmount.mounting.holders import described, holders_of

    others = [one for one in holders_of(mounted.device) if one.pid != os.getppid()]
    if users := described(others, paths=True):
        where = printable(str(mounted.mountpoint))
        print(f"{program_name()}: {where} is in use by {users}", file=sys.stderr)


def _clean() -> None:
    """Remove records of daemons that were killed; this mount's may be one."""
    from unionmount.cli.mountpoint import clean_dead

    with suppress(UnionmountError, OSError):
        clean_dead(MountTable.of_user())


def _wait_for(record: Record) -> None:
    """Wait until the daemon has written everything, unless it goes on for another mount."""
    from unionmount.mounting.connection import is_connected

    if mountpoints_of(record.device) or process_start(record.pid) != record.started:
        return
    connected = is_connected(record.pid)
    if connected:  # in another mount namespace, or of a file that is open
        return
    where = f"{printable(record.mountpoint)} is unmounted, but process {record.pid}"
    if process_state(record.pid) in ("T", "t"):
        why = f"is stopped, with changes that may not be on disk; run 'kill -CONT {record.pid}'"
        print(f"{program_name()}: {where} {why}", file=sys.stderr)
    elif not wait_until_gone(record, _DOUBT if connected is None else _PATIENCE):
        print(f"{program_name()}: {where} still writes changes to the disk", file=sys.stderr)
