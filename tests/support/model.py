"""A plain model of docs/explanation/layers.md: layer tars in, what the image's tree must show out.

This is the oracle of the tests. It shares nothing with the program: tarfile reads the archives,
dicts keyed by path hold everything, and every layer is applied to the whole view below it, in the
order of the rules, however slow that is. Numbers in comments are the rules of
docs/explanation/layers.md.
"""

from __future__ import annotations

import base64
import io
import stat
import tarfile
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from typing import cast

Path = tuple[bytes, ...]

FILE, DIRECTORY, SYMLINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
CHARACTER, BLOCK, FIFO = stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO

_TYPES = {
    tarfile.SYMTYPE: SYMLINK,
    tarfile.CHRTYPE: CHARACTER,
    tarfile.BLKTYPE: BLOCK,
    tarfile.FIFOTYPE: FIFO,
    tarfile.DIRTYPE: DIRECTORY,
}


class Refused(Exception):
    """The layer means something that no kernel could show, or nothing at all (rules 3 and 11)."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What an entry says about the node itself."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]
    layer: int


@dataclass(slots=True, eq=False)
class File:
    """Anything but a directory; the object's identity is the inode's."""

    kind: int
    meta: Meta
    content: bytes = b""
    stored: int = 0
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)


@dataclass(slots=True, eq=False)
class Link:
    """A hard link whose target was not there yet; links to it share the object."""

    target: Path


@dataclass(slots=True, eq=False)
class Directory:
    """A directory as one layer has it; without ``meta`` it is implied."""

    meta: Meta | None = None


Own = File | Link | Directory


@dataclass(slots=True)
class Layer:
    """What one layer says, before anything is known of other layers."""

    number: int
    own: dict[Path, Own] = field(default_factory=dict)
    stored: dict[Path, Own] = field(default_factory=dict)  # in AUFS' link store (11)
    whiteouts: set[Path] = field(default_factory=set)
    opaques: set[Path] = field(default_factory=set)
    unresolved: list[bytes] = field(default_factory=list)

    def named(self, target: Path) -> Own | None:
        """What the target of a hard link names in this layer."""
        return self.stored.get(target) or self.own.get(target)


@dataclass(frozen=True, slots=True)
class Place:
    """A merged directory of a view; ``origin`` is the layer of its lowest part."""

    meta: Meta | None
    origin: int
    top: int


Shown = File | Place
View = dict[Path, Shown]


@dataclass(frozen=True, slots=True)
class Node:
    """What the tree must show at one path."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]
    layer: int
    nlink: int
    identity: object
    size: int = 0
    stored: int = 0
    content: bytes = b""
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)


# ---- reading a tar -------------------------------------------------------------------------


class _RawInfo(tarfile.TarInfo):
    """Remembers the type byte, which tarfile rewrites for some directories."""

    raw_type = b""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _RawInfo:
        info = super().frombuf(buf, encoding, errors)
        info.raw_type = bytes(buf[156:157])
        return info


@dataclass(frozen=True, slots=True)
class _Member:
    kind: int
    name: bytes
    link: bytes | None
    meta: Meta
    content: bytes
    stored: int
    rdev: tuple[int, int]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _name(info: _RawInfo) -> bytes:
    # tarfile strips the trailing slash of a pax path, but rule 8 depends on it.
    return _bytes(info.pax_headers.get("path", info.name))


def _mtime(info: tarfile.TarInfo) -> int:
    seconds = Decimal(info.pax_headers.get("mtime", str(info.mtime)))
    return int((seconds * 10**9).to_integral_value(ROUND_FLOOR))


def _xattrs(info: tarfile.TarInfo) -> dict[bytes, bytes]:
    found = {}
    for key, value in info.pax_headers.items():
        if key.startswith("SCHILY.xattr."):
            found[_bytes(key[13:])] = _bytes(value)
        elif key.startswith("LIBARCHIVE.xattr."):
            name = urllib.parse.unquote_to_bytes(_bytes(key[17:]))
            found[name] = base64.b64decode(value + "=" * (-len(value) % 4))
    return found


def _kind(info: _RawInfo) -> int:
    if info.raw_type == b"\0" and _name(info).endswith(b"/"):  # 8
        return DIRECTORY
    return _TYPES.get(info.type, FILE)  # 8


def _member(archive: tarfile.TarFile, info: _RawInfo, layer: int) -> _Member:
    kind = _kind(info)
    is_link = info.type == tarfile.LNKTYPE
    content = b""
    if kind == FILE and not is_link:
        stream = archive.extractfile(info)
        assert stream is not None
        content = stream.read()
    link = _bytes(info.linkname) if is_link or kind == SYMLINK else None
    runs = cast("list[tuple[int, int]] | None", info.sparse)
    stored = sum(length for _, length in runs) if runs else len(content)
    meta = Meta(info.mode & 0o7777, info.uid, info.gid, _mtime(info), _xattrs(info), layer)
    rdev = (info.devmajor, info.devminor)
    return _Member(0 if is_link else kind, _name(info), link, meta, content, stored, rdev)


def _members(tar: bytes, layer: int) -> Iterator[_Member]:
    if not tar:
        return  # tarfile calls that no archive; here it is a layer that says nothing
    with tarfile.open(
        fileobj=io.BytesIO(tar),
        mode="r:",
        tarinfo=_RawInfo,
        encoding="utf-8",
        errors="surrogateescape",
    ) as archive:
        for info in archive:
            assert isinstance(info, _RawInfo)
            yield _member(archive, info, layer)


# ---- one layer -----------------------------------------------------------------------------


def normalise(name: bytes) -> Path:
    """Split a name and clamp it to the root (rule 1)."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)


_MAX_LINKS = 40
_MAX_FOLLOWED = 16384


class Unresolved(Exception):
    """Symlinks on the way of an entry lead in a circle, or to what no name can be (rule 6)."""


def _follow(path: Path, layer: Layer) -> Path:
    """Where a path leads through symlinks of this layer, as they are now (rule 6)."""
    pending = list(path[:-1])
    walked: Path = ()
    links = followed = 0
    while pending:
        part = pending.pop(0)
        if part == b"..":  # of a target
            walked = walked[:-1]
            continue
        own = layer.own.get((*walked, part))
        if not (isinstance(own, File) and own.kind == SYMLINK):
            walked = (*walked, part)
            continue
        links, followed = links + 1, followed + len(own.target)
        if links > _MAX_LINKS or followed > _MAX_FOLLOWED:
            raise Unresolved(path)
        if own.target.startswith(b"/"):
            walked = ()
        pending[:0] = [one for one in own.target.split(b"/") if one not in (b"", b".")]
    if links and any(part.startswith(b".wh.") or len(part) > 255 for part in walked):
        raise Unresolved(path)
    return (*walked, *path[-1:])


def _below(path: Path, mapping: dict[Path, Own] | View | set[Path]) -> list[Path]:
    return [p for p in mapping if len(p) > len(path) and p[: len(path)] == path]


def _forget_below(path: Path, layer: Layer) -> None:
    # Whiteouts and opaque marks stay: they belong to names (9).
    for child in _below(path, layer.own):
        del layer.own[child]


def _ancestry(path: Path) -> list[Path]:
    return [path[:depth] for depth in range(len(path) + 1)]


def _imply(path: Path, layer: Layer) -> None:
    """Make ``path`` and its parents directories of this layer (rules 4 and 6)."""
    for ancestor in _ancestry(path):
        if not isinstance(layer.own.get(ancestor), Directory):
            layer.own[ancestor] = Directory()


def _special(path: Path) -> int:
    """The position of the first component that is no plain name."""
    for position, part in enumerate(path):
        if part.startswith(b".wh."):
            return position
    return len(path)


def _check_name(path: Path) -> None:
    for part in path:
        shown = part.removeprefix(b".wh.")  # a whiteout may be longer than what it hides
        leftover = part.startswith(b".wh..wh.")
        if len(shown) > 255 and not leftover:  # 3
            raise Refused(path)
        if part in (b".wh.", b".wh..", b".wh..."):  # 11
            raise Refused(path)


def _check_member(member: _Member) -> None:
    if member.kind == SYMLINK and not 0 < len(member.link or b"") < 4096:  # 3
        raise Refused(member.name)
    for name, value in member.meta.xattrs.items():
        if len(name) > 255 or len(value) > 65536:  # 3
            raise Refused(member.name)


def _mark(path: Path, layer: Layer) -> None:
    """Take a name whose last component, and only that, begins with ``.wh.`` (rules 9, 11)."""
    parent, mark = path[:-1], path[-1]
    if mark == b".wh..wh..opq":
        layer.opaques.add(parent)
    elif not mark.startswith(b".wh..wh."):
        layer.whiteouts.add((*parent, mark[4:]))


def _settle_marks(layer: Layer) -> None:
    """Marks imply their directories, but make none of what is none at the end (rule 9)."""
    layer.whiteouts = {path for path in layer.whiteouts if _implied(path[:-1], layer)}
    layer.opaques = {path for path in layer.opaques if _implied(path, layer)}


def _implied(path: Path, layer: Layer) -> bool:
    if not all(isinstance(layer.own.get(p, Directory()), Directory) for p in _ancestry(path)):
        return False
    _imply(path, layer)
    return True


def _link_to(target: Path, layer: Layer) -> File | Link:
    try:
        found = layer.named(_follow(target, layer))
    except Unresolved:
        found = None
    return Link(target) if found is None or isinstance(found, Directory) else found


def _add(member: _Member, layer: Layer) -> None:
    path = normalise(member.name)
    _check_name(path)
    _check_member(member)
    special = _special(path)
    if len(path) == 2 and path[0] == b".wh..wh.plnk" and member.kind != DIRECTORY:
        layer.stored[path] = _own(member, layer)
    if special < len(path) - 1:
        return  # 11: below a whiteout or a leftover
    try:
        path = _follow(path, layer)
    except Unresolved:
        layer.unresolved.append(member.name)
        return
    if special == len(normalise(member.name)) - 1 and path:
        special = len(path) - 1
    else:
        special = len(path)
    if special == len(path) - 1:
        _mark(path, layer)
    elif member.kind == DIRECTORY:
        _imply(path, layer)
        layer.own[path] = Directory(member.meta)  # 5: keeps its children
    elif path and member.kind == CHARACTER and member.rdev == (0, 0):
        layer.whiteouts.add(path)  # 9
    elif path:  # 2
        _add_file(path, member, layer)


def _own(member: _Member, layer: Layer) -> File | Link:
    if member.kind == 0:
        return _link_to(normalise(member.link or b""), layer)
    return File(
        member.kind,
        member.meta,
        member.content,
        member.stored,
        member.link or b"",
        member.rdev if member.kind in (CHARACTER, BLOCK) else (0, 0),
    )


def _add_file(path: Path, member: _Member, layer: Layer) -> None:
    _imply(path[:-1], layer)
    own = _own(member, layer)  # 7: before the name changes
    _forget_below(path, layer)
    layer.own[path] = own


def read_layer(tar: bytes, number: int) -> Layer:
    """What the layer says for itself (rules 1 to 11)."""
    layer = Layer(number)
    _imply((), layer)
    for member in _members(tar, number):
        _add(member, layer)
    _settle_marks(layer)
    return layer


# ---- hard links ------------------------------------------------------------------------------


def _meaning(link: Link, layer: Layer, below: View) -> tuple[File | None, Path]:
    """The file that a link means (rule 7), or None; and the target that decided."""
    seen = [link]
    try:
        while isinstance(following := layer.named(_follow(seen[-1].target, layer)), Link):
            seen.append(following)
            if following in seen[:-1]:
                break  # a circle: this link looks below for its own target
        target = _follow(seen[-1].target, layer)
    except Unresolved:
        return None, seen[-1].target
    if isinstance(following, File):
        return following, target
    if isinstance(following, Directory):
        return None, target
    lower = below.get(target)
    return (lower if isinstance(lower, File) else None), target


# ---- all layers ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Broken:
    """A hard link that leads nowhere."""

    layer: int
    name: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """What a layer does to one name: ``A`` adds, ``C`` changes, ``D`` deletes it."""

    kind: str
    path: bytes
    mode: int
    size: int


class Stack:
    """The views of a stack of layers, lowest first."""

    def __init__(self, tars: list[bytes]) -> None:
        self.layers = [read_layer(tar, number) for number, tar in enumerate(tars)]
        self.views: list[View] = []
        self.broken: list[Broken] = []
        view: View = {(): Place(None, 0, 0)}
        for layer in self.layers:
            view = self._apply(layer, view)
            self.views.append(view)
        self.view = view

    def _apply(self, layer: Layer, below: View) -> View:
        view = dict(below)
        for path in layer.whiteouts:  # 9, 10, 12
            for gone in [path, *_below(path, view)]:
                view.pop(gone, None)
        for path in layer.opaques:  # 9
            for gone in _below(path, view):
                del view[gone]
        for path in sorted(layer.own, key=len):
            self._show(path, layer, below, view)
        return view

    def _show(self, path: Path, layer: Layer, below: View, view: View) -> None:
        own = layer.own[path]
        if isinstance(own, Directory):
            view[path] = _merged(path, own, layer, view.get(path))
            return
        for gone in _below(path, view):
            del view[gone]
        if isinstance(own, File):
            view[path] = own
            return
        file, target = _meaning(own, layer, below)
        if file is not None:
            view[path] = file
        else:
            view.pop(path, None)  # 12
            self.broken.append(Broken(layer.number, b"/".join(path), b"/".join(target)))

    def changes(self, number: int) -> list[Change]:
        """What the layer does to the view below it, depth first, sorted."""
        layer, after = self.layers[number], self.views[number]
        before = self.views[number - 1] if number else {}
        found = {}
        for path in before:
            if path not in after and isinstance(after.get(path[:-1]), Place):
                found[path] = Change("D", b"/".join(path), 0, 0)
        for path, own in layer.own.items():
            shown = after.get(path)
            if not path or shown is None:
                continue
            kind = "C" if path in before else "A"
            merges = isinstance(before.get(path), Place) and path not in layer.whiteouts
            if isinstance(own, Directory):
                if own.meta is None and merges:
                    continue  # it is only mentioned
                mode = DIRECTORY | (own.meta.mode if own.meta else 0o755)
                found[path] = Change(kind, b"/".join(path), mode, 0)
            elif isinstance(shown, File):
                node = _file_node(shown, 1)
                found[path] = Change(kind, b"/".join(path), node.kind | node.mode, node.size)
        return [found[path] for path in sorted(found)]

    def nodes(self, layer: int | None = None) -> dict[bytes, Node]:
        """What the tree of the layers up to and including ``layer`` shows; the root is ``b""``."""
        view = self.view if layer is None else self.views[layer]
        names = Counter(id(shown) for shown in view.values() if isinstance(shown, File))
        subdirectories = Counter(
            path[:-1] for path, shown in view.items() if path and isinstance(shown, Place)
        )
        return {
            b"/".join(path): _file_node(shown, names[id(shown)])
            if isinstance(shown, File)
            else _directory_node(path, shown, 2 + subdirectories[path])
            for path, shown in view.items()
        }


def _merged(path: Path, own: Directory, layer: Layer, lower: Shown | None) -> Place:
    if not isinstance(lower, Place):
        return Place(own.meta, layer.number, layer.number)
    # 13: an opaque directory is the lowest part of what is merged.
    origin = layer.number if path in layer.opaques else lower.origin
    meta = own.meta if own.meta is not None else lower.meta  # 14
    return Place(meta, origin, layer.number)


def _file_node(file: File, names: int) -> Node:
    meta = file.meta
    return Node(
        kind=file.kind,
        mode=meta.mode,
        uid=meta.uid,
        gid=meta.gid,
        mtime_ns=meta.mtime_ns,
        xattrs=meta.xattrs,
        layer=meta.layer,
        nlink=names,  # 15
        identity=id(file),
        size=len(file.target) if file.kind == SYMLINK else len(file.content),
        stored=file.stored,
        content=file.content,
        target=file.target if file.kind == SYMLINK else b"",
        rdev=file.rdev,
    )


def _directory_node(path: Path, place: Place, nlink: int) -> Node:
    meta = place.meta
    if meta is None:  # 4
        return Node(DIRECTORY, 0o755, 0, 0, 0, {}, place.top, nlink, (path, place.origin))
    return Node(
        DIRECTORY,
        meta.mode,
        meta.uid,
        meta.gid,
        meta.mtime_ns,
        meta.xattrs,
        meta.layer,
        nlink,  # 15
        (path, place.origin),
    )
