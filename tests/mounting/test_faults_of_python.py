"""A fault in Python, under the router: one request fails, or pyfuse3 ends and the mount with it.

The server is the real one; its handler of mknod is replaced, and asked for files with S_ISGID,
which the router leaves to Python.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine, Process, is_mounted, wait_for_mounts

from unionmount.mounting.records import MountTable

pytestmark = pytest.mark.needs("fuse")

PATIENCE = 30.0

SERVER = """
import os, sys
import trio
from unionmount import core
from unionmount.cli import main
from unionmount.mounting.read_operations import answered
from unionmount.mounting.write_operations import WritableOperations

mknod, close = WritableOperations.mknod, core.Router.close

@answered
async def stumble(self, name):
    raise RuntimeError("one request")

async def failing(self, directory, name, *rest):
    if name == b"waits":
        os.write(1, b"asked\\n")
        await trio.sleep_forever()
    if name == b"stumbles":
        return await stumble(self, name)
    if name == b"falls":
        raise RuntimeError("all requests")
    return await mknod(self, directory, name, *rest)

def held_close(self):
    os.write(1, b"orphaned\\n")
    os.read(0, 1)
    close(self)

WritableOperations.mknod = failing
if sys.argv[1] == "held":
    core.Router.close = held_close
sys.exit(main(sys.argv[2:]))
"""

ASK = """
import os, sys
try:
    os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o2644))
except OSError as error:
    sys.exit(error.errno)
"""


class Place:
    """Where the server mounts."""

    def __init__(self, top: Path) -> None:
        self.root = top / "mnt"
        self.root.mkdir()
        self._layer = Layer().directory("./", 0o777).directory("dir").file("dir/file", b"content")
        image = docker_archive(top / "image.tar", [self._layer], name="faults:latest")
        upper = ("--upper", top / "upper", "--work", top / "work")
        self.words = tuple(map(str, ("mount", *upper, image, self.root)))

    def server(self, how: str, *words: str) -> list[str]:
        return [sys.executable, "-c", SERVER, how, *self.words, *words]

    def ask(self, name: str) -> subprocess.Popen[bytes]:
        """Have a file made by Python; its exit status is the errno."""
        return subprocess.Popen([sys.executable, "-c", ASK, self.root / name])


@pytest.fixture
def place(public_tmp: Path, cli: CommandLine) -> Iterator[Place]:
    made = Place(public_tmp)
    yield made
    if is_mounted(made.root):
        cli.run("umount", "--lazy", made.root)


@pytest.fixture
def serve(place: Place, cli: CommandLine) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """A function that serves the mount in the foreground."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(how: str) -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            place.server(how, "--foreground"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=cli.environment,
        )
        started.append(server)
        assert says(server) == os.fsencode(place.root)
        return server

    yield begin
    for server in started:
        with suppress(ProcessLookupError):
            server.kill()
        server.communicate()


def says(server: subprocess.Popen[bytes]) -> bytes:
    assert server.stdout is not None
    return server.stdout.readline().rstrip()


def test_one_request_fails_alone(
    place: Place, serve: Callable[[str], subprocess.Popen[bytes]], cli: CommandLine
) -> None:
    server = serve("plain")
    for _ in range(2):
        assert place.ask("stumbles").wait(PATIENCE) == errno.EIO
    assert place.ask("good").wait(PATIENCE) == 0
    assert sorted(os.listdir(place.root)) == ["dir", "good"]
    cli.run("umount", place.root)
    said = server.communicate(timeout=PATIENCE)[1].decode()
    assert server.returncode == 0, said
    assert said.count("RuntimeError: one request") == 2


def test_what_python_answers_no_more(
    place: Place, serve: Callable[[str], subprocess.Popen[bytes]], cli: CommandLine
) -> None:
    """The server waits, between the end of pyfuse3 and that of the router, until it is told."""
    server = serve("held")
    waiting = place.ask("dir/waits")  # another directory: the kernel locks it
    assert says(server) == b"asked"
    assert place.ask("falls").wait(PATIENCE) == errno.EIO
    assert waiting.wait(PATIENCE) == errno.EIO  # what was in flight
    assert says(server) == b"orphaned"
    assert place.ask("more").wait(PATIENCE) == errno.EIO  # what would be forwarded
    # The router answers all else.
    assert (place.root / "dir/file").read_bytes() == b"content"
    (place.root / "made").mkdir()
    (place.root / "made/file").write_bytes(b"new")
    (place.root / "made/file").rename(place.root / "made/moved")
    assert os.listdir(place.root / "made") == ["moved"]
    # And it can be taken down.
    unmounting = subprocess.Popen([sys.executable, "-m", "unionmount", "umount", place.root])
    wait_for_mounts(lambda: not is_mounted(place.root))
    said = server.communicate(b"\n", timeout=PATIENCE)[1].decode()
    assert unmounting.wait(PATIENCE) == 0
    assert server.returncode == 1
    assert said == "unionmount: internal error: RuntimeError: all requests (--debug shows where)\n"
    assert cli.records() == []
    cli.run(*place.words)
    assert sorted(os.listdir(place.root)) == ["dir", "made"]
    assert (place.root / "made/moved").read_bytes() == b"new"


def test_a_daemon_whose_python_ends_takes_its_mount_away(
    place: Place, cli: CommandLine, descriptors: list[int]
) -> None:
    subprocess.run(place.server("plain"), check=True, env=cli.environment, stdout=-3)
    table = MountTable.of_user()
    (found,) = [one for one in table.all() if one.record.path == place.root]
    daemon = Process(found.record.pid)
    descriptors.append(os.open(place.root / "dir/file", os.O_RDONLY))  # it is in use
    assert place.ask("falls").wait(PATIENCE) == errno.EIO
    daemon.wait()
    assert not is_mounted(place.root)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTCONN):
        os.read(descriptors[0], 10)
    log = table.log_path(found.record.id)
    assert "RuntimeError: all requests" in log.read_text()
    log.unlink()
    assert cli.records() == []
    assert cli.error("umount", place.root).endswith("no image is mounted there")
