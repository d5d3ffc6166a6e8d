"""Where it happens: a tmpfs with the lowers, the upper, the mount point, and what is nobody's."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.archives import Layer, docker_archive
from support.mounting import mount_line

from fuzz_mount.board import PLACES

TOP = Path("/mnt")  # covered, in a mount namespace of our own
CONNECTIONS = Path("/sys/fs/fuse/connections")
SECRET = b"NOBODY-MAY-SEE-THIS"
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of mount. ``uid``: of who mounts, and owns the upper."""

    name: str
    uid: int
    image: bool
    options: str = ""

    @property
    def users(self) -> tuple[int, ...]:
        """Who uses the mount: only its user gets into one that is an ordinary user's."""
        return (self.uid, self.uid) if self.uid else (0, 65534, 1000)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("root-overlay", 0, image=False),
        Variant("root-image", 0, image=True),
        Variant("user-overlay", 65534, image=False),
        Variant("user-image", 65534, image=True),
    )
}


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def detach_all(below: Sequence[Path]) -> None:
    """Take away all mounts below some directories."""
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    points = [line.split()[4] for line in table.splitlines()]
    for point in reversed(points):
        if any(point.startswith(f"{top}/") for top in below):
            _libc.umount2(os.fsencode(point), _MNT_DETACH)


class Place:
    """The directories, made anew; to be closed."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        _run("mount", "-t", "tmpfs", "-o", "size=1g,mode=755", "fuzz", TOP)
        self.lower, self.quiet = TOP / "lower", TOP / "quiet"
        self.upper, self.work = TOP / "private/upper", TOP / "private/work"
        self.mountpoint, self.outside = TOP / "mountpoint", TOP / "outside"
        self.elsewhere, self.state, self.logs = TOP / "elsewhere", TOP / "state", TOP / "logs"
        self._fuse_for_all()
        self._fill()
        self.before = self.untouched()

    def _fuse_for_all(self) -> None:
        """/dev/fuse open to every user, here only."""
        device = TOP / "fuse"
        os.mknod(device, 0o020666, os.makedev(10, 229))
        device.chmod(0o666)
        _run("mount", "--bind", device, "/dev/fuse")

    def _fill(self) -> None:
        uid = self.variant.uid
        for path in (self.lower, self.quiet, self.outside, self.elsewhere, TOP / "private"):
            path.mkdir()
        for path in (self.upper, self.work, self.mountpoint, self.state, self.logs):
            path.mkdir()
        for top in (self.lower, self.quiet):
            _tree(top, 1000)
        for path in (self.outside, self.elsewhere):
            (path / SECRET.decode()).write_bytes(SECRET)
            (path / "a").mkdir()
            (path / "a/b").write_bytes(SECRET)
        os.chown(self.lower, 1000, 1000)
        for path in (TOP / "private", self.upper, self.work, self.state, self.mountpoint):
            os.chown(path, uid, uid)
        (TOP / "private").chmod(0o700)
        self.logs.chmod(0o1777)
        self._outside = (self.outside, *sorted(self.outside.rglob("*")))
        for path in self._outside:
            os.utime(path, (0, 0))  # so that reading it shows
        docker_archive(TOP / "image.tar", _layers(), name="fuzz:latest")

    def reopen(self) -> None:
        """Let who mounts into what is its own, or nothing is mounted again."""
        for path in (self.upper, self.work):
            os.chown(path, self.variant.uid, self.variant.uid)
            path.chmod(0o755)

    def untouched(self) -> dict[str, object]:
        """What must stay as it is; only the kernel sets a ctime."""
        found: dict[str, object] = {}
        for path in self._outside:
            status = path.lstat()
            facts = status.st_mode, status.st_uid, status.st_size, status.st_nlink
            found[str(path)] = (*facts, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
        for path in (self.quiet, *sorted(self.quiet.rglob("*"))):
            status = path.lstat()
            found[str(path)] = (status.st_ino, status.st_mode, status.st_uid, status.st_ctime_ns)
        return found

    def command(self, options: str) -> list[str]:
        """What mounts, in the foreground."""
        chosen = ",".join(word for word in (self.variant.options, options) if word)
        program = [sys.executable, "-m", "unionmount"]
        if self.variant.image:
            places = ["--upper", str(self.upper), "--work", str(self.work)]
            more = ["-o", chosen] if chosen else []
            where = [str(TOP / "image.tar"), str(self.mountpoint)]
            return [*program, "mount", "-f", *more, *places, *where]
        layers = f"lowerdir={self.lower}:{self.quiet},upperdir={self.upper},workdir={self.work}"
        words = f"{layers},{chosen}" if chosen else layers
        return [*program, "overlay", "-f", "-o", words, str(self.mountpoint)]

    def connection(self) -> Path | None:
        """The directory in fusectl of the mount."""
        line = mount_line(self.mountpoint)
        if line is None:
            return None
        return CONNECTIONS / line.split()[2].partition(":")[2]

    def targets(self) -> list[str]:
        """Where planted symlinks point."""
        return [
            *("/", "..", "../..", "../../..", ".", "a", "b/a", "swapped0", "nowhere", "/dev/zero"),
            *(f"{self.mountpoint}", f"{self.mountpoint}/a", "../mountpoint", "../../mountpoint/a"),
            *(f"{self.outside}", f"{self.outside}/a/b", "../outside", "../../outside/a"),
            *("/proc/self/root", "/proc/self/fd/3", "/proc/self/cwd", f"{self.lower}/a"),
            *(f"{self.upper}", f"{self.work}", "../work", "../upper/a"),
        ]

    def close(self) -> None:
        """Take everything away."""
        detach_all([self.lower, TOP / "private"])
        _libc.umount2(os.fsencode(self.mountpoint), _MNT_DETACH)
        _run("umount", "-l", "/dev/fuse")
        _run("umount", "-l", TOP)


def _tree(top: Path, uid: int) -> None:
    for number in range(PLACES):
        for two in ("a/a", "a/b", "b/a"):
            (top / f"p{number}" / two).mkdir(parents=True)
            (top / f"p{number}" / two / "c").write_bytes(b"data")
            (top / f"p{number}" / two / "d").write_bytes(b"d" * 5000)
    for one in "abc":
        for two in "abc":
            (top / one / two).mkdir(parents=True)
            (top / one / two / "a").write_bytes(b"data " * 5000)
            (top / one / two / "b").symlink_to("../a")
        os.link(top / one / "a/a", top / one / "d")
    (top / "d").write_bytes(b"d" * 200_000)
    for path in top.rglob("*"):
        os.lchown(path, uid, uid)


def _layers() -> list[Layer]:
    below, above = Layer(), Layer()
    for number in range(PLACES):
        top = f"p{number}"
        for name in ("", "/a", "/b", "/a/a", "/a/b"):
            below.directory(top + name, mode=0o777)
        below.file(f"{top}/a/a/c", b"data").file(f"{top}/a/b/d", b"d" * 5000)
    for one in "abc":
        below.directory(one).directory(f"{one}/a").directory(f"{one}/b")
        below.file(f"{one}/a/a", b"data " * 5000).symlink(f"{one}/a/b", "../b")
        above.file(f"{one}/b/a", b"x" * 100_000)
    above.file("d", b"d" * 200_000).hard_link("c/d", "d")
    return [below, above]
