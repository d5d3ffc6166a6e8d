"""Mounting and unmounting FUSE file systems: by mount(2) for root, by fusermount3 for others.

Both give a descriptor of ``/dev/fuse`` that is already connected to a mount point; its holder
serves the mount. When the last copy is closed, the mount is dead ("Transport endpoint is not
connected") until it is unmounted.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from unionmount.errors import MountError
from unionmount.mounting.advice import DEVICE, about_device, about_fusermount, about_mount
from unionmount.mounting.options import MountOptions
from unionmount.system import libc
from unionmount.system.mountinfo import FILE_SYSTEM
from unionmount.system.text import printable

_SELINUX = Path("/sys/fs/selinux/enforce")  # there where SELinux is in force

_READ_AHEAD = 512  # KiB

_SOURCE_MAX = 1024  # bytes; the kernel takes a page, readers of the mount table take less


class BusyError(MountError):
    """A mount is in use, perhaps by ``users``, and was not to be detached."""

    def __init__(self, mountpoint: Path, users: str = "") -> None:
        by = f" by {users}" if users else ""
        where = printable(str(mountpoint))
        super().__init__(
            f"{where} is in use{by}; use --lazy to detach it now and let its users finish"
        )


class StillMountedError(MountError):
    """A daemon ends without being able to unmount its mount."""


def mount_fuse(
    mountpoint: Path, source: str, options: MountOptions, *, writable: bool = False
) -> int:
    """Mount at ``mountpoint``, an absolute path, and return the descriptor for serving it."""
    check_mountpoint(mountpoint)
    source = _shown_source(source)
    if os.geteuid() == 0:
        return _mount_directly(mountpoint, source, options, writable=writable)
    return _mount_by_helper(mountpoint, source, options, writable=writable)


def unmount_fuse(mountpoint: Path, *, lazy: bool = False) -> str:
    """Unmount the topmost mount at ``mountpoint``; raise BusyError if it is in use.

    Return a note for the user if another way than the usual one was necessary.
    """
    if os.geteuid() == 0:
        _unmount_directly(mountpoint, lazy=lazy)
        return ""
    try:
        _unmount_by_helper(mountpoint, lazy=lazy)
    except BusyError:
        raise
    except MountError as error:
        return _unmount_otherwise(mountpoint, error, lazy=lazy)
    return ""


def check_mountpoint(mountpoint: Path) -> None:
    """Raise an error if nothing can be mounted at ``mountpoint``."""
    where = printable(str(mountpoint))
    try:
        mode = mountpoint.stat().st_mode
        os.statvfs(mountpoint)  # asks the server, while stat may be answered from a cache
    except FileNotFoundError:
        raise MountError(
            f"mount point {where} does not exist; create the directory first"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountError(
                f"a dead mount is at {where}; unmount it first with 'unionmount umount'"
            ) from None
        raise MountError(f"mount point {where}: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise MountError(f"mount point {where} is not a directory")


def widen_read_ahead(device: str) -> None:
    """Let the kernel read 512 KiB ahead on a live mount, if this is root's.

    The kernel offers 128 KiB to FUSE and accepts no more from the server; the value set here
    (Documentation/ABI/testing/sysfs-class-bdi) makes each READ of a large file four times as large.
    """
    setting = Path("/sys/class/bdi", device, "read_ahead_kb")
    with suppress(OSError, ValueError):  # for an ordinary user, or without a writable /sys
        if int(setting.read_text()) < _READ_AHEAD:
            setting.write_text(str(_READ_AHEAD))


def _shown_source(name: str) -> str:
    """Return an image's name for mount tables: one printable word of bounded length."""
    clean = printable(name).encode("utf-8", "replace")[:_SOURCE_MAX]
    return clean.decode("utf-8", "ignore") or "unionmount"


# ---- root: mount(2) ------------------------------------------------------------------------------


def _mount_directly(mountpoint: Path, source: str, options: MountOptions, *, writable: bool) -> int:
    fd = _open_device()
    data = mount_data(fd, options, labels=_SELINUX.exists())
    flags = _flags(options, writable=writable)
    target, kind = os.fsencode(mountpoint), FILE_SYSTEM.encode()
    try:
        libc.call("mount", source.encode(), target, kind, flags, data.encode())
    except OSError as error:
        os.close(fd)
        raise MountError(f"mounting at {printable(str(mountpoint))}: {_why_not(error)}") from None
    return fd


def mount_data(fd: int, options: MountOptions, *, labels: bool) -> str:
    """Return what mount(2) takes as data; ``labels``: SELinux is there to read them."""
    words = [f"fd={fd}", "rootmode=40000", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
    words += ["default_permissions"]
    words += ["allow_other"] if options.for_others(root=True) else []
    words += options.labels if labels else ()
    return ",".join(words)


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"{DEVICE}: {error.strerror} ({about_device(error)})") from None


def _flags(options: MountOptions, *, writable: bool) -> int:
    # With MS_POSIXACL the kernel leaves the umask to the server, like with FUSE_DONT_MASK: it does
    # not apply where a default ACL is inherited, and could not be undone afterwards.
    flags = libc.MS_POSIXACL if writable else libc.MS_RDONLY
    flags |= 0 if options.suid else libc.MS_NOSUID
    flags |= 0 if options.dev else libc.MS_NODEV
    flags |= 0 if options.exec else libc.MS_NOEXEC
    flags |= 0 if options.atime else libc.MS_NOATIME  # the default is relatime
    flags |= 0 if options.diratime else libc.MS_NODIRATIME
    flags |= 0 if options.symfollow else libc.MS_NOSYMFOLLOW
    return flags


def _why_not(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return f"not permitted ({about_mount()})"
    if error.errno == errno.ENODEV:
        return "the kernel does not know FUSE"
    return error.strerror or str(error)


def _unmount_directly(mountpoint: Path, *, lazy: bool) -> None:
    flags = libc.UMOUNT_NOFOLLOW | (libc.MNT_DETACH if lazy else 0)
    try:
        libc.call("umount2", os.fsencode(mountpoint), flags)
    except OSError as error:
        raise _unmount_error(mountpoint, error.errno, error.strerror or str(error)) from None


# ---- others: fusermount3 -------------------------------------------------------------------------


def _mount_by_helper(
    mountpoint: Path, source: str, options: MountOptions, *, writable: bool
) -> int:
    import socket  # noqa: PLC0415 - root needs neither
    import subprocess  # noqa: PLC0415

    words = _helper_options(source, options, writable=writable)
    os.close(_open_device())  # fusermount3 opens it with the rights of this user, too
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            command = [_helper(), "-o", words, "--", str(mountpoint)]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
                pass_fds=[theirs.fileno()],
            )
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        _, message = process.communicate()
    if not fds:
        why = about_fusermount(_helper()) if b"not permitted" in message else ""
        told = _helper_message(message) + (f" ({why})" if why else "")
        raise MountError(f"mounting at {printable(str(mountpoint))}: {told}")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _found_program(name: str) -> str | None:
    import shutil  # noqa: PLC0415 - root needs no program

    return shutil.which(name, path=os.environ.get("PATH") or os.defpath)


def _helper() -> str:
    for name in ("fusermount3", "fusermount"):
        if found := _found_program(name):
            return found
    raise MountError(
        f"fusermount3 is not installed, which users other than root need: {about_fusermount(None)}"
    )


def _helper_options(source: str, options: MountOptions, *, writable: bool) -> str:
    for name, wanted in (
        ("dev", options.dev),
        ("suid", options.suid),
        ("nodiratime", not options.diratime),
        ("nosymfollow", not options.symfollow),
    ):
        if wanted:
            raise MountError(f"-o {name}: only root may use this option")
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")
    words = ["rw" if writable else "ro", "nosuid", "nodev", "subtype=unionmount"]
    words += [f"fsname={escaped}"]
    if options.checks_permissions(root=False, writable=writable):
        words += ["default_permissions"]
    words += ["noexec"] if not options.exec else []
    words += ["noatime"] if not options.atime else []
    words += ["allow_other"] if options.for_others(root=False) else []
    words += options.labels if _SELINUX.exists() else ()
    return ",".join(words)


def _helper_message(stderr: bytes) -> str:
    """Return the message of a program in one line, without its name."""
    lines = stderr.decode("utf-8", "surrogateescape").splitlines()
    said = [line.partition(": ")[2] or line for line in lines if line.strip()]
    return printable("; ".join(said)) or "it failed without a message"


def _unmount_by_helper(mountpoint: Path, *, lazy: bool) -> None:
    _run_unmounting([_helper(), "-u", *(["-z"] if lazy else []), "--"], mountpoint)


def _unmount_otherwise(mountpoint: Path, failure: MountError, *, lazy: bool) -> str:
    """Unmount by umount(8), which lets the owner of a FUSE mount do so.

    It reads the table of the kernel, while fusermount3 needs /etc/mtab.
    """
    program, where = _found_program("umount"), printable(str(mountpoint))
    advice = f"; root can: umount {'-l ' if lazy else ''}{where}"
    if program is None:
        raise MountError(f"{failure}; umount(8) is not installed either{advice}") from None
    try:
        _run_unmounting([program, *(["-l"] if lazy else []), "--"], mountpoint)
    except BusyError:
        raise
    except MountError as error:
        raise MountError(f"{failure}; {error}{advice}") from None
    return f"{failure}; {where} was unmounted by umount(8) instead"


def _run_unmounting(command: list[str], mountpoint: Path) -> None:
    import subprocess  # noqa: PLC0415 - root needs no helper

    done = subprocess.run(
        [*command, str(mountpoint)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=os.environ | {"LC_ALL": "C"},
        check=False,
    )
    if done.returncode:
        name, message = Path(command[0]).name, _helper_message(done.stderr)
        # fusermount3 says "Device or resource busy", umount(8) "target is busy".
        busy = os.strerror(errno.EBUSY) in message or message.endswith(("busy", "busy."))
        raise _unmount_error(mountpoint, errno.EBUSY if busy else None, f"{name}: {message}")


def _unmount_error(mountpoint: Path, code: int | None, message: str) -> MountError:
    where = printable(str(mountpoint))
    if code == errno.EBUSY:
        return BusyError(mountpoint)
    if code == errno.EINVAL:
        return MountError(f"{where} is not mounted")
    return MountError(f"unmounting {where}: {message}")
