"""The Python API: the examples of its page, and what they leave out."""

from __future__ import annotations

import doctest
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
import trio
from support.archives import Layer, docker_archive
from support.mounting import is_mounted

import unionmount
from unionmount.errors import MountError, NotFoundError, UnionmountError

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a sample image, and a store of its own."""
    monkeypatch.setenv("UNIONMOUNT_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.needs("fuse")
def test_the_examples(place: Path) -> None:
    (place / "sample.tar").symlink_to(PROJECT / "sample/sample.tar")
    page = str(PROJECT / "docs/reference/api.md")
    found = doctest.testfile(page, module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 20
    assert found.failed == 0


def test_importing_is_light() -> None:
    code = "import unionmount, sys; print(*sys.modules); print(*dir(unionmount))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules, names = done.stdout.splitlines()
    heavy = {"trio", "pyfuse3", "unionmount._core", "unionmount.api", "subprocess"}
    assert not heavy & set(modules.split())
    assert {"open_image", "mount", "Image"} <= set(names.split())


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = unionmount.nonsense  # type: ignore[attr-defined]


# ---- looking -------------------------------------------------------------------------------------


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


# ---- mounting ------------------------------------------------------------------------------------


@pytest.mark.needs("fuse")
async def test_a_mount_lasts_as_long_as_its_block(source: Path, place: Path) -> None:
    (place / "mnt").mkdir()
    async with unionmount.mount(str(source), place / "mnt") as mounted:
        assert mounted.path == place / "mnt"
        assert (mounted.path / "d/new").read_bytes() == b"new"
        with pytest.raises(OSError, match="Read-only"):
            (mounted.path / "x").touch()
    assert not is_mounted(place / "mnt")
    with pytest.raises(ProcessLookupError):
        os.kill(mounted.pid, 0)


@pytest.mark.needs("fuse")
async def test_an_error_unmounts_and_is_passed_on(source: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with unionmount.mount(str(source)) as mounted:
            _ = 1 / 0
    assert not mounted.path.exists()


@pytest.mark.needs("fuse")
async def test_cancellation_unmounts(source: Path) -> None:
    with trio.CancelScope() as scope:
        async with unionmount.mount(str(source)) as mounted:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not mounted.path.exists()


@pytest.mark.needs("fuse")
async def test_cancellation_before_it_is_mounted(source: Path, place: Path) -> None:
    (place / "mnt").mkdir()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with unionmount.mount(str(source), place / "mnt"):
            pytest.fail("it was cancelled")
    assert not is_mounted(place / "mnt")


@pytest.mark.needs("fuse")
async def test_changes_are_kept_where_that_was_asked_for(source: Path, place: Path) -> None:
    async with unionmount.mount(str(source), name="box") as mounted:
        (mounted.path / "made").write_text("made\n")
    async with unionmount.mount("box") as mounted:
        assert (mounted.path / "made").read_text() == "made\n"
        with pytest.raises(OSError, match="Read-only"):
            (mounted.path / "made").unlink()
    with unionmount.open_image("box") as image:
        assert image.tree.read("/made") == b"made\n"
        assert image.tree.lookup("/made").layer == 2
    async with unionmount.mount(str(source), upper=place / "upper", options="dev") as mounted:
        (mounted.path / "other").touch()
    assert (place / "upper/other").exists()


@pytest.mark.needs("fuse")
async def test_who_may_reach_the_changes(source: Path, public_tmp: Path) -> None:
    upper = public_tmp / "upper"
    upper.mkdir()
    upper.chmod(0o755)
    with pytest.raises(MountError, match="other users can reach it"):
        async with unionmount.mount(str(source), upper=upper):
            pytest.fail("it was mounted")
    async with unionmount.mount(str(source), upper=upper, upper_open=True) as mounted:
        (mounted.path / "made").touch()
    assert (upper / "made").exists()


@pytest.mark.needs("fuse")
async def test_layers_are_mounted(source: Path) -> None:
    async with unionmount.mount(str(source), layers=True) as mounted:
        assert sorted(os.listdir(mounted.path)) == ["0", "1"]
    async with unionmount.mount(str(source), layer=0) as mounted:
        assert not (mounted.path / "d/new").exists()


@pytest.mark.needs("fuse")
async def test_why_it_was_not_mounted(source: Path, place: Path) -> None:
    with pytest.raises(MountError, match="no such file or directory"):
        async with unionmount.mount("./nothing.tar"):
            pytest.fail("there is nothing to mount")
    with pytest.raises(UnionmountError, match="no layer 5"):
        async with unionmount.mount(str(source), layer=5):
            pytest.fail("there is no such layer")


@pytest.mark.needs("fuse")
async def test_it_may_be_unmounted_meanwhile(source: Path) -> None:
    async with unionmount.mount(str(source)) as mounted:
        await trio.run_process([sys.executable, "-m", "unionmount", "umount", str(mounted.path)])
    assert not mounted.path.exists()
