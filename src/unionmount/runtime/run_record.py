"""What is kept of a container's runs, beside its changes: how it was started and how it ended.

``run.json`` in the directory of the container has the options, so that ``start`` repeats them, and
the exit status; ``log.json`` is its output (``log_file``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unionmount.errors import NotFoundError, StoreError
from unionmount.runtime.assembly import Wanted
from unionmount.runtime.limits import ResourceLimits
from unionmount.runtime.mounts import Mount
from unionmount.runtime.parameters import Changes
from unionmount.runtime.spec import Terminal
from unionmount.system.files import write_all
from unionmount.system.os_errors import raising
from unionmount.system.text import printable

LOG = "log.json"
_RECORD = "run.json"
_MAX_RECORD = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The last run of a container; ``exit_status`` is None until it has ended."""

    wanted: Wanted
    interactive: bool
    runtime: str | None
    command: str
    started: str
    rootless: bool = False  # it was run by an ordinary user
    exit_status: int | None = None
    finished: str = ""

    def write(self, container: Path) -> None:
        """Keep the record in the directory of a container; StoreError if it cannot be written."""
        new = container / f"{_RECORD}.new"
        with raising(StoreError, f"{printable(str(container / _RECORD))}: not written"):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                write_all(fd, json.dumps(asdict(self)).encode("ascii"))
            finally:
                os.close(fd)
            new.rename(container / _RECORD)


def read_record(container: Path) -> RunRecord | None:
    """Return the record of a container; None if it was never run."""
    path = container / _RECORD
    try:
        with path.open("rb") as file:
            return _parse(json.loads(file.read(_MAX_RECORD)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise StoreError(f"{printable(str(path))}: damaged") from None


def record_of(container: Path, name: str) -> RunRecord:
    """Return the record of a container; NotFoundError if it was never run."""
    found = read_record(container)
    if found is None:
        raise NotFoundError(f"container '{printable(name)}' was never run; use 'unionmount run'")
    return found


def forget(container: Path) -> None:
    """Remove the log of earlier runs."""
    with suppress(FileNotFoundError):
        (container / LOG).unlink()


def _parse(row: Mapping[str, Any]) -> RunRecord:
    status = row["exit_status"]
    return RunRecord(
        wanted=_wanted(row["wanted"]),
        interactive=bool(row["interactive"]),
        runtime=None if row["runtime"] is None else str(row["runtime"]),
        command=str(row["command"]),
        started=str(row["started"]),
        rootless=bool(row["rootless"]),
        exit_status=None if status is None else int(status),
        finished=str(row["finished"]),
    )


def _wanted(row: Mapping[str, Any]) -> Wanted:
    changes, entrypoint = row["changes"], row["changes"]["entrypoint"]
    return Wanted(
        changes=Changes(
            entrypoint=None if entrypoint is None else tuple(entrypoint),
            command=tuple(changes["command"]),
            env=tuple(changes["env"]),
            user=changes["user"],
            working_dir=changes["working_dir"],
        ),
        network=row["network"],
        hostname=row["hostname"],
        read_only=row["read_only"],
        privileged=row["privileged"],
        cap_add=tuple(row["cap_add"]),
        cap_drop=tuple(row["cap_drop"]),
        mounts=tuple(_mount(one) for one in row["mounts"]),
        terminal=Terminal(**row["terminal"]),
        version=row["version"],
        init=row["init"],
        limits=ResourceLimits(**row["limits"]),
    )


def _mount(row: Mapping[str, Any]) -> Mount:
    return Mount(row["destination"], row["type"], row["source"], tuple(row["options"]))
