"""Containers of podman that have this machine's programs, and this project."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from support.mounting import COMMAND

PROJECT = Path(__file__).parents[2]

# crun refuses machines with both versions of cgroups, and limits of the machine may be lower than
# those that podman sets.
_PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
_SHOWN = ("/usr", "/lib", "/lib64", "/bin")
_ATTEMPTS = 200
_MONITOR_PATIENCE = 60.0  # seconds


class Podman:
    """Runs commands in containers whose root file system is a directory."""

    def __init__(self, place: Path, runroot: str) -> None:
        self.rootfs = place / "rootfs"
        for name in ("proc", "sys", "dev", "tmp", "etc", "run", "mnt", "work"):
            (self.rootfs / name).mkdir(parents=True)
        (self.rootfs / "sbin").symlink_to("usr/sbin")
        self._work = place / "work"
        self._work.mkdir()
        own = ["--root", str(place / "storage"), "--runroot", runroot]
        self._podman = [*_PODMAN, *own, "--storage-driver", "vfs"]

    def run(self, script: str, *options: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a shell script, in which ``unionmount`` is the command under test."""
        command = " ".join(COMMAND)
        words = ["sh", "-c", f'unionmount() {{ {command} "$@"; }}\n{script}']
        done = self._start(["--rm", *options], words)
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def _start(
        self, options: Sequence[str], words: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        shown = {*_SHOWN, sys.base_prefix, str(PROJECT)}
        volumes = [f"--volume={path}:{path}:ro" for path in sorted(shown) if Path(path).exists()]
        volumes.append(f"--volume={self._work}:/shared")
        places = ("--env=UNIONMOUNT_ROOT=/shared/root", "--env=UNIONMOUNT_RUNTIME_DIR=/shared/run")
        how = ["run", "--network=none", *_LIMITS, *volumes, *places, *options]
        return self._call([*how, "--rootfs", str(self.rootfs), *words], check=False)

    def _call(self, words: Sequence[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._podman, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def boot(self, sbin: Path, fstab: str) -> None:
        """Start a container with systemd as process 1; ``sbin`` is added to its /sbin."""
        programs = self._work.parent / "sbin"
        programs.mkdir()
        (self.rootfs / "opt/sbin").mkdir(parents=True)
        for path in Path("/usr/sbin").iterdir():
            (programs / path.name).symlink_to(f"/opt/sbin/{path.name}")
        for path in sbin.glob("*mount.*unionmount"):
            (programs / path.name).symlink_to(path)
        for name in ("passwd", "group", "nsswitch.conf"):
            (self.rootfs / "etc" / name).write_bytes(Path("/etc", name).read_bytes())
        (self.rootfs / "etc/machine-id").touch()
        (self.rootfs / "var/log").mkdir(parents=True)
        (self.rootfs / "etc/fstab").write_text(fstab, encoding="ascii")
        volumes = ["--volume=/usr/sbin:/opt/sbin:ro", f"--volume={programs}:/usr/sbin:ro"]
        options = ["--detach", "--name=machine", "--systemd=always", "--privileged"]
        # shared as systemd has it on machines: an unmount reaches the namespaces of services, too
        start = "mount --make-rshared / && exec /lib/systemd/systemd"
        self._start([*options, *volumes], ["sh", "-c", start])
        for _ in range(_ATTEMPTS):
            state = self.inside("systemctl is-system-running", check=False)
            if state.stdout.strip() in ("running", "degraded"):
                return
        raise AssertionError(f"systemd did not start: {state.stdout}{state.stderr}")

    def inside(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the container that was booted."""
        return self._call(["exec", "machine", "sh", "-c", script], check=check)

    def halt(self) -> None:
        """Remove the container that was booted."""
        self._call(["rm", "-f", "-t", "0", "machine"], check=False)

    def put(self, path: Path) -> str:
        """Copy a file to where containers see it; gives its path there."""
        (self._work / path.name).write_bytes(path.read_bytes())
        return f"/shared/{path.name}"


def _wait_for_monitors(runroot: str) -> None:
    """Wait for conmon and what it starts: they write to the directory after podman has returned."""
    while running := [pid for pid in map(int, _numbers()) if runroot in _command_line(pid)]:
        for pid in running:
            with suppress(ProcessLookupError):
                process = os.pidfd_open(pid)
                ended = select.select([process], [], [], _MONITOR_PATIENCE)[0]
                os.close(process)
                assert ended, f"process {pid} of podman does not end: {_command_line(pid)}"


def _numbers() -> list[str]:
    return [path.name for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


@contextmanager
def podman(place: Path) -> Iterator[Podman]:
    """Make a place for containers; podman's own mounts there go at the end."""
    place.mkdir()
    runroot = tempfile.mkdtemp(prefix="um-", dir="/tmp")  # podman takes 50 characters
    try:
        yield Podman(place, runroot)
    finally:
        _wait_for_monitors(runroot)
        table = Path("/proc/self/mounts").read_text(encoding="utf-8")
        for line in reversed(table.splitlines()):
            if line.split()[1].startswith((f"{place}/", f"{runroot}/")):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)
        shutil.rmtree(runroot)
