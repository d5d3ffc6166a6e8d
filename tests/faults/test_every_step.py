"""Every change, with the daemon killed at each of its system calls, and with each of them failing.

What the kills of `test_kill` hit by chance is hit here by counting (crash.c): before the first
system call of a change that alters the upper or the work directory, before the second, and so on.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from differential.lowers import build
from support.commands import Commands
from support.compare import snapshot

from faults.control import Control
from faults.disks import overlay_place
from faults.killed import daemon_of, part_of, seeded, soak_seconds, unlike
from faults.lowers import layers
from faults.model import Model
from faults.steps import DEAD, Step, apply

pytestmark = [
    pytest.mark.needs("fuse", "root", "cc"),
    pytest.mark.timeout(600 + soak_seconds()),
]

PART = "part0"
KILLS = 40  # of all there could be, where there is no more time
MAX_CALLS = 100  # more than any change needs


# ---- changes -------------------------------------------------------------------------------------


def _to(do: str, path: str, **more: object) -> Step:
    return {"do": do, "path": path, **more}


@dataclass(frozen=True, slots=True)
class Case:
    """A change, and what is to be done before it."""

    name: str
    step: Step
    before: Sequence[Step] = ()
    fetches: bool = False  # data, into a copy that had none: its time may be lost in between


_MOVED = (_to("rename", "directory0", to="moved"),)
_CHMOD = (_to("chmod", "big0", mode=0o600),)
_GROUP_CHMOD = (_to("chmod", "group0", mode=0o600),)

CASES = [
    Case("copy-up", _to("append", "small1", data="x")),
    Case("copy-up of a large file", _to("overwrite", "big0", data="x")),
    Case("copy-up below", _to("append", "directory2/sub/three", data="x")),
    Case("copy-up of a group", _to("append", "links/also1", data="x")),
    Case("copy-up of a large group", _to("append", "directory0/sub/too", data="x")),
    Case("mode of a large file", _to("chmod", "big1", mode=0o755)),
    Case("mode of a large group", _to("chmod", "group0", mode=0o755)),
    Case("data after the mode", _to("append", "big0", data="x"), _CHMOD, fetches=True),
    Case(
        "data after the mode of a group",
        _to("append", "links/also0", data="x"),
        _GROUP_CHMOD,
        fetches=True,
    ),
    Case("cut after the mode", _to("truncate", "big0", size=10), _CHMOD, fetches=True),
    Case("emptied", _to("truncate", "small1", size=0)),
    Case("emptied after the mode", _to("truncate", "big0", size=0), _CHMOD),
    Case("cut", _to("truncate", "big2", size=1000)),
    Case("mode of a directory", _to("chmod", "directory3/sub", mode=0o700)),
    Case("owner of a symlink", _to("chown", "symlink", uid=3, gid=4)),
    Case("times of a FIFO", _to("utime", "fifo", mtime=10**18)),
    Case("xattr", _to("setxattr", "directory3/one", name="user.a", value="a")),
    Case("xattr removed", _to("removexattr", "directory3/one", name="user.note")),
    Case("file made", _to("create", "directory2/sub/new")),
    Case("file made over a whiteout", _to("create", "small1"), (_to("unlink", "small1"),)),
    Case("directory made", _to("mkdir", "directory2/new")),
    Case("directory made again", _to("mkdir", "empty"), (_to("rmdir", "empty"),)),
    Case("symlink made", _to("symlink", "new", target="x")),
    Case("link", _to("link", "small1", to="directory2/new")),
    Case("link of a group", _to("link", "group1", to="new")),
    Case("link over a whiteout", _to("link", "small2", to="small1"), (_to("unlink", "small1"),)),
    Case("file removed", _to("unlink", "directory2/one")),
    Case("copied file removed", _to("unlink", "small1"), (_to("append", "small1", data="x"),)),
    Case("name of a group removed", _to("unlink", "links/also1")),
    Case("directory removed", _to("rmdir", "empty")),
    Case(
        "emptied directory removed",
        _to("rmdir", "directory1"),
        (_to("unlink", "directory1/alone"),),
    ),
    Case("file renamed", _to("rename", "small1", to="directory2/new")),
    Case("file renamed over a file", _to("rename", "small1", to="directory2/one")),
    Case("large file renamed", _to("rename", "big1", to="new")),
    Case("name of a group renamed", _to("rename", "group1", to="new")),
    Case("large name of a group renamed", _to("rename", "links/also0", to="directory1/new")),
    Case("merged directory renamed", _to("rename", "directory0", to="new")),
    Case("lower directory renamed", _to("rename", "directory2/sub", to="directory3/new")),
    Case("opaque directory renamed", _to("rename", "directory1", to="directory2/new")),
    Case(
        "directory renamed over a whiteout",
        _to("rename", "directory2", to="small1"),
        (_to("unlink", "small1"),),
    ),
    Case("directory renamed over a directory", _to("rename", "directory2", to="empty")),
    Case(
        "directory renamed over an emptied one",
        _to("rename", "directory2", to="directory1"),
        (_to("unlink", "directory1/alone"),),
    ),
    Case("renamed back", _to("rename", "moved", to="directory0"), _MOVED),
    Case("renamed again", _to("rename", "moved", to="again"), _MOVED),
    Case("removed from what was renamed", _to("unlink", "moved/one"), _MOVED),
    Case("files exchanged", _to("exchange", "small1", to="directory2/one")),
    Case("directories exchanged", _to("exchange", "directory0", to="directory2")),
    Case("file and directory exchanged", _to("exchange", "small1", to="directory2/sub")),
]


# ---- one upper -----------------------------------------------------------------------------------


class Subject:
    """A fresh upper with everything done that comes before a change."""

    def __init__(self, commands: Commands, lowers: list[Path], scratch: Path, case: Case) -> None:
        self._since_ns = time.time_ns()
        self._scratch = scratch
        (scratch / "mnt").parent.mkdir(exist_ok=True)
        self.place = overlay_place(commands, lowers, scratch / "disk", scratch / "mnt")
        self.place.mount()
        self._step = case.step
        self.before = Model.of(self.place.mountpoint / PART)
        for step in case.before:
            self.make(step)
            self.before.apply(step)
        self.after = self.before.copy()
        self.after.apply(case.step)
        self._states = [self.before, self.after]
        if case.fetches:
            self._states.append(self.before.copy())
            self._states[-1].touch(case.step["path"])

    def make(self, step: Step) -> None:
        """Make a change on the mount."""
        top = self.place.mountpoint / PART
        apply(step | {name: str(top / step[name]) for name in ("path", "to") if name in step})

    def attempt(self) -> int:
        """Make the change of the case; the errno, or 0."""
        try:
            self.make(self._step)
        except OSError as error:
            return error.errno or 0
        return 0

    def unlike(self, model: Model) -> list[str]:
        """How what the mount shows is not as a model says."""
        return unlike(model, part_of(snapshot(self.place.mountpoint), PART), self._since_ns)

    def is_either(self) -> bool:
        """Whether the mount shows the tree before the change, or the one after it."""
        return any(not self.unlike(model) for model in self._states)

    def problems(self) -> str:
        """What is wrong where it shows neither."""
        before, after = self.unlike(self.before), self.unlike(self.after)
        return json.dumps({"not before": before, "not after": after}, indent=1)

    def remount(self) -> None:
        """Mount again; whatever was left half done is gone."""
        self.place.unmount()
        self.place.mount()
        assert self.place.left_in_work() == []

    def close(self) -> None:
        """Unmount and remove everything."""
        self.place.unmount()
        shutil.rmtree(self._scratch)


@contextmanager
def _subject(
    commands: Commands, lowers: list[Path], scratch: Path, case: Case
) -> Iterator[Subject]:
    made = Subject(commands, lowers, scratch / "one", case)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def lowers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    top = tmp_path_factory.mktemp("lowers")
    paths = []
    for number, layer in enumerate(layers(1)):
        paths.append(top / str(number))
        build(layer, paths[-1])
    return paths


# ---- the tests -----------------------------------------------------------------------------------


def _kill_at(subject: Subject, control: Control, number: int) -> bool:
    """Whether there was such a call."""
    with daemon_of(subject.place.mountpoint) as daemon:
        with control.armed(number):
            code = subject.attempt()
        assert code in (0, *DEAD)
        if control.hit:
            daemon.wait()
        else:
            assert code == 0
            assert subject.unlike(subject.after) == []
    subject.remount()
    assert subject.is_either(), f"killed at call {number}, {control.hit}: {subject.problems()}"
    return bool(control.hit)


def _kill_in(case: Case, number: int, hit: Callable[[Case, int], bool]) -> bool:
    try:
        return hit(case, number)
    except AssertionError as error:
        error.add_note(case.name)
        raise


def test_kills_at_every_call(
    fragile: Commands, control: Control, lowers: list[Path], tmp_path: Path
) -> None:
    """All there are where there is time, else some."""

    def hit(case: Case, number: int) -> bool:
        with _subject(fragile, lowers, tmp_path, case) as subject:
            return _kill_at(subject, control, number)

    if soak_seconds():
        for case in CASES:
            assert any(not _kill_in(case, number, hit) for number in range(1, MAX_CALLS))
        return
    with seeded() as rng:
        hits = [_kill_in(rng.choice(CASES), rng.randrange(1, 12), hit) for _ in range(KILLS)]
    assert sum(hits) > KILLS / 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_errors_at_every_call(
    fragile: Commands, control: Control, lowers: list[Path], tmp_path: Path, case: Case
) -> None:
    number = 1
    done = False
    while not done:
        with _subject(fragile, lowers, tmp_path, case) as subject:
            done, number = _fail_until_it_succeeds(subject, control, number)


def _fail_at(subject: Subject, control: Control, number: int) -> tuple[int, str]:
    """Fail one call of the change: the errno that the change ends with, and what was hit."""
    with control.armed(number, errno.EIO):
        code = subject.attempt()
    hit = control.hit
    where = f"call {number}, {hit}"
    assert code in (0, errno.EIO), where
    if hit != "unlinkat":
        assert subject.place.left_in_work() == [], where
    emptied = code and hit == "fremovexattr" and not subject.unlike(subject.after)
    if emptied:  # which can't be undone; that the mark is still there does no harm
        return code, hit
    wanted = subject.before if code else subject.after
    assert subject.unlike(wanted) == [], where
    if code == 0:
        subject.remount()
        assert subject.unlike(wanted) == [], where
    return code, hit


def _fail_until_it_succeeds(subject: Subject, control: Control, number: int) -> tuple[bool, int]:
    """Fail one call after the other; whether the change needs no more, and the next number."""
    while True:
        code, hit = _fail_at(subject, control, number)
        number += bool(hit)
        if code == 0:
            return not hit, number


_OF_GROUPS = [case for case in CASES if "group" in case.name]


@pytest.mark.parametrize("case", _OF_GROUPS, ids=lambda case: case.name.replace(" ", "-"))
def test_errors_at_every_call_in_a_fresh_upper(
    fragile: Commands, control: Control, lowers: list[Path], tmp_path: Path, case: Case
) -> None:
    """Directories are copied up once, so an upper that is used again skips calls."""
    hit = "some"
    number = 0
    while hit:
        number += 1
        with _subject(fragile, lowers, tmp_path, case) as subject:
            _, hit = _fail_at(subject, control, number)
    assert number > 5  # some calls were hit
