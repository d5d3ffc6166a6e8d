"""Images as objects: their trees, layers and files."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

import pytest

import unionmount
from unionmount.errors import NotFoundError


@pytest.mark.parametrize("path", ["/d/f", b"/d/f", PurePosixPath("/d/f"), "d/f", "/l/../l/f"])
def test_paths_of_all_types(image: unionmount.Image, path: str | bytes | PurePosixPath) -> None:
    assert image.tree.lookup(path).path == b"/d/f"
    assert image.tree.read(path) == bytes(range(256)) * 5000


def test_names_are_bytes(image: unionmount.Image) -> None:
    assert b"caf\xe9" in [file.name for file in image.tree.list()]
    assert image.tree.read("/caf\udce9") == image.tree.read(b"/caf\xe9") == b"!"
    walked = [file.path for file in image.tree.walk()]
    assert walked == [b"/caf\xe9", b"/d", b"/d/f", b"/d/new", b"/fifo", b"/l", b"/round"]
    assert [file.path for file in image.tree.walk("/l")] == [b"/d/f", b"/d/new"]


def test_an_open_file(image: unionmount.Image) -> None:
    content = bytes(range(256)) * 5000
    with image.tree.open("/d/f") as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        steps = [(0, 0, 10), (-10, 2, 100), (5, 1, 3), (10**7, 0, 3), (0, 0, -1)]
        for offset, whence, size in steps:
            at = file.seek(offset, whence)
            assert file.tell() == at
            wanted = content[at:] if size < 0 else content[at : at + size]
            assert file.read(size) == wanted
        with pytest.raises(OSError, match="Invalid"):
            file.seek(-1)


def test_a_file_of_a_closed_image(image: unionmount.Image) -> None:
    file = image.tree.open("/d/f")
    image.close()
    image.close()
    with pytest.raises(ValueError, match="closed"):
        file.read()
    with pytest.raises(ValueError, match="closed"):
        image.tree.lookup("/")
    file.close()


def test_symlinks_and_attributes(image: unionmount.Image) -> None:
    tree = image.tree
    assert tree.readlink("/l") == b"/d"
    assert tree.lookup("/l").is_directory
    assert tree.lookup("/l", follow_symlinks=False).is_symlink
    assert tree.xattrs("/d/f") == {b"user.x": b"y"}
    assert not tree.exists("/round")
    assert not tree.exists("/d/f/x")
    assert not tree.exists("/" + "n" * 256)
    assert tree.exists("/l/new")
    assert [file.layer for file in tree.list("/d")] == [0, 1]


@pytest.mark.parametrize(
    ("operation", "path", "code"),
    [
        ("read", "/d", errno.EISDIR),
        ("read", "/fifo", errno.EINVAL),
        ("read", "/nowhere", errno.ENOENT),
        ("lookup", "/round", errno.ELOOP),
        ("readlink", "/d/f", errno.EINVAL),
        ("list", "/d/f", errno.ENOTDIR),
        ("walk", "/d/f", errno.ENOTDIR),
        ("xattrs", "/nowhere", errno.ENOENT),
    ],
)
def test_errors_name_the_path(
    image: unionmount.Image, operation: str, path: str, code: int
) -> None:
    with pytest.raises(OSError, match=r"\w") as error:
        list(getattr(image.tree, operation)(path))
    assert (error.value.errno, error.value.filename) == (code, path)


def test_the_image(image: unionmount.Image, source: Path) -> None:
    assert [layer.created_by for layer in image.layers] == ["ADD base", "COPY new"]
    assert [change.path for change in image.layers[1].changes()] == [b"/d/new"]
    assert image.id == image.manifest.config.digest
    with unionmount.open_image(str(source), layer=0) as older:
        assert len(older.layers) == 1
        assert older.layers[0].created_by == "ADD base"
        assert not older.tree.exists("/d/new")
    with pytest.raises(NotFoundError, match="no layer 2"):
        unionmount.open_image(str(source), layer=2)
    with pytest.raises(NotFoundError):
        unionmount.open_image(str(source), root="elsewhere", platform="linux/s390x")


def test_nothing_stays_open(source: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with unionmount.open_image(str(source)) as image:
        image.tree.read("/d/f")
    assert os.listdir("/proc/self/fd") == before
