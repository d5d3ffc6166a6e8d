"""A user namespace for this process, in which root has the capabilities that it lacks outside."""

from __future__ import annotations

import os
from pathlib import Path

from unionmount.errors import MountError
from unionmount.system import libc

_BOTH = libc.CLONE_NEWUSER | libc.CLONE_NEWNS
_MAPS = ("uid_map", "gid_map")
_MAX_MESSAGE = 4096
_NAMESPACES = (
    "an administrator can permit it: sysctl user.max_user_namespaces=15000, and on Debian "
    "kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0"
)


def can_make_one() -> bool:
    """Whether this process may make a user namespace with mounts of its own; tried in a child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            libc.call("unshare", _BOTH)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def enter_own() -> None:
    """Move this process, which has one thread, to a new user and mount namespace.

    Users and groups stay what they are, where the process may map them; else only its own do.
    """
    uid, gid = os.geteuid(), os.getegid()
    to_child, from_parent = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _write_maps_of_parent(to_child, from_parent)
    os.close(to_child)
    try:
        _unshare()
    finally:
        os.close(from_parent)  # the child goes on
        _, status = os.waitpid(child, 0)
    if status:
        _map_own(uid, gid)


def enter_mapped(users: str, groups: str) -> None:
    """Move this process, which has one thread, to a new user and mount namespace with these maps.

    The maps are lines of user_namespaces(7) that newuidmap(1) and newgidmap(1) permit this user.
    """
    to_child, from_parent = os.pipe2(os.O_CLOEXEC)
    told, teller = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(from_parent)
        os.close(told)
        _map_parent(to_child, teller, users, groups)
    os.close(to_child)
    os.close(teller)
    try:
        _unshare()
    finally:
        os.close(from_parent)  # the child goes on
        with open(told, "rb") as pipe:  # noqa: PTH123
            message = pipe.read()
        _, status = os.waitpid(child, 0)
    if status:
        raise MountError(os.fsdecode(message).strip() or "newuidmap failed without a message")


def enter_alone() -> None:
    """Move this process to a new user and mount namespace that has one user, root."""
    uid, gid = os.geteuid(), os.getegid()
    _unshare()
    Path("/proc/self/setgroups").write_text("deny")
    for name, own in zip(_MAPS, (uid, gid), strict=True):
        Path("/proc/self", name).write_text(f"0 {own} 1")


def _unshare() -> None:
    try:
        libc.call("unshare", _BOTH)
    except OSError as error:
        raise MountError(f"making a user namespace: {error.strerror}; {_NAMESPACES}") from None


def _map_parent(pipe: int, teller: int, users: str, groups: str) -> None:
    """Map IDs for the parent, once it has entered its namespace."""
    import subprocess  # noqa: PLC0415 - others than ordinary users with ranges do without

    status = 1
    try:
        parent = str(os.getppid())
        os.read(pipe, 1)  # to its end
        for program, lines in (("newuidmap", users), ("newgidmap", groups)):
            done = subprocess.run(
                [program, parent, *lines.split()],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            if done.returncode:
                os.write(teller, done.stderr[-_MAX_MESSAGE:])
                return
        status = 0
    except FileNotFoundError as error:
        os.write(
            teller, os.fsencode(f"{error.filename} is not installed; it is in the package uidmap")
        )
    finally:
        os._exit(status)


def _write_maps_of_parent(pipe: int, other_end: int) -> None:
    """In the namespace that the parent has left: map there all that is mapped here."""
    status = 1
    try:
        os.close(other_end)
        os.read(pipe, 1)  # to its end
        for name in _MAPS:
            ranges = [line.split() for line in Path("/proc/self", name).read_text().splitlines()]
            text = "".join(f"{first} {first} {count}\n" for first, _, count in ranges)
            Path(f"/proc/{os.getppid()}", name).write_text(text)
        status = 0
    finally:
        os._exit(status)


def _map_own(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    for name, own in zip(_MAPS, (uid, gid), strict=True):
        Path("/proc/self", name).write_text(f"{own} {own} 1")
