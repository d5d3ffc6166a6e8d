"""Runs command lines one after the other, each in a process of its own with bounded time.

The program is imported once, and forked for each: a suite of hundreds of commands stays short.
Reads a list of cases from standard input, writes what became of them to standard output, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass

import unionmount
from unionmount.cli import main

_PATIENCE = 60.0
_PERIOD = 0.005


@dataclass
class Case:
    """A command line and its environment."""

    words: list[str]
    environment: dict[str, str]
    uid: int = 0


@dataclass
class Ended:
    """What became of it; ``status`` is None where it had to be killed."""

    status: int | None
    output: str
    error: str


def run(case: Case) -> Ended:
    """One command, in a child."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        child = os.fork()
        if child == 0:
            _become(case, output.fileno(), error.fileno())
        status = _wait(child)
        texts = []
        for file in (output, error):
            file.seek(0)
            texts.append(file.read(64 * 1024).decode("utf-8", "replace"))
    return Ended(status, *texts)


def _become(case: Case, output: int, error: int) -> None:
    status = 99
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(error, 2)
        os.environ.update(case.environment)
        if case.uid:
            os.setgroups([])
            os.setresgid(case.uid, case.uid, case.uid)
            os.setresuid(case.uid, case.uid, case.uid)
        status = main(case.words)
        sys.stdout.flush()
    finally:
        os._exit(status)


def _wait(child: int) -> int | None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_PERIOD)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    for module in pkgutil.walk_packages(unionmount.__path__, "unionmount."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    json.dump([asdict(run(Case(**case))) for case in json.load(sys.stdin)], sys.stdout)
