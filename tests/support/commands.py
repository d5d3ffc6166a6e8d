"""The command line without the start of an interpreter each time.

Run as a program this is a server: it has imported the whole program, forks for every command, and
tells what came of it. A daemon that such a command leaves is no different from any other.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.mounting import CommandLine
from support.mounting import Result as Completed

_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a command that ended said; a status below 0 is the signal that killed it."""

    status: int
    stdout: str
    stderr: str
    late: bool = False
    """Whether it was killed here, because it did not end by itself."""


class Commands:
    """A server, to be closed; for one command at a time."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.pid = 0
        self._server = subprocess.Popen(
            [sys.executable, "-m", "support.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": _python_path(), **(environment or {})},
        )

    def start(
        self,
        *words: str | Path,
        environment: Mapping[str, str] | None = None,
        directory: str = "/",
    ) -> None:
        """Run a command in the background, as process ``pid``. ``wait`` has to follow.

        ``environment`` is added to that of the server; ``directory`` is where it works.
        """
        self._ask([list(map(str, words)), dict(environment or {}), directory])
        self.pid = int(self._answer())

    def wait(self) -> Result:
        """Wait for the end of the command that was started; one that takes too long is killed."""
        self._ask(None)
        assert self._server.stdout is not None
        late = not select.select([self._server.stdout], [], [], _PATIENCE)[0]
        if late:
            os.kill(self.pid, signal.SIGKILL)
        status, stdout, stderr = self._answer()
        return Result(status, stdout, stderr, late)

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


class ForkedCommandLine(CommandLine):
    """The command line for tests that run it often: by a server."""

    def __init__(self, commands: Commands, environment: dict[str, str] | None = None) -> None:
        super().__init__(environment=environment)
        self._commands = commands

    def _execute(self, words: list[str], stdin: Any) -> Completed:
        assert stdin == subprocess.DEVNULL
        self._commands.start(*words, environment=self.environment, directory=str(Path.cwd()))
        done = self._commands.wait()
        return Completed(words, done.status, done.stdout, done.stderr)


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

    os.setsid()
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


def _import_all() -> None:
    program = importlib.import_module("unionmount")
    for module in pkgutil.walk_packages(program.__path__, "unionmount."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _serve() -> None:
    _import_all()
    for line in sys.stdin:
        words, environment, directory = json.loads(line)
        outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
        child = os.fork()
        if child == 0:
            status = 255
            try:
                os.environ.update(environment)
                os.chdir(directory)
                status = _command(words, outputs)
            finally:
                os._exit(status)
        _say(child)
        sys.stdin.readline()  # until then its number is nobody else's
        _, how = os.waitpid(child, 0)
        _say((os.waitstatus_to_exitcode(how), *map(_contents, outputs)))


if __name__ == "__main__":
    _serve()
