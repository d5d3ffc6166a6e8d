"""A user namespace for this process, in which root has the capabilities that it lacks outside."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import MountError
from unionmount.system import libc
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.system.id_map import NamespaceIds

_BOTH = libc.CLONE_NEWUSER | libc.CLONE_NEWNS
_MAPS = ("uid_map", "gid_map")
_MAX_MESSAGE = 4096
_SYSCTL = Path("/proc/sys")
_LIMIT = "user.max_user_namespaces"
# Settings of distributions that forbid it, with the value that does.
_FORBIDDING = (
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
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
    _enter_mapped(users, groups, _BOTH)


def enter_users(ids: NamespaceIds) -> None:
    """Do the same for the users alone: this process stays in its mount namespace."""
    users, groups = (
        "\n".join(f"{one.stored} {one.shown} {one.size}" for one in ranges)
        for ranges in (ids.users, ids.groups)
    )
    _enter_mapped(users, groups, libc.CLONE_NEWUSER)


def _enter_mapped(users: str, groups: str, flags: int) -> None:
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
        _unshare(flags)
    finally:
        os.close(from_parent)  # the child goes on
        with open(told, "rb") as pipe:  # noqa: PTH123
            message = pipe.read()
        _, status = os.waitpid(child, 0)
    if status:
        raise MountError(_last_line(message) or "newuidmap failed without a message")


def _last_line(message: bytes) -> str:
    """Return what newuidmap said, with a hint where it lacks the rights to map."""
    lines = os.fsdecode(message).strip().splitlines()
    hint = "; it has no rights to map, so install the package uidmap again"
    return "".join(printable(one) + hint * ("write to" in one) for one in lines[-1:])


def enter_alone() -> None:
    """Move this process to a new user and mount namespace that has one user, root."""
    uid, gid = os.geteuid(), os.getegid()
    _unshare()
    try:
        Path("/proc/self/setgroups").write_text("deny")
        for name, own in zip(_MAPS, (uid, gid), strict=True):
            Path("/proc/self", name).write_text(f"0 {own} 1")
    except OSError as error:
        raise MountError(f"making a user namespace: {refusal(error.errno or 0)}") from None


def _unshare(flags: int = _BOTH) -> None:
    try:
        libc.call("unshare", flags)
    except OSError as error:
        raise MountError(f"making a user namespace: {refusal(error.errno or 0)}") from None


def refusal(number: int, settings: Path = _SYSCTL) -> str:
    """Return why unshare(2) failed with this error, and what an administrator can do."""
    if number == errno.ENOSPC:
        return (
            f"the limit {_LIMIT} is reached, which is {_sysctl(settings, _LIMIT)}; an "
            f"administrator can raise it: sysctl {_LIMIT}=15000"
        )
    if number == errno.EUSERS:
        return "this process is in too many of them already; start it outside of containers"
    if number in (errno.EINVAL, errno.ENOSYS):
        return "the kernel has none (CONFIG_USER_NS); run this as root"
    for name, forbids, permits in _FORBIDDING:
        if _sysctl(settings, name) == forbids:
            return (
                f"{name} is {forbids}, which forbids it; an administrator can permit it: sysctl "
                f"{name}={permits}"
            )
    if _has_seccomp_filter():
        return (
            f"{os.strerror(number)}, probably by the seccomp filter of a container around this "
            "process; whoever starts it can permit it: --security-opt seccomp=unconfined"
        )
    return f"{os.strerror(number)}; run this as root, or outside of chroot and containers"


def _sysctl(settings: Path, name: str) -> str:
    try:
        return (settings / name.replace(".", "/")).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "unknown"


def _has_seccomp_filter() -> bool:
    try:
        return "\nSeccomp:\t2\n" in Path("/proc/self/status").read_text(encoding="ascii")
    except (OSError, ValueError):
        return False


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
    except OSError as error:
        os.write(teller, os.fsencode(f"{error.filename}: {error.strerror}"))
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
