"""A mount for the duration of a block, served by a process of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.api.operands import operand_of
from unionmount.api.waiting import Blocking, run_blocking, running_library, seconds_until
from unionmount.errors import MountError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from unionmount.api.waiting import Waiter

# "-m" alone would import modules from the working directory, where others may have put them.
_PROGRAM = (sys.executable, "-P", "-m", "unionmount")
_PATIENCE = 10.0  # seconds for a mount to end before it is asked again
_LAST_WORDS = 4096  # bytes of messages
_MAX_SAID = 64 * 1024  # bytes of the mount point's name


@dataclass(frozen=True, slots=True)
class Mounted:
    """A live mount: its mount point and the process that serves it."""

    path: Path
    pid: int


class MountBlock:
    """The result of ``mount``: mounted by ``with``, or by ``async with`` under trio or asyncio.

    It can be used once.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        """Take the arguments of ``unionmount mount``; nothing is started yet."""
        self._arguments = arguments
        self._server: _MountServer | None = None
        self._waiting: Waiter = Blocking()

    def __enter__(self) -> Mounted:
        return run_blocking(self._begin(Blocking()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        run_blocking(self._server_of_block().end(Blocking()))

    async def __aenter__(self) -> Mounted:
        return await self._begin(running_library())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A coroutine that is closed instead of finished may not wait in its event loop any more.
        closed = kind is not None and issubclass(kind, GeneratorExit)
        await self._server_of_block().end(Blocking() if closed else self._waiting)

    async def _begin(self, waiting: Waiter) -> Mounted:
        if self._server is not None:
            raise UsageError("this mount was used already; call unionmount.mount() again")
        self._waiting = waiting
        self._server = server = _MountServer(self._arguments)
        try:
            path = await server.announced(waiting)
        except BaseException as error:
            await server.end(Blocking() if isinstance(error, GeneratorExit) else waiting)
            raise
        return Mounted(path, server.pid)

    def _server_of_block(self) -> _MountServer:
        assert self._server is not None
        return self._server


class _MountServer:
    """The process ``unionmount mount --foreground``, and the pipe on which it tells its mount."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self._ends = -1  # a pidfd, readable when the process has ended
        with ExitStack() as stack:
            stack.callback(self._messages.close)
            self._process = subprocess.Popen(
                [*_PROGRAM, "mount", "--foreground", *arguments],
                stdout=subprocess.PIPE,
                stderr=self._messages,
                start_new_session=True,  # signals of the terminal are handled here
            )
            stack.enter_context(self._process)  # waits for it
            stack.callback(self._process.terminate)
            self._ends = os.pidfd_open(self._process.pid)
            stack.pop_all()
        self.pid: int = self._process.pid

    async def announced(self, waiting: Waiter) -> Path:
        """Wait for the process to print its mount point; raise MountError if it fails."""
        assert self._process.stdout is not None
        said, pipe = b"", self._process.stdout.fileno()
        while not said.endswith(b"\n"):
            await waiting.readable(pipe, None)
            data = os.read(pipe, _MAX_SAID)
            if not data or len(said) > _MAX_SAID:
                await waiting.readable(self._ends, _PATIENCE)
                raise MountError(self._last_words())
            said += data
        return Path(os.fsdecode(said.removesuffix(b"\n")))

    def _last_words(self) -> str:
        self._messages.seek(max(self._messages.seek(0, io.SEEK_END) - _LAST_WORDS, 0))
        lines = self._messages.read().decode("utf-8", "replace").splitlines()
        return printable(lines[-1].removeprefix("unionmount: ")) if lines else "no message"

    async def end(self, waiting: Waiter) -> None:
        """Unmount; processes that still use the mount get some time, but not forever.

        An interruption meanwhile is raised at the end, when nothing is mounted any more.
        """
        interruption: BaseException | None = None
        with waiting.shielded():
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                if self._process.poll() is None:
                    self._process.send_signal(number)
                deadline = time.monotonic() + _PATIENCE
                while self._process.poll() is None and time.monotonic() < deadline:
                    try:
                        await waiting.readable(self._ends, seconds_until(deadline))
                    except GeneratorExit as error:
                        interruption, waiting = error, Blocking()
                    except BaseException as error:  # noqa: BLE001 - raised below
                        interruption = error
        self._close()
        if interruption is not None:
            raise interruption

    def _close(self) -> None:
        for fd in (self._process.stdout, self._messages):
            assert fd is not None
            fd.close()
        if self._ends >= 0:
            os.close(self._ends)
            self._ends = -1


def mount(
    ref: str | os.PathLike[str],
    mountpoint: str | os.PathLike[str] | None = None,
    *,
    writable: bool = False,
    ephemeral: bool = False,
    name: str | None = None,
    upper: str | os.PathLike[str] | None = None,
    upper_open: bool = False,
    layer: int | None = None,
    layers: bool = False,
    platform: str | None = None,
    options: str = "",
    root: str | os.PathLike[str] | None = None,
) -> MountBlock:
    """Mount an image or container for the duration of a block.

    The block is ``with``, or ``async with`` under trio or asyncio. The mount is read-only unless
    ``writable``, ``ephemeral``, ``name`` or ``upper`` is given; the arguments have the meaning of
    the options of ``unionmount mount``. A separate process serves the mount. When the block ends,
    for any reason, the mount is gone and changes are on disk; programs that still have files open
    lose them after some seconds. The block raises MountError if nothing can be mounted.
    """
    changes = writable or ephemeral or name is not None or upper is not None
    flags = {"--ro": not changes and not layers and layer is None}
    flags |= {"--ephemeral": ephemeral, "--layers": layers, "--upper-open": upper_open}
    values = {"--name": name, "--upper": upper, "--layer": layer, "--platform": platform}
    values |= {"--root": root, "-o": options or None}
    arguments = [option for option, is_given in flags.items() if is_given]
    for option, value in values.items():
        if value is not None:
            arguments += [option, str(value) if isinstance(value, int) else os.fspath(value)]
    operands = [operand_of(ref), *([] if mountpoint is None else [os.fspath(mountpoint)])]
    return MountBlock([*arguments, "--", *operands])
