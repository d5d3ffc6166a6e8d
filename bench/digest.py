"""What a task has left behind, as a short text that is the same wherever the same was done."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path


def _entries(top: Path, without: Sequence[str]) -> Iterator[Path]:
    """Everything below, in order of names; what a pattern matches is left out with all below it."""
    with os.scandir(top) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if not any(fnmatchcase(entry.path, pattern) for pattern in without):
            yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path), without)


def of_file(path: Path) -> str:
    """The content of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return str(path.readlink())
    return of_file(path) if stat.S_ISREG(mode) else ""


def of_tree(top: Path, without: Sequence[str] = ()) -> str:
    """Names, kinds, modes, owners and contents below a directory, but no times."""
    total, count = hashlib.sha256(), 0
    for path in _entries(top, without):
        found = path.lstat()
        name, content = path.relative_to(top), _content(path, found.st_mode)
        line = f"{name}\0{found.st_mode:o} {found.st_uid} {found.st_gid} {content}\n"
        total.update(line.encode(errors="surrogateescape"))
        count += 1
    return f"{count} entries, {total.hexdigest()}"


def of_names(top: Path) -> str:
    """The names below a directory and their kinds; nothing is read."""
    total, count = hashlib.sha256(), 0
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted((*names, *files)):
            total.update(os.fsencode(f"{os.path.relpath(directory, top)}/{name}\0"))
            count += 1
    return f"{count} names, {total.hexdigest()}"
