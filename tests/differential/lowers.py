"""Lower directories: as values, on disk in several spellings, as an image, and a strategy.

A layer is a tuple of (path, Node) pairs as they were made up; `settled` makes a tree of them. The
root directory is the same everywhere, because overlayfs takes its attributes from the upper.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from support import archives
from support.archives import docker_archive, posix_acl

OLD = 1_500_000_000_000_000_000  # all times of lower files are about this
USER = 65534

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER, _NOBODY = 1, 2, 4, 8, 16, 32, 2**32 - 1


def acl(owner: int, group: int, other: int, *, user: int = 7, named: int = USER) -> bytes:
    """An ACL with a named user and the mask ``group``."""
    return posix_acl(
        (_USER_OBJ, owner, _NOBODY),
        (_USER, user, named),
        (_GROUP_OBJ, 5, _NOBODY),
        (_MASK, group, _NOBODY),
        (_OTHER, other, _NOBODY),
    )


def mode_of_acl(value: bytes) -> int:
    """The permission bits that belong to an ACL of `acl`."""
    permissions: dict[int, int] = {
        tag: bits for tag, bits, _ in struct.iter_unpack("<HHI", value[4:])
    }
    return permissions[_USER_OBJ] << 6 | permissions[_MASK] << 3 | permissions[_OTHER]


CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def namespaced_capability(root: int) -> bytes:
    """A capability that counts in the user namespaces of this root."""
    return struct.pack("<6I", 0x03000001, 1 << 10, 0, 0, 0, root)


@dataclass(frozen=True, slots=True)
class Node:
    """What a lower directory has at one path; ``data`` are pieces of content at offsets."""

    kind: str = "file"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = OLD
    data: tuple[tuple[int, bytes], ...] = ()
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    opaque: bool = False

    def __repr__(self) -> str:
        plain = Node()
        named = [name for name in self.__slots__ if getattr(self, name) != getattr(plain, name)]
        shown = {
            name: oct(getattr(self, name)) if name == "mode" else repr(getattr(self, name))
            for name in named
        }
        return f"Node({', '.join(f'{name}={value}' for name, value in shown.items())})"


Layer = tuple[tuple[str, Node], ...]
Stack = tuple[Layer, ...]
"""The first layer is on top, as in overlayfs' lowerdir."""

ROOT = Node("dir", mode=0o777)


def settled(layer: Layer) -> dict[str, Node]:
    """The tree that comes of the pairs: parents are made, links need a file, the last one wins."""
    tree: dict[str, Node] = {}
    for path, node in layer:
        parts = path.split("/")
        if node.kind == "link":
            target = tree.get(node.target)
            while target is not None and target.kind == "link":
                node, target = target, tree.get(target.target)  # noqa: PLW2901
            if target is None or target.kind in ("dir", "whiteout") or path == node.target:
                continue
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if tree.get(parent, Node("none")).kind != "dir":
                _drop(tree, parent)
                tree[parent] = Node("dir", mode=0o755)
        if node.kind == "link" and tree.get(node.target, Node("dir")).kind == "dir":
            continue  # it became a parent of the link
        if node.kind != "dir" or tree.get(path, node).kind != "dir":
            _drop(tree, path)
        tree[path] = node
    return {
        path: node
        for path, node in sorted(tree.items())
        if node.kind != "link" or tree.get(node.target, Node("none")).kind != "none"
    }


def _drop(tree: dict[str, Node], path: str) -> None:
    tree.pop(path, None)
    for below in [name for name in tree if name.startswith(path + "/")]:
        del tree[below]
    for link in [name for name, node in tree.items() if node.kind == "link"]:
        if tree[link].target not in tree:
            del tree[link]


def reduced(stack: Stack) -> Stack:
    """The same without whiteouts that hide nothing.

    overlayfs finds whiteouts only where directories merge; elsewhere it lists them as files that
    can't be found, and such a directory can't be removed.
    """
    below: dict[str, Node] = {}
    made: list[Layer] = []
    for layer in reversed(stack):
        tree = settled(layer)
        kept = {
            path: node
            for path, node in tree.items()
            if node.kind != "whiteout" or (path in below and _merges(path, tree))
        }
        made.append(links_last(kept))
        for path, node in kept.items():
            if node.kind != "dir" or node.opaque or below.get(path, node).kind != "dir":
                _hide(below, path)
            if node.kind != "whiteout":
                below[path] = node
    return tuple(reversed(made))


def links_last(tree: dict[str, Node]) -> Layer:
    """A tree as pairs, in an order in which it can be made."""
    return tuple(sorted(tree.items(), key=lambda pair: pair[1].kind == "link"))


def _merges(path: str, tree: dict[str, Node]) -> bool:
    parents = [path[:end] for end, letter in enumerate(path) if letter == "/"]
    return not any(tree[parent].opaque for parent in parents)


def _hide(below: dict[str, Node], path: str) -> None:
    for gone in [name for name in below if name == path or name.startswith(path + "/")]:
        del below[gone]


# ---- on disk -----------------------------------------------------------------------------------

KERNEL_MARKS, USER_MARKS, AUFS_MARKS = "trusted", "user", "aufs"


def build(layer: Layer, top: Path, marks: str = KERNEL_MARKS) -> None:
    """Make the directory ``top``; ``marks`` says how whiteouts and opaque directories are spelled.

    Default ACLs and times of directories come last: children would inherit and change them.
    """
    tree = settled(layer)
    top.mkdir()
    for path, node in links_last(tree):
        _make(top, path, node, marks)
    for path, node in sorted(tree.items(), reverse=True):
        if node.kind == "dir":
            for name, value in node.xattrs:
                os.setxattr(top / path, name, value)
            os.utime(top / path, ns=(node.mtime_ns, node.mtime_ns))
    finish_root(top)


def finish_root(top: Path, owner: int = 0, group: int = 0) -> None:
    """Give a root directory the attributes that all have."""
    os.chown(top, owner, group)
    os.chmod(top, ROOT.mode)
    os.utime(top, ns=(ROOT.mtime_ns, ROOT.mtime_ns))


def _make(top: Path, path: str, node: Node, marks: str) -> None:
    full = top / path
    match node.kind:
        case "dir":
            full.mkdir()
        case "file":
            _write(full, node)
        case "symlink":
            full.symlink_to(node.target)
        case "link":
            os.link(top / node.target, full, follow_symlinks=False)
            return
        case "whiteout":
            _whiteout(full, marks)
            return
        case "fifo":
            os.mkfifo(full)
        case _:
            kind = stat.S_IFCHR if node.kind == "char" else stat.S_IFBLK
            os.mknod(full, kind | 0o600, os.makedev(*node.device))
    _attributes(full, node)
    if node.opaque:
        _opaque(full, marks)


def _write(full: Path, node: Node) -> None:
    with full.open("wb") as file:
        for offset, piece in node.data:
            file.seek(offset)
            file.write(piece)


def _whiteout(full: Path, marks: str) -> None:
    if marks == AUFS_MARKS:
        full.with_name(f".wh.{full.name}").touch()
    else:
        os.mknod(full, stat.S_IFCHR | 0o600, os.makedev(0, 0))


def _opaque(full: Path, marks: str) -> None:
    if marks == AUFS_MARKS:
        (full / ".wh..wh..opq").touch()
    else:
        os.setxattr(full, f"{marks}.overlay.opaque", b"y")


def _attributes(full: Path, node: Node) -> None:
    os.chown(full, node.uid, node.gid, follow_symlinks=False)
    if node.kind != "symlink":
        os.chmod(full, node.mode)
    for name, value in node.xattrs if node.kind != "dir" else ():
        os.setxattr(full, name, value, follow_symlinks=False)
    os.utime(full, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)


# ---- as an image -------------------------------------------------------------------------------

_TAR_TYPES = {"fifo": b"6", "char": b"3", "block": b"4"}


def image(stack: Stack, path: Path, owner: int = 0) -> Path:
    """A docker-archive of the same layers."""
    return docker_archive(path, [_tar(layer, owner) for layer in reversed(stack)])


def _tar(layer: Layer, owner: int) -> archives.Layer:
    tar = archives.Layer()
    tar.directory("./", ROOT.mode, owner=(owner, owner), mtime_ns=ROOT.mtime_ns)
    tree = settled(layer)
    for path, node in links_last(tree):
        _tar_entry(tar, path, node)
    return tar


def _tar_entry(tar: archives.Layer, path: str, node: Node) -> None:
    common: dict[str, Any] = {
        "owner": (node.uid, node.gid),
        "mtime_ns": node.mtime_ns,
        "xattrs": dict(node.xattrs),
    }
    parent, _, name = path.rpartition("/")
    match node.kind:
        case "dir":
            tar.directory(path, node.mode, **common)
            if node.opaque:
                tar.file(f"{path}/.wh..wh..opq")
        case "file":
            tar.file(path, content(node), mode=node.mode, **common)
        case "symlink":
            tar.symlink(path, node.target, **common)
        case "link":
            tar.hard_link(path, node.target)
        case "whiteout":
            tar.file(f"{parent}/.wh.{name}" if parent else f".wh.{name}")
        case _:
            tar.add(path, _TAR_TYPES[node.kind], mode=node.mode, device=node.device, **common)


def content(node: Node) -> bytes:
    """All of a file, holes as zeros."""
    data = bytearray()
    for offset, piece in node.data:
        data += bytes(max(offset - len(data), 0))
        data[offset : offset + len(piece)] = piece
    return bytes(data)


def owned_by(stack: Stack, owner: int) -> Stack:
    """The same, as it could be an ordinary user's: all his own, and readable for him."""
    return tuple(
        tuple((path, _owned(node, owner)) for path, node in links_last(settled(layer)))
        for layer in stack
    )


def without(stack: Stack, *prefixes: str) -> Stack:
    """The same without extended attributes of these prefixes."""
    return tuple(
        tuple(
            (
                path,
                replace(
                    node, xattrs=tuple(x for x in node.xattrs if not x[0].startswith(prefixes))
                ),
            )
            for path, node in layer
        )
        for layer in stack
    )


def _owned(node: Node, owner: int) -> Node:
    least = 0o700 if node.kind == "dir" else 0o400
    kind = "fifo" if node.kind in ("char", "block") else node.kind
    xattrs = tuple(pair for pair in node.xattrs if pair[0].startswith("user."))
    mode = node.mode | least
    return replace(node, kind=kind, uid=owner, gid=owner, mode=mode, xattrs=xattrs, device=(0, 0))


# ---- a rich example ----------------------------------------------------------------------------


def _file(text: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0, **more: Any) -> Node:
    return replace(Node(mode=mode, uid=uid, gid=gid, data=((0, text),)), **more)


_SPARSE = Node(data=((0, b"head"), (70_000, b"middle"), (300_000, b"tail")), mode=0o666)
_WITH_ACL = _file(b"acl\n", mode_of_acl(acl(6, 6, 4)), xattrs=((ACCESS, acl(6, 6, 4)),))
_DEFAULT_ACL = Node("dir", mode=0o777, xattrs=((DEFAULT, acl(7, 5, 1)),))

RICH: Stack = (
    (
        ("a", Node("dir", mode=0o777, mtime_ns=OLD + 1)),
        ("a/a", _file(b"of the top layer\n", 0o666)),
        ("a/c", Node("whiteout")),
        ("b", Node("dir", mode=0o777, opaque=True)),
        ("b/b", _file(b"only this is left\n", 0o600)),
        ("c", Node("whiteout")),
        ("d/a/b", _file(b"deep\n")),
        ("e", Node("symlink", target="a/b", uid=USER)),
    ),
    (
        ("a", Node("dir", mode=0o755, uid=USER, gid=USER)),
        ("a/a", _file(b"hidden\n")),
        ("a/b", _file(b"three names\n", 0o666, USER, 100)),
        ("b", Node("dir", mode=0o755)),
        ("b/a", _file(b"hidden by the opaque directory\n")),
        ("c", _file(b"hidden by the whiteout\n")),
        ("d", Node("dir", mode=0o2777, gid=100)),
        ("d/a", Node("dir", mode=0o2775, gid=100)),
        ("d/a/a", Node("link", target="a/b")),
        ("d/b", Node("link", target="a/b")),
        ("d/c", _file(b"#!/bin/sh\n", 0o6755, xattrs=(("security.capability", CAPABILITY),))),
        ("f", _SPARSE),
        ("g", _DEFAULT_ACL),
        ("g/a", _WITH_ACL),
    ),
    (
        ("a", Node("dir", mode=0o700)),
        ("a/c", _file(b"hidden by a whiteout\n")),
        ("a/d", Node("dir", mode=0o1777)),
        ("a/d/a", _file(b"sticky\n", 0o666, 1000, 100)),
        ("a/d/b", Node("dir", mode=0o755, uid=1000)),
        ("a/e", _file(b"x\n", 0o444, USER, USER, xattrs=(("user.a", b"lower"),))),
        ("c/a", _file(b"below what was a file\n")),
        ("d/d", Node("fifo", mode=0o666)),
        ("d/e", Node("char", mode=0o666, device=(1, 3), xattrs=(("trusted.t", b"device"),))),
        ("d/f", Node("block", mode=0o640, device=(259, 70_000))),
        ("h", Node("symlink", target="h")),
        ("n" * 255, _file(b"a long name\n", 0o666)),
        ("m" * 255 + "/a", _file(b"in a long name\n", 0o666)),
    ),
)

# ---- strategies --------------------------------------------------------------------------------

_NAMES = ("a", "b", "c", "d")
_PATHS = (
    *_NAMES,
    *(f"{one}/{two}" for one in "abcd" for two in "abc"),
    *(f"{one}/{two}/{three}" for one in "abd" for two in "ab" for three in "abc"),
)
_path = st.one_of(st.sampled_from(_NAMES), st.sampled_from(_PATHS), st.sampled_from(_PATHS))
_owner = st.sampled_from([(0, 0), (0, 0), (USER, USER), (1000, 100), (0, 100)])
_mtime = st.sampled_from([OLD, OLD + 1, 1, -(10**9) + 5, OLD + 999_999_999])
_xattrs = st.sampled_from(
    [
        (),
        (),
        (),
        (("user.a", b"lower"),),
        (("trusted.t", b"\0\xff"),),
        (("user.b", b""), ("user.a", b"v" * 500)),
    ]
)
_data = st.sampled_from(
    [(), ((0, b"x"),), ((0, b"lower " * 800),), ((0, b"0123456789"),), ((70_000, b"end"),)]
)


_capabilities = st.sampled_from(
    [(("security.capability", value),) for value in (CAPABILITY, namespaced_capability(1000))]
)


def _owned_node(node: Node, owner: tuple[int, int]) -> Node:
    return replace(node, uid=owner[0], gid=owner[1])


def _with_acl(node: Node, value: bytes) -> Node:
    mode = node.mode & 0o7000 | mode_of_acl(value)
    return replace(node, mode=mode, xattrs=((ACCESS, value),))


_files = st.builds(
    Node,
    st.just("file"),
    st.sampled_from([0o644, 0o666, 0o666, 0o600, 0o444, 0o755, 0o4755, 0o2771, 0o222, 0]),
    mtime_ns=_mtime,
    data=_data,
    xattrs=st.one_of(_xattrs, _xattrs, _capabilities),
)
_acls = st.sampled_from([acl(6, 6, 4), acl(7, 0, 0, named=1000), acl(6, 4, 0, user=6)])
_directories = st.builds(
    Node,
    st.just("dir"),
    st.sampled_from([0o777, 0o777, 0o755, 0o1777, 0o2777, 0o2775, 0o700]),
    mtime_ns=_mtime,
    xattrs=_xattrs,
    opaque=st.sampled_from([False, False, True]),
)
_default_acls = st.builds(
    lambda node, value: replace(node, xattrs=((DEFAULT, value),)),
    _directories,
    st.sampled_from([acl(7, 5, 1), acl(6, 7, 0, user=2)]),
)
_specials = st.sampled_from(
    [
        Node("fifo", mode=0o666),
        Node("char", mode=0o666, device=(1, 3)),
        Node("char", mode=0o600, device=(60, 70_000)),
        Node("block", mode=0o640, device=(120, 1)),
    ]
)
_symlinks = st.builds(
    Node,
    st.just("symlink"),
    mode=st.just(0o777),
    mtime_ns=_mtime,
    target=st.sampled_from(["a", "b/a", "../a", "/b", ".", "c", "nowhere", "/", "a/"]),
)
_owned_nodes = st.builds(
    _owned_node,
    st.one_of(
        _files,
        _files,
        _directories,
        _directories,
        _default_acls,
        st.builds(_with_acl, _files, _acls),
        _specials,
        _symlinks,
    ),
    _owner,
)
_nodes = st.one_of(
    _owned_nodes,
    _owned_nodes,
    _owned_nodes,
    _owned_nodes,
    st.builds(Node, st.just("link"), target=_path),
    st.just(Node("whiteout")),
)
_layers = st.lists(st.tuples(_path, _nodes), max_size=10).map(tuple)
stacks: st.SearchStrategy[Stack] = st.lists(_layers, min_size=2, max_size=3).map(tuple)


def describe(stack: Sequence[Layer]) -> str:
    """The stack as Python, one node a line."""
    if stack == RICH:
        return "RICH"
    lines = ["("]
    for layer in stack:
        lines.append("    (")
        lines += [f"        ({path!r}, {node!r})," for path, node in layer]
        lines.append("    ),")
    return "\n".join([*lines, ")"])
