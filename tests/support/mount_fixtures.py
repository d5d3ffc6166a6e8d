"""Fixtures of the tests that mount: everything they make is in a runtime directory of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from support.archives import Layer, docker_archive
from support.commands import Commands
from support.mounting import CommandLine, is_mounted, own_places, unmounting
from support.real_images import TOOLS, RealImage, real_image
from support.users import NOBODY, become_nobody, fuse_for_all

_BUILDING = 2400  # seconds, on a slow machine
Mount = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the records of a file's mounts apart from those of other files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIONMOUNT_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[Commands]:
    """What runs the commands of one file, where that asks for it."""
    made = Commands()
    yield made
    made.close()


@pytest.fixture(scope="module")
def cli() -> CommandLine:
    """The command line."""
    return CommandLine()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give time to tests that may have to build the real image, or wait until it is built."""
    if "real" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.timeout(_BUILDING))


@pytest.fixture(scope="session")
def real(require: Callable[..., None], request: pytest.FixtureRequest) -> RealImage:
    """The image of real tools, kept where UNIONMOUNT_TEST_IMAGES says, or in pytest's cache."""
    require("root", *TOOLS)
    assert request.config.cache is not None
    kept = os.environ.get("UNIONMOUNT_TEST_IMAGES") or request.config.cache.mkdir("images")
    return real_image(Path(kept))


@pytest.fixture(scope="module")
def fuse_device() -> Iterator[None]:
    """/dev/fuse open to ordinary users."""
    with fuse_for_all():
        yield


@pytest.fixture
def home(public_tmp: Path) -> Path:
    """A directory of an ordinary user."""
    if os.geteuid() == 0:
        os.chown(public_tmp, NOBODY, NOBODY)
    return public_tmp


@pytest.fixture
def user(fuse_device: None, home: Path) -> Iterator[CommandLine]:
    """The command line, run by an ordinary user."""
    environment = {**own_places(home), "HOME": str(home)}
    with unmounting(CommandLine(become_nobody(), environment)) as line:
        yield line


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small image of two layers."""
    lower = Layer().directory("etc").file("etc/motd", b"hello\n").file("etc/old", b"old\n")
    upper = Layer().file("etc/.wh.old").file("etc/new", b"new\n")
    return docker_archive(
        tmp_path / "image.tar", [lower, upper], history=["ADD base", "RUN change"]
    )


@contextmanager
def _mounted(
    cli: CommandLine, source: Path, where: Path, options: tuple[str, ...]
) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    cli.run("mount", "--ro", *options, source, where)
    try:
        yield where
    finally:
        if is_mounted(where):
            cli.run("umount", "--lazy", where)


@pytest.fixture
def mount(cli: CommandLine, tmp_path: Path) -> Iterator[Mount]:
    """A function that mounts an archive read-only, and is undone when the test ends."""
    with ExitStack() as stack:

        def mount_it(source: Path, *options: str, at: Path | None = None) -> Path:
            where = at or tmp_path / "mnt"
            return stack.enter_context(_mounted(cli, source, where, options))

        yield mount_it


@pytest.fixture(scope="module")
def module_mount(
    cli: CommandLine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Path]]:
    """The same for all tests of a module."""
    with ExitStack() as stack:

        def mount_it(source: Path, *options: str) -> Path:
            where = tmp_path_factory.mktemp("mnt")
            where.chmod(0o755)
            return stack.enter_context(_mounted(cli, source, where, options))

        yield mount_it


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Descriptors that are closed when the test ends."""
    opened: list[int] = []
    yield opened
    for fd in opened:
        with suppress(OSError):  # closing tells the server, which may be gone
            os.close(fd)
