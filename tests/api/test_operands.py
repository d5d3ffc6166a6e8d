"""Path objects instead of words, and words that name nothing."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.mounting import is_mounted

import unionmount
from unionmount.api.operands import operand_of
from unionmount.errors import NotFoundError, UsageError


def test_a_path_object_is_a_file(source: Path, place: Path) -> None:
    unionmount.copy("docker-archive:image.tar", "other.tar:1")
    (place / "other.tar:1").write_bytes(b"no archive")
    for path in (Path("image.tar"), source, Path("./image.tar")):
        with unionmount.open_image(path) as image:
            assert image.tree.read("/d/new") == b"new"
    assert operand_of("other.tar:1") == "other.tar:1"
    assert operand_of(Path("other.tar:1")) == "./other.tar:1"
    with pytest.raises(NotFoundError, match=r"^\./nothing: no such file or directory$"):
        unionmount.open_image(Path("nothing"))
    with fsspec.filesystem("unionmount", image=Path("image.tar")) as fs:
        assert fs.cat("/d/new") == b"new"
    assert unionmount.export(Path("image.tar"), place / "out.tar") == ()
    assert list(unionmount.diff(Path("image.tar"), source)) == []


@pytest.mark.needs("fuse")
def test_the_path_of_a_mount(source: Path) -> None:
    with unionmount.mount(source, ephemeral=True) as mounted:
        (mounted.path / "made").touch()
        assert [one.path for one in unionmount.diff(mounted.path)] == [b"/made"]
        assert unionmount.commit(mounted.path, "new:1").names == ("docker.io/library/new:1",)


@pytest.mark.parametrize("number", [-1, -2, -3])
def test_layers_are_not_counted_from_the_end(source: Path, number: int) -> None:
    with pytest.raises(NotFoundError, match=f"there is no layer {number}; .* 0 to 1$"):
        unionmount.open_image(source, layer=number)


def test_an_empty_root_is_the_default(source: Path, place: Path) -> None:
    unionmount.copy(f"docker-archive:{source}", "app:1", root="")
    assert sorted(os.listdir(place)) == ["image.tar", "root"]
    with unionmount.open_image("app:1", root="") as image:
        assert image.tree.exists("/d/new")


EMPTY: dict[str, Callable[[], Any]] = {
    "the source is empty": lambda: unionmount.open_image(""),
    "the path of the output is empty": lambda: unionmount.export("image.tar", ""),
    "the name of the container or mount is empty": lambda: list(unionmount.diff("")),
}


@pytest.mark.parametrize("message", EMPTY)
@pytest.mark.usefixtures("source")
def test_empty_words(message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        EMPTY[message]()


@pytest.mark.needs("fuse")
def test_an_empty_word_is_not_the_mount_around(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unionmount.mount(source, ephemeral=True) as mounted:
        assert is_mounted(mounted.path)
        with monkeypatch.context() as inside:
            inside.chdir(mounted.path)
            with pytest.raises(UsageError, match="is empty"):
                unionmount.commit("", "new:1")


def test_other_types_are_refused() -> None:
    wrong: Any = b"image.tar"
    with pytest.raises(TypeError, match=r"^an image is named by str or a path object, not by byt"):
        unionmount.open_image(wrong)


def test_an_output_without_a_descriptor(source: Path) -> None:
    with pytest.raises(UsageError, match=r"^the output \(BytesIO\) has no file descriptor; give"):
        unionmount.export(source, io.BytesIO())


def test_text_that_no_file_name_can_be(source: Path) -> None:
    with unionmount.open_image(source) as image:
        assert not image.path("/\ud800").exists()
        assert image.tree.find("/d/\ud800") is None
        with pytest.raises(UnicodeEncodeError):
            image.tree.read("/\ud800")
