"""Holds: containers by which other tools know that an image of theirs is in use here.

podman, buildah and docker refuse to remove an image that a container was made from, and their
prunes skip it. So a mount makes such a container with the tool itself, and removes it at the end.
It never runs.

A note in the store says which holds there are. The process that serves the mount has a lock
(flock) on it, so that a note whose lock is free belongs to a mount that was killed, or to a machine
that crashed: the next mount and ``prune`` release its hold.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unionmount.errors import MountError, StoreError
from unionmount.system.closing import Closing
from unionmount.system.files import write_all
from unionmount.system.os_errors import storing
from unionmount.system.real_user import real_user
from unionmount.system.text import printable
from unionmount.system.waiting import HOW_TO_WAIT, timeout_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MAX_NOTE = 64 * 1024
_PATIENCE = 300  # seconds in which a tool makes a container
_COMMAND = "unionmount"  # of a container, for images that have none
_PROGRAMS = ("buildah", "podman", "docker")
_OPTIONS = frozenset({"--root", "--runroot", "--storage-driver"})  # each has a value
_UNKNOWN = re.compile("no such container|container not known|no container with", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HoldTool:
    """A program that holds images, and the options by which it uses their store."""

    program: str
    options: tuple[str, ...] = ()

    def make(self, name: str, image: str) -> list[str]:
        """Return the command that makes a container of an image."""
        begin = [self.program, *self.options]
        if self.program == "buildah":
            return [*begin, "from", "--pull-never", "--name", name, image]
        never = ["--pull", "never"] if self.program == "podman" else []
        return [*begin, "create", *never, "--network", "none", "--name", name, image, _COMMAND]

    def remove(self, name: str) -> list[str]:
        """Return the command that removes a container, with the volumes that the tool made for it.

        podman and docker make one for each VOLUME of the image, and would keep them without -v.
        """
        volumes = [] if self.program == "buildah" else ["-v"]
        return [self.program, *self.options, "rm", *volumes, name]


class Hold(Closing):
    """A hold on an image; the lock of its note is this process' and its children's."""

    def __init__(self, tool: HoldTool, name: str, note: Path, lock: int) -> None:
        """Take over ``lock``."""
        self.tool = tool
        self.name = name
        self._note = note
        self._lock = lock

    def __str__(self) -> str:
        return f"{self.tool.program} container {self.name}"

    def close(self) -> None:
        """Let the lock go, which other processes may have; the hold stays."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def release(self) -> None:
        """Remove the container and the note; a second call does nothing.

        Raise MountError if the tool fails; then the note stays for the next attempt.
        """
        if self._note.exists():
            _run(self.tool.remove(self.name), gone=_UNKNOWN)
            self._note.unlink(missing_ok=True)

    def release_left(self) -> None:
        """Do the same for a mount that was killed, whose tool may still be making the container.

        So a young note stays for the next attempt if there is no container, yet.
        """
        if not self._note.exists():
            return
        is_known = _run(self.tool.remove(self.name), gone=_UNKNOWN)
        if is_known or time.time() - os.fstat(self._lock).st_mtime > _PATIENCE:
            self._note.unlink(missing_ok=True)


def find_tool(programs: Sequence[str], options: Sequence[str]) -> HoldTool | None:
    """Return the first of the programs that is installed."""
    for program in programs:
        if shutil.which(program):
            return HoldTool(program, tuple(options))
    return None


def serves(tool: HoldTool, root: Path) -> bool:
    """Return whether images below ``root`` are the tool's: docker's are those of its daemon.

    podman's and buildah's are those of this user. In a store of somebody else, root would leave
    files that the owner can neither read nor change.
    """
    if tool.program != "docker":
        with suppress(OSError):
            return root.stat().st_uid == os.geteuid()
        return False
    try:
        done = _called([tool.program, "info", "--format", "{{.DockerRootDir}}"], limited=True)
    except MountError:
        return False
    said = os.fsdecode(done.stdout.strip())
    return bool(said) and os.path.realpath(said) == os.path.realpath(root)


def hold_image(store: Path, tool: HoldTool, image: str) -> Hold:
    """Hold an image by its ID; ``store`` is the directory of our own store."""
    with storing(store):
        _directory(store).mkdir(mode=0o700, exist_ok=True)
        _check_private(_directory(store))
        name, note, lock = _locked_note(_directory(store))
    hold = Hold(tool, name, note, lock)
    try:
        with storing(note):
            document = {"program": tool.program, "options": tool.options, "name": name}
            write_all(lock, json.dumps(document).encode("ascii"))
            os.fsync(lock)  # before the container, which would stay after a crash otherwise
        _run(tool.make(name, image))
    except BaseException:
        with suppress(MountError):
            hold.release()
        hold.close()
        raise
    return hold


def _locked_note(directory: Path) -> tuple[str, Path, int]:
    """Make an empty note, and lock it; return its name, its path and the descriptor."""
    while True:
        name = f"unionmount-{os.urandom(6).hex()}"
        note = directory / f"{name}.json"
        lock = os.open(note, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return name, note, lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # another process took it for one of a crash, before it was locked


def _check_private(directory: Path) -> None:
    """Raise StoreError unless only this user can write notes: they say which programs are run."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise StoreError(
            f"{printable(str(directory))}: is not a directory that only this user can write to; "
            "remove it, or choose another store (UNIONMOUNT_ROOT)"
        )


def release_left(store: Path) -> list[str]:
    """Release the holds of mounts that were killed; return messages about those that fail."""
    failures = []
    directory = _directory(store)
    if not os.path.lexists(directory):
        return []
    _check_private(directory)
    for note in sorted(directory.glob("*.json")):
        with suppress(FileNotFoundError):  # released meanwhile
            hold = _left(note)
            if hold is None:
                continue
            with hold:
                try:
                    hold.release_left()
                except MountError as error:
                    failures.append(str(error))
    return failures


def _directory(store: Path) -> Path:
    # One for each user, as a store may be shared, but nobody can release the holds of others.
    # Absolute, since the daemon works elsewhere.
    return store.absolute() / f"holds-{real_user(os.environ)}"


def _left(note: Path) -> Hold | None:
    """Return the hold of a note that no process has locked."""
    lock = os.open(note, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    found = None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        document: Any = json.loads(os.pread(lock, _MAX_NOTE, 0) or b"null")
        program, options = document["program"], tuple(document["options"])
        known = program in _PROGRAMS and _OPTIONS.issuperset(options[::2])
        paths = all(isinstance(one, str) for one in options) and not len(options) % 2
        if known and paths and document["name"] == note.stem:
            found = Hold(HoldTool(program, options), note.stem, note, lock)
    except BlockingIOError:
        pass
    except (ValueError, TypeError, KeyError, RecursionError):
        note.unlink()  # of a crash, before its container was made
    finally:
        if found is None:
            os.close(lock)
    return found


def _run(command: list[str], gone: re.Pattern[str] | None = None) -> bool:
    """Run a tool; return False if it failed with the message ``gone``, which is no failure."""
    # docker's daemon may not answer. A container may take long to make, but not to remove.
    done = _called(command, limited=command[0] == "docker" and gone is not None)
    said = done.stderr.decode("utf-8", "surrogateescape").strip()
    if done.returncode and gone and gone.search(said):
        return False
    if done.returncode:
        last = printable((said.splitlines() or ["it failed without a message"])[-1])
        raise MountError(f"{command[0]}: {last.removeprefix('Error: ')}")
    return True


def _called(command: list[str], *, limited: bool) -> subprocess.CompletedProcess[bytes]:
    """Run a tool to any end, within the time-out of registries if it is ``limited``."""
    seconds = timeout_of(os.environ) if limited else None
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
            timeout=seconds,
        )
    except OSError as error:
        raise MountError(f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise MountError(f"{command[0]}: no answer within {seconds:g} s ({HOW_TO_WAIT})") from None
