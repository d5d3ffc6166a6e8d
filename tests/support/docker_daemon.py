"""A real daemon of docker whose layers are in overlay2, and docker's own client for it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.engines import Engine

_PATIENCE = 60


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
    """Run a daemon on a tmpfs of its own, as overlay2 takes no overlay below it."""
    top = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(top)], check=True)
    try:
        with Engine("docker", top, "overlay2") as engine:
            yield DockerDaemon(top / "data", {"DOCKER_HOST": engine.host})
    finally:
        subprocess.run(["umount", "-l", str(top)], check=True)
        top.rmdir()
