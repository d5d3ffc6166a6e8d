"""Rules of tests/conftest.py for every run of tests: an inner run of pytest keeps them, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.users import fuse_for_all

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts import run_tests

pytestmark = pytest.mark.slow

# The variables by which an inner run would be taken for a part of this one.
_OF_THIS_RUN = ("UNIONMOUNT_TEST_SESSION", "UNIONMOUNT_TEST_FUSE_MODE")

LEAVES_A_PROCESS = """
import subprocess

def test_it() -> None:
    child = subprocess.Popen(["sleep", "100"])
    child.returncode = 0  # nobody waits
"""

LEAVES_A_MOUNT = """
import subprocess

def test_it(tmp_path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "left", tmp_path], check=True)
"""

FOREIGN_MOUNT = """
import os
import subprocess

def test_it() -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={{device}},rootmode=40000,user_id=0,group_id=0"
    command = ["mount", "-i", "-t", "fuse", "-o", options, "foreign", {place!r}]
    subprocess.run(command, check=True, pass_fds=[device])
    os.close(device)
"""

LEAVES_NOTHING = """
def test_it() -> None:
    pass
"""

IN_ORDER = """
import pytest

seen = []

@pytest.mark.parametrize("number", range(12))
def test_it(number) -> None:
    assert len(seen) == number
    seen.append(number)
"""


def inner(project: Path, place: Path, text: str, *options: str) -> tuple[int, str]:
    """The exit status and the output of a run of one test, below the conftest.py of all."""
    tests = place / "tests"
    tests.mkdir()
    for shared in ("conftest.py", "support"):
        (tests / shared).symlink_to(project / "tests" / shared)
    (tests / "test_inner.py").write_text(text, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in _OF_THIS_RUN}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-c", str(project / "pyproject.toml"), f"--rootdir={place}"),
            *("-o", f"pythonpath={tests}", f"--basetemp={place / 'tmp'}", *options, str(tests)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={name: value for name, value in environment.items() if "PYTEST" not in name},
        cwd=place,
    )
    return done.returncode, done.stdout + done.stderr


WAYS = pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two processes"])


@WAYS
def test_a_process_that_is_left_fails_the_run(
    options: tuple[str, ...], project: Path, tmp_path: Path
) -> None:
    status, output = inner(project, tmp_path, LEAVES_A_PROCESS, *options)
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert "left behind" in output
    assert ": sleep 100" in output


@WAYS
@pytest.mark.needs("root")
def test_a_mount_that_is_left_fails_the_run(
    options: tuple[str, ...], project: Path, tmp_path: Path
) -> None:
    status, output = inner(project, tmp_path, LEAVES_A_MOUNT, *options)
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert f"mount {tmp_path}/tmp/" in output
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


@WAYS
@pytest.mark.needs("root", "fuse")
@pytest.mark.parametrize("in_ci", [False, True], ids=["", "in CI"])
def test_a_mount_of_somebody_else_does_not(
    options: tuple[str, ...],
    in_ci: bool,
    project: Path,
    tmp_path: Path,
    public_tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is made while the run goes on, as another user of the machine would."""
    text = FOREIGN_MOUNT.format(place=str(public_tmp))
    if in_ci:
        monkeypatch.setenv("CI", "true")
    try:
        status, output = inner(project, tmp_path, text, *options)
        assert status == pytest.ExitCode.OK, output
        assert "left behind" not in output
    finally:
        subprocess.run(["umount", public_tmp], check=True)


@WAYS
def test_nothing_left_is_success(options: tuple[str, ...], project: Path, tmp_path: Path) -> None:
    status, output = inner(project, tmp_path, LEAVES_NOTHING, *options)
    assert status == pytest.ExitCode.OK, output


def test_a_file_stays_in_one_process(project: Path, tmp_path: Path) -> None:
    """Module-scoped fixtures are made once, and tests run in their order."""
    status, output = inner(project, tmp_path, IN_ORDER, *run_tests.beside("not alone"))
    assert status == pytest.ExitCode.OK, output
    assert "12 passed" in output


@pytest.mark.needs("root")
def test_the_device_is_closed_by_the_last_that_wants_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNIONMOUNT_TEST_FUSE_MODE", raising=False)
    device = tmp_path / "fuse"
    device.touch(mode=0o600)

    def mode() -> int:
        return device.stat().st_mode & 0o777

    first, second = fuse_for_all(device), fuse_for_all(device)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert mode() == 0o666
    second.__exit__(None, None, None)
    assert mode() == 0o600
