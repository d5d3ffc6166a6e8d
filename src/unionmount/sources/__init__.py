"""Where images come from, other than the store: one Protocol, and what a user writes for it.

::

    docker-archive:FILE[:REF]   a tar as "docker save" and "podman save" make
    oci-archive:FILE[:REF]      an OCI image layout in a tar
    oci:DIR[:REF]               an OCI image layout, a directory
    docker://NAME               an image of a registry
    PATH[:REF]                  one of these, seen from what it holds
    NAME or ID                  an image of the store
    scratch                     the empty image

REF is a name, a tag, or ``@N``, the number of an image in the archive.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from unionmount.errors import InvalidReference, NotFoundError, UsageError
from unionmount.images.image import SCRATCH
from unionmount.images.reference import Reference, has_registry
from unionmount.system.closing import Closing
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.images.image import ImageDocuments
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Digest
    from unionmount.system.files import FileRange

Kind = Literal["docker-archive", "oci-archive", "oci", "registry", "path", "stored"]

STDIN = "-"

_LISTED = 20  # images that a message names
_TRANSPORTS: dict[str, Kind] = {
    "docker-archive": "docker-archive",
    "oci-archive": "oci-archive",
    "oci": "oci",
}
_REGISTRY = "docker://"
_FILE = re.compile(r".*\.(?:tar|tgz|tbz2?|txz|tzst|oci|gz|bz2|xz|zst)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"localhost|\[.*\]|.*:[0-9]+", re.DOTALL)
_DIGEST = re.compile(r"@sha(?:256|512):")
_FOREIGN = frozenset({"docker", "docker-daemon", "containers-storage", "dir", "ostree", "sif"})


@dataclass(frozen=True, slots=True)
class Location:
    """A SOURCE as a user wrote it, taken apart; ``path`` is a name or ID where it is stored."""

    kind: Kind
    path: str
    selector: str = ""

    def __str__(self) -> str:
        return printable(
            self._prefix() + self.path + (f":{self.selector}" if self.selector else "")
        )

    def absolute(self) -> str:
        """The same SOURCE for a process with another working directory."""
        if self.kind == "stored" or self.path == STDIN or self.kind == "registry":
            path = self.path
        else:
            path = os.path.abspath(self.path)  # noqa: PTH100 - links stay links
        return self._prefix() + path + self._suffix()

    def _prefix(self) -> str:
        if self.kind == "registry":
            return _REGISTRY
        return f"{self.kind}:" if self.kind in _TRANSPORTS else ""

    def _suffix(self) -> str:
        return f":{self.selector}" if self.selector else ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """What ``text`` means; the file system decides where it is ambiguous."""
        transport, colon, rest = text.partition(":")
        if text.startswith(_REGISTRY):
            return cls("registry", text.removeprefix(_REGISTRY))
        if colon and transport in _TRANSPORTS:
            return cls(_TRANSPORTS[transport], *_split_path(rest))
        if colon and (transport in _FOREIGN or rest.startswith("//")):
            known = ", ".join([*_TRANSPORTS, _REGISTRY])
            raise UsageError(f"unknown transport '{printable(transport)}' (there are {known})")
        if not text:
            raise UsageError("the source is empty")
        if text == SCRATCH:  # a file of that name is ./scratch
            return cls("stored", text)
        path, selector = _split_path(text)
        if _is_path(path):
            return cls("path", path, selector)
        return cls("stored", text)

    @classmethod
    def of(cls, source: Location | str) -> Location:
        """Return a location as it is, or parse a text."""
        return source if isinstance(source, Location) else cls.parse(source)

    @classmethod
    def parse_target(cls, text: str) -> Self:
        """Where something is to be put: no path is guessed, and none has to be there."""
        transport, colon, rest = text.partition(":")
        if colon and transport in _TRANSPORTS:
            path, _, selector = rest.partition(":")
            if not path or path == STDIN:
                raise UsageError(f"name a file or directory: '{printable(text)}'")
            return cls(_TRANSPORTS[transport], path, selector)
        if text.startswith(("/", "./", "../")):
            forms = ", ".join(f"{one}:" for one in _TRANSPORTS)
            raise UsageError(f"say what to make of '{printable(text)}': {forms}")
        found = cls.parse(text)
        return found if found.kind == "registry" else cls("stored", text)


def _split_path(text: str) -> tuple[str, str]:
    """Cut a path from its REF: the shortest beginning that exists, for a path may have colons."""
    if not text:
        raise UsageError("the path of the source is empty")
    if not _exists(text):
        parts = text.split(":")
        for i in range(1, len(parts)):
            path = ":".join(parts[:i])
            if path == STDIN or (path and _exists(path)):
                return path, ":".join(parts[i:])
    return text, ""


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or not allowed to look
        return False


def _is_directory(text: str) -> bool:
    return _exists(text) and Path(text).is_dir()


def _is_path(text: str) -> bool:
    """Whether a bare word is meant as a path: an image and a directory may share a name."""
    if text == STDIN or text.startswith(("/", "./", "../")):
        return True
    if _is_directory(text):
        return "/" in text or _exists(f"{text}/index.json")
    return _exists(text) or os.path.islink(text)  # noqa: PTH114 - it may be no path at all


def looks_like_file(text: str) -> bool:
    """Whether a word that names nothing here is a file's path, and not for a registry to know.

    It ends as archives do (also before REF), is a path below a directory whose name no registry
    has, or has a slash and is no name of an image. Names with a port or a digest are none.
    """
    first, slash, _ = text.partition("/")
    if _DIGEST.search(text) or (slash and _HOST.fullmatch(first)):
        return False
    parts = text.split(":")
    if any(_FILE.fullmatch(part) for part in (parts[0], text)):
        return True
    if not slash:
        return False
    if has_registry(text) and "." not in first and _is_directory(first):  # as in Downloads/x
        return True
    return not _is_name(text)


def _is_name(text: str) -> bool:
    try:
        Reference.parse(text)
    except InvalidReference:
        return False
    return True


def refuse_file(name: str) -> None:
    """UsageError where a name that is for a registry is that of a file."""
    if name.startswith(("/", "./", "../")) or (looks_like_file(name) and _is_name(name)):
        raise UsageError(
            f"'{printable(name)}' looks like a file: 'unionmount load -i FILE' takes those "
            f"({_REGISTRY}NAME is in a registry, whatever it looks like)"
        )


def no_such_file(text: str) -> NotFoundError:
    """What is told of a word that looks like a file and is none, nor an image that is here."""
    what = printable(text)
    hint = f" ({_REGISTRY}{what} is an image of a registry)" if _is_name(text) else ""
    return NotFoundError(f"{what}: no such file or directory, and no image in the store{hint}")


class Files(Protocol):
    """Files by name, either in a directory or in a tar; both are read where they are."""

    @property
    def what(self) -> str:
        """The directory or tar, for messages."""

    def find(self, path: str) -> FileRange | None:
        """The bytes of a file, valid until ``release``; None where there is no such file."""

    def size(self, path: str) -> int | None:
        """Bytes of a file, without keeping it open; None where there is no such file."""

    def read(self, path: str) -> bytes | None:
        """A document; None where there is none, LimitExceeded where it is too large for one."""

    def check_unchanged(self) -> None:
        """FormatError where something that was found has changed since."""

    def release(self) -> None:
        """Let go of what was found; there may be more files than descriptors."""

    def close(self) -> None:
        """Close everything."""


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """The bytes of one layer as they are kept; ``digest`` is what is said of them."""

    what: str
    data: FileRange
    diff_id: Digest
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image with its layers, lowest first.

    ``made_up`` tells that the source has no manifest and one was made of what is known.
    """

    image: ImageDocuments
    layers: tuple[LayerBlob, ...]
    made_up: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that a source offers, by number; ``labels`` are what REF may say.

    A source may have an image several times, for each of its names: those entries are equal in
    ``same``, which is empty where nothing is said of that.
    """

    number: int
    names: tuple[Reference, ...]
    labels: tuple[str, ...]
    same: tuple[Hashable, ...] = ()

    def matches(self, selector: str) -> bool:
        """Whether REF stands for this one."""
        if selector in self.labels or selector == f"@{self.number}":
            return True
        try:
            wanted = Reference.parse(selector).with_default_tag()
        except InvalidReference:
            return False
        return any(name.with_default_tag() == wanted for name in self.names)

    def __str__(self) -> str:
        return printable(", ".join(self.labels)) or f"@{self.number}"


class ImageArchive(Closing, ABC):
    """An archive or layout with images; owns ``files``."""

    def __init__(self, files: Files) -> None:
        self.what = files.what
        self._files = files

    @abstractmethod
    def entries(self) -> Sequence[Entry]:
        """Return the images, in their order."""

    @abstractmethod
    def image(self, entry: Entry, platform: Platform | None) -> SourceImage:
        """Find one image: its documents are verified, its layers are not read yet.

        The ranges of its layers are valid until ``release``.
        """

    def check_unchanged(self) -> None:
        """Raise FormatError if a file that was opened has changed since."""
        self._files.check_unchanged()

    def release(self) -> None:
        """Close the files of layers; their ranges are invalid from then on."""
        self._files.release()

    def close(self) -> None:
        """Close all files."""
        self._files.close()


def distinct(entries: Sequence[Entry]) -> list[Entry]:
    """Each image once, under all the names that it has among ``entries``."""
    groups: dict[tuple[Hashable, ...], list[Entry]] = {}
    for entry in entries:
        key = ("same", *entry.same) if entry.same else ("number", entry.number)
        groups.setdefault(key, []).append(entry)
    return [_joined(group) for group in groups.values()]


def _joined(group: Sequence[Entry]) -> Entry:
    names = dict.fromkeys(name for entry in group for name in entry.names)
    labels = dict.fromkeys(label for entry in group for label in entry.labels)
    return replace(group[0], names=tuple(names), labels=tuple(labels))


def choose(entries: Sequence[Entry], selector: str, what: str) -> Entry:
    """The one image that REF stands for, or the only one.

    With REF it gets the names of the entries that REF means, without it all that it has.
    """
    found = distinct([entry for entry in entries if not selector or entry.matches(selector)])
    if len(found) == 1:
        return found[0]
    entries = distinct(entries)
    listed = "; ".join(str(entry) for entry in entries[:_LISTED])
    more = "; …" if len(entries) > _LISTED else ""
    if not entries:
        raise NotFoundError(f"{what}: holds no image")
    if not found:
        raise NotFoundError(f"{what}: no image '{printable(selector)}' (there are: {listed}{more})")
    raise NotFoundError(f"{what}: holds {len(found)} images, choose one: {listed}{more}")
