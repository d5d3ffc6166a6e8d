"""Notes of holds: whose lock is free is released, and a damaged one runs nothing."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from unionmount.sources.holds import release_left

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


def test_a_tool_that_fails_is_named(tmp_path: Path, told: Path) -> None:
    (tmp_path / "bin/docker").write_text("#!/bin/sh\necho 'Error: no daemon' >&2\nexit 1\n")
    path = note(tmp_path, json.dumps({"program": "docker", "options": [], "name": NAME}))
    assert release_left(tmp_path) == ["docker: no daemon"]
    assert path.exists()
    assert told.read_text() == ""
