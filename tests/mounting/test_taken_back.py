"""A request that is taken back between "there is one" and reading it.

Who made it was killed, say. The window is too short to hit, so the loop is told of a request that
was never there, at the one moment when that hurts: while the answer to another one is owed by a
thread.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.mounting import CommandLine, wait_for_mounts

pytestmark = pytest.mark.needs("fuse")

SERVE = """
import sys, threading
import trio.lowlevel
from unionmount.cli import main
from unionmount.core import Tree

owed, told = threading.Event(), threading.Event()
read, wait_readable = Tree.read, trio.lowlevel.wait_readable

def read_slowly(self, *arguments, nowait=False):
    if nowait:
        owed.set()
        raise BlockingIOError
    told.wait()
    return read(self, *arguments)

async def wait_or_not(fd):
    if owed.is_set() and not told.is_set():
        told.set()
        return
    await wait_readable(fd)

Tree.read, trio.lowlevel.wait_readable = read_slowly, wait_or_not
sys.exit(main(["mount", "--ro", "--foreground", *sys.argv[1:]]))
"""


def test_the_answers_of_threads_get_out(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    command = [sys.executable, "-c", SERVE, str(archive), str(where)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == f"{where}\n".encode()
            cat = ["cat", str(where / "etc/motd")]
            done = subprocess.run(cat, capture_output=True, check=True, timeout=20)
            assert done.stdout == b"hello\n"
            cli.run("umount", where)
        finally:
            server.kill()
            cli.run("ps", "--clean")
    wait_for_mounts(lambda: not where.is_mount())
