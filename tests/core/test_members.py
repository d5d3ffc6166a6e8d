"""Members that the core makes, beside those of ``formats/tar_writer.py``, whose bytes they have."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.trees import tree_layer, tree_of

from unionmount.core import ROOT, Node, PlainMembers, Tree
from unionmount.formats.tar_writer import END, Member, header, padding

_SECOND = 10**9
_ROOM = 1 << 20


class Stored(NamedTuple):
    """A member with its content."""

    member: Member
    content: bytes = b""

    @property
    def data(self) -> bytes:
        return header(self.member) + self.content + padding(len(self.content))


def file(name: bytes, content: bytes = b"", **more: Any) -> Stored:
    return Stored(Member(name, size=len(content), **more), content)


def added(tree: Tree, directory: Node, prefix: bytes, room: int = _ROOM) -> tuple[bytes, int]:
    """What becomes members, in pieces of at most ``room`` bytes, and the cookie after it."""
    cookie, data = 0, b""
    with PlainMembers(tree) as members:
        while True:
            buffer, before = bytearray(room), cookie
            cookie, used, is_full = members.add(directory, prefix, cookie, buffer, 0)
            data += buffer[:used]
            if not is_full or cookie == before:
                return data, cookie


def names_from(tree: Tree, directory: Node, cookie: int) -> list[bytes]:
    return [entry.name for entry in tree.list(directory, cookie)]


NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in (b".", b"..") and b".wh." not in name
)
TARGETS = st.binary(min_size=1, max_size=300).filter(lambda target: b"\0" not in target)
TIMES = st.one_of(
    st.integers(-(2**34) * _SECOND, 2**35 * _SECOND),
    st.integers(-(2**34), 2**35).map(lambda seconds: seconds * _SECOND),
    st.sampled_from([-1, 0, 1, _SECOND - 1, -_SECOND, 8**11 * _SECOND, 8**11 * _SECOND - 1]),
)
SEVEN_DIGITS = st.one_of(st.integers(0, 8**7 - 1), st.sampled_from([0, 8**7 - 1]))
CONTENTS = st.one_of(
    st.binary(max_size=1500),
    st.sampled_from([0, 511, 512, 513, 4096, 70_000]).map(lambda size: bytes([size % 251]) * size),
)


@st.composite
def plain(draw: st.DrawFn, name: bytes) -> Stored:
    """A regular file or a symlink whose numbers have room in a block."""
    fields: dict[str, Any] = {
        "uid": draw(SEVEN_DIGITS),
        "gid": draw(SEVEN_DIGITS),
        "mtime_ns": draw(TIMES),
    }
    if draw(st.integers(0, 3)) == 0:
        target = draw(TARGETS)
        return Stored(Member(name, stat.S_IFLNK | 0o777, target=target, **fields))
    content = draw(CONTENTS)
    mode = stat.S_IFREG | draw(st.integers(0, 0o7777))
    return Stored(Member(name, mode, size=len(content), **fields), content)


@given(st.data())
def test_members_have_the_bytes_of_the_writer(data: st.DataObject) -> None:
    """Whatever the order in the layer, the members are those of the writer, sorted by name."""
    parents = data.draw(st.lists(NAMES, max_size=2))
    prefix = b"".join(name + b"/" for name in parents)
    names = data.draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    stored = [data.draw(plain(prefix + name)) for name in names]
    with tree_of([b"".join(one.data for one in stored) + END]) as tree:
        directory = tree.resolve(prefix).node
        found, cookie = added(tree, directory, prefix)
        assert found == b"".join(one.data for one in sorted(stored, key=lambda s: s.member.name))
        assert names_from(tree, directory, cookie) == []
    with tarfile.open(
        fileobj=io.BytesIO(found + END), encoding="utf-8", errors="surrogateescape"
    ) as tar:
        assert {os.fsencode(one.name).rstrip(b"/") for one in tar} == {
            one.member.name for one in stored
        }


def test_every_length_of_a_record() -> None:
    """The length of a record counts its own digits, which become more at 100 and at 1000."""
    deep = b"/".join([b"d" * 200] * 4) + b"/"
    lengths = (*range(80, 120), *range(970, 1010))
    links = [
        Stored(Member(deep + b"%04d" % length, stat.S_IFLNK | 0o777, target=b"t" * length))
        for length in lengths
    ]
    names = [file(deep + b"n" * (length - len(deep))) for length in lengths if length > len(deep)]
    with tree_of([b"".join(one.data for one in (*links, *names)) + END]) as tree:
        directory = tree.resolve(deep).node
        assert added(tree, directory, deep)[0] == b"".join(one.data for one in (*links, *names))


@pytest.mark.parametrize(
    "other",
    [
        Stored(Member(b"m", stat.S_IFDIR | 0o755)).data,
        Stored(Member(b"m", stat.S_IFIFO | 0o600)).data,
        Stored(Member(b"m", stat.S_IFCHR | 0o600, device=(1, 3))).data,
        file(b"m", uid=8**7).data,
        file(b"m", gid=8**7).data,
        file(b"m", xattrs={b"user.a": b"1"}).data,
        Stored(Member(b"m", stat.S_IFLNK | 0o777, target=b"a", xattrs={b"user.a": b"1"})).data,
        file(b"m", b"x").data + Stored(Member(b"n", target=b"m", hard_link=True)).data,
    ],
    ids=["directory", "fifo", "device", "owner", "group", "xattr", "symlink-xattr", "hard-link"],
)
def test_what_is_not_plain_is_left_to_the_caller(other: bytes) -> None:
    first, last = file(b"a", b"first"), file(b"z", b"last")
    with tree_of([first.data + other + last.data + END]) as tree, PlainMembers(tree) as members:
        buffer = bytearray(_ROOM)
        cookie, used, is_full = members.add(ROOT, b"", 0, buffer, 0)
        assert (bytes(buffer[:used]), is_full) == (first.data, False)
        rest = tree.list(ROOT, cookie)
        assert (rest[0].name, rest[-1].name) == (b"m", b"z")
        cookie, used, is_full = members.add(ROOT, b"p/", rest[-2].next, buffer, 7)
        assert bytes(buffer[7:used]) == file(b"p/z", b"last").data
        assert names_from(tree, ROOT, cookie) == []


def sparse_tar() -> bytes:
    """A file with one run of data behind a hole, in the oldest of the pax formats."""
    info = tarfile.TarInfo("m")
    info.size = 3
    info.pax_headers = {"GNU.sparse.size": "9000", "GNU.sparse.map": "5000,3"}
    return info.tobuf(tarfile.PAX_FORMAT) + b"abc" + padding(3)


def test_a_sparse_file_is_not_plain() -> None:
    with tree_of([file(b"a").data + sparse_tar() + END]) as tree:
        assert tree.lookup(ROOT, b"m").size == 9000
        found, cookie = added(tree, ROOT, b"")
        assert found == file(b"a").data
        assert names_from(tree, ROOT, cookie) == [b"m"]


def test_many_files_are_one_call() -> None:
    stored = [file(b"%04d" % number, b"x" * (number % 600)) for number in range(1000)]
    with tree_of([b"".join(one.data for one in stored) + END]) as tree:
        with PlainMembers(tree) as members:
            buffer = bytearray(2 * _ROOM)
            cookie, used, is_full = members.add(ROOT, b"", 0, buffer, 0)
        assert not is_full
        assert bytes(buffer[:used]) == b"".join(one.data for one in stored)
        assert names_from(tree, ROOT, cookie) == []


def test_any_room_gives_the_same_bytes() -> None:
    stored = [
        *(file(b"a", b"1"), file(b"b" * 101, b"2" * 512), file(b"c", b"3" * 513)),
        *(file(b"d"), file(b"e", b"5" * 1024, mtime_ns=5)),
        Stored(Member(b"f", stat.S_IFLNK | 0o777, target=b"t" * 200)),
    ]
    wanted = b"".join(one.data for one in stored)
    largest = max(len(one.data) for one in stored)
    with tree_of([wanted + END]) as tree:
        for room in range(largest, len(wanted) + 2):
            assert added(tree, ROOT, b"", room)[0] == wanted, room
        assert added(tree, ROOT, b"", len(stored[0].data) - 1) == (b"", 0)


def test_a_layer_that_became_shorter_is_left_to_the_caller() -> None:
    """The members of a read that failed are taken back, and the caller meets the error."""
    stored = [file(b"a", b"first"), file(b"b", b"second"), file(b"c", b"third" * 1000)]
    data = b"".join(one.data for one in stored) + END
    with ExitStack() as stack:
        layer = tree_layer(data, stack)
        tree = stack.enter_context(Tree([layer]))
        members = stack.enter_context(PlainMembers(tree))
        os.truncate(layer.fd, len(stored[0].data))
        buffer = bytearray(_ROOM)
        assert members.add(ROOT, b"", 0, buffer, 512) == (0, 512, False)
        (first,) = tree.list(ROOT, 0, 1)
        assert tree.read(first.attributes.node, 0, 9) == b"first"
        assert members.add(ROOT, b"", first.next, buffer, 512) == (first.next, 512, False)
        (second,) = tree.list(ROOT, first.next, 1)
        with pytest.raises(OSError, match="Input/output error"):
            tree.read(second.attributes.node, 0, 9)


def test_layers_are_read_where_their_files_are() -> None:
    """Files of several layers in one directory, each from its own tar."""
    low = [file(b"%02d" % number, b"low %d" % number) for number in range(20)]
    high = [file(b"%02d" % number, b"high %d" % number) for number in range(0, 20, 3)]
    tars = [b"".join(one.data for one in layer) + END for layer in (low, high)]
    wanted = {one.member.name: one.data for one in (*low, *high)}
    with tree_of(tars) as tree:
        assert added(tree, ROOT, b"")[0] == b"".join(wanted[name] for name in sorted(wanted))


def test_closing_after_the_tree() -> None:
    with tree_of([file(b"a").data + END]) as tree:
        members = PlainMembers(tree)
    members.close()
    members.close()
