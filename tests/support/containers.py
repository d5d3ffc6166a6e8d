"""Containers of podman that have this machine's programs, and this project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.mounting import COMMAND

PROJECT = Path(__file__).parents[2]

# crun refuses machines with both versions of cgroups, and limits of the machine may be lower than
# those that podman sets.
_PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
_SHOWN = ("/usr", "/bin", "/sbin", "/lib", "/lib64")


class Podman:
    """Runs commands in containers whose root file system is a directory."""

    def __init__(self, place: Path, runroot: str) -> None:
        self._rootfs = place / "rootfs"
        for name in ("proc", "sys", "dev", "tmp", "etc", "run", "mnt", "work"):
            (self._rootfs / name).mkdir(parents=True)
        self._work = place / "work"
        self._work.mkdir()
        own = ["--root", str(place / "storage"), "--runroot", runroot]
        self._podman = [*_PODMAN, *own, "--storage-driver", "vfs"]

    def run(self, script: str, *options: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a shell script, in which ``unionmount`` is the command under test."""
        shown = {*_SHOWN, sys.base_prefix, str(PROJECT)}
        volumes = [f"--volume={path}:{path}:ro" for path in sorted(shown) if Path(path).exists()]
        volumes.append(f"--volume={self._work}:/work")
        command = " ".join(COMMAND)
        done = subprocess.run(
            [
                *(*self._podman, "run", "--rm", "--network", "none", *_LIMITS, *volumes),
                *("--env=UNIONMOUNT_ROOT=/work/root", "--env=UNIONMOUNT_RUNTIME_DIR=/work/run"),
                *(*options, "--rootfs", str(self._rootfs)),
                *("sh", "-c", f'unionmount() {{ {command} "$@"; }}\n{script}'),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=os.environ,
        )
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def put(self, path: Path) -> str:
        """Copy a file to where containers see it; gives its path there."""
        (self._work / path.name).write_bytes(path.read_bytes())
        return f"/work/{path.name}"


@contextmanager
def podman(place: Path) -> Iterator[Podman]:
    """Make a place for containers; podman's own mounts there go at the end."""
    place.mkdir()
    runroot = tempfile.mkdtemp(prefix="um-", dir="/tmp")  # podman takes 50 characters
    try:
        yield Podman(place, runroot)
    finally:
        table = Path("/proc/self/mounts").read_text(encoding="utf-8")
        for line in reversed(table.splitlines()):
            if line.split()[1].startswith((f"{place}/", f"{runroot}/")):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)
        shutil.rmtree(runroot)
