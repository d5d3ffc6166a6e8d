"""A mount for the duration of a block, served by a process of its own."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path as HostPath
from typing import IO, TYPE_CHECKING

from unionmount.errors import MountError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio

_PATIENCE = 10.0  # seconds for a mount to end before it is asked again
_LAST_WORDS = 4096  # bytes of messages


@dataclass(frozen=True, slots=True)
class Mounted:
    """A live mount: its mount point and the process that serves it."""

    path: HostPath
    pid: int


@asynccontextmanager
async def mount(
    ref: str,
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
) -> AsyncIterator[Mounted]:
    """Mount an image or container for the duration of a block, under trio.

    The mount is read-only unless ``writable``, ``ephemeral``, ``name`` or ``upper`` is given; the
    arguments have the meaning of the options of ``unionmount mount``. A separate process serves the
    mount. When the block ends, for any reason, the mount is gone and changes are on disk; programs
    that still have files open lose them after some seconds.
    """
    import trio  # noqa: PLC0415 - programs that only read images need no trio

    changes = writable or ephemeral or name is not None or upper is not None
    flags = {"--ro": not changes and not layers and layer is None}
    flags |= {"--ephemeral": ephemeral, "--layers": layers, "--upper-open": upper_open}
    values = {"--name": name, "--upper": upper, "--layer": layer, "--platform": platform}
    values |= {"--root": root, "-o": options or None}
    arguments = [option for option, is_given in flags.items() if is_given]
    for option, value in values.items():
        if value is not None:
            arguments += [option, str(value)]
    arguments += ["--", ref, *([] if mountpoint is None else [os.fspath(mountpoint)])]
    command = [sys.executable, "-m", "unionmount", "mount", "--foreground", *arguments]
    with tempfile.TemporaryFile() as messages:
        process = await trio.lowlevel.open_process(
            command,
            stdout=-1,  # a pipe, as in subprocess
            stderr=messages,
            start_new_session=True,  # signals of the terminal are handled here
        )
        try:
            yield Mounted(await _announced(process, messages), process.pid)
        finally:
            await _end(process)


async def _announced(process: trio.Process, messages: IO[bytes]) -> HostPath:
    """Wait for the process to print its mount point; raise MountError if it fails."""
    assert process.stdout is not None
    said = b""
    async for data in process.stdout:
        said += data
        if said.endswith(b"\n"):
            return HostPath(os.fsdecode(said.removesuffix(b"\n")))
    await process.wait()
    messages.seek(max(messages.seek(0, io.SEEK_END) - _LAST_WORDS, 0))
    lines = messages.read().decode("utf-8", "replace").splitlines()
    text = printable(lines[-1].removeprefix("unionmount: ")) if lines else "no message"
    raise MountError(text)


async def _end(process: trio.Process) -> None:
    """Unmount; processes that still use the mount get some time, but not forever."""
    import trio  # noqa: PLC0415

    with trio.CancelScope(shield=True):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                process.send_signal(number)
            with trio.move_on_after(_PATIENCE):
                await process.wait()
                break
        if process.stdout is not None:
            await process.stdout.aclose()
