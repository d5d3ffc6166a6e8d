"""Daemons: a child process that serves, and a parent that waits until it is ready.

The child first gives up everything of its caller: the session, the working directory, and every
descriptor that the caller passed on. So ``unionmount mount … | cat`` and ``$(unionmount mount …)``
end when the parent does. An error before the child is ready is passed to the parent as one message.
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
"""A function that the child calls once when it is ready; the text is returned in the parent."""


def inherited_descriptors() -> frozenset[int]:
    """Return the caller's descriptors beyond the standard three; call it before opening any."""
    listed = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208
    return frozenset(fd for fd in listed if fd > 2 and _is_open(fd))


def run_in_background(serve: Callable[[Ready], None], inherited: Iterable[int]) -> str:
    """Run ``serve`` in a daemon; return its text when it is ready.

    Raise MountError with the child's message if it failed before; then the child is gone.
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
    """Redirect standard error, to which libfuse writes, to a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 2)
    os.close(fd)


def _is_open(fd: int) -> bool:
    """Return whether ``fd`` is open; the descriptor that listed the others is not."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _become_daemon(serve: Callable[[Ready], None], inherited: Iterable[int], pipe: int) -> NoReturn:
    """Run ``serve`` and exit, without running any more of the parent's Python, such as atexit."""
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
        if not _tell(
            pipe, _READY, text
        ):  # the parent was killed, so nobody would know of the mount
            raise MountError("the process that requested the mount has ended")

    return ready


def _tell(pipe: int, kind: bytes, text: str) -> bool:
    """Send a message and close the pipe; return False if nobody reads it."""
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
