"""A soak goes on whatever other mount namespaces of the machine hold."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

TESTS = Path(__file__).parents[1]
_PAUSE = 0.1  # seconds between two
_HOLDERS = 10
_ARGUMENTS = "--variant directories --backing tmpfs"


@contextmanager
def holders() -> Iterator[None]:
    """A few mount namespaces that hold all mounts, each a copy of this one, ever new ones."""
    ended = Event()
    held: deque[subprocess.Popen[bytes]] = deque()

    def hold() -> None:
        while not ended.wait(_PAUSE):
            held.append(subprocess.Popen(["unshare", "-m", "cat"], stdin=subprocess.PIPE))
            if len(held) > _HOLDERS:
                held.popleft().communicate()

    thread = Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for process in held:
            process.communicate()


@pytest.mark.alone  # it would hold the mounts of other tests, too
@pytest.mark.needs("fuse", "root", "overlayfs", "unshare")
def test_a_soak_has_its_mounts_to_itself() -> None:
    recipe = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-n",
            "soak",
            "SOAK_MINUTES=0.05",
            f"SOAK_ARGS={_ARGUMENTS}",
        ],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    command = recipe[recipe.index("cd tests") :].replace("../.venv/bin/python", sys.executable)
    with holders():
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=TESTS.parent,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert " steps in " in done.stdout
