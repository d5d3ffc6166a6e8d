"""podman with a store and a mount program of the test's own, as root or as an ordinary user.

A script runs in mount and PID namespaces of its own, so that nothing of it outlives it: mounts,
servers of mounts, the pause process of rootless podman. The ordinary user has subordinate IDs, a
home and a runtime directory. It finds the program of this virtual environment at its own path.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import unionmount
from support.users import public_place

USER = 4321
_SUBORDINATE = "200000:65536"  # the first ID of the ordinary user, and their number
_CONTAINERS = "300000:65536"  # those that root's --userns=auto takes
_ASSETS = Path(__file__).parents[1] / "assets/podman"
TOP = Path("/run/p")  # the test's directory, for the script
_SESSION_VARIABLE = "UNIONMOUNT_TEST_SESSION"

_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{top}/home/store"
runroot = "{top}/run/containers"
[storage.options.overlay]
mount_program = "{program}"
"""

_CONTAINERS_CONF = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{runtime}"
"""


@dataclass(frozen=True, slots=True)
class Podman:
    """One way to call podman: who calls it, what mounts, what runs."""

    top: Path  # a directory of its own that every user may enter
    root: bool
    program: Path  # what mounts
    runtime: str
    more: str = ""  # lines of storage.conf
    settings: Mapping[str, str] = field(default_factory=dict)  # variables of the script

    def play(self, script: str) -> str:
        """Run a script of bash, with ``context/`` beside it; return its output, in one stream."""
        for name in ("etc", "home", "run", "tmp", "context"):
            (self.top / name).mkdir(exist_ok=True)
        (self.top / "run").chmod(0o700)
        (self.top / "script.sh").write_text(script)
        shutil.copy(_ASSETS / "enter.sh", self.top)
        (self.top / "covers.sh").write_text(_covers())
        self._configure()
        namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        done = subprocess.run(
            ["unshare", *namespaces, "bash", "enter.sh"],
            cwd=self.top,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _environment(self) -> dict[str, str]:
        kept = ("PATH", "LANG", _SESSION_VARIABLE)
        settings = TOP / "home/.config/containers"
        return {name: os.environ[name] for name in kept if name in os.environ} | {
            "TOP": str(self.top),
            "PUBLIC": str(public_place()),
            "AS_ROOT": str(int(self.root)),
            "USER_ID": str(USER),
            "SUBORDINATE": _SUBORDINATE,
            "CONTAINERS": _CONTAINERS,
            "CONTAINERS_STORAGE_CONF": str(settings / "storage.conf"),
            "CONTAINERS_CONF": str(settings / "containers.conf"),
            **self.settings,
        }

    def _configure(self) -> None:
        settings = self.top / "home/.config/containers"
        settings.mkdir(parents=True, exist_ok=True)
        storage = _STORAGE.format(top=TOP, program=self.program) + self.more
        (settings / "storage.conf").write_text(storage)
        (settings / "containers.conf").write_text(_CONTAINERS_CONF.format(runtime=self.runtime))
        policy = '{"default": [{"type": "insecureAcceptAnything"}]}'
        (settings / "policy.json").write_text(policy)


def our_program() -> Path:
    """Return the mount program of this virtual environment."""
    return Path(sys.prefix) / "bin/unionmount-overlay"


def _covers() -> str:
    """Return commands that let every user reach the program, and that make /tmp empty."""
    hidden: defaultdict[Path, list[Path]] = defaultdict(list, {Path("/tmp"): []})
    for path in {Path(sys.prefix), Path(sys.base_prefix), Path(unionmount.__file__).parents[1]}:
        ways = [way for way in reversed(path.parents) if way in hidden or not _is_open(way)]
        if ways:
            hidden[ways[0]].append(path)
    lines = []
    for number, (cover, paths) in enumerate(hidden.items()):
        kept = {f"kept/{number}-{index}": path for index, path in enumerate(paths)}
        for place, path in kept.items():
            lines += [f"mkdir -p {place}", f"mount --bind {shlex.quote(str(path))} {place}"]
        lines.append(f"mount -t tmpfs -o mode=1777 tmpfs {shlex.quote(str(cover))}")
        for place, path in kept.items():
            quoted = shlex.quote(str(path))
            lines += [f"mkdir -p {quoted}", f"mount --move {place} {quoted}"]
    return "\n".join([*lines, ""])


def _is_open(way: Path) -> bool:
    return bool(way.stat().st_mode & stat.S_IXOTH)
