"""A mount namespace whose /sbin has our helpers, for the real mount(8) to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.mounting import COMMAND
from support.users import NOBODY

Result = subprocess.CompletedProcess[str]

# /sbin is a directory of links to the real programs, and of our helpers; /dev/fuse is open to all;
# /etc/fstab is a file of the test.
_PREPARE = """
set -e
sbin=$(readlink -f /sbin)
mkdir "$1/real" "$1/sbin"
mount --bind "$sbin" "$1/real"
for path in "$sbin"/*; do ln -s "$1/real/${path##*/}" "$1/sbin/"; done
for name in mount.unionmount mount.fuse.unionmount umount.fuse.unionmount; do
    ln -s "$2/$name" "$1/sbin/$name"
done
mount --bind "$1/sbin" "$sbin"
mknod -m 666 "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
touch "$1/fstab"
mkdir -p /run/mount
mount -t tmpfs none /run/mount
mount --bind "$1/fstab" /etc/fstab
"""


class System:
    """Runs programs in the namespace."""

    def __init__(self, pid: int, place: Path, environment: dict[str, str]) -> None:
        self.prefix: tuple[str, ...] = ("nsenter", "-t", str(pid), "-m", "--wd=/", "--")
        self.environment = os.environ | environment
        self.fstab = place / "fstab"

    def run(self, *words: str | Path, status: int = 0, as_user: tuple[str, ...] = ()) -> Result:
        """Run a program to its end, and compare its exit status."""
        done = subprocess.run(
            [*self.prefix, *as_user, *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def silent(self, *words: str | Path, as_user: tuple[str, ...] = ()) -> None:
        """Run a program that succeeds and prints nothing."""
        done = self.run(*words, as_user=as_user)
        assert (done.stdout, done.stderr) == ("", "")

    def give(self, where: Path) -> None:
        """Let an ordinary user mount there, with a store of the user's own."""
        os.chown(where, NOBODY, NOBODY)
        for name in ("UNIONMOUNT_ROOT", "UNIONMOUNT_RUNTIME_DIR"):
            own = where.parent / f"user-{name.lower()}"
            own.mkdir()
            os.chown(own, NOBODY, NOBODY)
            self.environment[name] = str(own)

    def mounted(self, where: Path) -> dict[str, Any]:
        """What findmnt(8) tells of a mount point; empty where nothing is mounted."""
        columns = "SOURCE,FSTYPE,VFS-OPTIONS,FS-OPTIONS"
        found = subprocess.run(
            [*self.prefix, "findmnt", "-P", "-o", columns, "--mountpoint", str(where)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        lines = found.splitlines()
        if not lines:
            return {}
        words = [word.partition("=") for word in lines[-1].split('" ')]
        return {name: value.strip('"') for name, _, value in words}


LEAVE_MOUNTS = """
mount --make-rprivate /
while read -r _ place kind _; do
  if [ "$kind" = fuse.unionmount ]; then umount -l "$(printf %b "$place")" || true; fi
done </proc/self/mounts
"""
"""Shell commands for a new mount namespace: it keeps no mount of other tests in use."""


def open_python(place: Path) -> str:
    """A shell command that lets every user reach Python, where only root enters its directory.

    It belongs into a mount namespace of its own.
    """
    python = Path(sys.base_prefix)
    closed = [path for path in python.parents if not path.stat().st_mode & 1]
    if not closed:
        return "true"
    aside = place / "python"
    return (
        f"mkdir -p {aside} && mount --bind {python} {aside} && "
        f"mount -t tmpfs -o mode=755 none {closed[-1]} && "
        f"mkdir -p {python} && mount --bind {aside} {python}"
    )


@contextmanager
def system(place: Path, environment: dict[str, str]) -> Iterator[System]:
    """Make the namespace; its mounts end with it."""
    place.mkdir()
    programs = Path(sys.executable).parent
    script = f"{_PREPARE}\n{open_python(place)}\necho\ncat"
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(place), str(programs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield System(process.pid, place, environment)
        finally:
            process.kill()


@contextmanager
def own_system(top: Path) -> Iterator[System]:
    """Make the namespace, with a store and records of its own; nothing is mounted at the end."""
    places = {"UNIONMOUNT_ROOT": top / "store", "UNIONMOUNT_RUNTIME_DIR": top / "run"}
    with system(top / "system", {name: str(path) for name, path in places.items()}) as made:
        yield made
        made.run(*COMMAND, "umount", "--all")
        assert json.loads(made.run(*COMMAND, "ps", "--format", "json").stdout) == []
