"""``-o passthrough``: files of the upper that the kernel reads and writes on the disk itself."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.mounting import CommandLine
from support.users import NOBODY, call_as

from unionmount.mounting.records import MountTable
from unionmount.mounting.statistics import ask_stats

pytestmark = [pytest.mark.needs("fuse", "root", "passthrough")]

SIZE = 300_000
LOWER = b"lower" * 50_000


@dataclass(frozen=True)
class Sides:
    """A mount with passthrough, and the kernel's overlayfs over the same files."""

    ours: Path
    theirs: Path
    socket: Path

    def messages(self) -> Counter[str]:
        told = ask_stats(self.socket, str(self.ours))["messages"]
        return Counter({name: one["fast"] + one["forwarded"] for name, one in told.items()})


def digests(directory: Path) -> dict[str, str]:
    files = [one for one in sorted(directory.rglob("*")) if one.is_file()]
    return {str(one): hashlib.sha256(one.read_bytes()).hexdigest() for one in files}


def make_lower(where: Path) -> None:
    where.mkdir()
    (where / "file").write_bytes(LOWER)
    (where / "small").write_bytes(b"small")
    for one in (where, *where.iterdir()):
        one.chmod(0o777)


@pytest.fixture
def sides(cli: CommandLine, tmp_path: Path) -> Iterator[Sides]:
    """Both mounts; afterwards the lower directories are as they were."""
    tmp_path.chmod(0o755)
    places = {}
    for name in ("ours", "theirs"):
        base = tmp_path / name
        base.mkdir()
        make_lower(base / "l")
        for part in "uwm":
            (base / part).mkdir()
        places[name] = f"lowerdir={base}/l,upperdir={base}/u,workdir={base}/w"
    before = digests(tmp_path / "ours/l")
    mountpoint, other = tmp_path / "ours/m", tmp_path / "theirs/m"
    cli.run("overlay", "-o", f"{places['ours']},passthrough,relatime,suid,dev", mountpoint)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", places["theirs"], other], check=True)
    try:
        (found,) = [one for one in MountTable.of_user().all() if one.record.path == mountpoint]
        yield Sides(mountpoint, other, MountTable.of_user().socket_path(found.record.id))
    finally:
        subprocess.run(["umount", "--lazy", other], check=True)
        cli.run("umount", "--lazy", mountpoint)
    assert digests(tmp_path / "ours/l") == before


def shown(path: Path) -> Any:
    status = path.stat()
    return stat.filemode(status.st_mode), status.st_size, status.st_nlink, path.read_bytes()


# ---- what is sent --------------------------------------------------------------------------------


def test_reads_and_writes_send_nothing(sides: Sides) -> None:
    path = sides.ours / "new"
    path.write_bytes(b"")
    with path.open("r+b", buffering=0) as file:
        before = sides.messages()
        for _ in range(20):
            file.write(bytes(SIZE))
        assert os.pread(file.fileno(), 5, 0) == bytes(5)
        spent = sides.messages() - before
    assert not {"READ", "WRITE"} & set(spent)
    assert path.stat().st_size == 20 * SIZE


def test_a_lower_file_is_read_by_messages_and_stays(sides: Sides) -> None:
    before = sides.messages()
    assert (sides.ours / "file").read_bytes() == LOWER
    assert (sides.messages() - before)["READ"] > 0


# ---- transitions, beside overlayfs ---------------------------------------------------------------


def copied_up_while_open(root: Path) -> Any:
    with (root / "file").open("rb") as reader, (root / "file").open("r+b") as writer:
        writer.write(b"UPPER")
        writer.flush()
        with (root / "file").open("rb") as third:
            seen = [third.read(5), reader.read(5)]
    with (root / "file").open("r+b") as again:  # passed through from here on
        again.write(b"again")
    return [*seen, shown(root / "file")]


def truncated(root: Path) -> Any:
    (root / "file").write_bytes(b"short")
    seen = [shown(root / "file")]
    with (root / "file").open("r+b") as file:
        file.write(b"longer than before")
        file.flush()
        os.ftruncate(file.fileno(), 4)
        seen.append(shown(root / "file"))
        fd = os.open(root / "file", os.O_WRONLY | os.O_TRUNC)
        seen.append((os.fstat(file.fileno()).st_size, os.pread(file.fileno(), 4, 0)))
        os.close(fd)
    return seen


def appended(root: Path) -> Any:
    (root / "new").write_bytes(b"begin")
    with (root / "new").open("ab", 0) as one, (root / "new").open("ab", 0) as two:
        for _ in range(3):
            one.write(b"1")
            two.write(b"22")
    return shown(root / "new")


def mapped(root: Path) -> Any:
    (root / "new").write_bytes(bytes(8192))
    with (root / "new").open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 8192)
    memory[:5] = b"first"  # the file is closed, and mapped still
    seen = [(root / "new").read_bytes()[:5]]
    fd = os.open(root / "new", os.O_RDWR)
    os.pwrite(fd, b"other", 4096)
    seen.append(bytes(memory[4096:4101]))
    os.close(fd)
    memory[:5] = b"later"
    seen.append((root / "new").read_bytes()[:5])
    memory.close()
    return [*seen, shown(root / "new")]


def unlinked_while_open(root: Path) -> Any:
    (root / "new").write_bytes(b"content")
    with (root / "new").open("r+b", buffering=0) as file:
        (root / "new").unlink()
        file.write(b"CONT")
        os.fsync(file.fileno())
        status = os.fstat(file.fileno())
        return [status.st_nlink, status.st_size, os.pread(file.fileno(), 9, 0)]


def renamed_over(root: Path) -> Any:
    (root / "one").write_bytes(b"one")
    (root / "two").write_bytes(b"second")
    with (root / "one").open("r+b", buffering=0) as old, (root / "two").open("r+b", 0) as new:
        (root / "two").rename(root / "one")
        old.write(b"1")
        new.write(b"2")
        return [os.pread(old.fileno(), 9, 0), shown(root / "one"), (root / "two").exists()]


def nameless(root: Path) -> Any:
    fd = os.open(root, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"nameless")
    seen = [os.fstat(fd).st_size, os.fstat(fd).st_nlink, os.pread(fd, 9, 0)]
    directory = os.open("/proc/self/fd", os.O_RDONLY)
    os.link(str(fd), root / "named", src_dir_fd=directory, follow_symlinks=True)
    os.close(directory)
    os.write(fd, b" no more")
    seen.append(shown(root / "named"))
    os.close(fd)
    return seen


def holes(root: Path) -> Any:
    fd = os.open(root / "new", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x" * 4096, 1 << 20)
    seen: list[Any] = [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 1 << 20, os.SEEK_HOLE)]
    os.posix_fallocate(fd, 1 << 20, 1 << 20)
    other = os.open(root / "copy", os.O_CREAT | os.O_RDWR)
    seen += [os.fstat(fd).st_size, os.copy_file_range(fd, other, 5000, 1 << 20, 3)]
    seen += [os.pread(other, 5003, 0), os.fstat(other).st_size]
    os.close(fd)
    os.close(other)
    return [*seen, shown(root / "new"), shown(root / "copy")]


def without_privileges(root: Path) -> Any:
    """Set-ID bits that are there when somebody opens the file, and that are given meanwhile."""
    path, seen = root / "program", []
    path.write_bytes(b"program")
    for early in (True, False):
        path.chmod(0o6777 if early else 0o777)
        fd = os.open(path, os.O_RDWR)
        path.chmod(0o6777)
        call_as(NOBODY, partial(os.write, fd, b"other"))
        os.close(fd)
        seen.append(shown(path))
    path.chmod(0o6777)
    with path.open("r+b") as file:
        file.write(b"root's")
    return [*seen, shown(path)]


@pytest.mark.parametrize(
    "work",
    [
        *(copied_up_while_open, truncated, appended, mapped, unlinked_while_open, renamed_over),
        *(nameless, holes, without_privileges),
    ],
)
def test_as_overlayfs(sides: Sides, work: Any) -> None:
    assert work(sides.ours) == work(sides.theirs)


def test_times_of_a_file_that_is_written_without_messages(sides: Sides) -> None:
    path = sides.ours / "new"
    path.write_bytes(b"x")
    os.utime(path, ns=(3, 4))
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 1)
        memory[:1] = b"y"
        memory.flush()
        assert path.stat().st_mtime_ns > 4
        memory.close()
    assert path.stat().st_mtime_ns == (sides.ours.parent / "u/new").stat().st_mtime_ns


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("passthrough", "add -o relatime"),
        ("passthrough,relatime,nofastpath", "the router does it"),
        ("passthrough,relatime,ro", "a read-only mount has none"),
    ],
)
def test_refused(cli: CommandLine, tmp_path: Path, options: str, why: str) -> None:
    for part in "luwm":
        (tmp_path / part).mkdir()
    places = ",".join(f"{name}dir={tmp_path}/{name[0]}" for name in ("lower", "upper", "work"))
    assert why in cli.error("overlay", "-o", f"{places},{options}", tmp_path / "m")
    assert not (tmp_path / "m").is_mount()


def test_refused_to_root_of_a_user_namespace(tmp_path: Path) -> None:
    program = "from unionmount.mounting.passthrough import check_passthrough as check\n"
    program += "check(writable=True, routed=True, counts_access=True)"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "permits it to root outside of user namespaces only" in done.stderr
    assert subprocess.run(command[3:], check=False).returncode == 0


def test_refused_on_a_stacked_file_system(cli: CommandLine, sides: Sides, tmp_path: Path) -> None:
    for part in ("u2", "w2"):
        (sides.ours / part).mkdir()
    for part in ("l2", "m2"):
        (tmp_path / part).mkdir()
    places = f"lowerdir={tmp_path}/l2,upperdir={sides.ours}/u2,workdir={sides.ours}/w2"
    said = cli.error("overlay", "-o", f"{places},passthrough,relatime", tmp_path / "m2")
    assert "stacked on others" in said
