"""Images with programs, and runs of them, for tests of containers that run."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine, own_places
from unionmount.runtime.live import LiveContainers
from unionmount.runtime.log_file import LogLine, LogReader

RUNTIMES = ("runc", "crun")
_BUSYBOX = Path("/bin/busybox")
_PATIENCE = 30
PROGRAMS = (  # noqa: SIM905 - a list has a line for each name
    "sh cat chmod chown cp date dd echo env false grep head hostname id kill ln ls mkdir mkfifo "
    "mount mv od pwd readlink rm rmdir sed seq sleep sort stat stty tail tee test touch tr true "
    "tty umount wc whoami yes"
).split()

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh
"""
GROUP = b"root:x:0:\napp:x:1001:\nextra:x:2000:app,root\n"


def busybox_layer(begun: Layer | None = None) -> Layer:
    """Return a layer with programs and users, and few directories; ``begun`` has files before."""
    layer = (begun or Layer()).directory("bin").directory("etc").directory("root", mode=0o700)
    layer.file("bin/busybox", _BUSYBOX.read_bytes(), mode=0o755)
    for name in PROGRAMS:
        layer.symlink(f"bin/{name}", "busybox")
    return layer.file("etc/passwd", PASSWD).file("etc/group", GROUP)


def program_image(path: Path, *more: Layer, **config: Any) -> Path:
    """Write an archive of an image that can run; ``config`` are its execution parameters."""
    return docker_archive(path, [busybox_layer(), *more], config={"Cmd": ["/bin/sh"], **config})


class Runner(CommandLine):
    """The command line with a store and a runtime directory of its own."""

    def __init__(
        self,
        top: Path,
        *,
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        super().__init__(prefix, own_places(top) | (environment or {}))
        self.runtime_directory = top / "run"
        self.store = top / "store"

    def call(
        self, *words: str | Path, data: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a subcommand with bytes as standard input, to any end."""
        done = subprocess.run(
            [*self.prefix, *COMMAND, *map(str, words)],
            input=b"" if data is None else data,
            capture_output=True,
            env=self.environment,
            timeout=_PATIENCE,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start a subcommand."""
        return subprocess.Popen(
            [*self.prefix, *COMMAND, *map(str, words)], env=self.environment, **options
        )

    def output(self, *words: str | Path) -> str:
        """Return what a run prints that succeeds without a word on standard error."""
        done = self.run(*words)
        assert done.stderr == ""
        return done.stdout

    def await_log(self, name: str, text: bytes) -> None:
        """Wait until a container has written something to its log."""
        log = self.store / "containers" / name / "log.json"
        end = time.monotonic() + _PATIENCE
        while not (log.exists() and any(text in row.text for row in read_log(log))):
            assert time.monotonic() < end, f"{name} did not write {text!r}"
            os.sched_yield()

    def live(self, name: str) -> Path:
        """Return the runtime directory of a container of this store that runs."""
        return LiveContainers(self.runtime_directory, self.store).path(name)

    def left(self) -> list[str]:
        """Return what the runtime directory has of containers that run."""
        return sorted(
            f"{directory}/{path.name}"
            for directory in ("run", "oci", "mnt", "roots")
            for path in _entries(self.runtime_directory / directory)
        )


def _entries(directory: Path) -> Sequence[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def read_log(path: Path) -> list[LogLine]:
    """Return the lines of a log, without those that are damaged."""
    with LogReader(path) as log:
        return list(log.lines())


@contextmanager
def running(line: Runner) -> Iterator[Runner]:
    """Yield a command line whose containers are gone when the block ends."""
    yield line
    names = line.run("ps", "-aq").stdout.split()
    if names:
        line.run("rm", "-f", *names)
    assert line.left() == []


def environment_of(pid: int) -> list[str]:
    """Return the variables of a process."""
    return os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")[:-1]
