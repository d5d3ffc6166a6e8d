"""The file systems that are compared: how each is mounted, what it costs, what version it is."""

from __future__ import annotations

import os
import platform
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import peers
from bench.interrupts import undisturbed

BASE = "overlayfs"  # what the others are compared with
NATIVE = "native directory"
PASSES = 3
_PATIENCE = 60.0

Command = list[str | Path]


@dataclass(frozen=True, slots=True)
class Places:
    """What is mounted, and where."""

    lower: Path
    image: Path
    upper: Path
    work: Path
    mountpoint: Path
    lowers: tuple[str, ...] = ()  # names beside the mount point, of several lower directories

    @classmethod
    def below(cls, work: Path) -> Places:
        """Everything in one directory."""
        names = ("lower", "image.tar", "upper", "work", "mnt")
        lower, image, upper, own, mountpoint = (work / name for name in names)
        return cls(lower, image, upper, own, mountpoint)

    @property
    def squashfs(self) -> Path:
        """The lower directory as squashfuse takes it."""
        return self.image.with_name("image.squashfs")

    @property
    def tar(self) -> Path:
        """The lower directory as ratarmount takes it."""
        return self.image.with_name("flat.tar")

    @property
    def environment(self) -> dict[str, str]:
        """What keeps unionmount's records and store beside the mount."""
        place = self.mountpoint.parent
        names = {"UNIONMOUNT_ROOT": "store", "UNIONMOUNT_RUNTIME_DIR": "runtime"}
        return {variable: str(place / name) for variable, name in names.items()}

    @property
    def options(self) -> str:
        """What overlayfs and its kin are told.

        Several lower directories go by their names, from the directory that they are in: mount(2)
        takes no more than a page of options.
        """
        if self.lowers:
            lowers = ":".join(self.lowers)
            return f"lowerdir={lowers},upperdir={self.upper.name},workdir={self.work.name}"
        return f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"


@dataclass(frozen=True, slots=True)
class Engine:
    """How podman uses a subject for its driver ``overlay``."""

    kernel: bool = False  # podman mounts by itself
    ours: bool = False  # the program is the one that podman calls, beside the command
    options: str = ""  # of the mount


@dataclass(frozen=True, slots=True)
class Subject:
    """One of those that are compared."""

    name: str
    command: Callable[[Places], Command] | None  # None: nothing is mounted
    program: Callable[[], str | Path | None]  # None: this machine has it not
    version: Callable[[], str]
    shows: str = "lower"  # which property of Places it is made of
    copies: bool = False  # changes go to an upper, the lower directory stays as it is
    absent: str = "not on this machine"  # why there is no program
    engine: Engine | None = None  # None: podman cannot use it


# ---- commands ------------------------------------------------------------------------------------


def _overlayfs(places: Places) -> Command:
    return ["mount", "-t", "overlay", "overlay", "-o", places.options, places.mountpoint]


def _fuse_overlayfs(places: Places) -> Command:
    return ["fuse-overlayfs", "-o", f"{places.options},dev,suid", places.mountpoint]


def _newest_fuse_overlayfs(places: Places) -> Command:
    peer = peers.newest_fuse_overlayfs()
    assert peer is not None
    return [peer.program, *_fuse_overlayfs(places)[1:]]


def _second_fuse_overlayfs(places: Places) -> Command:
    peer = peers.second_fuse_overlayfs()
    assert peer is not None
    return [peer.program, *_fuse_overlayfs(places)[1:]]


def _mergerfs(places: Places) -> Command:
    return ["mergerfs", "-o", "cache.files=auto-full", places.lower, places.mountpoint]


def _unionfs(places: Places) -> Command:
    branches = f"{places.upper}=RW:{places.lower}=RO"
    return ["unionfs", "-o", "cow,allow_other,dev,suid", branches, places.mountpoint]


def _squashfuse(places: Places) -> Command:
    return ["squashfuse", "-o", "allow_other,dev,suid", places.squashfs, places.mountpoint]


def _ratarmount(places: Places) -> Command:
    peer = peers.ratarmount()
    assert peer is not None
    index = ("--index-file", places.tar.with_suffix(".sqlite"))
    return [peer.program, "-o", "allow_other,dev,suid", *index, places.tar, places.mountpoint]


def _unionmount(*words: str | Path) -> Command:
    return [sys.executable, "-m", "unionmount", *words]


def _overlay(*words: str) -> Callable[[Places], Command]:
    def command(places: Places) -> Command:
        options = ",".join((places.options, "dev,suid", *words))
        return _unionmount("overlay", "-o", options, places.mountpoint)

    return command


def _image(*words: str) -> Callable[[Places], Command]:
    def command(places: Places) -> Command:
        options = ("-o", ",".join(("dev,suid", *words)))
        source = f"docker-archive:{places.image}"
        return _unionmount("mount", "--ro", *options, source, places.mountpoint)

    return command


def _writable_image(*words: str) -> Callable[[Places], Command]:
    def command(places: Places) -> Command:
        where = ("--upper", places.upper, "--work", places.work)
        options = ("-o", ",".join(("dev,suid", *words)))
        source = f"docker-archive:{places.image}"
        return _unionmount("mount", *options, *where, source, places.mountpoint)

    return command


# ---- programs and their versions -----------------------------------------------------------------


def _which(program: str) -> Callable[[], str | None]:
    return lambda: shutil.which(program)


def _squashfs_tools() -> str | None:
    return shutil.which("squashfuse") if shutil.which("mksquashfs") else None


def _built(found: Callable[[], peers.Peer | None]) -> Callable[[], Path | None]:
    def program() -> Path | None:
        peer = found()
        return peer.program if peer else None

    return program


def _version_built(found: Callable[[], peers.Peer | None]) -> Callable[[], str]:
    def version() -> str:
        peer = found()
        return peer.version if peer else "?"

    return version


def _package(name: str) -> Callable[[], str]:
    def version() -> str:
        if not shutil.which("dpkg-query"):
            return "?"
        words = ("dpkg-query", "-W", "-f", "${Version}", name)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout.strip() or "?"

    return version


def _our_version() -> str:
    words = ("git", "-C", str(peers.PROJECT), "describe", "--always", "--dirty")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "?"


def _ours(name: str, command: Callable[[Places], Command], shows: str, copies: bool) -> Subject:
    return Subject(name, command, lambda: sys.executable, _our_version, shows, copies)


@cache
def _is_accepted(option: str) -> bool:
    """Whether unionmount mounts with an option: those that it does not know, it refuses."""
    with TemporaryDirectory(prefix="unionmount-bench-") as made:
        places = Places.below(Path(made))
        for path in (places.lower, places.upper, places.work, places.mountpoint):
            path.mkdir()
        words, environment = _overlay(option)(places), os.environ | places.environment
        try:
            done = subprocess.run(words, check=False, capture_output=True, env=environment)
        finally:
            with undisturbed():
                unmount(places.mountpoint)
        return done.returncode == 0


def _kernel_has_uring() -> bool:
    """Whether root has switched FUSE over io_uring on; where it is off, a mount may fall back."""
    try:
        return Path("/sys/module/fuse/parameters/enable_uring").read_text() == "Y\n"
    except OSError:
        return False


def _with_option(option: str, can: Callable[[], bool], absent: str) -> Subject:
    """A transport of ours that has to be asked for; the machine has it if a mount accepts it."""

    def program() -> str | None:
        return sys.executable if can() and _is_accepted(option) else None

    return Subject(
        *(f"unionmount overlay, {option}", _overlay(option), program, _our_version),
        copies=True,
        absent=absent,
        engine=Engine(ours=True, options=option),
    )


_NEWEST, _RATARMOUNT = peers.newest_fuse_overlayfs, peers.ratarmount
_SECOND = peers.second_fuse_overlayfs

_OVERLAYFS = Subject(
    BASE, _overlayfs, _which("mount"), platform.release, copies=True, engine=Engine(kernel=True)
)
_FIRST_FUSE_OVERLAYFS = Subject(
    *("fuse-overlayfs", _fuse_overlayfs, _which("fuse-overlayfs"), _package("fuse-overlayfs")),
    copies=True,
    engine=Engine(),
)
_SECOND_FUSE_OVERLAYFS = Subject(
    *("fuse-overlayfs 2", _second_fuse_overlayfs, _built(_SECOND), _version_built(_SECOND)),
    copies=True,
    absent="python -m bench.peers builds it where cargo and rustc 1.85 are",
    engine=Engine(),
)
_COPYING = (
    _OVERLAYFS,
    _FIRST_FUSE_OVERLAYFS,
    _SECOND_FUSE_OVERLAYFS,
    Subject(
        *("fuse-overlayfs, newest", _newest_fuse_overlayfs),
        *(_built(_NEWEST), _version_built(_NEWEST)),
        copies=True,
    ),
    Subject(*("unionfs-fuse", _unionfs, _which("unionfs"), _package("unionfs-fuse")), copies=True),
)
_NATIVE = Subject(NATIVE, None, lambda: "/", platform.release)

READING = (
    _NATIVE,
    *_COPYING,
    Subject("mergerfs", _mergerfs, _which("mergerfs"), _package("mergerfs")),
    Subject("squashfuse", _squashfuse, _squashfs_tools, _package("squashfuse"), "squashfs"),
    Subject("ratarmount", _ratarmount, _built(_RATARMOUNT), _version_built(_RATARMOUNT), "tar"),
    _ours("unionmount, image", _image(), "image", copies=False),
    _ours("unionmount, writable", _overlay(), "lower", copies=True),
    _ours("pyfuse3 alone, image", _image("nofastpath"), "image", copies=False),
    _ours("pyfuse3 alone, writable", _overlay("nofastpath"), "lower", copies=True),
)

_MOUNT = _ours("unionmount mount", _writable_image(), "image", copies=True)
_OVERLAY = replace(
    _ours("unionmount overlay", _overlay(), "lower", copies=True), engine=Engine(ours=True)
)
_ALONE = replace(
    _ours("pyfuse3 alone, overlay", _overlay("nofastpath"), "lower", copies=True),
    engine=Engine(ours=True, options="nofastpath"),
)

WRITING = (
    _NATIVE,
    *_COPYING,
    _OVERLAY,
    _MOUNT,
    _ours("unionmount overlay, volatile", _overlay("volatile"), "lower", copies=True),
    _ALONE,
    _ours("pyfuse3 alone, mount", _writable_image("nofastpath"), "image", copies=True),
)

TABLE = (
    _OVERLAYFS,
    _FIRST_FUSE_OVERLAYFS,
    _SECOND_FUSE_OVERLAYFS,
    _MOUNT,
    _OVERLAY,
    _with_option(
        *("io_uring", _kernel_has_uring),
        "unionmount does not accept it, or enable_uring of the kernel's module fuse is off",
    ),
    _with_option("passthrough", lambda: True, "unionmount does not accept it"),
    _ALONE,
)
"""Those of the parts that make up the one table."""

EVERY = tuple({one.name: one for one in (*READING, *WRITING, *TABLE)}.values())


def versions(names: Collection[str]) -> dict[str, str]:
    """Of the subjects that are named."""
    return {one.name: one.version() for one in EVERY if one.name in names}


# ---- which are taken -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """What of a part is measured: everything, unless subjects or rows are named."""

    subjects: Sequence[str] = ("*",)  # patterns of the whole name
    rows: Sequence[str] = ("",)  # pieces of a name
    passes: int = PASSES
    drop_caches: bool = True  # of the whole machine, before a mount that is to be cold

    def takes(self, row: str) -> bool:
        """Whether a row is wanted."""
        return any(piece in row for piece in self.rows)

    def among(self, every: Sequence[Subject]) -> list[Subject]:
        """The subjects that are wanted, whether this machine has them or not."""
        return [one for one in every if any(fnmatchcase(one.name, p) for p in self.subjects)]


# ---- mounting ------------------------------------------------------------------------------------


def quietly(
    *command: str | Path, environment: dict[str, str] | None = None, place: Path | None = None
) -> None:
    """Run a program, or CalledProcessError; what it prints on standard error is shown."""
    everything = os.environ | (environment or {})
    nothing = subprocess.DEVNULL
    subprocess.run(command, check=True, stdin=nothing, stdout=nothing, env=everything, cwd=place)


def _is_mounted(mountpoint: Path) -> bool:
    """Whether the kernel says so; a server that has died is no obstacle."""
    table = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    return any(line.split()[1] == str(mountpoint) for line in table.splitlines())


def _detach(mountpoint: Path) -> bool:
    """Unmount what is mounted; false if there is nothing."""
    if not _is_mounted(mountpoint):
        return False
    try:
        quietly("umount", mountpoint)
    except subprocess.CalledProcessError:
        quietly("umount", "--lazy", mountpoint)
    return True


def _wait_for(server: int) -> None:
    if not select.select([server], [], [], _PATIENCE)[0]:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(server, signal.SIGKILL)


def unmount(mountpoint: Path) -> None:
    """Unmount; where a process has served the mount, it has ended when this returns."""
    servers = servers_of(mountpoint)
    was_mounted = _detach(mountpoint)
    for server in servers:
        if not was_mounted:  # interrupted on its way
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(server, signal.SIGTERM)
        _wait_for(server)
        os.close(server)
    _detach(mountpoint)


def servers_of(mountpoint: Path) -> list[int]:
    """Descriptors of the processes that name the mount point in their command lines."""
    found = []
    word = os.fsencode(mountpoint)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if word in words:
                    found.append(os.pidfd_open(int(entry.name)))
            except OSError:
                continue  # it has ended
    return found


def costs_of(mountpoint: Path) -> tuple[float, float] | None:
    """CPU seconds and peak memory, in MB, of who serves the mount; None for the kernel."""
    seconds, memory = 0.0, 0.0
    servers = servers_of(mountpoint)
    for server in servers:
        pid = Path(f"/proc/self/fdinfo/{server}").read_text().partition("Pid:")[2].split()[0]
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            peak = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]
            memory += int(peak) / 1000
        os.close(server)
    return (seconds, memory) if servers else None


@contextmanager
def mounted(subject: Subject, places: Places) -> Iterator[Path]:
    """A mount with a new upper; the lower directory itself where nothing is mounted."""
    if subject.command is None:
        yield places.lower
        return
    with prepared(places):
        mount(subject, places)
        yield places.mountpoint


def mount(subject: Subject, places: Places) -> None:
    """Mount where ``prepared`` has made the directories."""
    assert subject.command is not None
    words, place = subject.command(places), places.mountpoint.parent
    quietly(*words, environment=places.environment, place=place)


@contextmanager
def prepared(places: Places) -> Iterator[Path]:
    """A mount point and a new upper; what is mounted there meanwhile is unmounted at the end."""
    try:
        for path in (places.upper, places.work, places.mountpoint):
            path.mkdir(mode=0o700)
        yield places.mountpoint
    finally:
        with undisturbed():
            unmount(places.mountpoint)
            for path in (places.upper, places.work):
                shutil.rmtree(path, ignore_errors=True)
            with suppress(FileNotFoundError):
                places.mountpoint.rmdir()


@contextmanager
def mounted_or_copied(subject: Subject, places: Places) -> Iterator[Path]:
    """The same to write to: where nothing is mounted, a copy of the lower directory."""
    if subject.command is not None:
        with mounted(subject, places) as top:
            yield top
        return
    try:
        quietly("cp", "-a", places.lower, places.upper)
        yield places.upper
    finally:
        shutil.rmtree(places.upper, ignore_errors=True)
