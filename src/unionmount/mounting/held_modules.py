"""Modules that are imported after the mount, from files that were opened before it.

A mount answers before the modules that only Python's part needs are imported. By then a path may
lead elsewhere: into the new mount, whose files may be anybody's, or to another version of the
program. So the files are opened and checked before the mount exists, and the import follows no
path: code is read from the descriptors, an extension module is loaded through ``/proc/self/fd``,
and the libraries that it needs are in the process already.

A module that is not held cannot be imported any more. To look for it would be to wait for this very
process: a client that waits for Python's answer may hold the lock of the directory on the way.
docs/explanation/router.md has the invariants.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import re
import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    BuiltinImporter,
    ExtensionFileLoader,
    FrozenImporter,
    ModuleSpec,
)
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from unionmount.core import keep_libraries

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder

_EXTENSIONS = tuple(EXTENSION_SUFFIXES)
_HEADER = 16  # bytes of a .pyc in front of its code
_BY_TIME = b"\0\0\0\0"  # the flags of one that is checked by the time of its source
_SKIPPED = frozenset({"__pycache__", "_tests", "_tools", "test", "testing", "tests", "__main__"})
# Parts of packages that serve other operating systems.
_FOREIGN = re.compile(r".*(?:windows|win32|wintypes|kqueue).*|_aix|_wait_for_object|macholib")
_SHARE = 4  # at most one of so many descriptors is for modules


class CannotHold(Exception):
    """A module cannot be imported later; it has to be imported before the mount."""


class _HeldFile:
    """A file that is open, and is read later."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._before = self._state()

    def read(self, size: int = -1) -> bytes:
        return os.pread(self.fd, self._before[0] if size < 0 else size, 0)

    def check(self) -> None:
        """Raise ImportError if the file was written to; one that replaced it has no effect."""
        if self._state() != self._before:
            raise ImportError(f"{self.path} was changed after the mount")

    def _state(self) -> tuple[int, int, int]:
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns, status.st_dev


class _HeldModule(Protocol):
    """A module that is held; the loader of its spec."""

    def spec(self, name: str) -> ModuleSpec: ...
    def close(self) -> None: ...


class _HeldCode:
    """A module in Python, as code or as source."""

    def __init__(self, source: str, directory: str | None) -> None:
        self._source = source
        self._directory = directory  # of a package
        self._compiled = True
        try:
            self._file = _HeldFile(importlib.util.cache_from_source(source))
        except FileNotFoundError:
            self._use_source()
            return
        if not self._is_current():
            os.close(self._file.fd)
            self._use_source()

    def _use_source(self) -> None:
        self._compiled = False
        self._file = _HeldFile(self._source)

    def _is_current(self) -> bool:
        header, status = self._file.read(_HEADER), os.stat(self._source)  # noqa: PTH116
        of_source = int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF
        wanted = b"".join(number.to_bytes(4, "little") for number in of_source)
        return header == importlib.util.MAGIC_NUMBER + _BY_TIME + wanted

    def spec(self, name: str) -> ModuleSpec:
        package = self._directory is not None
        spec = ModuleSpec(name, cast("Loader", self), origin=self._source, is_package=package)
        spec.has_location = True
        if self._directory is not None:
            spec.submodule_search_locations = [self._directory]
        return spec

    def close(self) -> None:
        os.close(self._file.fd)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002 - the protocol
        return None

    def exec_module(self, module: ModuleType) -> None:
        data = self._file.read()
        self._file.check()
        if self._compiled:
            code = marshal.loads(data[_HEADER:])  # noqa: S302 - as import does
        else:
            code = compile(data, self._source, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102


class _HeldExtension:
    """A module in a shared object."""

    def __init__(self, path: str, directory: str | None, descriptors: int) -> None:
        self._directory = directory  # of a package
        self._descriptors = descriptors
        self._file = _HeldFile(path)
        keep_libraries(path)

    def spec(self, name: str) -> ModuleSpec:
        spec = ModuleSpec(name, cast("Loader", self), origin=self._file.path)
        if self._directory is not None:
            spec.submodule_search_locations = [self._directory]
        return spec

    def close(self) -> None:
        os.close(self._file.fd)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self._file.check()
        loader = ExtensionFileLoader(spec.name, f"./{self._file.fd}")
        by_descriptor = ModuleSpec(spec.name, loader, origin=loader.path)
        by_descriptor.submodule_search_locations = spec.submodule_search_locations
        with _working_in(self._descriptors):
            module = loader.create_module(by_descriptor)
        module.__file__ = self._file.path
        return module

    def exec_module(self, module: ModuleType) -> None:
        ExtensionFileLoader(module.__name__, self._file.path).exec_module(module)


@contextmanager
def _working_in(directory: int) -> Iterator[None]:
    """Make a directory the working directory: the dynamic linker takes paths alone."""
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(directory)
        try:
            yield
        finally:
            os.fchdir(before)
    finally:
        os.close(before)


class HeldModules:
    """Modules whose files are open; once installed, the first that an import asks.

    The descriptors stay open until the process ends, unless they are closed.
    """

    def __init__(self) -> None:
        self._held: dict[str, _HeldModule] = {}
        self._listed: dict[str, frozenset[str]] = {}
        try:
            self._descriptors = os.open(
                "/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            )
        except OSError as error:
            raise CannotHold(f"/proc/self/fd: {error.strerror}") from None

    def close(self) -> None:
        """Let go of all modules, if they are imported otherwise."""
        for held in self._held.values():
            held.close()
        self._held.clear()
        os.close(self._descriptors)

    def hold(self, names: Iterable[str], *, needed: bool) -> None:
        """Hold modules and, of packages, all that is in them; those not ``needed`` may be absent.

        CannotHold if a file cannot be opened or checked.
        """
        try:
            for name in names:
                if not self._hold(name) and needed:
                    raise CannotHold(f"there is no module {name}")
        except OSError as error:
            raise CannotHold(f"{error.filename}: {error.strerror}") from None

    def _hold(self, name: str) -> bool:
        if name in sys.modules:
            for place in getattr(sys.modules[name], "__path__", ()):
                self._hold_directory(name, place)
            return True
        if name in sys.builtin_module_names:
            return True
        parent, _, last = name.rpartition(".")
        places = sys.modules[parent].__path__ if parent else sys.path
        return any(self._hold_from(place, name, last) for place in places)

    def _hold_from(self, place: str, name: str, last: str) -> bool:
        """Hold a module of a directory, if it is there."""
        files = self._files_in(place)
        path = f"{place}/{last}"
        if last in files and self._is_package(path):
            self._hold_directory(name, path)
            return True
        for suffix in (*EXTENSION_SUFFIXES, ".py"):
            if last + suffix in files:
                self._hold_file(name, path + suffix, None)
                return True
        return False

    def _files_in(self, directory: str) -> frozenset[str]:
        if directory not in self._listed:
            try:
                found = frozenset(os.listdir(directory))  # noqa: PTH208
            except OSError:  # of sys.path, or an archive
                found = frozenset()
            self._listed[directory] = found
        return self._listed[directory]

    def _is_package(self, directory: str) -> bool:
        return any(name.startswith("__init__.") for name in self._files_in(directory))

    def _hold_directory(self, package: str, directory: str) -> None:
        for file in self._files_in(directory):
            stem, _, ending = file.partition(".")
            path = f"{directory}/{file}"
            if stem in _SKIPPED or _FOREIGN.fullmatch(stem):
                continue
            if stem == "__init__":
                self._hold_file(package, path, directory)
            elif ending == "py" or file.endswith(_EXTENSIONS):
                self._hold_file(f"{package}.{stem}", path, None)
            elif not ending and self._is_package(path):
                self._hold_directory(f"{package}.{file}", path)

    def _hold_file(self, name: str, path: str, directory: str | None) -> None:
        if name in sys.modules:
            return
        if path.endswith(".py"):
            if name not in self._held:  # an extension goes first
                self._held[name] = _HeldCode(path, directory)
        elif path.endswith(_EXTENSIONS):
            replaced = self._held.get(name)
            self._held[name] = _HeldExtension(path, directory, self._descriptors)
            if replaced is not None:
                replaced.close()

    def check_room(self) -> None:
        """Raise CannotHold if too few descriptors are left for the files of the mount."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and len(self._held) * _SHARE > most:
            raise CannotHold(f"the process may have only {most} open files")

    def install(self) -> None:
        """Serve all imports from now on."""
        self._listed.clear()
        sys.meta_path.insert(0, cast("MetaPathFinder", self))

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec:
        """Find a module that is held or part of the interpreter; there is no other."""
        if (held := self._held.get(name)) is not None:
            return held.spec(name)
        for finder in (BuiltinImporter, FrozenImporter):
            if (spec := finder.find_spec(name, path, target)) is not None:
                return spec
        raise ModuleNotFoundError(f"{name} was not opened before the mount", name=name)
