"""Fixtures of all tests, and three rules for every run.

What was skipped and why is named at the end; in CI a skipped test is a failure; a run that leaves
a mount or a process of its own behind has failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support.backing import KINDS
from support.capabilities import NOT_IN_DEBIAN, in_ci, kernel_knows, missing
from support.users import public_place, remember_fuse_mode

pytest.register_assert_rewrite("faults.disks", "faults.killed", "faults.lowers", "faults.power")
pytest_plugins = ("support.mount_fixtures", "support.registry_fixtures")

PROJECT = Path(__file__).parent.parent
# Parts of the machine that make a test one of live mounts or registries.
_LIVE = {"fuse", "ordinary-user", "docker-registry"}
_ENV_END = 48  # among the fields behind the name
_SESSION_VARIABLE = "UNIONMOUNT_TEST_SESSION"

# A shell starts what runs in its background with SIGINT ignored, nohup(1) ignores SIGHUP, and that
# is inherited.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci" if in_ci() else "default")


class Session:
    """The directory of one run, and what must be gone from the machine when the run ends."""

    def __init__(self) -> None:
        self.token = f"{os.getpid()}-{uuid.uuid4().hex}"
        made = tempfile.mkdtemp(dir=public_place(), prefix="unionmount-test-")
        self.directory = Path(made).resolve()
        self.left_by_workers: list[str] = []
        self.directory.chmod(0o755)

    def environment(self) -> dict[str, str]:
        """Variables that keep all programs of the run inside its directory."""
        places = {
            "UNIONMOUNT_ROOT": "root",
            "UNIONMOUNT_RUNTIME_DIR": "mounts",
            "XDG_DATA_HOME": "data",
            "XDG_RUNTIME_DIR": "run",
            "XDG_STATE_HOME": "state",
            "XDG_CACHE_HOME": "cache",
        }
        for name in places.values():
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        registries = self.directory / "registries.conf"  # names without a registry are nowhere
        registries.write_text("unqualified-search-registries = []\n", encoding="ascii")
        return {key: str(self.directory / name) for key, name in places.items()} | {
            "CONTAINERS_REGISTRIES_CONF": str(registries),
            _SESSION_VARIABLE: self.token,
        }

    def left_mounts(self, temporary: list[Path]) -> list[str]:
        """Mounts below the directories of this run; those of other programs are their business."""
        ours = [os.fspath(path) for path in (self.directory, *temporary)]
        return sorted(
            m for m in mount_points() if any(m == o or m.startswith(o + "/") for o in ours)
        )

    def left_processes(self) -> dict[int, str]:
        """Processes that carry the mark of this run and do not end by themselves."""
        return {pid: command for pid, command in self._marked() if not _ends_within(pid, 5.0)}

    def _marked(self) -> Iterator[tuple[int, str]]:
        mark = f"{_SESSION_VARIABLE}={self.token}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            try:
                marked = mark in _environment(entry)
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue  # it ended, or is another user's
            if marked:
                yield int(entry.name), command.decode(errors="replace").rstrip()

    def close(self, mounts: list[str], processes: Iterable[int]) -> None:
        """Let go of what was left, so that one failing run does not spoil the next."""
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in reversed(mounts):
            tool = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
            subprocess.run([*tool, mount], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def _environment(process: Path) -> list[bytes]:
    """The variables of a process; while it is inside of execve(2) they can't be read, yet."""
    while True:
        executes = _executes(process)  # before reading: it may end meanwhile
        text = (process / "environ").read_bytes()
        if text or not executes:
            return text.split(b"\0")
        os.sched_yield()


def _executes(process: Path) -> bool:
    """Whether a process has a program, but not its variables (``env_end`` of proc_pid_stat(5))."""
    fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
    return fields[_ENV_END] == b"0" and (process / "exe").exists()


def _ends_within(pid: int, seconds: float) -> bool:
    """Wait for a process that may be on its way out."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def mount_points() -> list[str]:
    """Every mount point that this process sees."""
    table = Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape")
    points = (line.split(" ")[4] for line in table.splitlines())
    return [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point) for point in points]


_session_key = pytest.StashKey[Session]()
_left_key = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Set up the run's directory and environment; declare the markers."""
    for marker in (
        "needs(*names): parts of the machine that the test can't do without",
        "alone: measures or changes the whole machine, and is run when no other test is",
        "slow: takes seconds, and is left out of `make check`",
        "live: needs a mount or a registry; set here, for whatever needs the parts of one",
        "quick: one of the live tests of `make check`",
    ):
        config.addinivalue_line("markers", marker)
    session = config.stash[_session_key] = Session()
    os.environ.update(session.environment())
    remember_fuse_mode()
    if config.pluginmanager.has_plugin("xdist") and not _is_worker(config):
        config.pluginmanager.register(Workers(session), "unionmount-workers")


def _is_worker(config: pytest.Config) -> bool:
    """Whether this is one of the processes that pytest-xdist started."""
    return hasattr(config, "workerinput")


class Workers:
    """What the processes of pytest-xdist found left behind, brought to the one that reports it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def pytest_testnodedown(self, node: Any) -> None:
        """Keep the list that a process sent when its tests were done."""
        self.session.left_by_workers += getattr(node, "workeroutput", {}).get("left", [])


def _needs(item: pytest.Item) -> tuple[str, ...]:
    return tuple(str(name) for mark in item.iter_markers("needs") for name in mark.args)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of live mounts and registries."""
    if _LIVE.intersection(_needs(item)):
        item.add_marker("live")


def pytest_report_header() -> list[str]:
    """File systems that uppers are not tested on, because this kernel does not have them."""
    lacking = [kind for kind in KINDS if not kernel_knows(kind)]
    return [f"no tests on {', '.join(lacking)}: the kernel has none"] if lacking else []


def _missing_parts(names: tuple[str, ...]) -> str:
    return "; ".join(reason for name in names if (reason := missing(name)))


def _refuse(names: tuple[str, ...], reason: str) -> None:
    if in_ci() and {name for name in names if missing(name)} - NOT_IN_DEBIAN:
        pytest.fail(f"missing in CI: {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or in CI fail, a test whose needs are not met."""
    names = _needs(item)
    reason = _missing_parts(names)
    if reason:
        _refuse(names, reason)


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """A function that skips, or in CI fails, unless the machine has all that is named."""

    def check(*names: str) -> None:
        reason = _missing_parts(names)
        if reason:
            _refuse(names, reason)

    return check


@pytest.fixture(scope="session")
def project() -> Path:
    """The top directory of the sources."""
    return PROJECT


@pytest.fixture(scope="session")
def sample(project: Path) -> Path:
    """The sample image that ships with the project."""
    return project / "sample" / "sample.tar"


@pytest.fixture(scope="session")
def unionmount() -> Path:
    """The installed command."""
    return Path(sys.executable).parent / "unionmount"


@pytest.fixture(scope="session")
def make_public_tmp(request: pytest.FixtureRequest) -> Callable[[], Path]:
    """A function that makes a directory that other users can reach, unlike ``tmp_path``."""
    session = request.config.stash[_session_key]

    def make() -> Path:
        directory = Path(tempfile.mkdtemp(prefix="public-", dir=session.directory))
        directory.chmod(0o755)
        return directory

    return make


@pytest.fixture
def public_tmp(make_public_tmp: Callable[[], Path]) -> Path:
    """A fresh directory that other users can reach, unlike ``tmp_path``."""
    return make_public_tmp()


def _temporary_directories(config: pytest.Config) -> list[Path]:
    factory = getattr(config, "_tmp_path_factory", None)
    base = getattr(factory, "_basetemp", None)
    return [base.resolve()] if base else []


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(
    session: pytest.Session, exitstatus: int
) -> Generator[None, object, object]:
    """Fail a run that left something behind, or that skipped a test in CI."""
    config = session.config
    if _is_worker(config):  # tells what it finds before pytest-xdist sends its report
        config.workeroutput["left"] = _let_go(config)  # type: ignore[attr-defined]
        return (yield)
    result = yield  # all other processes of the run end
    mine = config.stash[_session_key]
    left = config.stash[_left_key] = [*mine.left_by_workers, *_let_go(config)]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    skipped_in_ci = in_ci() and not all(_is_excused(one) for one in skipped)
    if exitstatus == pytest.ExitCode.OK and (left or skipped_in_ci):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return result


def _let_go(config: pytest.Config) -> list[str]:
    """Names of what this process left behind, which is gone afterwards."""
    mine = config.stash[_session_key]
    mounts = mine.left_mounts(_temporary_directories(config))
    processes = mine.left_processes()
    mine.close(mounts, processes)
    return [
        *(f"mount {mount}" for mount in mounts),
        *(f"process {pid}: {command}" for pid, command in processes.items()),
    ]


def _is_excused(report: pytest.TestReport) -> bool:
    """Whether a test was skipped in CI for want of what Debian 12 has not got."""
    reasons = [reason for name in NOT_IN_DEBIAN if (reason := missing(name))]
    return _skip_reason(report) in reasons


def _skip_reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was skipped and why, and what was left behind."""
    groups = Counter(
        (report.nodeid.partition("::")[0], _skip_reason(report))
        for report in terminalreporter.stats.get("skipped", [])
    )
    if groups:
        terminalreporter.section("skipped" + (", which fails a run in CI" if in_ci() else ""))
        for (name, reason), count in sorted(groups.items()):
            terminalreporter.line(f"{name}: {count} tests: {reason}")
    left = config.stash.get(_left_key, [])
    if left:
        terminalreporter.section("left behind", red=True)
        for line in left:
            terminalreporter.line(line)
