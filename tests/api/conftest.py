"""An image, and a store of its own, for the tests of the Python API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.path_tree import layer_of, write_tree

import unionmount


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a sample image, and a store of its own."""
    monkeypatch.setenv("UNIONMOUNT_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def source(place: Path) -> Path:
    base = Layer().directory("d").file("d/f", bytes(range(256)) * 5000, xattrs={"user.x": b"y"})
    base.symlink("l", "/d").symlink("round", "round").add("fifo", b"6").file("caf\udce9", b"!")
    return docker_archive(
        place / "image.tar", [base, Layer().file("d/new", b"new")], history=["ADD base", "COPY new"]
    )


@pytest.fixture
def image(source: Path) -> Iterator[unionmount.Image]:
    with unionmount.open_image(str(source)) as opened:
        yield opened


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tree on disk."""
    return write_tree(tmp_path_factory.mktemp("tree") / "disk")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Path:
    """The same tree as an archive, with a FIFO besides."""
    place = tmp_path_factory.mktemp("archive") / "image.tar"
    return docker_archive(place, [layer_of(disk), Layer().add("fifo", b"6")])
