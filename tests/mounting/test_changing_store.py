"""An additional store whose owner changes it while root's mount shows it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine, is_mounted
from support.users import NOBODY, become_nobody, call_as

from unionmount.mounting.records import MountTable

pytestmark = [pytest.mark.needs("fuse"), pytest.mark.needs("root")]

NAME = "example.org/image:1"
DIRECTORIES = 40
FILES = 60
ALLOWED = {errno.EIO, errno.EBADMSG}

OWNER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
whole = os.read(fd, 1 << 30)
print("ready", flush=True)
while True:
    for junk in (b"\\xff", b"\\x01", b"\\0"):
        os.pwrite(fd, junk * len(whole), 0)
        os.ftruncate(fd, 0)
        os.pwrite(fd, whole[: len(whole) // 2], 0)
        os.pwrite(fd, whole, 0)
"""


@dataclass(frozen=True, slots=True)
class Shared:
    """A store of nobody's, and root's own."""

    cli: CommandLine
    store: Path
    own: Path
    where: Path

    @property
    def index(self) -> Path:
        (found,) = self.store.glob("layers/sha256/*/layer.idx")
        return found

    def daemon(self) -> int:
        """The process that serves the mount."""
        (found,) = [
            one.record.pid
            for one in MountTable.of_user().all()
            if one.alive and one.record.path == self.where
        ]
        return found

    def mount(self, *options: str) -> tuple[str | Path, ...]:
        """The words that mount the image."""
        stores = ("--root", self.own, "--additional-store", self.store)
        return (*stores, "mount", "--ro", *options, NAME, self.where)

    @contextmanager
    def mounted(self, *options: str) -> Iterator[int]:
        """Root's mount of the image; the daemon lives and lets itself be unmounted at the end."""
        self.cli.run(*self.mount(*options))
        try:
            pid = self.daemon()
            yield pid
            assert self.daemon() == pid
            self.cli.run("umount", self.where)
            assert not is_mounted(self.where)
        finally:
            if is_mounted(self.where):
                self.cli.run("umount", "--lazy", self.where)


@pytest.fixture
def shared(cli: CommandLine, public_tmp: Path) -> Shared:
    layer = Layer()
    for number in range(DIRECTORIES):
        layer.directory(f"d{number:03}")
        for name in range(FILES):
            path = f"d{number:03}/file-{name:03}"
            layer.file(path, b"content", xattrs={"user.a": b"%d" % (name % 7) * 100})
        layer.symlink(f"d{number:03}/link", f"file-{number:03}" * 20)
        layer.hard_link(f"d{number:03}/again", f"d{number:03}/file-000")
    loading = public_tmp / "loading"
    archive = docker_archive(public_tmp / "image.tar", [layer], name=NAME)
    cli.run("--root", loading, "load", "-i", archive)
    store, where = public_tmp / "store", public_tmp / "where"
    shutil.copytree(loading, store)
    where.mkdir()
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", store], check=True)
    subprocess.run(["chmod", "-R", "a+rX", store], check=True)
    return Shared(cli, store, public_tmp / "own", where)


def look(path: Path) -> tuple[int, ...]:
    """Ask everything of one path; the errnos that were answered."""
    errors = []
    asks: tuple[Callable[[], object], ...] = (
        path.lstat,
        lambda: os.listxattr(path, follow_symlinks=False),
        lambda: os.getxattr(path, "user.a", follow_symlinks=False),
        lambda: path.readlink() if path.is_symlink() else path.read_bytes(),
    )
    for ask in asks:
        try:
            ask()
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.ENODATA):
                errors.append(error.errno or 0)
    return tuple(errors)


def walk(root: Path) -> tuple[int, list[int]]:
    """How many names there are, and the errnos that were answered."""
    count, errors = 0, list[int]()
    pending = [root]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    count += 1
                    errors += look(Path(entry.path))
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
        except OSError as error:
            errors.append(error.errno or 0)
    return count, errors


def overwrite(index: Path) -> None:
    with index.open("r+b") as file:
        file.write(b"\xff" * index.stat().st_size)


def overwrite_records(index: Path) -> None:
    """All but the header and the checksums: what was verified is not so any more."""
    with index.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xf0" * (index.stat().st_size // 2))


def cut(index: Path) -> None:
    os.truncate(index, 0)


def halve(index: Path) -> None:
    os.truncate(index, index.stat().st_size // 2)


def grow(index: Path) -> None:
    os.truncate(index, 1 << 40)


@pytest.mark.parametrize("fastpath", [(), ("--no-fastpath",)], ids=["router", "python"])
@pytest.mark.parametrize("change", [overwrite, overwrite_records, cut, halve, grow])
def test_the_owner_rewrites_the_index_under_a_mount(
    shared: Shared, change: Callable[[Path], None], fastpath: tuple[str, ...]
) -> None:
    with shared.mounted(*fastpath):
        first = shared.where / "d000"
        assert walk(first) == (FILES + 2, [])
        call_as(NOBODY, lambda: change(shared.index))
        _, errors = walk(shared.where)
        assert set(errors) <= ALLOWED
        assert bool(errors) == (change is not grow)  # not all of it was seen before
        assert walk(first) == (FILES + 2, [])  # what was seen is still told
    if change is overwrite_records:  # which shows where a record is read, not when it is opened
        assert "damaged" in shared.cli.error(*shared.mount(*fastpath))
        return
    with shared.mounted(*fastpath):  # derived data: made anew, in root's own store
        expected = DIRECTORIES * (FILES + 3)
        assert walk(shared.where) == (expected, [])


def test_the_owner_changes_the_index_all_the_time(shared: Shared) -> None:
    whole = shared.index.read_bytes()
    command = [*become_nobody(), sys.executable, "-c", OWNER, str(shared.index)]
    for _ in range(5):
        shared.index.write_bytes(whole)
        with shared.mounted(), subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
            try:
                assert owner.stdout is not None
                assert owner.stdout.readline() == b"ready\n"
                _, errors = walk(shared.where)
                assert set(errors) <= ALLOWED
            finally:
                owner.kill()


def test_what_others_can_change_is_not_mapped(shared: Shared) -> None:
    def mapped(pid: int) -> bool:
        return "layer.idx" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")

    with shared.mounted() as pid:
        assert walk(shared.where)[1] == []
        assert not mapped(pid)
    subprocess.run(["chown", "-R", "0:0", shared.store], check=True)
    with shared.mounted() as pid:
        assert mapped(pid)
    shared.index.chmod(0o666)
    with shared.mounted() as pid:
        assert not mapped(pid)


def test_an_index_on_a_file_system_that_is_not_local_is_not_mapped(
    shared: Shared, public_tmp: Path
) -> None:
    subprocess.run(["chown", "-R", "0:0", shared.store], check=True)
    through = public_tmp / "through"
    through.mkdir()
    shared.cli.run("overlay", "-o", f"lowerdir={shared.store}", through)
    try:
        seen = Shared(shared.cli, through, shared.own, shared.where)
        with seen.mounted() as pid:
            assert walk(seen.where)[1] == []
            assert "layer.idx" not in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    finally:
        shared.cli.run("umount", through)
