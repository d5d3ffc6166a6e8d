"""A small tree on disk and as a layer, for the tests of paths and file systems."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from support.archives import Layer

# Symlinks are relative, since programs on the host would leave the tree by others.
DIRECTORIES = ("a", "a/b", "a/b/c", "a/.hidden", "empty", "x[1]")
FILES = {
    "a/one.txt": "one\n",
    "a/two.tar.gz": "2",
    "a/b/one.txt": "1",
    "a/b/c/deep.py": "x = 1\n",
    "a/.hidden/dot.txt": "",
    "a/caf\udce9.txt": "!",
    "x[1]/y": "",
    "top.txt": "töp\n",
}
LINKS = {"link": "a/b", "a/b/up": "..", "broken": "nowhere", "round": "round", "file": "top.txt"}


def write_tree(top: Path) -> Path:
    """Make the tree on disk."""
    top.mkdir()
    for name in DIRECTORIES:
        (top / name).mkdir()
    for name, text in FILES.items():
        (top / name).write_text(text, encoding="utf-8")
    for name, target in LINKS.items():
        (top / name).symlink_to(target)
    return top


def layer_of(top: Path) -> Layer:
    """Put everything below a directory into a layer, with modes, owners and times."""
    layer = Layer()
    layer.directory(".", top.stat().st_mode & 0o7777, mtime_ns=top.stat().st_mtime_ns)
    for place, directories, files in os.walk(top):
        for name in sorted([*directories, *files]):
            path = Path(place, name)
            inner, status = str(path.relative_to(top)), path.lstat()
            more: dict[str, Any] = {"mode": status.st_mode & 0o7777, "mtime_ns": status.st_mtime_ns}
            more |= {"owner": (status.st_uid, status.st_gid)}
            if path.is_symlink():
                layer.symlink(inner, str(path.readlink()), **more)
            elif path.is_dir():
                layer.directory(inner, **more)
            else:
                layer.file(inner, path.read_bytes(), **more)
    return layer
