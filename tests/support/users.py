"""Being somebody without privileges for a while, where root runs the tests."""

from __future__ import annotations

import fcntl
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NOBODY = 65534
_ALLOW_OTHER = b"user_allow_other"
_FUSE_MODE = "UNIONMOUNT_TEST_FUSE_MODE"
BECOME = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
# A virtual environment may stand in root's home, where only root gets to its Python. The user may
# then read (not write) everywhere, but not mount; setuid programs do not inherit that.
_READ_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def become_nobody(*, in_shell: bool = False) -> tuple[str, ...]:
    """The command that runs another one, written in Python, as an ordinary user.

    With ``in_shell`` a shell is run that starts such commands: it has lost the rights with which
    setpriv still finds its own program.
    """
    if os.geteuid():
        return ()
    direct = (sys.executable, "-c", "")
    probe = ("sh", "-c", '"$0" -c ""', sys.executable) if in_shell else direct
    reaches = subprocess.run([*BECOME, *probe], check=False, stderr=-3)
    return BECOME if reaches.returncode == 0 else (*BECOME, *_READ_ALL)


def public_place() -> Path:
    """Where temporary files go that others are to reach; TMPDIR may be one user's own."""
    places = [Path(place).resolve() for place in (tempfile.gettempdir(), "/tmp", "/var/tmp")]
    return next((place for place in places if _is_open(place)), places[0])


def _is_open(place: Path) -> bool:
    """Whether every user may enter and the caller may write."""
    way = (place, *place.parents)
    return os.access(place, os.W_OK) and all(path.stat().st_mode & stat.S_IXOTH for path in way)


def remember_fuse_mode(device: Path = Path("/dev/fuse")) -> None:
    """Note the mode that /dev/fuse goes back to, for all processes of a run."""
    if device.exists():
        os.environ.setdefault(_FUSE_MODE, f"{device.stat().st_mode & 0o7777:o}")


@contextmanager
def fuse_for_all(device: Path = Path("/dev/fuse")) -> Iterator[None]:
    """/dev/fuse open to every user, until the last process that wants it so is done."""
    if os.geteuid() or not device.exists():
        yield
        return
    remember_fuse_mode(device)
    users = os.open(device.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(users, fcntl.LOCK_SH)
        device.chmod(0o666)
        yield
    finally:
        with suppress(BlockingIOError):  # somebody else still wants it
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            device.chmod(int(os.environ[_FUSE_MODE], 8))
        os.close(users)


@contextmanager
def fuse_conf(*, allows_others: bool) -> Iterator[None]:
    """/etc/fuse.conf that lets users open their mounts to others, or does not.

    One process at a time has its way: every test that depends on this setting asks for it here.
    """
    path = Path("/etc/fuse.conf")
    turn = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        before = path.read_bytes() if path.exists() else None
        lines = (before or b"").splitlines()
        kept = [line for line in lines if line.strip() != _ALLOW_OTHER]
        path.write_bytes(b"\n".join([*kept, _ALLOW_OTHER if allows_others else b"", b""]))
        try:
            yield
        finally:
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)
    finally:
        os.close(turn)


def call_as(
    uid: int, function: Callable[[], Any], *, groups: Sequence[int] = (), umask: int = 0o022
) -> Any:
    """Call a function in a process of another user; gives what it returned, or its OSError.

    Where the tests are not root's, it is the same user.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, pickle.dumps(_outcome(uid, function, groups, umask)))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123
        value, code, text = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    if code is not None:
        raise OSError(code, os.strerror(code))
    assert not text, text
    return value


def _outcome(
    uid: int, function: Callable[[], Any], groups: Sequence[int], umask: int
) -> tuple[Any, int | None, str]:
    try:
        if os.geteuid() == 0:
            os.setgroups(list(groups))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        os.umask(umask)
        return function(), None, ""
    except OSError as error:
        return None, error.errno, ""
    except BaseException as error:  # noqa: BLE001 - told by the caller
        return None, None, repr(error)
