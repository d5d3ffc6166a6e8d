"""Notes of holds: whose lock is free is released, and a damaged one runs nothing."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.effort import amount

from unionmount.errors import StoreError
from unionmount.sources.holds import HoldTool, hold_image, release_left, serves

NAME = "unionmount-0123456789ab"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that each call of a program named like a tool adds its words to."""
    programs, told = tmp_path / "bin", tmp_path / "told"
    programs.mkdir()
    for name in ("buildah", "podman", "docker", "rm"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{told}\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    told.touch()
    return told


def note(store: Path, text: str, name: str = NAME) -> Path:
    directory = store / f"holds-{os.geteuid()}"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(text)
    return path


def test_a_hold_that_was_left_is_released(tmp_path: Path, told: Path) -> None:
    options = ["--root", "/srv/store"]
    path = note(tmp_path, json.dumps({"program": "podman", "options": options, "name": NAME}))
    assert release_left(tmp_path) == []
    assert told.read_text() == f"podman --root /srv/store rm -v {NAME}\n"
    assert not path.exists()


def test_a_hold_in_use_stays(tmp_path: Path, told: Path) -> None:
    path = note(tmp_path, json.dumps({"program": "podman", "options": [], "name": NAME}))
    with path.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert release_left(tmp_path) == []
    assert told.read_text() == ""
    assert path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        json.dumps({"program": "rm", "options": ["-rf"], "name": NAME}),
        json.dumps({"program": "podman", "options": [1], "name": NAME}),
        json.dumps({"program": "podman", "options": [], "name": "--all"}),
        json.dumps({"program": ["podman"], "options": [], "name": NAME}),
    ],
)
def test_a_damaged_note_runs_nothing(tmp_path: Path, told: Path, text: str) -> None:
    note(tmp_path, text)
    assert release_left(tmp_path) == []
    assert told.read_text() == ""


@pytest.mark.parametrize("age", [0, 3600])
def test_a_container_that_a_killed_mount_still_makes_is_waited_for(
    tmp_path: Path, told: Path, age: int
) -> None:
    (tmp_path / "bin/buildah").write_text("#!/bin/sh\necho 'container not known' >&2\nexit 125\n")
    path = note(tmp_path, json.dumps({"program": "buildah", "options": [], "name": NAME}))
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    assert release_left(tmp_path) == []
    assert path.exists() == (age == 0)


def test_a_daemon_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "never")
    (tmp_path / "bin/docker").write_text(f"#!/bin/sh\nexec cat {tmp_path}/never\n")
    monkeypatch.setenv("UNIONMOUNT_TIMEOUT", "0.2")
    path = note(tmp_path, json.dumps({"program": "docker", "options": [], "name": NAME}))
    (message,) = release_left(tmp_path)
    assert message.startswith("docker: no answer within 0.2 s")
    assert path.exists()
    assert not serves(HoldTool("docker"), tmp_path)


def test_a_tool_that_fails_is_named(tmp_path: Path, told: Path) -> None:
    (tmp_path / "bin/docker").write_text("#!/bin/sh\necho 'Error: no daemon' >&2\nexit 1\n")
    path = note(tmp_path, json.dumps({"program": "docker", "options": [], "name": NAME}))
    assert release_left(tmp_path) == ["docker: no daemon"]
    assert path.exists()
    assert told.read_text() == ""


@pytest.mark.parametrize(
    "options", [["--storage-opt", "x=y"], ["--root"], ["--root", "/a", "-c"], ["-H", "tcp://x"]]
)
def test_options_of_a_note_are_those_of_a_store(
    tmp_path: Path, told: Path, options: list[str]
) -> None:
    note(tmp_path, json.dumps({"program": "podman", "options": options, "name": NAME}))
    assert release_left(tmp_path) == []
    assert told.read_text() == ""


@pytest.mark.parametrize("how", ["owner", "mode", "symlink"])
def test_notes_of_others_run_nothing(tmp_path: Path, told: Path, how: str) -> None:
    """Who may write to a store that several users have could run a program as another of them."""
    if how == "owner" and os.geteuid():
        pytest.skip("only root can give a directory away")
    path = note(tmp_path, json.dumps({"program": "podman", "options": [], "name": NAME}))
    directory = path.parent
    if how == "owner":
        os.chown(directory, 5555, 5555)
    elif how == "mode":
        directory.chmod(0o777)
    else:
        directory.rename(tmp_path / "elsewhere")
        directory.symlink_to("elsewhere")
    for action in (
        lambda: release_left(tmp_path),
        lambda: hold_image(tmp_path, HoldTool("podman"), "0" * 64),
    ):
        with pytest.raises(StoreError, match="only this user can write to"):
            action()
    assert told.read_text() == ""


def test_a_new_hold_is_not_taken_for_one_that_was_left(tmp_path: Path, told: Path) -> None:
    """Other mounts look for holds that were left while this one makes its own."""
    script = "import pathlib, sys\nfrom unionmount.sources.holds import release_left\nprint()\n"
    script += "sys.stdout.flush()\nwhile True: release_left(pathlib.Path(sys.argv[1]))\n"
    words = [sys.executable, "-c", script, str(tmp_path)]
    with ExitStack() as stack:
        for _ in range(2):
            other = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
            stack.callback(other.kill)
            assert other.stdout is not None
            assert other.stdout.readline() == b"\n"
        count = amount(400, 4000)
        for _ in range(count):
            with hold_image(tmp_path, HoldTool("buildah"), "0" * 64) as hold:
                hold.release()
    assert len(told.read_text().splitlines()) == 2 * count  # made, and removed
