"""Sources of images: the forms in which users write them, and archives behind one base class.

::

    docker-archive:FILE[:REF]   a tar as "docker save" and "podman save" make, or unpacked
    oci-archive:FILE[:REF]      an OCI image layout in a tar
    oci:DIR[:REF]               an OCI image layout, a directory
    dir:DIR                     a directory as "skopeo copy" makes
    docker-daemon:NAME          an image of a docker daemon, by its name or ID
    docker://NAME               an image of a registry
    containers-storage:NAME     an image that podman or buildah has unpacked (also [STORE]NAME, @ID)
    docker-overlay2:NAME        an image that docker has unpacked (also [ROOT]NAME, ID)
    PATH[:REF]                  one of these, recognised by its content
    PATH                        a tar with a root file system
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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from unionmount.errors import InvalidReference, NotFoundError, UsageError
from unionmount.images.image import SCRATCH
from unionmount.images.reference import Digest, Reference, has_registry
from unionmount.system.closing import Closing
from unionmount.system.nearest import did_you_mean, did_you_mean_file
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from unionmount.images.image import ImageDocuments
    from unionmount.images.platform import Platform
    from unionmount.store.in_place import FlatFacts
    from unionmount.store.store import Store
    from unionmount.system.files import FileRange

Kind = Literal[
    "docker-archive",
    "oci-archive",
    "oci",
    "dir",
    "docker-daemon",
    "registry",
    "containers-storage",
    "docker-overlay2",
    "path",
    "stored",
]

STDIN = "-"

_LISTED = 20  # images that a message lists
_TRANSPORTS: dict[str, Kind] = {
    "docker-archive": "docker-archive",
    "oci-archive": "oci-archive",
    "oci": "oci",
    "dir": "dir",
}
_UNPACKED: dict[str, Kind] = {
    "containers-storage": "containers-storage",
    "docker-overlay2": "docker-overlay2",
}
_REGISTRY = "docker://"
_DAEMON: Kind = "docker-daemon"
_NAMED: dict[str, Kind] = {_DAEMON: _DAEMON, **_UNPACKED}
_FILE = re.compile(r".*\.(?:tar|tgz|tbz2?|txz|tzst|oci|gz|bz2|xz|zst)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"localhost|\[.*\]|.*:[0-9]+", re.DOTALL)
_WORD = re.compile("[a-z-]+", re.IGNORECASE)  # a transport or a short name
_DIGEST = re.compile(r"@sha(?:256|512):")
_LAYOUTS = frozenset({"oci", "oci-archive"})
# The names that skopeo takes in a layout: containers/image, oci/internal/oci_util.go.
_PART = "[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF = re.compile(f"{_PART}(?:/{_PART})*")
# The files of a directory with an image; a web application may have a manifest.json, too.
_IN_DIRECTORIES = (
    ("index.json",),
    ("manifest.json", "version"),
    ("manifest.json", "repositories"),
)
_MAX_NEAR = 10_000  # names that are compared with a wrong one
_FOREIGN = frozenset({"docker", "ostree", "sif"})


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed SOURCE; ``path`` is a name or ID if it is a stored image."""

    kind: Kind
    path: str
    selector: str = ""

    def __str__(self) -> str:
        return printable(
            self._prefix() + self.path + (f":{self.selector}" if self.selector else "")
        )

    @property
    def is_unpacked(self) -> bool:
        """Whether another tool has the image, in directories that are used where they are."""
        return self.kind in _UNPACKED

    def absolute(self) -> str:
        """Return the same SOURCE for a process with another working directory."""
        is_name = self.kind in ("stored", "registry", _DAEMON) or self.is_unpacked
        if is_name or self.path == STDIN:
            path = self.path
        else:
            path = os.path.abspath(self.path)  # noqa: PTH100 - does not resolve symlinks
        return self._prefix() + path + self._suffix()

    def _prefix(self) -> str:
        if self.kind == "registry":
            return _REGISTRY
        has_prefix = self.kind in _TRANSPORTS or self.kind == _DAEMON or self.is_unpacked
        return f"{self.kind}:" if has_prefix else ""

    def _suffix(self) -> str:
        return f":{self.selector}" if self.selector else ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a SOURCE; if it is ambiguous, existing files decide."""
        transport, colon, rest = text.partition(":")
        if text.startswith(_REGISTRY):
            return cls("registry", text.removeprefix(_REGISTRY))
        if colon and transport in _TRANSPORTS:
            # A directory of skopeo's has no REF, so that all is the path
            split = (_given(rest),) if transport == "dir" else _split_path(rest)
            return cls(_TRANSPORTS[transport], *split)
        if colon and transport in _NAMED:
            return cls(_NAMED[transport], _named(transport, rest))
        if colon and (transport in _FOREIGN or rest.startswith("//")):
            raise _unknown_transport(transport)
        if not text:
            raise UsageError("the source is empty")
        if text == SCRATCH:  # a file with that name is ./scratch
            return cls("stored", text)
        path, selector = _split_path(text)
        if ":/" in f":{selector}" or (":/" in text and not os.path.lexists(path)):
            raise _path_in_image(text)
        if _is_path(path):
            return cls("path", path, selector)
        return cls("stored", text)

    @classmethod
    def of(cls, source: Location | str) -> Location:
        """Return a location as it is, or parse a text."""
        return source if isinstance(source, Location) else cls.parse(source)

    @classmethod
    def parse_target(cls, text: str) -> Self:
        """Parse a target; paths need a transport, and need not exist."""
        transport, colon, rest = text.partition(":")
        if not text:
            raise UsageError("the target is empty")
        if colon and transport == "dir" and rest:
            return cls("dir", rest)
        if colon and transport == _DAEMON:
            if rest.startswith("sha256:") or _DIGEST.search(rest):
                raise UsageError(
                    f"'{printable(text)}': a target needs a name without a digest, which the image "
                    "has already"
                )
            return cls(_DAEMON, _daemon_name(rest))
        if colon and transport in _TRANSPORTS:
            path, _, selector = rest.partition(":")
            if not path or path == STDIN:
                raise UsageError(f"'{printable(text)}' does not name a file or directory")
            if selector and transport in _LAYOUTS and not _REF.fullmatch(selector):
                raise UsageError(
                    f"'{printable(text)}': '{printable(selector[:200])}' cannot be the name of an "
                    "image in an OCI layout; use letters and digits, with one of -._:@+/ between"
                )
            return cls(_TRANSPORTS[transport], path, selector)
        if text.startswith(("/", "./", "../")):
            forms = ", ".join(f"{one}:" for one in _TRANSPORTS)
            raise UsageError(f"'{printable(text)}' needs a transport: {forms}")
        found = cls.parse(text)
        if found.is_unpacked:
            raise UsageError(
                f"'{printable(text)}': the stores of other tools are only read; write an archive "
                "for them, such as oci-archive:FILE"
            )
        return found if found.kind == "registry" else cls("stored", text)


def _unknown_transport(transport: str, more: str = "") -> UsageError:
    known = [*_TRANSPORTS, _DAEMON, *_UNPACKED, _REGISTRY]
    near = did_you_mean(transport, [name.rstrip(":") for name in known])
    hint = near or f"; use one of {', '.join(known)}{more}"
    return UsageError(f"unknown transport '{printable(transport)}'{hint}")


def _path_in_image(text: str) -> UsageError:
    """Return the error for ``IMAGE:/PATH`` where only an image can be: no name has ``:/`` in it."""
    image = text.partition(":/")[0]
    if _WORD.fullmatch(image) and not _exists(image):
        return _unknown_transport(image, "; if it is an image, leave out the path behind it")
    return UsageError(
        f"'{printable(text)}' is a path in an image, and only a whole image can be given here; "
        f"write '{printable(image)}'"
    )


def _named(transport: str, name: str) -> str:
    """Check the name or ID of an image that another tool has."""
    if transport == _DAEMON:
        return _daemon_name(name)
    if not name:
        raise UsageError(f"'{transport}:' names no image; write {transport}:NAME")
    return name


def _daemon_name(name: str) -> str:
    """Check the name or ID of an image of a daemon; raise InvalidReference if it is neither."""
    if not name:
        raise UsageError(f"{_DAEMON}: needs the name or the ID of an image behind it")
    if not name.startswith("sha256:"):
        Reference.parse(name)
        return name
    Digest.parse(name, "the ID of an image")
    return name


def _given(path: str) -> str:
    if not path:
        raise UsageError("the path of the source is empty")
    return path


def _split_path(text: str) -> tuple[str, str]:
    """Split a path from its REF at the first colon before which a file exists."""
    _given(text)
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
    except (OSError, ValueError):  # too long for a path, or not permitted
        return False


def _is_directory(text: str) -> bool:
    return _exists(text) and Path(text).is_dir()


def _is_path(text: str) -> bool:
    """Return whether a bare word is a path; an image and a directory may have the same name."""
    if text == STDIN or text.startswith(("/", "./", "../")):
        return True
    if _is_directory(text):
        return "/" in text or any(
            all(_exists(f"{text}/{name}") for name in names) for names in _IN_DIRECTORIES
        )
    return _exists(text) or os.path.islink(text)  # noqa: PTH114 - it may not be a valid path


def looks_like_file(text: str) -> bool:
    """Return whether a word that names nothing here is probably the path of a file.

    That is the case if it ends like an archive (also before REF), is below an existing directory
    whose name no registry can have, or has a slash and is not a valid image name. Names with a port
    or a digest are never paths.
    """
    first, slash, _ = text.partition("/")
    if _DIGEST.search(text) or (slash and _HOST.fullmatch(first)):
        return False
    parts = text.split(":")
    if any(_FILE.fullmatch(part) for part in (parts[0], text)):
        return True
    if not slash:
        return False
    if has_registry(text) and "." not in first and _is_directory(first):  # such as Downloads/x
        return True
    return not _is_name(text)


def _is_name(text: str) -> bool:
    try:
        Reference.parse(text)
    except InvalidReference:
        return False
    return True


def is_elsewhere(name: str) -> bool:
    """Return whether a word names an image of a daemon, or one that another tool has unpacked."""
    return name.partition(":")[0] in _NAMED and ":" in name


def refuse_file(name: str) -> None:
    """Raise UsageError if the name for a registry is that of a file, or of another tool's image."""
    if is_elsewhere(name):
        owner = "a daemon" if name.startswith(f"{_DAEMON}:") else "another tool"
        raise UsageError(
            f"'{printable(name)}' is an image of {owner}; load it with "
            f"'unionmount load {printable(name)}'"
        )
    if name.startswith(("/", "./", "../")) or (looks_like_file(name) and _is_name(name)):
        raise UsageError(
            f"'{printable(name)}' looks like a file; load it with 'unionmount load -i FILE', "
            f"or write {_REGISTRY}NAME for an image of a registry"
        )


def no_such_file(text: str) -> NotFoundError:
    """Return the error for a word that looks like a file, but names nothing here."""
    what = printable(text)
    transport, colon, rest = text.partition(":")
    near = did_you_mean(transport, _TRANSPORTS) if colon and _exists(rest.split(":")[0]) else ""
    hint = near or near_file(text)
    if not hint and _is_name(text):
        hint = f" ({_REGISTRY}{what} is an image of a registry)"
    return NotFoundError(f"{what}: no such file or directory, and no image in the store{hint}")


def near_file(path: str) -> str:
    """Return "; did you mean …?" if the directory of a missing file has one of a similar name."""
    directory, slash, name = path.rpartition("/")
    try:
        with os.scandir(directory + slash or ".") as entries:
            names = [entry.name for entry in islice(entries, _MAX_NEAR)]
    except (OSError, ValueError):
        return ""
    return printable(did_you_mean_file(name, directory + slash, names))


class Files(Protocol):
    """Files by path in a directory or a tar, which are read in place."""

    @property
    def what(self) -> str:
        """The name of the directory or tar for messages."""

    def find(self, path: str) -> FileRange | None:
        """Return the range of a file, valid until ``release``; None if it does not exist."""

    def size(self, path: str) -> int | None:
        """Return the size of a file without keeping it open; None if it does not exist."""

    def read(self, path: str) -> bytes | None:
        """Read a document; None if it does not exist; raise LimitExceeded if it is too large."""

    def check_unchanged(self) -> None:
        """Raise FormatError if a file has changed since it was found."""

    def release(self) -> None:
        """Close the files that were found, since there may be more files than descriptors."""

    def close(self) -> None:
        """Close all files."""


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """The bytes of one layer as they are stored; ``digest`` is their recorded digest.

    ``flat``: it is a root file system in a tar, in which no name is a whiteout. ``pieces``: the
    bytes are not in a file but have to be made, and ``data`` has only an estimate of their number.
    """

    what: str
    data: FileRange
    diff_id: Digest
    digest: Digest | None
    flat: FlatFacts | None = None
    pieces: Callable[[], Iterator[bytes]] | None = None


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image and its layers, lowest first.

    ``made_up``: the source has no manifest, so one was made.
    """

    image: ImageDocuments
    layers: tuple[LayerBlob, ...]
    made_up: bool

    def exact(self, store: Store) -> ImageDocuments:
        """Return the documents once a store has the layers; one that was made up has its sizes."""
        if not self.made_up:
            return self.image
        config = self.image.config
        sizes = [store.layer_info(diff_id).layer_size for diff_id in config.diff_ids]
        return self.image.from_config(config, sizes, f"image {config.digest}")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of an archive; ``labels`` are the values of REF that select it.

    An archive may list an image once for each of its names: such entries have an equal ``same``,
    which is empty if that is unknown. ``about_another`` entries are signatures and the like, which
    only REF chooses.
    """

    number: int
    names: tuple[Reference, ...]
    labels: tuple[str, ...]
    same: tuple[Hashable, ...] = ()
    about_another: bool = False

    def matches(self, selector: str) -> bool:
        """Return whether REF selects this image."""
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
    """Return each image once, with the names of all its entries."""
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
    """Return the image that REF selects, or the only one.

    With REF, it has the names of the selected entries, otherwise all its names.
    """
    own = [entry for entry in entries if not entry.about_another] or entries
    found = distinct(
        [entry for entry in entries if entry.matches(selector)] if selector else list(own)
    )
    if len(found) == 1:
        return found[0]
    entries = distinct(entries)
    listed = "; ".join(str(entry) for entry in entries[:_LISTED])
    more = "; …" if len(entries) > _LISTED else ""
    if not entries:
        raise NotFoundError(f"{what}: contains no image")
    if not found:
        raise NotFoundError(f"{what}: no image '{printable(selector)}' (there are: {listed}{more})")
    raise NotFoundError(f"{what}: contains {len(found)} images; choose one: {listed}{more}")
