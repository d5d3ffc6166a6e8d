"""The directory of an OCI bundle: config.json, the host's files, and a link to the root directory.

The mount point of the root directory lies outside of it (docs/explanation/running.md, rule 5), so
that a bundle can be removed with ``rm -r`` while it is mounted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unionmount.errors import MountError, UsageError
from unionmount.runtime.host import HostFile
from unionmount.system.files import write_all
from unionmount.system.os_errors import raising
from unionmount.system.text import printable

CONFIG = "config.json"
ROOT = "rootfs"


def make_directory(path: Path) -> bool:
    """Create the directory of a bundle; False if it is there and empty.

    Raise UsageError if it has files already.
    """
    with raising(MountError, f"bundle {path}"):
        try:
            path.mkdir(0o700)
        except FileExistsError:
            if any(path.iterdir()):
                raise UsageError(
                    f"bundle {printable(str(path))} is not empty; choose a new directory"
                ) from None
            return False
    return True


def write(path: Path, document: Mapping[str, Any], files: Iterable[HostFile], root: Path) -> None:
    """Write a bundle into an empty directory."""
    with raising(MountError, f"bundle {path}"):
        for file in files:
            _create(path / file.name, file.content, 0o644)
        _create(path / CONFIG, as_json(document), 0o600)
        (path / ROOT).symlink_to(root)


def as_json(document: Mapping[str, Any]) -> bytes:
    """Return a document for a runtime; UsageError if it has bytes that JSON cannot hold.

    runc would replace them, and crun refuses the document.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        line = text[: error.end].rpartition("\n")[2] + text[error.end :].partition("\n")[0]
        raise UsageError(
            f"{printable(line.strip())} is not UTF-8, as words for a runtime have to be"
        ) from None


def root_of(path: Path) -> Path:
    """Return the root directory of a bundle; raise UsageError if it is not a bundle of ours."""
    try:
        return Path(os.readlink(path / ROOT))  # noqa: PTH115 - not made absolute
    except OSError:
        raise UsageError(
            f"{printable(str(path))} is not a bundle made by 'unionmount bundle': it has no link "
            f"'{ROOT}'"
        ) from None


def remove(path: Path, names: Iterable[str]) -> list[str]:
    """Remove the files that ``write`` made, and the directory; return what is left in it."""
    with raising(MountError, f"bundle {path}"):
        for name in (CONFIG, ROOT, *names):
            (path / name).unlink(missing_ok=True)
        with suppress(OSError):
            path.rmdir()
            return []
        return sorted(left.name for left in path.iterdir())


def _create(path: Path, content: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, mode)
    try:
        write_all(fd, content)
    finally:
        os.close(fd)
