"""A tree in memory: what the changes of `steps` make of it, and changes that are possible.

A `Model` is made from a snapshot of a real tree and gives one to compare with. Times that a change
sets to "now" are `NOW` in it. Directories' times are not followed: after a crash they may be those
of a copy-up (docs/explanation/upper.md says so).
"""

from __future__ import annotations

import copy
import os
import random
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support.compare import Item, Snapshot, digest_of

from faults.steps import Step

NOW = -1
_NAMES = 50  # different names for what is new


@dataclass(eq=False, slots=True)
class File:
    """One inode."""

    mode: int  # with the type
    uid: int = 0
    gid: int = 0
    mtime_ns: int = NOW
    data: bytes = b""
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, File] | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> File:
        children = None if self.children is None else copy.deepcopy(self.children, memo)
        xattrs = dict(self.xattrs)
        place = (self.mode, self.uid, self.gid, self.mtime_ns, self.data, self.target)
        made = File(*place, xattrs, children)
        memo[id(self)] = made
        return made

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


def directory(mode: int = 0o755) -> File:
    """An empty directory."""
    return File(stat.S_IFDIR | mode, children={})


class Model:
    """A tree; every change of `steps.apply` is a method of the same name."""

    def __init__(self, root: File | None = None) -> None:
        self.root = root or directory()

    def copy(self) -> Model:
        """A tree of its own."""
        return Model(copy.deepcopy(self.root))

    def walk(self) -> Iterator[tuple[str, File]]:
        """Every path below the root."""
        waiting = [("", self.root)]
        while waiting:
            above, place = waiting.pop()
            for name, file in (place.children or {}).items():
                path = f"{above}/{name}" if above else name
                yield path, file
                if file.children is not None:
                    waiting.append((path, file))

    def at(self, path: str) -> File:
        """What stands at a path; KeyError for nothing."""
        file = self.root
        for name in path.split("/"):
            file = (file.children or {})[name]
        return file

    def has(self, path: str) -> bool:
        """Whether anything stands at a path."""
        try:
            self.at(path)
        except KeyError:
            return False
        return True

    def _names_beside(self, path: str) -> tuple[dict[str, File], str]:
        above, _, name = path.rpartition("/")
        children = (self.at(above) if above else self.root).children
        assert children is not None
        return children, name

    def put(self, path: str, file: File) -> None:
        """Let something stand at a path, in place of what does."""
        names, name = self._names_beside(path)
        names[name] = file

    def take(self, path: str) -> File:
        """Take away what stands at a path."""
        names, name = self._names_beside(path)
        return names.pop(name)

    def apply(self, step: Step) -> None:
        """Make one change."""
        words = {name: value for name, value in step.items() if name != "do"}
        change: Callable[..., None] = getattr(self, step["do"])
        change(**words)

    # -- the changes

    def append(self, path: str, data: str) -> None:
        file = self.at(path)
        file.data, file.mtime_ns = file.data + data.encode(), NOW

    def overwrite(self, path: str, data: str) -> None:
        file, raw = self.at(path), data.encode()
        file.data, file.mtime_ns = raw + file.data[len(raw) :], NOW

    def truncate(self, path: str, size: int) -> None:
        file = self.at(path)
        file.data, file.mtime_ns = file.data[:size].ljust(size, b"\0"), NOW

    def chmod(self, path: str, mode: int) -> None:
        file = self.at(path)
        file.mode = file.kind | mode

    def chown(self, path: str, uid: int, gid: int) -> None:
        file = self.at(path)
        file.uid, file.gid = uid, gid

    def touch(self, path: str) -> None:
        self.at(path).mtime_ns = NOW

    def utime(self, path: str, mtime: int) -> None:
        self.at(path).mtime_ns = mtime

    def setxattr(self, path: str, name: str, value: str) -> None:
        self.at(path).xattrs[name] = value.encode()

    def removexattr(self, path: str, name: str) -> None:
        del self.at(path).xattrs[name]

    def create(self, path: str) -> None:
        self.put(path, File(stat.S_IFREG | 0o644))

    def mkdir(self, path: str) -> None:
        self.put(path, directory())

    def symlink(self, path: str, target: str) -> None:
        self.put(path, File(stat.S_IFLNK | 0o777, target=target))

    def mkfifo(self, path: str) -> None:
        self.put(path, File(stat.S_IFIFO | 0o600))

    def link(self, path: str, to: str) -> None:
        self.put(to, self.at(path))

    def unlink(self, path: str) -> None:
        self.take(path)

    def rmdir(self, path: str) -> None:
        assert not self.take(path).children

    def rename(self, path: str, to: str) -> None:
        if not self.has(to) or self.at(to) is not self.at(path):
            self.put(to, self.take(path))

    def exchange(self, path: str, to: str) -> None:
        one, other = self.at(path), self.at(to)
        self.put(path, other)
        self.put(to, one)

    def fsync(self, path: str) -> None:
        pass

    def fdatasync(self, path: str) -> None:
        pass

    # -- real trees

    @classmethod
    def of(cls, top: Path) -> Model:
        """What is below a directory of a mount."""
        known: dict[int, File] = {}
        model = cls()
        for path in sorted(top.rglob("*"), key=lambda found: found.parts):
            status = path.lstat()
            file = known.setdefault(status.st_ino, File(status.st_mode))
            file.uid, file.gid, file.mtime_ns = status.st_uid, status.st_gid, status.st_mtime_ns
            if file.kind == stat.S_IFDIR:
                file.children = {}
            elif file.kind == stat.S_IFREG:
                file.data = path.read_bytes()
            elif file.kind == stat.S_IFLNK:
                file.target = str(path.readlink())
            for name in os.listxattr(path, follow_symlinks=False):
                file.xattrs[name] = os.getxattr(path, name, follow_symlinks=False)
            model.put(str(path.relative_to(top)), file)
        return model

    def snapshot(self) -> Snapshot:
        """What a snapshot of such a tree has, but for the root."""
        names: dict[int, list[bytes]] = defaultdict(list)
        found = {path.encode(): file for path, file in self.walk()}
        for path, file in found.items():
            names[id(file)].append(path)
        return {path: _item(file, tuple(sorted(names[id(file)]))) for path, file in found.items()}


def _item(file: File, names: tuple[bytes, ...]) -> Item:
    regular = file.kind == stat.S_IFREG
    link = file.kind == stat.S_IFLNK
    return Item(
        kind=file.kind,
        mode=stat.S_IMODE(file.mode),
        uid=file.uid,
        gid=file.gid,
        size=len(file.data) if regular else len(file.target.encode()) if link else 0,
        mtime_ns=NOW if file.children is not None else file.mtime_ns,
        target=file.target.encode(),
        rdev=(0, 0),
        xattrs=tuple(sorted((name.encode(), value) for name, value in file.xattrs.items())),
        digest=digest_of(file.data) if regular else "",
        nlink=len(names) if file.children is None else _nlink(file.children),
        names=names,
    )


def _nlink(children: dict[str, File]) -> int:
    return 2 + sum(child.children is not None for child in children.values())


# ---- possible changes ----------------------------------------------------------------------------

_LATER = 1_650_000_000_000_000_000


class Planner:
    """Makes up changes that are possible one after the other, and follows them on a model."""

    def __init__(self, model: Model, rng: random.Random, original: Model) -> None:
        """``original``: the tree of the lower layers; names that it has and the model lacks are
        whiteouts, and those are what is interesting to put something at.
        """
        self.model = model
        self._rng = rng
        self._original = [path for path, _ in original.walk()]
        self._makers: list[tuple[int, Callable[[], Step | None]]] = [
            (12, self._append),
            (5, self._overwrite),
            (4, self._truncate),
            (7, self._chmod),
            (3, self._chown),
            (4, self._utime),
            (4, self._setxattr),
            (2, self._removexattr),
            (6, self._make),
            (5, self._link),
            (10, self._unlink),
            (5, self._rmdir),
            (12, self._rename_file),
            (12, self._rename_directory),
            (5, self._exchange),
            (2, self._fsync),
        ]

    def steps(self, count: int) -> list[Step]:
        """The next changes."""
        found: list[Step] = []
        weights = [weight for weight, _ in self._makers]
        while len(found) < count:
            ((_, maker),) = self._rng.choices(self._makers, weights)
            step = maker()
            if step is not None:
                self.model.apply(step)
                found.append(step)
        return found

    def _some(self, wanted: Callable[[File], bool]) -> str | None:
        paths = [path for path, file in self.model.walk() if wanted(file)]
        return self._rng.choice(paths) if paths else None

    def _some_regular(self) -> str | None:
        linked: dict[int, int] = defaultdict(int)
        for _, file in self.model.walk():
            linked[id(file)] += 1
        if self._rng.random() < 0.4:  # groups of hard links
            found = self._some(lambda file: file.kind == stat.S_IFREG and linked[id(file)] > 1)
            if found is not None:
                return found
        return self._some(lambda file: file.kind == stat.S_IFREG)

    def _some_directory(self) -> str | None:
        return self._some(lambda file: file.children is not None)

    def _free(self) -> str:
        """A path where nothing stands; mostly one where something of the lower layers stood."""
        hidden = [path for path in self._original if self._is_free(path)]
        if hidden and self._rng.random() < 0.6:
            return self._rng.choice(hidden)
        places = ["", *(path for path, file in self.model.walk() if file.children is not None)]
        while True:
            above = self._rng.choice(places)
            name = f"new{self._rng.randrange(_NAMES)}"
            path = f"{above}/{name}" if above else name
            if not self.model.has(path):
                return path

    def _is_free(self, path: str) -> bool:
        above = path.rpartition("/")[0]
        if self.model.has(path):
            return False
        if not above:
            return True
        return self.model.has(above) and self.model.at(above).children is not None

    # -- one of each

    def _text(self) -> str:
        return f"{self._rng.randrange(10**9):09}\n"

    def _append(self) -> Step | None:
        path = self._some_regular()
        return {"do": "append", "path": path, "data": self._text()} if path else None

    def _overwrite(self) -> Step | None:
        path = self._some_regular()
        return {"do": "overwrite", "path": path, "data": self._text()} if path else None

    def _truncate(self) -> Step | None:
        path = self._some_regular()
        if path is None:
            return None
        size = self._rng.choice([0, 0, 1, len(self.model.at(path).data) // 2])
        return {"do": "truncate", "path": path, "size": size}

    def _chmod(self) -> Step | None:
        path = self._some(lambda file: file.kind != stat.S_IFLNK)
        mode = self._rng.choice([0o600, 0o640, 0o755, 0o700, 0o444])
        return {"do": "chmod", "path": path, "mode": mode} if path else None

    def _chown(self) -> Step | None:
        path = self._some(lambda _: True)
        uid, gid = self._rng.randrange(5), self._rng.randrange(5)
        return {"do": "chown", "path": path, "uid": uid, "gid": gid} if path else None

    def _utime(self) -> Step | None:
        path = self._some(lambda file: file.children is None)
        mtime = _LATER + self._rng.randrange(10**15)
        return {"do": "utime", "path": path, "mtime": mtime} if path else None

    def _setxattr(self) -> Step | None:
        path = self._some(lambda file: file.kind in (stat.S_IFREG, stat.S_IFDIR))
        if path is None:
            return None
        name = f"user.{self._rng.choice('abc')}"
        return {"do": "setxattr", "path": path, "name": name, "value": self._text()}

    def _removexattr(self) -> Step | None:
        path = self._some(lambda file: bool(file.xattrs))
        if path is None:
            return None
        name = self._rng.choice(sorted(self.model.at(path).xattrs))
        return {"do": "removexattr", "path": path, "name": name}

    def _make(self) -> Step | None:
        how = self._rng.choice(["create", "create", "mkdir", "mkdir", "symlink", "mkfifo"])
        step: Step = {"do": how, "path": self._free()}
        return step | {"target": self._text()} if how == "symlink" else step

    def _link(self) -> Step | None:
        path = self._some(lambda file: file.children is None)
        return {"do": "link", "path": path, "to": self._free()} if path else None

    def _unlink(self) -> Step | None:
        path = self._some(lambda file: file.children is None)
        return {"do": "unlink", "path": path} if path else None

    def _rmdir(self) -> Step | None:
        path = self._some(lambda file: file.children == {})
        return {"do": "rmdir", "path": path} if path else None

    def _rename_file(self) -> Step | None:
        path = self._some(lambda file: file.children is None)
        over = self._some(lambda file: file.children is None)
        to = over if over and self._rng.random() < 0.3 else self._free()
        return {"do": "rename", "path": path, "to": to} if path and path != to else None

    def _rename_directory(self) -> Step | None:
        path = self._some_directory()
        over = self._some(lambda file: file.children == {})
        to = over if over and self._rng.random() < 0.3 else self._free()
        if path is None or f"{to}/".startswith(f"{path}/"):
            return None
        if f"{path}/".startswith(f"{to}/"):
            return None
        return {"do": "rename", "path": path, "to": to}

    def _exchange(self) -> Step | None:
        path, to = self._some(lambda _: True), self._some(lambda _: True)
        if path is None or to is None:
            return None
        if f"{to}/".startswith(f"{path}/") or f"{path}/".startswith(f"{to}/"):
            return None
        return {"do": "exchange", "path": path, "to": to}

    def _fsync(self) -> Step | None:
        path = self._some_regular()
        return {"do": "fsync", "path": path} if path else None
