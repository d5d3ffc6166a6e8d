"""The config.json that podman writes for an image and options: the oracle of ours.

podman runs in a mount namespace of its own without the hierarchy of cgroups version 2, beside which
its runtimes do not start; and with limits that every machine permits.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.mount8 import LEAVE_MOUNTS

_SCRIPT = f"""
set -e
{LEAVE_MOUNTS}
umount -l /sys/fs/cgroup/unified 2>/dev/null || true
"""
_CREATE = """
podman=$1; shift
container=$($podman create --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 "$@" </dev/null)
trap '$podman rm -f "$container" >/dev/null' EXIT
$podman init "$container" >/dev/null
cat "$($podman inspect "$container" --format '{{.OCIConfigPath}}')"
"""
_RUN = """
podman=$1; shift
container=$($podman create --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 "$@" </dev/null)
trap '$podman rm -f "$container" >/dev/null' EXIT
$podman start -a "$container"
echo "== diff"
$podman diff "$container"
"""
_PATIENCE = 120


class PodmanOracle:
    """podman with a store of its own."""

    def __init__(self, place: Path, runroot: Path) -> None:
        places = f"--root {place}/root --runroot {runroot}"
        self._podman = (
            f"podman {places} --storage-driver vfs --cgroup-manager cgroupfs --runtime runc"
        )

    def load(self, archive: Path, name: str) -> str:
        """Load an archive, and return a name of the image for ``config``."""
        self._script(f"{self._podman} load -q -i {archive}\n")
        self._script(f"{self._podman} tag localhost/test:latest localhost/{name}\n")
        return f"localhost/{name}"

    def config(self, *words: str) -> dict[str, Any]:
        """Return config.json of ``podman create`` with these options, image and command."""
        found: dict[str, Any] = json.loads(self._script(_CREATE, [self._podman, *words]))
        return found

    def run(self, *words: str) -> tuple[str, list[str]]:
        """Run a container; return its output and the lines of ``podman diff``."""
        output, _, diff = self._script(_RUN, [self._podman, *words]).partition("== diff\n")
        return output, diff.splitlines()

    def remove(self) -> None:
        """Remove all images."""
        self._script(f"{self._podman} rmi -af >/dev/null\n")

    def _script(self, text: str, words: Sequence[str] = ()) -> str:
        done = subprocess.run(
            ["unshare", "-m", "bash", "-c", _SCRIPT + text, "bash", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_PATIENCE,
        )
        assert done.returncode == 0, os.fsdecode(done.stdout + done.stderr)
        return os.fsdecode(done.stdout)
