"""What tests of live mounts share: running the command, and waiting without sleeping."""

from __future__ import annotations

import json
import os
import select
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "unionmount")
_PATIENCE = 30.0  # seconds after which something that should happen has not

Result = subprocess.CompletedProcess[str]


class CommandLine:
    """The command as its users run it: in a process of its own."""

    def __init__(self, prefix: tuple[str, ...] = (), environment: dict[str, str] | None = None):
        self.prefix = prefix
        self.environment = os.environ | (environment or {})

    def run(
        self, *arguments: str | Path, status: int = 0, stdin: Any = subprocess.DEVNULL
    ) -> Result:
        """Run a subcommand to its end; fails the test on another exit status than ``status``."""
        done = self._execute([str(one) for one in arguments], stdin)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def _execute(self, words: list[str], stdin: Any) -> Result:
        return subprocess.run(
            [*self.prefix, *COMMAND, *words],
            stdin=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=_PATIENCE * 2,
            check=False,
        )

    def error(self, *arguments: str | Path, status: int = 1) -> str:
        """Run a subcommand that fails: nothing on standard output, one line on standard error."""
        done = self.run(*arguments, status=status)
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("unionmount: ")
        return done.stderr.removeprefix("unionmount: ").rstrip("\n")

    def records(self) -> list[dict[str, Any]]:
        """What ``ps`` tells."""
        found: list[dict[str, Any]] = json.loads(self.run("ps", "--format", "json").stdout)
        return found

    def record(self, mountpoint: Path) -> dict[str, Any]:
        """What ``ps`` tells of one mount."""
        (found,) = [one for one in self.records() if one["mountpoint"] == str(mountpoint)]
        return found


@contextmanager
def unmounting(line: CommandLine) -> Iterator[CommandLine]:
    """A command line with mounts of its own, which are gone when the block ends."""
    yield line
    for record in line.records():
        if record["status"].startswith(("live", "stale")):
            line.run("umount", "--lazy", record["id"])


def own_places(top: Path) -> dict[str, str]:
    """Variables that keep a store and records of mounts below a directory."""
    return {"UNIONMOUNT_ROOT": str(top / "store"), "UNIONMOUNT_RUNTIME_DIR": str(top / "run")}


def mount_line(mountpoint: Path) -> str | None:
    """The line of the mount table for a mount point whose name needs no escapes."""
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    lines = table.splitlines()
    return next((line for line in reversed(lines) if line.split()[4] == str(mountpoint)), None)


def is_mounted(mountpoint: Path) -> bool:
    """Whether anything is mounted there."""
    return mount_line(mountpoint) is not None


def wait_for_mounts(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds; it is asked whenever the mount table changes."""
    with Path("/proc/self/mountinfo").open("rb") as table:
        poll = select.poll()
        poll.register(table, select.POLLPRI)
        table.read()
        while not condition():
            assert poll.poll(_PATIENCE * 1000), "nothing was mounted or unmounted"


class Process:
    """A process that may end while the test waits; made before, so that its number is its own."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def wait(self) -> None:
        """Wait until it ended."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        ended = poll.poll(_PATIENCE * 1000)
        os.close(self._fd)
        assert ended, "the process still runs"


def make_with_python(path: Path) -> None:
    """Have a file made by Python's part of the server, and see that it was.

    With S_ISGID, that is what the router leaves to it.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o2644))
    assert stat.S_IMODE(path.stat().st_mode) == 0o2644


def has_python(pid: int) -> bool:
    """Whether a server has imported pyfuse3: it is among the shared objects that are mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    paths = [line.split(maxsplit=5)[5] for line in lines if ".so" in line]
    return any("pyfuse3" in path for path in paths)
