"""``run``: programs of an image in a real runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer
from support.running import RUNTIMES, Runner, program_image, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("fuse", "root", "busybox", *RUNTIMES),
]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The command line, with a store of this file."""
    with running(Runner(tmp_path_factory.mktemp("run"))) as made:
        yield made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that names no user and no entrypoint."""
    return program_image(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with all execution parameters."""
    return program_image(
        tmp_path_factory.mktemp("service") / "service.tar",
        Layer().file("etc/shadow", b"root:*::\n", mode=0o600).directory("data", owner=(7, 7)),
        Entrypoint=["/bin/sh", "-c"],
        Cmd=["id; pwd; echo $A $B $HOME"],
        User="app",
        WorkingDir="/srv/x",
        Env=["A=1", "B=x y", "PATH=/bin"],
        Volumes={"/data": {}},
    )


runtimes = pytest.mark.parametrize("runtime", RUNTIMES)

# ---- exit status and streams ---------------------------------------------------------------------


@runtimes
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "exit 255"), 255),
        (("nosuch",), 127),
        (("/bin/nosuch",), 127),
        (("/etc/passwd",), 126),
        (("/etc",), 126),
    ],
)
def test_exit_status(
    line: Runner, image: Path, runtime: str, words: tuple[str, ...], status: int
) -> None:
    done = line.run("run", "--rm", "--runtime", runtime, image, *words, status=status)
    assert done.stdout == ""
    assert done.stderr.count("\n") == (1 if status in (126, 127) else 0)
    assert not line.left()


@runtimes
def test_streams_are_apart(line: Runner, image: Path, runtime: str) -> None:
    script = "echo out; echo err >&2"
    done = line.run("run", "--rm", "--runtime", runtime, image, "sh", "-c", script)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@runtimes
def test_a_megabyte_each_way_at_once(line: Runner, image: Path, runtime: str) -> None:
    data = os.urandom(1 << 20) * 4
    script = "tee /dev/stderr"
    done = line.call(
        "run", "--rm", "-i", "--runtime", runtime, image, "sh", "-c", script, data=data
    )
    assert done.returncode == 0
    assert (done.stdout, done.stderr) == (data, data)


def test_input_is_empty_without_interactive(line: Runner, image: Path) -> None:
    done = line.call("run", "--rm", image, "cat", data=b"not for it")
    assert (done.returncode, done.stdout) == (0, b"")


def test_input_that_nobody_reads(line: Runner, image: Path) -> None:
    done = line.call("run", "--rm", "-i", image, "true", data=bytes(4 << 20))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_input_that_does_not_end(line: Runner, image: Path) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe:
        done = (
            line.run("run", "--rm", "-i", image, "head", "-n1", stdin=pipe)
            if _fill(writer)
            else None
        )
    os.close(writer)
    assert done is not None
    assert done.stdout == "first\n"


def _fill(writer: int) -> bool:
    return os.write(writer, b"first\n") == 6
