"""The best shell of an image, or one of the host that is brought in."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from unionmount.browse.paths import follow
from unionmount.core import BrowsableTree
from unionmount.errors import NotFoundError
from unionmount.runtime.mounts import Mount, bind

SHELLS = ("bash", "zsh", "ash", "dash", "sh")
"""Shells by preference; ``ash`` is that of BusyBox."""
_DIRECTORIES = ("/bin", "/usr/bin", "/usr/local/bin", "/sbin", "/usr/sbin")
_TOOLS = "/run/unionmount/busybox"  # BusyBox goes by its own name
_ELF_HEADER = 64
_DYNAMIC = b"/ld-"  # the beginning of an interpreter's name, in programs that are not static


def best_shell(files: BrowsableTree) -> str | None:
    """Return the path of a shell; None if there is none."""
    for name in SHELLS:
        for directory in _DIRECTORIES:
            path = f"{directory}/{name}"
            if _is_program(files, path):
                return path
    return None


def tools() -> tuple[tuple[str, ...], Mount]:
    """Return the command line of a shell that is brought in read-only, and its mount.

    It is the host's static BusyBox, whose shell runs its other programs without PATH.
    """
    found = shutil.which("busybox", path=os.environ.get("PATH", os.defpath) + ":/bin:/usr/bin")
    if found is None or not _is_static(Path(found)):
        raise NotFoundError(
            "--with-tools needs a static BusyBox on this host; install the package busybox-static"
        )
    return (_TOOLS, "sh"), bind(os.path.realpath(found), _TOOLS, "ro", "nosuid")


def _is_program(files: BrowsableTree, path: str) -> bool:
    try:
        mode = follow(files, path.encode()).attributes.mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _is_static(path: Path) -> bool:
    """Return whether a program names no interpreter at its beginning, as dynamic ones do."""
    with path.open("rb") as file:
        start = file.read(4096)
    return start[:4] == b"\x7fELF" and _DYNAMIC not in start[_ELF_HEADER:]
