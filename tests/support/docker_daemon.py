"""A real daemon of docker with a data root of its own: overlay2 on a tmpfs, and no network."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.mount8 import LEAVE_MOUNTS

_PATIENCE = 60

# What the daemon writes below /etc, such as a key, and below /run and /opt is the test's own.
_SCRIPT = f"""
set -e
{LEAVE_MOUNTS}
mkdir "$1/etc" "$1/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" overlay /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /opt
exec dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" \
    --host "unix://$1/socket" --bridge=none --iptables=false --storage-driver overlay2
"""


@dataclass(frozen=True, slots=True)
class DockerDaemon:
    """The daemon and its data root."""

    data: Path
    environment: dict[str, str]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run docker to any end."""
        return subprocess.run(
            ["docker", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=os.environ | self.environment,
            check=False,
            timeout=_PATIENCE,
        )

    def run(self, *words: str) -> str:
        """Run docker, which succeeds."""
        done = self.call(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def containers(self) -> list[str]:
        """Return the names of all containers."""
        return self.run("ps", "-a", "--format", "{{.Names}}").split()


@contextmanager
def docker_daemon() -> Iterator[DockerDaemon]:
    """Run a daemon; it ends with all its processes and mounts."""
    top = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(top)], check=True)
    try:
        namespaces = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command = ["unshare", *namespaces, "sh", "-c", _SCRIPT, "sh", str(top)]
        with (
            (top / "log").open("wb") as log,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.PIPE
            ) as process,
        ):
            assert process.stderr is not None
            try:
                lines = []
                for line in process.stderr:
                    lines.append(line)
                    if b"API listen on" in line:
                        break
                else:
                    raise AssertionError(b"".join(lines).decode())
                yield DockerDaemon(top / "data", {"DOCKER_HOST": f"unix://{top}/socket"})
            finally:
                process.kill()
                process.wait()
    finally:
        subprocess.run(["umount", "-l", str(top)], check=True)
        top.rmdir()
