"""What a process holds open, asked while the process goes on opening and closing."""

from __future__ import annotations

import contextlib
from pathlib import Path


def held_paths(pid: int) -> list[str]:
    """Paths of the open descriptors of process pid; one that is closed meanwhile is left out."""
    paths: list[str] = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            paths.append(str(descriptor.readlink()))
    return paths
