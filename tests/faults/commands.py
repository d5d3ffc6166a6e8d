"""The command line without the start of an interpreter each time.

Run as a program this is a server: it has imported all that a mount needs, forks for every command,
and tells what came of it. A daemon that such a command leaves is no different from any other.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MODULES = (
    *("mounting.serve", "mounting.read_operations", "mounting.write_operations"),
    *("mounting.upper_directory", "transfer.load", "browse.open", "browse.diff", "commit"),
    *("store.garbage", "store.check", "store.usage", "cli.mount_sources"),
    *(
        f"cli.commands.{name}"
        for name in (
            *("check", "commit", "diff", "load", "mount", "overlay", "prune", "pull", "rm", "rmi"),
            *("save", "tag", "umount"),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a command that ended said; a status below 0 is the signal that killed it."""

    status: int
    stdout: str
    stderr: str


class Commands:
    """A server, to be closed; for one command at a time."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.pid = 0
        self._server = subprocess.Popen(
            [sys.executable, "-m", "faults.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": _python_path(), **(environment or {})},
        )

    def start(self, *words: str | Path) -> None:
        """Run a command in the background, as process ``pid``. ``wait`` has to follow."""
        self._ask(list(map(str, words)))
        self.pid = int(self._answer())

    def wait(self) -> Result:
        """Wait for the end of the command that was started."""
        self._ask(None)
        return Result(*self._answer())

    def run(self, *words: str | Path, status: int = 0) -> Result:
        """Run a command to its end; fails the test on another exit status than ``status``."""
        self.start(*words)
        done = self.wait()
        assert done.status == status, f"{words}: {done.status}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def _ask(self, question: object) -> None:
        assert self._server.stdin is not None
        json.dump(question, self._server.stdin)
        self._server.stdin.write("\n")
        self._server.stdin.flush()

    def _answer(self) -> Any:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server of commands has ended"
        return json.loads(line)

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()


def _python_path() -> str:
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(Path(__file__).parents[1]), *([before] if before else [])])


# ---- the server --------------------------------------------------------------------------------


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _command(words: list[str], outputs: list[int]) -> int:
    """In the child: run the command line as if it had just been started."""
    from unionmount.cli import main  # noqa: PLC0415

    null = os.open(os.devnull, os.O_RDONLY)
    for number, fd in enumerate([null, *outputs]):
        os.dup2(fd, number)
    for fd in (null, *outputs):
        os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        for number, mode in enumerate("rww")
    )
    status = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _contents(fd: int) -> str:
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read().decode("utf-8", "replace")


def _serve() -> None:
    for name in _MODULES:
        importlib.import_module(f"unionmount.{name}")
    for line in sys.stdin:
        words = json.loads(line)
        outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
        child = os.fork()
        if child == 0:
            status = 255
            try:
                status = _command(words, outputs)
            finally:
                os._exit(status)
        _say(child)
        sys.stdin.readline()  # until then its number is nobody else's
        _, how = os.waitpid(child, 0)
        _say((os.waitstatus_to_exitcode(how), *map(_contents, outputs)))


if __name__ == "__main__":
    _serve()
