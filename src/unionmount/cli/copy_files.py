"""``cp``: from an image, a container, the host or a tar, to the host, a container or a tar."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import UsageError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.core import Node
    from unionmount.extract.destination import Spot, Top
    from unionmount.extract.host_source import HostSource
    from unionmount.extract.image_source import ImageSource
    from unionmount.extract.items import CopyItem
    from unionmount.extract.itself import Place
    from unionmount.extract.target import Target
    from unionmount.images.platform import Platform

_STREAM = "-"


@dataclass(frozen=True, slots=True)
class CopyOperand:
    """SOURCE or DEST: a path in an image or container, or of the host, or a stream."""

    text: str
    word: str = ""  # names an image or container
    path: bytes = b""

    @property
    def is_stream(self) -> bool:
        """Whether it is standard input or output."""
        return self.text == _STREAM


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """A copy, with its options, and whether root asks for it.

    Reading an image of podman's may make an ordinary user the root of a user namespace.
    """

    source: CopyOperand
    dest: CopyOperand
    archive: bool
    follow: bool
    platform: Platform | None
    layer: int | None
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)


@dataclass(frozen=True, slots=True)
class _OpenSource:
    """An opened source; ``top`` is None for a tar stream.

    ``changes`` is the upper directory of a container, and ``path`` leads to the top in it.
    """

    items: Callable[[], Iterator[CopyItem]]
    top: Top | None
    changes: Place | None = None
    path: bytes = b""
    host: HostSource | None = None


def parse_operands(settings: Settings, words: Sequence[str]) -> tuple[CopyOperand, CopyOperand]:
    """Return SOURCE and DEST; each may be two words, an image or container and an absolute path."""
    first, last = words[:1], words[1:]
    if len(words) > 2 and _is_path_in(words[0], words[1]):
        first, last = words[:2], words[2:]
    is_container = len(last) == 2 and not last[0].startswith("/") and _is_path_in(*last)
    if not (len(last) == 1 or is_container):
        raise UsageError(
            "DEST is missing"
            if not last
            else "there is one SOURCE and one DEST; copy the others by themselves"
        )
    return _operand(settings, first), _operand(settings, last)


def _is_path_in(word: str, path: str) -> bool:
    """Return whether two words stand for a path in an image or container, by the words alone."""
    from unionmount.browse.paths import split_operand

    return path.startswith("/") and word != _STREAM and split_operand(word)[1] is None


def _operand(settings: Settings, words: Sequence[str]) -> CopyOperand:
    if len(words) == 1:
        return parse_operand(settings, words[0])
    word, path = words
    return CopyOperand(f"{word}:{path}", word, os.fsencode(path))


def parse_operand(settings: Settings, text: str) -> CopyOperand:
    """Parse ``IMAGE:/PATH``, ``CONTAINER:PATH``, ``-`` or a path of the host."""
    from unionmount.browse.paths import split_operand
    from unionmount.cli.container_words import name_of_container
    from unionmount.store.containers import is_there

    if text == _STREAM:
        return CopyOperand(text)
    word, path = split_operand(text)
    if path is not None:
        return CopyOperand(text, word, path)
    name, colon, rest = text.removeprefix("container:").partition(":")
    if colon and is_there(settings.store_root(), name_of_container(name)):
        return CopyOperand(text, text[: len(text) - len(rest) - 1], b"/" + os.fsencode(rest))
    if not text:
        raise UsageError("a path is empty")
    return CopyOperand(text, "", os.fsencode(text))


def copy_files(settings: Settings, request: CopyRequest) -> None:
    """Copy files."""
    source, dest = request.source, request.dest
    if not source.word and not dest.word:
        raise UsageError(
            "neither path is in an image or container; write IMAGE:/PATH or CONTAINER:/PATH"
        )
    if source.is_stream and dest.is_stream:
        raise UsageError("SOURCE and DEST are both '-'")
    if not source.word and (request.layer is not None or request.platform is not None):
        option = "--layer" if request.layer is not None else "--platform"
        raise UsageError(f"{option} is for a SOURCE in an image")
    if dest.is_stream and sys.stdout.isatty():
        raise UsageError("standard output is a terminal; redirect it, or name a file")
    with _opened(settings, request) as opened:
        if dest.is_stream:
            _to_stream(opened)
        elif dest.word:
            _to_container(settings, request, opened)
        else:
            _to_host(request, opened)


def warn(text: str) -> None:
    """Print a warning."""
    print(f"unionmount: {text}", file=sys.stderr)


# ---- sources -------------------------------------------------------------------------------------


@contextmanager
def _opened(settings: Settings, request: CopyRequest) -> Iterator[_OpenSource]:
    source = request.source
    if source.is_stream:
        from unionmount.extract.tar_source import TarSource

        yield _OpenSource(TarSource(sys.stdin.fileno(), "standard input").items, None)
    elif source.word:
        with _opened_image(settings, request) as found:
            yield found
    else:
        with _opened_host(request) as found:
            yield found


@contextmanager
def _opened_image(settings: Settings, request: CopyRequest) -> Iterator[_OpenSource]:
    from unionmount.browse.paths import follow
    from unionmount.cli.open_image import open_files
    from unionmount.extract.destination import Top
    from unionmount.extract.image_source import ImageSource
    from unionmount.extract.itself import place_of
    from unionmount.runtime.container_owners import owners_of
    from unionmount.system.os_errors import naming

    source = request.source
    opened = open_files(settings, source.word, platform=request.platform, layer=request.layer)
    with opened as view:
        with naming(source.text):
            last = request.follow or source.path.endswith(b"/")
            found = follow(view.files, source.path, last=last)
            top = Top.of(source.path, b"/" + found.path, found.attributes.mode)
        items: ImageSource = ImageSource(view, found, warn, owners_of(view.changes))
        changes = None if view.changes is None else place_of(view.changes)
        yield _OpenSource(items.items, top, changes, found.path)


@contextmanager
def _opened_host(request: CopyRequest) -> Iterator[_OpenSource]:
    from unionmount.extract.destination import Top
    from unionmount.extract.host_source import HostSource
    from unionmount.system.os_errors import naming

    source = request.source
    follows = request.follow or source.path.endswith(b"/")
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follows else os.O_NOFOLLOW)
    with naming(source.text):
        fd = os.open(source.path, flags)
    try:
        with naming(source.text):
            mode = os.fstat(fd).st_mode
            real = os.path.realpath(source.path) if stat.S_ISDIR(mode) else source.path
            top = Top.of(source.path, real, mode)
        host = HostSource(fd, source.text, warn, attributes=request.archive)
        yield _OpenSource(host.items, top, host=host)
    finally:
        os.close(fd)


# ---- targets -------------------------------------------------------------------------------------


def _to_stream(source: _OpenSource) -> None:
    from unionmount.extract.tar_target import TarTarget

    assert source.top is not None, "one of the two is in an image"
    sys.stdout.flush()
    name = b"" if source.top.contents else source.top.name
    target = TarTarget(sys.stdout.fileno(), name, "standard output", warn)
    for item in source.items():
        target.put(item)
    target.finish()


def _to_host(request: CopyRequest, source: _OpenSource) -> None:
    from unionmount.extract.destination import landing
    from unionmount.extract.host_target import HostTarget
    from unionmount.extract.target import CopyPolicy
    from unionmount.system.os_errors import naming

    dest = request.dest.path
    assert source.top is not None, "one of the two is in an image"
    with naming(request.dest.text):
        directory, name = landing(_find_on_host, dest, source.top)
        root = _open_resolved(directory)
    policy = CopyPolicy(request.archive, owners=request.archive and request.is_root)
    try:
        if source.top.is_directory and source.changes is not None:
            _check_outside(request, source.changes, root)
        shown = os.fsdecode(directory)
        with HostTarget(root, name, policy, warn, shown=shown) as target:
            _copy(source, target)
    finally:
        os.close(root)


def _find_on_host(path: bytes) -> Spot | None:
    """Follow a path of the host, but not through symlinks that others have planted."""
    from unionmount.extract.destination import Spot
    from unionmount.system.files import resolved

    real = os.fsencode(resolved(Path(os.fsdecode(path))))
    try:
        fd = _open_resolved(real)
    except FileNotFoundError:
        return None
    try:
        return Spot(real, os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _open_resolved(path: bytes) -> int:
    """Open a path from the root, and follow no symlink that was put there meanwhile."""
    from unionmount import core

    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return core.open_within(top, path.lstrip(b"/") or b".", os.O_PATH)
    finally:
        os.close(top)


def _to_container(settings: Settings, request: CopyRequest, source: _OpenSource) -> None:
    from unionmount.cli.container_target import opened_container
    from unionmount.extract.destination import existing_directory, landing
    from unionmount.extract.target import CopyPolicy
    from unionmount.system.os_errors import naming

    dest, archive = request.dest, request.archive
    policy = CopyPolicy(archive, archive, None if archive else (0, 0))
    with ExitStack() as stack:
        place = stack.enter_context(opened_container(settings, dest.word))
        with naming(dest.text):
            if source.top is None:
                base = existing_directory(place.find, dest.path)
            else:
                directory, name = landing(place.find, dest.path, source.top)
                base = directory.strip(b"/") + b"/" + name
        base = base.strip(b"/")
        target = place.target(base, policy, warn)
        stack.callback(target.close)
        if source.top is not None and source.top.is_directory:
            _check_not_itself(request, source, place.upper, base)
            if source.host is not None:
                _avoid(request, source.host, place.upper, target)
        _copy(source, target)
        place.finish()


def _copy(source: _OpenSource, target: Target[int] | Target[Node]) -> None:
    from unionmount.extract.host_target import HostTarget

    host = source.host if isinstance(target, HostTarget) else None
    for item in source.items():
        target.put(item)
        if host is not None and not item.path and stat.S_ISDIR(item.mode):
            assert isinstance(target, HostTarget), "see above"
            host.avoided.add(target.top())
    target.finish()


# ---- copies into themselves ----------------------------------------------------------------------


def _check_outside(request: CopyRequest, changes: Place, dest: int) -> None:
    """Raise UnionmountError if a container is to be copied into its own mount or changes."""
    from unionmount.extract.itself import in_container, places_above
    from unionmount.mounting.records import MountTable

    device = os.fstat(dest).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = [one.record for one in MountTable.of_user().all() if one.alive]
    own = [one for one in mounts if one.upper and _is_at(one.upper, changes)]
    if changes in places_above(dest) or number in {one.device for one in own}:
        raise in_container(request.dest.text, request.source.word)


def _is_at(path: str, place: Place) -> bool:
    from unionmount.extract.itself import place_of

    try:
        return place_of(Path(path)) == place
    except OSError:
        return False


def _check_not_itself(request: CopyRequest, source: _OpenSource, upper: Place, base: bytes) -> None:
    """Raise UnionmountError for a directory of a container that is to be copied into itself."""
    from unionmount.extract.itself import into_itself, is_at_or_below

    if source.changes == upper and is_at_or_below(base, source.path):
        raise into_itself(request.source.text, f"{request.dest.word}:/{os.fsdecode(base)}")


def _avoid(
    request: CopyRequest, source: HostSource, upper: Place, target: Target[int] | Target[Node]
) -> None:
    """Have a source on the host leave out the container that it is copied into."""
    from unionmount.extract.host_target import HostTarget
    from unionmount.extract.itself import in_container, places_above

    source.avoided.add(upper)
    source.avoided_device = target.device if isinstance(target, HostTarget) else None
    if upper in places_above(source.top) or source.avoided_device == os.fstat(source.top).st_dev:
        raise in_container(request.source.text, request.dest.word)
