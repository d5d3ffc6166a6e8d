"""Commit: the changes in a container as a new layer, and a new image with it in the store.

The layer is written, hashed and indexed while the changes are found, and is never held in memory.
The same changes always give the same bytes: entries are sorted, deletions come first in their
directory, and the order of writes does not matter. Source: OCI image-spec 1.1, ``layer.md`` and
``config.md``.

Nothing is locked. A file is opened before it is written, and the attributes of the open file are
used, since its name may lead to another file than when the difference was found.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from unionmount import core
from unionmount.browse.diff import REPLACED, Difference, xattrs_of
from unionmount.errors import UsageError
from unionmount.formats.tar_writer import END, Member, can_hold, header, padding
from unionmount.images.build import timestamp
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.instructions import apply_instructions
from unionmount.images.opened import OpenLayer
from unionmount.store.layer_import import Expected
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.open import OpenChanges
    from unionmount.browse.owners import Owners
    from unionmount.core import Attributes, BrowsableTree, Node
    from unionmount.images.reference import Digest, Reference
    from unionmount.store.layer_import import Progress
    from unionmount.store.leases import Lease
    from unionmount.store.store import Store, StoredImage

Warn = Callable[[str], None]

_STEP = 1024 * 1024
_PIECE = 256 * 1024  # bytes that are written at once, as small members are many
_NANO = 1_000_000_000
OF_A_CONTAINER = ("container", "container_config")
"""Docker's fields about the previous container."""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """The name and the metadata of a new image.

    ``epoch`` (seconds since 1970) makes images reproducible: it is the creation time, and no file
    is newer. Changes at paths that match a pattern of ``excluded``, and below them, are left out.
    ``owners`` are the maps of the user namespace whose IDs are those of the disk: symlinks and
    special files of a container that an ordinary user has run have no attribute with the owner.
    """

    name: Reference
    message: str = ""
    author: str = ""
    instructions: Sequence[str] = ()
    epoch: int | None = None
    excluded: Sequence[str] = ()
    owners: Owners | None = None


def commit(
    store: Store,
    target: OpenChanges,
    request: CommitRequest,
    warn: Warn,
    progress: Progress | None = None,
) -> StoredImage:
    """Make an image of a container in its present state; its layers are stored, too.

    ``progress`` gets the bytes of the new layer so far, and may raise to end this.
    """
    if request.name.digest is not None:
        raise UsageError(f"'{request.name}' has a digest; name the image by a tag instead")
    parent = target.image.image.config
    runtime = apply_instructions(parent.runtime, request.instructions)
    target.image.require_indexes()
    with store.lease("commit", f"commit of {request.name}") as lease:
        lease.protect(*parent.diff_ids)
        for layer in target.image.layers:
            keep_layer(store, layer)
        diff_id = _store_layer(store, target, request, warn, lease, progress)
        raw = _child_config(parent, request, runtime, diff_id)
        config = Config.parse(raw, "the new image")
        sizes = [store.layer_info(one).layer_size for one in config.diff_ids]
        image = ImageDocuments.from_config(config, sizes, "the new image")
        return store.put_image([request.name], image)


def keep_layer(store: Store, layer: OpenLayer) -> None:
    """Import a layer that was used in place, or removed from the store meanwhile."""
    if store.has_layer(layer.diff_id):
        return
    expected = Expected(layer.diff_id, f"layer {layer.diff_id}")
    with store.import_layer(expected) as incoming:
        for offset in range(layer.offset, layer.offset + layer.length, _STEP):
            size = min(_STEP, layer.offset + layer.length - offset)
            incoming.write(os.pread(layer.data_fd, size, offset))
        incoming.finish()


def _store_layer(
    store: Store,
    target: OpenChanges,
    request: CommitRequest,
    warn: Warn,
    lease: Lease,
    progress: Progress | None,
) -> Digest | None:
    """Store the new layer; return None if nothing was changed."""
    found = _included(target.compare(for_layer=True).differences(), request.excluded)
    first = next(found, None)
    if first is None:
        return None
    with store.import_layer(Expected(None, "the new layer"), lease=lease) as incoming:
        write = incoming.write if progress is None else _counting(incoming.write, progress)
        writer = LayerWriter(target.view, write, request.epoch, warn, request.owners)
        writer.write(chain([first], found))
        target.check_there()
        incoming.finish()
        return incoming.diff_id


def _counting(write: Callable[[bytes], None], progress: Progress) -> Callable[[bytes], None]:
    """Return a function that writes, and tells how many bytes were written."""
    done = 0

    def counted(data: bytes) -> None:
        nonlocal done
        write(data)
        done += len(data)
        progress("the new layer", done, None)

    return counted


def _included(found: Iterator[Difference], patterns: Sequence[str]) -> Iterator[Difference]:
    """Yield the differences at paths that match no pattern, nor are below such a path."""
    wanted = [os.fsencode(pattern).strip(b"/") for pattern in patterns]
    if not wanted:
        yield from found
        return
    for one in found:
        names = one.path.split(b"/")
        above = (b"/".join(names[:count]) for count in range(1, len(names) + 1))
        if not any(core.matches(pattern, path) for path in above for pattern in wanted):
            yield one


# -- the layer


@dataclass(frozen=True, slots=True)
class _Ready:
    """A member that can be written without further lookups."""

    now: Attributes
    first: bytes | None  # the path that it is a hard link to
    target: bytes
    xattrs: dict[bytes, bytes]
    start: bytes
    rest: Iterator[bytes]


class LayerWriter:
    """A writer of the tar of a layer from the differences that ``Comparison`` finds."""

    def __init__(
        self,
        tree: BrowsableTree,
        write: Callable[[bytes], None],
        epoch: int | None,
        warn: Warn,
        owners: Owners | None = None,
    ) -> None:
        self._tree = tree
        self._write = write
        self._latest = epoch * _NANO if epoch is not None else None
        self._warn = warn
        self._owners = owners
        self._linked: dict[Node, bytes] = {}  # the first names of hard-linked files
        self._waiting = bytearray()

    def write(self, differences: Iterator[Difference]) -> None:
        """Write all differences and the end of the tar."""
        for found in differences:
            if found.after is None:
                self._hide(found.path)
            elif not _is_representable(found.after):
                self._leave_out(found)
            else:
                self._add(found, found.after)
        self._put(END)
        self._flush()

    def _hide(self, path: bytes) -> None:
        directory, slash, name = path.rpartition(b"/")
        self._put(header(Member(directory + slash + core.whiteout_name(name))))

    def _leave_out(self, found: Difference) -> None:
        kind = "socket" if stat.S_ISSOCK(found.mode) else "device 0:0"
        self._warn(f"/{printable(found.path)}: left out, since a layer cannot hold a {kind}")
        if found.before is not None:
            self._hide(found.path)

    def _add(self, found: Difference, after: Attributes) -> None:
        try:
            ready = self._ready(found.path, after)
        except OSError as error:
            if error.errno not in REPLACED:
                raise
            self._warn(f"/{printable(found.path)}: left out, since it was removed meanwhile")
            if found.before is not None:
                self._hide(found.path)
            return
        if not _is_representable(ready.now):
            self._leave_out(Difference(found.kind, found.path, found.before, ready.now))
            return
        self._put_member(found.path, ready)
        if found.opaque:
            self._put(header(Member(found.path + b"/" + core.opaque_name())))

    def _ready(self, path: bytes, after: Attributes) -> _Ready:
        """Do all that may fail for a member; a file that was replaced is taken as it is now."""
        try:
            ready = self._looked_at(path, after)
            if _is_unchanged(after, ready.now):
                return ready
        except OSError as error:
            if error.errno not in REPLACED:
                raise
        if stat.S_ISDIR(after.mode):  # its new entries were not compared
            return self._looked_at(path, after)
        current = self._tree.resolve_anew(path)
        if stat.S_ISDIR(current.mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return self._looked_at(path, current)

    def _looked_at(self, path: bytes, after: Attributes) -> _Ready:
        """Return a member with the attributes of the opened file.

        An empty file, or one of an image, is not opened: its attributes are those that were found.
        """
        first = self._linked.get(after.node)
        changes = not isinstance(self._tree, core.Tree)
        if changes and first is None and stat.S_ISREG(after.mode) and after.size:
            self._tree.read(after.node, 0, 0)
            after = self._tree.getattr(after.node)
        xattrs = self._stored(path, self.xattrs(after.node))
        target = self._tree.readlink(after.node) if stat.S_ISLNK(after.mode) else b""
        content = self._content(path, after) if first is None else iter(())
        now = after if self._owners is None else self._owners.owned(after)
        return _Ready(now, first, target, xattrs, next(content, b""), content)

    def xattrs(self, node: Node) -> dict[bytes, bytes]:
        """Return the extended attributes that the layer gets, by the names that users see."""
        return xattrs_of(self._tree, node)

    def _stored(self, path: bytes, xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return extended attributes by the names that they have in a layer."""
        stored = {}
        for name, value in xattrs.items():
            try:
                stored[core.stored_name(name)] = value
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                what = (
                    f"attribute {printable(name)} left out, since its name is too long for a layer"
                )
                self._warn(f"/{printable(path)}: {what}")
        return stored

    def _put_member(self, path: bytes, ready: _Ready) -> None:
        now, first = ready.now, ready.first
        if now.nlink > 1 and first is None and not stat.S_ISDIR(now.mode):
            self._linked[now.node] = path
        member = Member(
            name=path or b".",
            mode=now.mode,
            uid=now.uid,
            gid=now.gid,
            size=now.size if stat.S_ISREG(now.mode) and first is None else 0,
            mtime_ns=self._clamped(now.mtime_ns),
            device=(now.major, now.minor),
            target=first if first is not None else ready.target,
            hard_link=first is not None,
            xattrs=ready.xattrs,
        )
        self._put(header(member))
        self._put(ready.start)
        for piece in ready.rest:
            self._put(piece)
        self._put(padding(member.size))

    def _content(self, path: bytes, after: Attributes) -> Iterator[bytes]:
        """Yield the content of a regular file up to its size, with holes as zeros."""
        size = after.size if stat.S_ISREG(after.mode) else 0
        offset = 0
        while offset < size:
            piece = self._tree.read(after.node, offset, min(_STEP, size - offset))
            if not piece:
                self._warn(f"/{printable(path)}: was truncated meanwhile, filled with zeros")
                piece = bytes(min(_STEP, size - offset))
            yield piece
            offset += len(piece)

    def _clamped(self, mtime_ns: int) -> int:
        return mtime_ns if self._latest is None else min(mtime_ns, self._latest)

    def _put(self, data: bytes) -> None:
        if len(self._waiting) + len(data) >= _PIECE:
            self._flush()
        if len(data) >= _PIECE:
            self._write(data)
        else:
            self._waiting += data

    def _flush(self) -> None:
        data, self._waiting = bytes(self._waiting), bytearray()
        self._write(data)


def _is_unchanged(before: Attributes, now: Attributes) -> bool:
    """Return whether a file is unchanged, as far as its times tell."""
    return (before.mode, before.size, before.mtime_ns, before.ctime_ns) == (
        now.mode,
        now.size,
        now.mtime_ns,
        now.ctime_ns,
    )


def _is_representable(after: Attributes) -> bool:
    """Return whether a layer can hold a file; a device 0:0 would hide its name instead."""
    is_whiteout = stat.S_ISCHR(after.mode) and (after.major, after.minor) == (0, 0)
    return can_hold(after.mode) and not is_whiteout


# -- the config


def _child_config(
    parent: Config, request: CommitRequest, runtime: dict[str, Any], diff_id: Digest | None
) -> bytes:
    """Return the parent's config, with all its fields, updated for the new image."""
    document: dict[str, Any] = json.loads(parent.raw)
    for name in OF_A_CONTAINER:
        document.pop(name, None)
    created = timestamp(request.epoch)
    row: dict[str, Any] = {"created": created, "created_by": _created_by(request)}
    if request.author:
        document["author"] = row["author"] = request.author
    if request.message:
        row["comment"] = request.message
    if diff_id is None:
        row["empty_layer"] = True
    document["created"] = created
    document["config"] = runtime
    document["rootfs"] = {
        "type": "layers",
        "diff_ids": [*map(str, parent.diff_ids), *([str(diff_id)] if diff_id else [])],
    }
    # A step without a layer says so; steps of layers without a description are missing.
    described = sum(not step.empty_layer for step in parent.history)
    missing: list[dict[str, Any]] = [{} for _ in range(len(parent.diff_ids) - described)]
    document["history"] = [*(document.get("history") or ()), *missing, row]
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _created_by(request: CommitRequest) -> str:
    """Return the command that made the layer, without the container, whose name is arbitrary."""
    changes = (word for line in request.instructions for word in ("-c", line))
    return shlex.join(["unionmount", "commit", *changes])
