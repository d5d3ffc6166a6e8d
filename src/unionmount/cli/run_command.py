"""``unionmount mount … -- COMMAND``: a command that lives as long as its mount, and vice versa."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from unionmount.errors import MountError
from unionmount.system.pass_signals import passing_signals
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.mounting.records import MountTable, Status

MOUNTPOINT_VARIABLE = "UNIONMOUNT_MOUNTPOINT"

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as a shell has it


def enter_namespace_if_needed() -> None:
    """Root that may not mount does so in a user namespace of its own, where it may have one."""
    from unionmount.system.trust import is_admin
    from unionmount.system.user_namespace import can_make_one, enter_own

    if os.geteuid() == 0 and not is_admin() and can_make_one():
        enter_own()


def run_with_mount(table: MountTable, path: str, words: Sequence[str]) -> int:
    """Run a command while ``path`` is mounted, then take the mount away; its exit status."""
    found = table.find(path)
    try:
        return _run(words, path)
    finally:
        _unmount(table, found)


def _run(words: Sequence[str], path: str) -> int:
    if not words[0]:  # which execve(2) takes for a file without permission
        print("unionmount: the name of the command is empty", file=sys.stderr)
        return _NOT_FOUND
    environment = os.environ | {MOUNTPOINT_VARIABLE: path}
    try:
        with passing_signals() as processes:
            process = subprocess.Popen(list(words), env=environment)
            processes.append(process)
            status = process.wait()
    except FileNotFoundError:
        print(f"unionmount: {printable(words[0])}: command not found", file=sys.stderr)
        return _NOT_FOUND
    except OSError as error:
        print(f"unionmount: {printable(words[0])}: {error.strerror}", file=sys.stderr)
        return _NOT_EXECUTABLE
    return 128 - status if status < 0 else status


def _unmount(table: MountTable, found: Status) -> None:
    """Take the mount away; programs that the command left behind keep it, detached."""
    from unionmount.cli.commands.umount import unmount
    from unionmount.cli.take_away import take_away
    from unionmount.mounting.fuse_mount import BusyError

    # The command may have unmounted or moved it.
    now = next((one for one in table.all() if one.record.id == found.record.id), None)
    if now is None or not now.alive:
        return
    found = now
    try:
        unmount(table, found)
    except BusyError as error:
        text = str(error).partition("; ")[0]
        print(f"unionmount: {text}: it is detached, and ends with its last user", file=sys.stderr)
        take_away(found, lazy=True)
    except MountError as error:
        print(f"unionmount: {error}", file=sys.stderr)
