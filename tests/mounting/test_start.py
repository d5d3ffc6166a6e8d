"""A mount answers before trio and pyfuse3 are imported, and what is imported then is what it was.

A file that is made with S_ISGID is what the router leaves to Python: the first one has it imported.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine, Process, has_python, is_mounted, make_with_python

import unionmount
from unionmount.mounting.late_import import hold_python
from unionmount.mounting.records import MountTable
from unionmount.mounting.statistics import ask_stats

pytestmark = pytest.mark.needs("fuse")

PATIENCE = 60.0
PRIVATE_MAX = 15 * 1024  # KiB of an idle daemon
PACKAGES = ("attr", "attrs", "idna", "outcome", "pyfuse3", "sniffio", "sortedcontainers", "trio")
SOURCES = Path(unionmount.__file__).parent
SITE = Path(shutil.__file__).parent / "site-packages"
HOSTILE = "raise SystemExit('from the mount')\n"
libc = ctypes.CDLL(None, use_errno=True)


class Daemon:
    """The process that serves a mount, and what can be seen of it from outside."""

    def __init__(self, where: Path) -> None:
        (found,) = [one for one in MountTable.of_user().all() if one.record.path == where]
        self.record = found.record
        self.process = Process(found.record.pid)

    def has_python(self) -> bool:
        """Whether pyfuse3 is there."""
        return has_python(self.record.pid)

    def forwarded(self) -> int:
        told = ask_stats(MountTable.of_user().socket_path(self.record.id), "the mount")
        return sum(one["forwarded"] for one in told["messages"].values())

    def private(self) -> int:
        """KiB of memory that nobody shares."""
        rollup = Path(f"/proc/{self.record.pid}/smaps_rollup").read_text()
        return sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+)", rollup, re.MULTILINE)))


class Place:
    """Directories to mount, and where."""

    def __init__(self, top: Path) -> None:
        self.top, self.where = top, top / "mnt"
        for name in ("lower", "upper", "work", "mnt"):
            (top / name).mkdir(mode=0o700)
        (top / "lower/file").write_text("below")
        self.options = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"


@pytest.fixture
def cli() -> CommandLine:
    """The command as users start it; what starts it elsewhere has imported everything before."""
    return CommandLine()


@pytest.fixture
def place(public_tmp: Path, cli: CommandLine) -> Iterator[Place]:
    made = Place(public_tmp)
    yield made
    if is_mounted(made.where):
        cli.run("umount", "--lazy", made.where)


@pytest.fixture(params=["overlay", "image"])
def words(request: pytest.FixtureRequest, place: Place) -> list[str]:
    if request.param == "overlay":
        return ["overlay", "-o", place.options, str(place.where)]
    image = docker_archive(place.top / "image.tar", [Layer().file("file", b"below")])
    return ["mount", "--ephemeral", str(image), str(place.where)]


def test_an_idle_mount_has_not_imported_what_it_does_not_need(
    words: list[str], place: Place, cli: CommandLine
) -> None:
    cli.run(*words)
    daemon, where = Daemon(place.where), place.where
    assert (where / "file").read_text() == "below"
    (where / "new").write_text("above")
    (where / "file").rename(where / "moved")
    assert sorted(os.listdir(where)) == ["moved", "new"]
    with (where / "new").open() as file:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        assert poll.poll(0) == [(file.fileno(), select.POLLIN)]
    assert not daemon.has_python()
    assert daemon.forwarded() == 0  # the counters are told in this phase, too
    assert daemon.private() < PRIVATE_MAX
    for number in range(3):
        make_with_python(where / f"made{number}")
    assert daemon.has_python()
    assert daemon.forwarded() == 3
    assert (where / "moved").read_text() == "below"
    cli.run("umount", where)
    daemon.process.wait()
    assert cli.records() == []


def test_requests_that_come_at_once_are_answered_once(place: Place, cli: CommandLine) -> None:
    cli.run("overlay", "-o", place.options, place.where)
    daemon, count = Daemon(place.where), 24
    ask = "import os, sys; os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL, 0o2644))"
    for number in range(count):  # the kernel makes the files of one directory one by one
        (place.where / str(number)).mkdir()
    asking = [
        subprocess.Popen([sys.executable, "-S", "-c", ask, place.where / str(number) / "file"])
        for number in range(count)
    ]
    assert [one.wait(PATIENCE) for one in asking] == [0] * count
    assert daemon.forwarded() == count
    assert all(os.listdir(place.where / str(number)) == ["file"] for number in range(count))


def test_without_the_router_nothing_is_put_off(place: Place, cli: CommandLine) -> None:
    cli.run("overlay", "-o", f"{place.options},nofastpath", place.where)
    assert Daemon(place.where).has_python()


@pytest.mark.parametrize(("limit", "put_off"), [(128, False), (256, False), (1024, True)])
def test_modules_leave_descriptors_for_files(place: Place, limit: int, *, put_off: bool) -> None:
    cli = CommandLine(("prlimit", f"--nofile={limit}:{limit}"))
    cli.run("overlay", "-o", place.options, place.where)
    daemon = Daemon(place.where)
    assert daemon.has_python() is not put_off
    held = len(os.listdir(f"/proc/{daemon.record.pid}/fd"))
    assert held < (limit / 4 if put_off else 64)
    with ExitStack() as opened:
        for number in range(limit):  # more than there are descriptors left
            path = place.where / str(number)
            path.write_text("above")
            opened.enter_context(path.open())
        make_with_python(place.where / "made")
    assert daemon.has_python()


# ---- what is imported ----------------------------------------------------------------------------

IMPORTED = """
import sys
import unionmount.mounting.serve
from unionmount.mounting.late_import import hold_python, import_python
held = hold_python()
assert held is not None
held.install()
before = set(sys.modules)
import_python()
assert {"trio", "pyfuse3", "unionmount.mounting.write_operations"} <= set(sys.modules) - before
"""


def test_all_that_is_imported_was_held() -> None:
    subprocess.run([sys.executable, "-c", IMPORTED], check=True, timeout=PATIENCE)


SEEN = """
import os, sys
import unionmount.mounting.serve
from unionmount.mounting.late_import import hold_python, import_python
hold_python().install()
sys.addaudithook(lambda event, arguments: print(event, *arguments[:1]) if event in EVENTS else None)
import_python()
"""


def test_importing_opens_no_file_and_runs_no_program() -> None:
    events = ("open", "os.listdir", "os.scandir", "subprocess.Popen", "os.exec", "os.posix_spawn")
    code = f"EVENTS = {events!r}\n{SEEN}"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=PATIENCE, capture_output=True, text=True
    )
    opened = set(done.stdout.splitlines())
    assert opened <= {"open ."}, opened  # the working directory, to come back to it


def test_modules_that_cannot_be_held_are_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptors(*_arguments: Any, **_named: Any) -> int:
        raise OSError(24, "Too many open files", "a file")

    monkeypatch.delitem(sys.modules, "unionmount.mounting.python_server", raising=False)
    monkeypatch.setattr(os, "open", no_descriptors)
    assert hold_python() is None


# ---- a mount over the program --------------------------------------------------------------------

OVER = """
import ctypes, os, subprocess, sys
where, options = sys.argv[1:]
subprocess.run(
    [sys.executable, "-m", "unionmount", "overlay", "-o", options, where], check=True, cwd="/"
)
for name in ("first", "second"):
    os.close(os.open(os.path.join(where, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o2644))
    assert os.stat(os.path.join(where, name)).st_mode & 0o7777 == 0o2644
assert ctypes.CDLL(None).umount2(where.encode(), 0) == 0
if os.getpid() == 1:
    assert os.wait()[1] == 0  # the daemon, which ends with process 1 at the latest
"""
COVERED = (
    Path(sys.prefix),  # the virtual environment
    SOURCES.parent,
    Path(os.__file__).parent,  # the standard library
    Path("/usr"),
    Path("/lib").resolve(),
)


@pytest.mark.needs("root", "unshare")
@pytest.mark.parametrize("over", dict.fromkeys(COVERED), ids=str)
@pytest.mark.parametrize("stays", [True, False])
def test_a_mount_over_the_program(
    over: Path, place: Place, cli: CommandLine, *, stays: bool
) -> None:
    """In a mount namespace of its own; the mount has other modules of the same names.

    The daemon stays in the namespace if it is that of process 1; else it leaves for one in which
    the mount is not there.
    """
    for found in (*over.rglob("site-packages"), *over.glob("unionmount")):
        below = place.top / "lower" / found.relative_to(over)
        for package in (*PACKAGES, "ssl", "mounting"):
            (below / package).mkdir(parents=True)
            (below / package / "__init__.py").write_text(HOSTILE)
    process_1 = ["--pid", "--fork", "--mount-proc", "--kill-child"] if stays else []
    command = ["unshare", "-m", "--propagation", "private", *process_1]
    command += [sys.executable, "-c", OVER]
    done = subprocess.run(
        [*command, over, place.options],
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE / 2,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(place.top / "upper")) == ["first", "second"]


# ---- a program that is replaced ------------------------------------------------------------------


class Program:
    """A copy of the program, which can be replaced."""

    def __init__(self, top: Path, cli: CommandLine) -> None:
        self.site = top / "site"
        self.site.mkdir()
        source = next(Path(one) for one in sys.path if (Path(one) / "pyfuse3").is_dir())
        for name in PACKAGES:
            shutil.copytree(source / name, self.site / name)
        shutil.copytree(SOURCES, self.site / "unionmount")
        python = cli.environment.get("PYTHONPATH", "")
        self.line = CommandLine((), {"PYTHONPATH": f"{self.site}:{python}"})

    def files(self) -> list[Path]:
        return [path for path in self.site.rglob("*") if path.is_file()]

    def forget_compiled(self) -> None:
        for path in list(self.site.rglob("__pycache__")):
            shutil.rmtree(path)
        self.line.environment["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.fixture
def program(public_tmp: Path, cli: CommandLine) -> Program:
    return Program(public_tmp, cli)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_program_that_is_replaced(program: Program, place: Place, *, compiled: bool) -> None:
    """As an installer does it: new files under the names of the old ones."""
    if not compiled:
        program.forget_compiled()
    program.line.run("overlay", "-o", place.options, place.where)
    for path in program.files():
        other = path.with_name("other")
        other.write_text(HOSTILE)
        other.rename(path)
    make_with_python(place.where / "made")
    assert Daemon(place.where).has_python()


def test_a_program_that_is_removed(program: Program, place: Place) -> None:
    program.line.run("overlay", "-o", place.options, place.where)
    shutil.rmtree(program.site)
    make_with_python(place.where / "made")


def test_a_program_that_is_written_to(program: Program, place: Place, cli: CommandLine) -> None:
    """That is nothing to go on with: the mount is taken away, and the log says why."""
    program.line.run("overlay", "-o", place.options, place.where)
    daemon = Daemon(place.where)
    for path in program.files():
        if path.parent.parent.name == "trio" or path.parent.name == "trio":
            path.write_text(HOSTILE)
    with pytest.raises(OSError, match="Input/output error"):
        make_with_python(place.where / "made")
    daemon.process.wait()
    assert not is_mounted(place.where)
    log = MountTable.of_user().log_path(daemon.record.id)
    assert "was changed after the mount" in log.read_text()
    log.unlink()
    assert cli.records() == []
