"""Containers, differences, commits and exports: the commands and GNU tar say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.programs import run

import unionmount
from unionmount.errors import MountError, NotFoundError, UsageError
from unionmount.store.store import Store

pytestmark = pytest.mark.needs("fuse")


class StopError(Exception):
    """An exception of the caller's own."""


def stop(_: unionmount.TransferProgress) -> None:
    """End what reports its progress."""
    raise StopError


def command(*words: str) -> str:
    """What a command prints; one that finds differences ends with 1."""
    line = [sys.executable, "-m", "unionmount", *words]
    return subprocess.run(line, check=False, capture_output=True, text=True).stdout


@pytest.fixture
def box(source: Path) -> str:
    """A container with changes of each kind."""
    with unionmount.mount(str(source), name="box") as mounted:
        (mounted.path / "d/new").unlink()
        (mounted.path / "made").write_text("made\n")
        (mounted.path / "d/f").chmod(0o600)
    return "box"


def shown(word: str, *other: str) -> list[tuple[str, str, list[str]]]:
    """The differences that the API finds, as the command writes them."""
    return [
        (found.kind, os.fsdecode(found.path), list(found.changes))
        for found in unionmount.diff(word, *other)
    ]


def printed(*words: str) -> list[tuple[str, str, list[str]]]:
    """The differences that the command prints."""
    rows = json.loads(command("diff", "--format", "json", *words))
    files = [row for row in rows if row.get("what", "file") == "file"]
    return [(row["kind"], "/" + row["path"].lstrip("/"), row["changes"]) for row in files]


def test_differences(box: str, source: Path) -> None:
    assert ("D", "/d/new", []) in shown(box)
    assert ("A", "/made", []) in shown(box)
    assert ("C", "/d/f", ["mode"]) in shown(box)
    assert shown(box) == printed(box)
    assert shown(str(source), box) == printed(str(source), box)
    assert shown(box, str(source)) == printed(box, str(source))
    assert shown(box, box) == []
    with unionmount.mount(box, writable=True) as mounted:
        (mounted.path / "more").touch()
        assert ("A", "/more", []) in shown(str(mounted.path))
    before = os.listdir("/proc/self/fd")
    found = unionmount.diff(box)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert os.listdir("/proc/self/fd") == before


def test_what_has_no_differences(source: Path) -> None:
    with pytest.raises(NotFoundError, match="no such container or mount"):
        list(unionmount.diff("nothing"))
    with (
        unionmount.mount(str(source)) as mounted,
        pytest.raises(MountError, match="mounted read-only"),
    ):
        list(unionmount.diff(str(mounted.path)))


def test_commit(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[unionmount.TransferProgress] = []
    made = unionmount.commit(
        *(box, "example.org/made:1"),
        message="by a test",
        changes=['CMD ["true"]'],
        exclude=["/d/f"],
        epoch=1_700_000_000,
        progress=told.append,
    )
    assert made.names == ("example.org/made:1",)
    assert made.warnings == ()
    assert [report.bytes for report in told] == sorted(report.bytes for report in told) != []
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    words = ("-m", "by a test", "-c", 'CMD ["true"]', "--exclude", "/d/f")
    assert command("commit", *words, box, "example.org/made:2").strip() == str(made.id)
    with unionmount.open_image("example.org/made:1") as image:
        assert image.tree.read("/made") == b"made\n"
        assert not image.tree.exists("/d/new")
        assert image.path("/d/f").stat().st_mode & 0o777 == 0o644
        assert image.config.runtime["Cmd"] == ["true"]
        assert len(image.layers) == 3
    squashed = unionmount.commit(box, "example.org/made:3", squash=True)
    with unionmount.open_image(str(squashed.id)) as image:
        assert len(image.layers) == 1
    with pytest.raises(UsageError, match="has a digest"):
        unionmount.commit(box, f"example.org/made@{made.id}")


@pytest.mark.parametrize("squash", [False, True])
def test_a_commit_that_is_cancelled(box: str, place: Path, squash: bool) -> None:
    layers = place / "root/layers/sha256"
    before = sorted(os.listdir(layers))
    with pytest.raises(StopError):
        unionmount.commit(box, "example.org/made:1", squash=squash, progress=stop)
    store = Store(place / "root")
    assert not store.has_image_named("example.org/made:1")
    assert os.listdir(store.root / "tmp") == os.listdir(store.root / "leases") == []
    assert sorted(os.listdir(layers)) == before


def test_export(box: str, place: Path) -> None:
    told: list[unionmount.TransferProgress] = []
    assert unionmount.export(box, place / "out.tar", progress=told.append) == ()
    command("export", "-o", str(place / "same.tar"), box)
    assert (place / "out.tar").read_bytes() == (place / "same.tar").read_bytes()
    names = run("tar", "tf", place / "out.tar").split("\n")
    assert {"made", "d/f"} <= {name.removeprefix("./").rstrip("/") for name in names}
    assert told[-1].bytes == len("made\n") + 256 * 5000 + len("!")
    with (place / "stream.tar").open("wb") as file:
        file.write(b"")
        unionmount.export(box, file, "/d")
    with tarfile.open(place / "stream.tar") as tar:
        assert [name for name in tar.getnames() if name not in ("", ".")] == ["f"]
    with pytest.raises(FileNotFoundError, match="'/nowhere'"):
        unionmount.export(box, place / "none.tar", "/nowhere")
    assert not (place / "none.tar").exists()


def test_an_export_that_is_cancelled(box: str, place: Path) -> None:
    (place / "out.tar").write_text("old")
    before = sorted(os.listdir(place))
    with pytest.raises(StopError):
        unionmount.export(box, place / "out.tar", progress=stop)
    assert sorted(os.listdir(place)) == before
    assert (place / "out.tar").read_text() == "old"


def test_containers(box: str, source: Path, place: Path) -> None:
    assert unionmount.containers(root=place / "other") == ()
    (found,) = unionmount.containers()
    assert (found.name, found.status, found.mountpoint, found.pid) == (box, "stopped", None, None)
    assert found.upper == place / "root/containers/box/upper"
    with unionmount.open_image(str(source)) as image:
        assert found.image_id == image.id
    with unionmount.mount(box, writable=True) as mounted:
        (live,) = unionmount.containers()
        assert (live.status, live.mountpoint, live.pid) == ("live", mounted.path, mounted.pid)
        (row,) = json.loads(command("ps", "-a", "--format", "json"))
        assert (row["container"], row["status"], row["pid"]) == (box, "live", mounted.pid)
        assert row["created"] != ""
