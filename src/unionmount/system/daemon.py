"""Going to the background: a child that serves, a parent that waits until it does.

The child lets go of everything of its caller's before it does anything else: session, working
directory, and every descriptor that the caller handed down. So ``unionmount mount … | cat`` and
``$(unionmount mount …)`` end when the parent does. What went wrong before the child was ready comes
back to the parent as one message.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from unionmount.errors import MountError, UnionmountError
from unionmount.system.text import printable

log = logging.getLogger(__name__)

_READY = b"+"
_FAILED = b"-"

Ready = Callable[[str], None]
"""What the child calls, once, when it serves; the text is handed to the parent's caller."""


def inherited_descriptors() -> frozenset[int]:
    """Return the caller's descriptors beyond the standard three; to be asked before opening any."""
    listed = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208
    return frozenset(fd for fd in listed if fd > 2 and _is_open(fd))


def run_in_background(serve: Callable[[Ready], None], inherited: Iterable[int]) -> str:
    """Run ``serve`` in a daemon; returns what it said when it was ready.

    MountError with the child's message where it failed before; then the child is gone.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become_daemon(serve, inherited, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123
        try:
            answer = pipe.read()
        except KeyboardInterrupt:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            raise
    if answer.startswith(_READY):
        return os.fsdecode(answer.removeprefix(_READY))
    _, status = os.waitpid(child, 0)
    raise MountError(os.fsdecode(answer.removeprefix(_FAILED)) or _unexplained(status))


def log_to(path: Path) -> None:
    """Let standard error, which libfuse writes to, go to a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 2)
    os.close(fd)


def _is_open(fd: int) -> bool:
    """Return whether ``fd`` is open: the one that listed the others is not, any more."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _become_daemon(serve: Callable[[Ready], None], inherited: Iterable[int], pipe: int) -> NoReturn:
    """Run ``serve`` and end; nothing of the parent's Python runs any more, atexit included."""
    status = 1
    try:
        os.setsid()
        os.chdir("/")
        _let_go(inherited)
        serve(_teller(pipe))
        status = 0
    except UnionmountError as error:
        _tell(pipe, _FAILED, str(error))
    except OSError as error:
        where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
        _tell(pipe, _FAILED, where + (error.strerror or str(error)))
    except BaseException as error:
        log.exception("the daemon failed")
        _tell(pipe, _FAILED, f"internal error: {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _let_go(inherited: Iterable[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    for fd in inherited:
        with suppress(OSError):
            os.close(fd)


def _teller(pipe: int) -> Ready:
    def ready(text: str) -> None:
        if not _tell(pipe, _READY, text):  # it was killed: nobody would know of the mount
            raise MountError("the process that asked for the mount has gone")

    return ready


def _tell(pipe: int, kind: bytes, text: str) -> bool:
    """Send a message and close the pipe; False if nobody listens (any more)."""
    try:
        os.write(pipe, kind + os.fsencode(text))
        os.close(pipe)
    except OSError:
        return False
    return True


def _unexplained(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the serving process ended before the mount was ready ({how})"
