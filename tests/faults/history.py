"""What a tree may be after a power cut: a history of changes, and what was promised on the way.

Names and attributes are those after one of the changes: a file system with a journal keeps their
order. Data has no such order before it is synced. So a file's data may be older than its
attributes, and each byte may be of another version; but of none before the last sync of the file,
and none that the file never had. The bytes of a lower file count as synced: what is copied up is
whole, or is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from support.compare import Snapshot, differences, digest_of

from faults.model import NOW, File, Model
from faults.steps import Step

_SYNCS = ("fsync", "fdatasync")
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """What there is after a cut."""

    shown: Snapshot
    read: Callable[[bytes], bytes]  # the content of a file
    since_ns: int  # when the changes began


@dataclass(frozen=True, slots=True)
class _Version:
    """What a file held once."""

    data: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class _State:
    """The tree after so many changes."""

    shown: Snapshot
    files: dict[bytes, File]


@dataclass(slots=True)
class Floor:
    """What is promised: the tree is that after ``changes`` or later, and data is as new."""

    changes: int = 0
    data: dict[int, int] = field(default_factory=dict)  # by file, the number of a version


class History:
    """The trees that come of changes made one after the other."""

    def __init__(self, original: Model) -> None:
        self._model = original.copy()
        self.steps: list[Step] = []
        self._kept: list[File] = []  # so that an id is never another file's
        self._versions: dict[int, list[_Version]] = {}
        self._changed: dict[int, int] = {}  # by file or directory, its last change
        self._promises: list[Floor] = []  # that each change makes
        self._ends: list[dict[int, int]] = []  # how many versions of each file there were then
        self._states: list[_State] = []
        self._add_state()

    @property
    def model(self) -> Model:
        """The tree after all changes, to be looked at."""
        return self._model

    def extend(self, steps: Sequence[Step]) -> None:
        """Make more changes."""
        for step in steps:
            self.steps.append(step)
            files = self._files_of(step)
            self._model.apply(step)
            files += self._files_of(step)
            self._add_state()
            if self._inodes_changed():
                for file in files:
                    self._kept.append(file)
                    self._changed[id(file)] = len(self.steps)
            self._promises.append(self._promise(step))

    # -- what changes

    def _inodes_changed(self) -> bool:
        """Whether the last change is one of names or attributes.

        Bytes written over others within a tick of the last time they were, at the same size, change
        no inode: a sync of such a file says nothing of what came before, on ext4 itself either.
        """
        before, after = (
            {path: replace(item, digest="") for path, item in state.shown.items()}
            for state in self._states[-2:]
        )
        return before != after

    def _beside(self, path: str) -> File:
        above = path.rpartition("/")[0]
        return self._model.at(above) if above else self._model.root

    def _files_of(self, step: Step) -> list[File]:
        """What a step changes, and the directories whose names it does."""
        found = []
        for path in (step[word] for word in ("path", "to") if word in step):
            if self._model.has(path):
                found.append(self._model.at(path))
            if step["do"] in _OF_NAMES:
                found.append(self._beside(path))
        return found

    def _add_state(self) -> None:
        files = {path.encode(): file for path, file in self._model.walk()}
        for file in files.values():
            if file.children is None:
                versions = self._versions.setdefault(id(file), [])
                if not versions:
                    self._kept.append(file)
                if not versions or versions[-1].data != file.data:
                    versions.append(_Version(file.data, digest_of(file.data)))
        self._ends.append({number: len(found) for number, found in self._versions.items()})
        self._states.append(_State(self._model.snapshot(), files))

    def _promise(self, step: Step) -> Floor:
        if step["do"] not in _SYNCS:
            return Floor()
        file = self._model.at(step["path"])
        data = {} if file.children is not None else {id(file): len(self._versions[id(file)]) - 1}
        changed = self._changed.get(id(file), 0) if step["do"] == "fsync" else 0
        return Floor(changed, data)

    # -- what was found

    def floor(self, done: int, synced: int) -> Floor:
        """What is promised after ``done`` changes, of which ``synced`` were synced altogether."""
        floor = Floor(synced, {key: n - 1 for key, n in self._ends[synced].items()})
        for promise in self._promises[:done]:
            floor.changes = max(floor.changes, promise.changes)
            for key, version in promise.data.items():
                floor.data[key] = max(floor.data.get(key, 0), version)
        return floor

    def find(self, found: Found, floor: Floor, begun: int) -> int:
        """After which change the tree was as it was found, where ``begun`` had begun.

        Fails the test where it was so after none that comes into question.
        """
        best, nearest = None, 0
        for number in range(begun, floor.changes - 1, -1):
            lines = self._unlike(number, found) or self._wrong_data(number, found, floor, begun)
            if not lines:
                return number
            if best is None or len(lines) < len(best):
                best, nearest = lines, number
        promised = f"promised was the tree after change {floor.changes} or later, up to {begun}"
        steps = [f"{number}: {self.steps[number - 1]}" for number in range(1, begun + 1)]
        near = f"nearest is the tree after change {nearest}"
        pytest.fail("\n".join([promised, *steps, near, *(best or [])]))

    def _unlike(self, number: int, found: Found) -> list[str]:
        """Names and attributes that are not those after a change."""
        state = self._states[number]

        def excuse(path: bytes, name: str, wanted: object, got: object) -> bool:
            if name == "mtime_ns":
                now = wanted == NOW and isinstance(got, int) and got >= found.since_ns
                return state.files[path].children is not None or now
            return name in ("size", "digest")

        return differences(state.shown, found.shown, excuse)

    def _wrong_data(self, number: int, found: Found, floor: Floor, begun: int) -> list[str]:
        files = self._states[number].files
        return [
            f"{path!r}: has data that it never had since it was synced"
            for path, file in files.items()
            if found.shown[path].digest
            and not self._may_hold(file, path, found, floor, number, begun)
        ]

    def _may_hold(
        self, file: File, path: bytes, found: Found, floor: Floor, number: int, begun: int
    ) -> bool:
        """Whether data is made of versions of a file since its last sync."""
        first = floor.data.get(id(file), 0)
        end = max(self._ends[begun].get(id(file), 0), first + 1)
        versions = self._versions[id(file)][first:end]
        if any(found.shown[path].digest == one.digest for one in versions):
            return True
        return _is_mixture(
            found.read(path),
            [one.data for one in versions],
            max(self._ends[number].get(id(file), 0) - first, 1),
        )


def _is_mixture(data: bytes, versions: Sequence[bytes], settled: int) -> bool:
    """Whether each byte is that of a version, or a zero where that is no wonder.

    ``settled`` versions belong to changes that are on the disk. A file that grew has zeros until
    its data is written. One that is cut short has zeros behind its new end, as far as the block
    goes, and may have them on the disk before its new size is.
    """
    sizes = [len(one) for one in versions]
    if not min(sizes) <= len(data) <= max(sizes):
        return False
    grown = min(sizes[:settled])
    return all(
        any(at < len(one) and one[at] == byte for one in versions)
        or (byte == 0 and (at >= grown or any(size <= at < _end_of_block(size) for size in sizes)))
        for at, byte in enumerate(data)
    )


def _end_of_block(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


_OF_NAMES = (
    *("create", "mkdir", "symlink", "mkfifo", "link"),
    *("unlink", "rmdir", "rename", "exchange"),
)
