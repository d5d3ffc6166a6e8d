"""The upper on disk is overlayfs' own format: each of the two mounts what the other has written.

After random operations the upper is mounted by the other one over the same lower directories, and
the trees must be the same.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from differential import lowers
from differential.deviations import Case
from differential.explore import explore_machine
from differential.lowers import Stack
from differential.machine import Machine
from differential.run import Place, Run, Variant
from differential.sides import KernelOverlay, Layout, Subject, Unionmount
from differential.worker import Outcome, Zygote
from support.backing import backing, kinds
from support.capabilities import in_ci
from support.compare import Snapshot, differences, snapshot

pytestmark = [pytest.mark.needs("fuse", "overlayfs"), pytest.mark.timeout(900)]

RUNS = int(os.environ.get("UNIONMOUNT_DIFFERENTIAL_RUNS", "8" if in_ci() else "4"))

# What we write is read with redirects and with data that stayed in the lower.
_ADVISED = "redirect_dir=on,metacopy=on"  # by the page of limits
_READING = f"index=off,{_ADVISED},xino=auto"
# What is written for us to read: as a distribution's kernel does by itself, and with all there is.
_WRITING = {
    "plain": "index=off,redirect_dir=off,metacopy=off",
    "redirects": "index=off,redirect_dir=on,metacopy=off,xino=auto",
    "metacopy": "index=off,redirect_dir=on,metacopy=on,xino=auto",
}


class Crossed(Run):
    """A run at whose end somebody else mounts the upper of the subject."""

    def __init__(
        self, place: Place, variant: Variant, stack: Stack, reader: Callable[[], Subject]
    ) -> None:
        self._reader = reader
        super().__init__(place, variant, lowers.reduced(stack), look=False)

    def _set_up(self, look: bool) -> None:  # noqa: ARG002 - nothing is compared
        super()._set_up(look=False)
        if self.kernel:
            self.kernel.abandon()
            self.kernel = None

    def step(self, who: str, name: str, /, **arguments: Any) -> Outcome:
        """Do it, but make no device 0:0: a whiteout to overlayfs (docs/explanation/upper.md)."""
        if name == "mknod" and arguments["device"] == (0, 0):
            arguments["device"] = (1, 3)
        return super().step(who, name, **arguments)

    def compare(self, *, quiet: bool = False) -> None:
        """Nothing: here the two sides may go ways of their own."""

    def finish(self) -> None:
        self.close_all()
        self.subject.leave()
        self.subject.enter()  # what is only known in memory does not count
        mine = self._seen(self.subject)
        self.subject.leave()
        self._check_log(self.subject)
        layout = self.subject.layout
        shutil.rmtree(layout.work)
        layout.work.mkdir()
        other = self._reader()
        other.mount(layout)
        try:
            theirs = snapshot(layout.mountpoint)
        finally:
            other.unmount(layout)
        lines = differences(_comparable(mine), _comparable(theirs))
        if lines or other.log():
            name = self.subject.name
            self._fail(
                "\n".join([f"what {name} wrote, read by {other.name}:", *lines, other.log()])
            )


def _comparable(tree: Snapshot) -> Snapshot:
    """Without link counts: overlayfs has its own of directories, and counts hidden names."""
    return {path: replace(item, nlink=0) for path, item in tree.items()}


def _anything(_case: Case) -> bool:
    return True


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


def explore(top: Path, zygote: Zygote, writer: Subject, reader: Callable[[], Subject]) -> None:
    """Let ``writer`` do what Hypothesis says, and ``reader`` read it."""
    variant = Variant("crossed", lambda: writer, excuse=_anything)
    place = Place(top, top, zygote)

    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(place, variant)

        def make_run(self, stack: Stack, look: bool) -> Run:  # noqa: ARG002 - likewise
            return Crossed(place, variant, stack, reader)

    explore_machine(Here, RUNS, 80)


@pytest.mark.parametrize("kind", kinds())
def test_overlayfs_reads_what_we_wrote(
    kind: str, zygote: Zygote, require: Callable[..., None]
) -> None:
    require(f"backing-{kind}")
    with backing(kind) as top:
        explore(top, zygote, Unionmount(options=",dev,suid"), lambda: KernelOverlay(_READING))


@pytest.mark.parametrize("options", _WRITING)
def test_we_read_what_overlayfs_wrote(
    options: str, zygote: Zygote, require: Callable[..., None]
) -> None:
    require("backing-ext4")
    with backing("ext4") as top:
        reader = partial(Unionmount, options=",dev,suid")
        explore(top, zygote, KernelOverlay(_WRITING[options]), reader)


# ---- large files, whose data stays below ---------------------------------------------------------

_NAMES = ("a", "b", "c", "d")
_LARGE = 140_000  # unionmount copies smaller ones whole
_DEPTH = 3


def _fill(random: Random, directory: Path, depth: int = 0) -> None:
    """Directories and large files; some of them have two names."""
    for name in _NAMES:
        path = directory / name
        kind = random.random()
        if path.exists():
            continue
        if kind < 0.5 and depth < _DEPTH:
            path.mkdir()
            _fill(random, path, depth + 1)
        elif kind < 0.8:
            path.write_bytes(random.randbytes(_LARGE + random.randrange(10_000)))
            path.chmod(random.choice((0o644, 0o4755)))
            os.setxattr(path, "user.name", str(path).encode())
            os.utime(path, ns=(1, random.randrange(10**18)))
            if random.random() < 0.1 and not (directory / "d").exists():
                (directory / "d").hardlink_to(path)


def _write(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"new")


def _change(random: Random, top: Path) -> None:
    """One operation at random, on what is there; many fail, as they should."""
    there = [Path(at) / name for at, inner, files in os.walk(top) for name in (*inner, *files)]
    if not there:
        return
    path = random.choice(sorted(there))
    other = random.choice([top, *filter(Path.is_dir, sorted(there))]) / random.choice(_NAMES)
    operations: tuple[Callable[[], object], ...] = (
        *[lambda: path.rename(other)] * 4,
        other.mkdir,
        lambda: other.hardlink_to(path),
        path.unlink,
        path.rmdir,
        lambda: path.chmod(random.choice((0o600, 0o4711))),
        lambda: os.utime(path, ns=(5, random.randrange(10**18))),
        lambda: _write(path, random.randrange(_LARGE)),
        lambda: os.truncate(path, random.choice((0, 10, _LARGE + 5_000))),
    )
    with suppress(OSError):
        random.choice(operations)()


def _show(subject: Subject, layout: Layout, change: Callable[[Path], None] | None) -> Snapshot:
    """Mount, change something, and say what is to be seen then."""
    shutil.rmtree(layout.work)
    layout.work.mkdir()
    subject.mount(layout)
    try:
        if change is not None:
            change(layout.mountpoint)
        return snapshot(layout.mountpoint)
    finally:
        subject.unmount(layout)


def _without_groups(tree: Snapshot) -> Snapshot:
    """Without an index overlayfs shows names of one lower file as files of their own, or not."""
    return {path: replace(item, names=()) for path, item in _comparable(tree).items()}


@pytest.mark.parametrize("seed", range(1, 5))
def test_large_files_go_back_and_forth(seed: int, require: Callable[..., None]) -> None:
    """Each changes what the other has changed; both leave data in the lower, and redirects."""
    require("backing-ext4")
    random = Random(seed)
    names = ("upper", "lower", "over", "work", "mountpoint", "state")

    def change(top: Path) -> None:
        for _ in range(25):
            _change(random, top)

    with backing("ext4") as top:
        upper, lower, over, work, mountpoint, state = (top / name for name in names)
        for directory in (upper, lower, over, work, mountpoint, state):
            directory.mkdir()
        _fill(random, lower)
        _fill(random, over)
        layout = Layout((over, lower), upper, work, mountpoint, state)
        sides: list[Subject] = [Unionmount(options=",dev,suid"), KernelOverlay(_READING)]
        for turn in range(4):
            writer, reader = sides[(turn + seed) % 2], sides[(turn + seed + 1) % 2]
            live = _show(writer, layout, change)
            mine = _show(writer, layout, None)
            if isinstance(writer, Unionmount):
                assert differences(live, mine) == []
            theirs = _show(reader, layout, None)
            lines = differences(_without_groups(mine), _without_groups(theirs))
            assert lines == [], f"written by {writer.name}, read by {reader.name}"
            assert writer.log() + reader.log() == ""


def test_readme_advises_what_is_tested(project: Path) -> None:
    assert f"`{_ADVISED}`" in (project / "docs/reference/limits.md").read_text(encoding="utf-8")
