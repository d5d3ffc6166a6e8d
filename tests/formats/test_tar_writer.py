"""Headers of tars, read by Python's tarfile and by the core."""

from __future__ import annotations

import io
import stat
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.trees import facts, tree_of

from unionmount.formats.tar_writer import BLOCK, END, Member, can_hold, header, padding

_SECOND = 10**9


def one(member: Member, content: bytes = b"") -> bytes:
    return header(member) + content + padding(len(content)) + END


def by_tarfile(data: bytes) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        (found,) = tar.getmembers()
        return found


def by_gnu(member: Member) -> bool:
    """Whether the member is one block: what it says needs no pax header."""
    return len(header(member)) == BLOCK


NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: (
        not {b"\0", b"/"} & {name[i : i + 1] for i in range(len(name))}
        and name not in (b".", b"..")
        and b".wh." not in name
    )
)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=40)
    .filter(lambda name: b"\0" not in name)
    .map(lambda name: b"user." + name),
    st.binary(max_size=300),
    max_size=3,
)


@given(
    st.lists(NAMES, min_size=1, max_size=3).map(b"/".join),
    st.integers(0, 0o7777),
    st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2)),
    st.integers(-(2**33) * _SECOND, 2**34 * _SECOND),
    st.binary(max_size=1500),
    XATTRS,
)
def test_the_core_reads_what_was_written(
    name: bytes,
    mode: int,
    owner: tuple[int, int],
    mtime_ns: int,
    content: bytes,
    xattrs: dict[bytes, bytes],
) -> None:
    member = Member(
        name,
        stat.S_IFREG | mode,
        *owner,
        size=len(content),
        mtime_ns=mtime_ns,
        xattrs=xattrs,
    )
    with tree_of([one(member, content)]) as tree:
        shown = facts(tree)[name]
        assert tree.read(tree.resolve(name).node, 0, 2000) == content
    assert shown.mode == stat.S_IFREG | mode
    assert shown.owner == owner
    assert shown.mtime_ns == mtime_ns
    assert dict(shown.xattrs) == xattrs


def test_what_fits_is_one_block() -> None:
    assert by_gnu(Member(b"n" * 100, uid=0o7777777, size=0o77777777777, mtime_ns=_SECOND))
    assert by_gnu(Member(b"l", stat.S_IFLNK | 0o777, target=b"t" * 100))
    assert by_gnu(Member(b"d" * 99, stat.S_IFDIR | 0o755))


@pytest.mark.parametrize(
    ("member", "records"),
    [
        (Member(b"n" * 101), {"path": "n" * 101}),
        (Member(b"d" * 100, stat.S_IFDIR), {"path": "d" * 100 + "/"}),
        (Member(b"l", stat.S_IFLNK, target=b"t" * 101), {"linkpath": "t" * 101}),
        (Member(b"u", uid=0o10000000), {"uid": "2097152"}),
        (Member(b"g", gid=2**32 - 2), {"gid": "4294967294"}),
        (Member(b"s", size=8 << 30), {"size": "8589934592"}),
        (Member(b"t", mtime_ns=1_500_000_000), {"mtime": "1.5"}),
        (Member(b"t", mtime_ns=-1_500_000_000), {"mtime": "-1.5"}),
        (Member(b"t", mtime_ns=-1), {"mtime": "-0.000000001"}),
        (Member(b"t", mtime_ns=2**33 * _SECOND), {"mtime": "8589934592"}),
        (Member(b"x", xattrs={b"user.a": b"b\xffc"}), {"SCHILY.xattr.user.a": "b\udcffc"}),
        (Member(b"x", xattrs={b"user.a=b": b"c"}), {"LIBARCHIVE.xattr.user.a%3Db": "Yw"}),
    ],
)
def test_what_does_not_fit_is_a_record(member: Member, records: dict[str, str]) -> None:
    data = header(member) + END
    reader = tarfile.open(  # noqa: SIM115 - what follows the header is not there
        fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape"
    )
    found = reader.next()
    assert found is not None
    assert found.pax_headers == records


def test_names_are_bytes_for_tarfile_too() -> None:
    for name in (b"\xff\xfe", b"\xff" * 200, "Grüße".encode()):
        assert by_tarfile(one(Member(name))).name.encode("utf-8", "surrogateescape") == name


def test_the_length_of_a_record_counts_itself() -> None:
    for length in range(1, 1200):
        found = by_tarfile(one(Member(b"x", xattrs={b"user.v": b"v" * length})))
        assert found.pax_headers == {"SCHILY.xattr.user.v": "v" * length}


def test_devices_and_links() -> None:
    device = by_tarfile(one(Member(b"c", stat.S_IFCHR | 0o600, device=(259, 70_000))))
    assert (device.ischr(), device.devmajor, device.devminor) == (True, 259, 70_000)
    large = one(Member(b"b", stat.S_IFBLK | 0o600, device=(2**31, 2**32 - 1)))
    with tree_of([large]) as tree:
        assert facts(tree)[b"b"].device == (2**31, 2**32 - 1)
    link = by_tarfile(one(Member(b"h", hard_link=True, target=b"c")))
    assert (link.islnk(), link.linkname) == (True, "c")


def test_a_socket_has_no_type() -> None:
    assert not can_hold(stat.S_IFSOCK | 0o600)
    assert can_hold(stat.S_IFIFO | 0o600)
