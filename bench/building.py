"""A build of podman on each subject: the kernel's overlayfs, or a program that podman mounts with.

podman has a store of its own, in mount and PID namespaces of its own (tests/support/podman.py), so
that nothing of it is left. The first build fills the store and does not count; the second has the
same steps again, without the cache of the first.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support.podman import TOP, Podman, our_program

from bench.measuring import WRITING, Seconds, Step, UnableError
from bench.subjects import Places, Subject

WHAT = "podman build of five steps"
NEEDED = ("podman", "runc", "busybox")
_TAKEN = re.compile(r"^taken: (\d+\.\d+)$", re.MULTILINE)
_LISTED = re.compile(r"^listed: begin\n(.*)^listed: end$", re.MULTILINE | re.DOTALL)

_SCRIPT = r"""
exec 2>&1
set -e
cd "$HOME/../context"
export CONTAINERS_STORAGE_CONF=$HOME/storage.conf
echo "$STORAGE" >"$CONTAINERS_STORAGE_CONF"
TIMEFORMAT=%R
engine() { podman "$@" >log 2>&1 || { cat log; exit 1; }; }
build() { engine build --no-cache --network host --isolation=chroot -t five .; }
build
sync
exec 3>&1
seconds=$( { time build >&3; } 2>&1)
echo "taken: $seconds"
engine image mount five
top=$(tail -n 1 log)
echo 'listed: begin'
(cd "$top"; find . -printf '%P %M %U %G %l\n' | sort; find . -type f | sort | xargs sha256sum)
echo 'listed: end'
engine image umount five
"""

_STORAGE = """
[storage]
driver = "overlay"
graphroot = "/run/p/home/store"
runroot = "/run/p/run/containers"
[storage.options.overlay]
"""

_CONTAINERFILE = r"""
FROM scratch
COPY busybox Containerfile /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /usr/share/made && cd /usr/share/made && for n in $(seq 2000); do echo $n >$n; done
RUN cp -a /usr/share/made /usr/share/copied && rm -r /usr/share/made && echo >>/bin/Containerfile
RUN chmod -R a-w /usr/share/copied && mv /usr/share/copied /usr/share/moved
"""


@dataclass(slots=True)
class Build:
    """One build, and then what is in its image."""

    subject: Subject
    top: Path
    quick: bool
    said: str = field(default="")

    def take(self) -> Seconds:
        """Build twice; the seconds of the second time."""
        if os.geteuid():
            raise UnableError("not root")
        if lacking := [name for name in NEEDED if shutil.which(name) is None]:
            raise UnableError(f"not on this machine: {', '.join(lacking)}")
        try:
            self._fill()
            # Its namespaces keep the mounts of this machine: the store is on one of them.
            settings = {"STORAGE": self._storage(), "PUBLIC": str(TOP)}
            podman = Podman(self.top, True, our_program(), "runc", settings=settings)
            self.said = podman.play(_SCRIPT)
        except AssertionError as error:  # what podman said ends with why
            raise UnableError(" ".join(str(error).split()[-40:])) from error
        finally:
            shutil.rmtree(self.top, ignore_errors=True)
        found = _TAKEN.search(self.said)
        if found is None:
            raise UnableError("podman has built nothing")
        return Seconds(found[1])

    def result(self) -> str:
        """What the image has, in a few letters."""
        found = _LISTED.search(self.said)
        listed = found[1] if found else ""
        return f"{listed.count(chr(10))} lines, {hashlib.sha256(listed.encode()).hexdigest()}"

    def _fill(self) -> None:
        context, busybox = self.top / "context", shutil.which("busybox")
        assert busybox is not None
        context.mkdir(parents=True)
        self.top.chmod(0o755)
        shutil.copy(busybox, context / "busybox")
        text = _CONTAINERFILE.replace("2000", "20") if self.quick else _CONTAINERFILE
        (context / "Containerfile").write_text(text.lstrip())

    def _storage(self) -> str:
        """storage.conf; a program that is not ours is copied to where podman sees it."""
        engine, program = self.subject.engine, self.subject.program()
        assert engine is not None
        assert program is not None
        if engine.kernel:
            return _STORAGE
        mounting = our_program()
        if not engine.ours:
            mounting = TOP / "program"
            shutil.copy(program, self.top / mounting.name)
        more = f'mountopt = "{engine.options}"\n' if engine.options else ""
        return f'{_STORAGE}mount_program = "{mounting}"\n{more}'


def steps(subject: Subject, places: Places, *, quick: bool) -> Iterator[Step]:
    """The one row; it mounts by itself."""
    build = Build(subject, places.mountpoint.parent / "podman", quick)
    yield Step(WHAT, build.take, WRITING, result=build.result)


def named(_: Path) -> Iterator[Step]:
    """The row, for its name."""
    yield Step(WHAT, int)
