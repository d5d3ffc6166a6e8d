"""A mount by ``with``, and by ``async with`` under trio and asyncio: the same promises."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.async_ways import WAYS, entered, run_in
from support.mounting import is_mounted

import unionmount
from unionmount.errors import MountError, UsageError

pytestmark = pytest.mark.needs("fuse")


def is_gone(mounted: unionmount.Mounted) -> bool:
    """Whether neither the mount nor its process is left; the directory was made for the mount."""
    try:
        os.kill(mounted.pid, 0)
    except ProcessLookupError:
        return not mounted.path.exists()
    return False


@pytest.mark.parametrize("way", WAYS)
def test_a_mount_lasts_as_long_as_its_block(way: str, source: Path) -> None:
    seen = []

    async def work() -> None:
        async with entered(way, unionmount.mount(str(source))) as mounted:
            seen.append(mounted)
            assert is_mounted(mounted.path)
            assert (mounted.path / "d/new").read_bytes() == b"new"

    run_in(way, work)
    assert is_gone(seen[0])


@pytest.mark.parametrize("way", WAYS)
def test_changes_are_on_the_disk_afterwards(way: str, source: Path, place: Path) -> None:
    async def work() -> None:
        async with entered(way, unionmount.mount(str(source), upper=place / "up")) as mounted:
            (mounted.path / "made").write_text("made\n")

    run_in(way, work)
    assert (place / "up/made").read_text() == "made\n"


@pytest.mark.parametrize("way", WAYS)
def test_an_error_unmounts_and_is_passed_on(way: str, source: Path) -> None:
    seen = []

    async def work() -> None:
        async with entered(way, unionmount.mount(str(source))) as mounted:
            seen.append(mounted)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in(way, work)
    assert is_gone(seen[0])


@pytest.mark.parametrize("way", WAYS)
def test_why_it_was_not_mounted(way: str, place: Path) -> None:
    async def work() -> None:
        async with entered(way, unionmount.mount("./nothing.tar")):
            pytest.fail("there is nothing to mount")

    before = os.listdir("/proc/self/fd")
    with pytest.raises(MountError, match=r"^\./nothing\.tar: no such file or directory$"):
        run_in(way, work)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("way", WAYS)
def test_a_block_is_used_once(way: str, source: Path) -> None:
    block = unionmount.mount(str(source))

    async def work() -> None:
        async with entered(way, block):
            pass

    run_in(way, work)
    with pytest.raises(UsageError, match="used already"):
        run_in(way, work)


def test_async_with_needs_a_library(source: Path) -> None:
    async def work() -> None:
        async with unionmount.mount(str(source)):
            pytest.fail("nothing can wait")

    with pytest.raises(UsageError, match="needs trio or asyncio, not none; use 'with'"):
        run_in("blocking", work)


@pytest.mark.parametrize("way", WAYS)
def test_only_the_library_that_runs_is_imported(way: str, source: Path) -> None:
    enter = "with" if way == "blocking" else "async with"
    start = {"blocking": "work().send(None)", "trio": "trio.run(work)"}
    lines = [
        "import sys, unionmount",
        f"import {way}" if way != "blocking" else "",
        "async def work():",
        f"    {enter} unionmount.mount({str(source)!r}):",
        "        print(*sys.modules)",
        "try:",
        f"    {start.get(way, 'asyncio.run(work())')}",
        "except StopIteration: pass",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True, text=True
    )
    assert {"trio", "asyncio"} & set(done.stdout.split()) == {way} - {"blocking"}


# ---- the end in the middle -----------------------------------------------------------------------


def test_cancellation_under_asyncio(source: Path) -> None:
    async def main() -> unionmount.Mounted:
        ready: asyncio.Future[unionmount.Mounted] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            async with unionmount.mount(str(source)) as mounted:
                ready.set_result(mounted)
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        mounted = await ready
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return mounted

    assert is_gone(asyncio.run(main()))


def test_cancellation_before_it_is_mounted(source: Path, place: Path) -> None:
    (place / "mnt").mkdir()

    async def work() -> None:
        async with unionmount.mount(str(source), place / "mnt"):
            pytest.fail("it was cancelled")

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)  # until it waits for its process
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not is_mounted(place / "mnt")


def test_a_second_cancellation_waits_for_the_end(source: Path) -> None:
    """The process is stopped, so that the first cancellation cannot have ended it yet."""

    async def main() -> unionmount.Mounted:
        ready: asyncio.Future[unionmount.Mounted] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            async with unionmount.mount(str(source)) as mounted:
                ready.set_result(mounted)
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        mounted = await ready
        os.kill(mounted.pid, signal.SIGSTOP)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert has_pending(mounted.pid, signal.SIGTERM)
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        os.kill(mounted.pid, signal.SIGCONT)
        with pytest.raises(asyncio.CancelledError):
            await task
        return mounted

    assert is_gone(asyncio.run(main()))


def test_a_coroutine_that_is_closed(source: Path) -> None:
    loop = asyncio.new_event_loop()
    ready: asyncio.Future[unionmount.Mounted] = loop.create_future()

    async def work() -> None:
        async with unionmount.mount(str(source)) as mounted:
            ready.set_result(mounted)
            await loop.create_future()

    coroutine = work()
    task = loop.create_task(coroutine)
    mounted = loop.run_until_complete(ready)
    coroutine.close()
    assert is_gone(mounted)
    task.cancel()
    with pytest.raises((asyncio.CancelledError, RuntimeError)):  # by the version of Python
        loop.run_until_complete(task)
    loop.close()


def has_pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return any(
        int(mask, 16) >> (number - 1) & 1
        for mask in re.findall(r"^S\w+Pnd:\s+(\w+)$", status, re.MULTILINE)
    )


def test_an_interruption_of_the_end(source: Path) -> None:
    """Ctrl-C while the mount is being ended: the end goes on, and KeyboardInterrupt follows."""
    seen: list[unionmount.Mounted] = []

    def interrupt() -> None:
        while not has_pending(seen[0].pid, signal.SIGTERM):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(seen[0].pid, signal.SIGCONT)

    thread = threading.Thread(target=interrupt)

    def work() -> None:
        with unionmount.mount(str(source)) as mounted:
            seen.append(mounted)
            os.kill(mounted.pid, signal.SIGSTOP)
            thread.start()

    with pytest.raises(KeyboardInterrupt):
        work()
    thread.join()
    assert is_gone(seen[0])


_PROGRAM = """
import asyncio, signal, sys, trio, unionmount
way, source = sys.argv[1:]
def show(mounted):
    print(mounted.path, mounted.pid, flush=True)
async def work():
    async with unionmount.mount(source) as mounted:
        show(mounted)
        await (trio.sleep_forever() if way == "trio" else asyncio.Event().wait())
try:
    if way == "trio":
        trio.run(work)
    elif way == "asyncio":
        asyncio.run(work())
    else:
        with unionmount.mount(source) as mounted:
            show(mounted)
            while True:
                signal.pause()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_signal_of_the_terminal(way: str, source: Path) -> None:
    """A terminal sends SIGINT to the whole process group; the server is in another one."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, way, str(source)],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as program:
        assert program.stdout is not None
        where, _, pid = program.stdout.readline().rstrip("\n").rpartition(" ")
        mounted = unionmount.Mounted(Path(where), int(pid))
        assert os.getpgid(mounted.pid) != program.pid
        os.killpg(program.pid, signal.SIGINT)
        assert program.stdout.read() == "interrupted\n"
    assert program.returncode == 0
    assert is_gone(mounted)
