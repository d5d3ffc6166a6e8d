"""The tar parser against what other tar programs write: GNU tar, libarchive, Python.

The oracle is mostly the tree that was archived: what the parser sees must be what ``lstat`` and
``read`` say. The parser is asked through ``tests/c/tardump.c``, in several ways at once.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.needs("make", "cc"), pytest.mark.slow]

Parser = Callable[[bytes], list["Entry"]]

WAYS = (("65536",), ("1000",), ("100000", "skip"))


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One entry as the parser told it; bytes are bytes again."""

    type: str
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    major: int
    minor: int
    mtime_ns: int
    size: int
    stored: int
    sparse: bool
    extents: tuple[tuple[int, int, int], ...]
    xattrs: dict[bytes, bytes]

    def content(self, archive: bytes) -> bytes:
        """The bytes that the file reads as."""
        if not self.sparse:
            return archive[self.stored : self.stored + self.size]
        data = bytearray(self.size)
        for logical, length, stored in self.extents:
            data[logical : logical + length] = archive[stored : stored + length]
        return bytes(data)


def entry_of(line: dict[str, Any]) -> Entry:
    xattrs = {x["name"].encode("latin-1"): x["value"].encode("latin-1") for x in line["xattrs"]}
    same = ("type", "mode", "uid", "gid", "major", "minor", "size", "stored", "sparse")
    return Entry(
        name=line["name"].encode("latin-1"),
        link=line["link"].encode("latin-1"),
        mtime_ns=line["mtime"] * 10**9 + line["nsec"],
        extents=tuple((run[0], run[1], run[2]) for run in line["extents"]),
        xattrs=xattrs,
        **{key: line[key] for key in same},
    )


@pytest.fixture(scope="session")
def tardump(project: Path) -> Path:
    """The parser as a program, up to date."""
    directory = project / "tests" / "c"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    subprocess.run(["make", "-s", "-C", directory, "build/tardump"], check=True, env=environment)
    return directory / "build" / "tardump"


@pytest.fixture(scope="session")
def parse(tardump: Path) -> Parser:
    """Archive to entries, the same in all ways of feeding."""

    def run(archive: bytes) -> list[Entry]:
        outputs = {
            subprocess.run([tardump, *way], input=archive, capture_output=True, check=True).stdout
            for way in WAYS
        }
        assert len(outputs) == 1
        return [entry_of(json.loads(line)) for line in outputs.pop().splitlines()]

    return run


@pytest.fixture(scope="session")
def refusal(tardump: Path) -> Callable[[bytes], str]:
    """What the parser says of an archive that it refuses."""

    def run(archive: bytes) -> str:
        answers = [
            subprocess.run([tardump, *way], input=archive, capture_output=True, check=False)
            for way in WAYS
        ]
        assert {answer.returncode for answer in answers} == {1}
        (text,) = {answer.stderr for answer in answers}
        return text.decode()

    return run


# ---- trees on disk ----


def write_tree(root: Path, *, long_names: bool, special: bool) -> None:
    """Files of every type that an archive can hold; ``special``: also FIFOs and devices."""
    root.mkdir()
    (root / "plain").write_bytes(b"hello")
    (root / "empty").touch()
    (root / "blocks").write_bytes(b"b" * 1024)
    (root / "odd").write_bytes(b"o" * 1025)
    (root / "dir").mkdir(mode=0o750)
    (root / "dir" / "suid").write_bytes(b"s")
    (root / "dir" / "suid").chmod(0o6755)
    (root / "dir" / "sticky").mkdir()
    (root / "dir" / "sticky").chmod(0o1777)
    (root / "symlink").symlink_to("dir/does-not-exist")
    (root / "hardlink").hardlink_to(root / "plain")
    with open(os.fsencode(root) + b"/caf\xe9-\xff", "wb") as file:  # noqa: PTH123
        file.write(b"not UTF-8")
    (root / "ünïcode").write_bytes(b"UTF-8")
    if long_names:
        write_long_names(root)
    if special:
        write_special(root)
    for number, path in enumerate(sorted(all_paths(root), reverse=True)):
        os.utime(
            path, ns=(0, 1_600_000_000_123_456_789 + number * 1_000_000_007), follow_symlinks=False
        )


def write_long_names(root: Path) -> None:
    deep = root / ("d" * 100) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / ("f" * 200)).write_bytes(b"far down")
    (root / "long-link").symlink_to("t" * 300)
    (root / "long-hardlink").hardlink_to(deep / ("f" * 200))
    (root / ("n" * 100)).write_bytes(b"fills its field")
    (root / ("m" * 101)).write_bytes(b"one more")


def write_special(root: Path) -> None:
    os.mkfifo(root / "fifo", 0o640)
    if os.geteuid() == 0:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
        os.chown(root / "plain", 12345, 54321)


def all_paths(root: Path) -> Iterator[bytes]:
    base = os.fsencode(root)
    yield base
    for directory, names, files in os.walk(base):
        yield from (os.path.join(directory, name) for name in names + files)  # noqa: PTH118


TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block_device",
    stat.S_IFIFO: "fifo",
}


def check_metadata(entry: Entry, facts: os.stat_result, *, nanoseconds: bool) -> None:
    assert entry.mode == stat.S_IMODE(facts.st_mode)
    assert (entry.uid, entry.gid) == (facts.st_uid, facts.st_gid)
    second = 1 if nanoseconds else 10**9
    assert entry.mtime_ns == facts.st_mtime_ns // second * second


def check_against_disk(entry: Entry, archive: bytes, path: bytes, *, nanoseconds: bool) -> None:
    facts = os.lstat(path)
    check_metadata(entry, facts, nanoseconds=nanoseconds)
    if entry.type == "hardlink":
        return
    assert entry.type == TYPES[stat.S_IFMT(facts.st_mode)]
    if entry.type == "file":
        with open(path, "rb") as file:  # noqa: PTH123
            assert entry.content(archive) == file.read()
    elif entry.type == "symlink":
        assert entry.link == os.readlink(path)  # noqa: PTH115
    elif entry.type in ("character", "block_device"):
        assert os.makedev(entry.major, entry.minor) == facts.st_rdev


def check_tree(
    entries: list[Entry], archive: bytes, root: Path, *, nanoseconds: bool = False
) -> None:
    """The entries are exactly the tree: every path once, hard links to the same inode."""
    base = os.fsencode(root.parent)
    seen = {entry.name.rstrip(b"/") for entry in entries}
    assert len(seen) == len(entries)
    assert {base + b"/" + name for name in seen} == set(all_paths(root))
    for entry in entries:
        path = base + b"/" + entry.name.rstrip(b"/")
        check_against_disk(entry, archive, path, nanoseconds=nanoseconds)
        if entry.type == "hardlink":
            assert os.lstat(base + b"/" + entry.link).st_ino == os.lstat(path).st_ino


def run_tar(program: str, directory: Path, *arguments: str) -> bytes:
    """An archive of ``tree`` in ``directory``; a warning of the program is a failure."""
    environment = os.environ | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
    command = [program, "-c", "-f", "-", *arguments, "tree"]
    result = subprocess.run(
        command, cwd=directory, capture_output=True, check=True, env=environment
    )
    assert result.stderr == b""
    return result.stdout


# ---- whole trees ----


@pytest.mark.needs("tar")
@pytest.mark.parametrize(
    ("dialect", "long_names", "special"),
    [
        ("v7", False, False),
        ("oldgnu", True, True),
        ("gnu", True, True),
        ("ustar", False, True),
        ("posix", True, True),
    ],
)
def test_gnu_tar(
    parse: Parser, tmp_path: Path, dialect: str, long_names: bool, special: bool
) -> None:
    write_tree(tmp_path / "tree", long_names=long_names, special=special)
    archive = run_tar("tar", tmp_path, f"--format={dialect}")
    check_tree(parse(archive), archive, tmp_path / "tree", nanoseconds=dialect == "posix")


@pytest.mark.needs("bsdtar")
@pytest.mark.parametrize(
    ("dialect", "long_names"), [("v7", False), ("ustar", False), ("pax", True), ("gnutar", True)]
)
def test_libarchive(parse: Parser, tmp_path: Path, dialect: str, long_names: bool) -> None:
    write_tree(tmp_path / "tree", long_names=long_names, special=dialect != "v7")
    binary = ("--options", "hdrcharset=BINARY") if dialect == "pax" else ()
    archive = run_tar("bsdtar", tmp_path, f"--format={dialect}", *binary)
    check_tree(parse(archive), archive, tmp_path / "tree", nanoseconds=dialect == "pax")


@pytest.mark.parametrize(
    ("dialect", "long_names"),
    [
        (tarfile.USTAR_FORMAT, False),
        (tarfile.GNU_FORMAT, True),
        (tarfile.PAX_FORMAT, True),
    ],
)
def test_python(parse: Parser, tmp_path: Path, dialect: int, long_names: bool) -> None:
    write_tree(tmp_path / "tree", long_names=long_names, special=True)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=dialect) as tar:
        tar.add(tmp_path / "tree", "tree", filter=whole_seconds)
    check_tree(parse(out.getvalue()), out.getvalue(), tmp_path / "tree")


def whole_seconds(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Python keeps times as floats, which are not exact."""
    info.mtime = int(info.mtime)
    return info


@pytest.mark.needs("tar")
def test_ustar_prefix(parse: Parser, tmp_path: Path) -> None:
    """Names of 101 to 256 bytes are split at a slash."""
    directory = tmp_path / "tree" / ("d" * 70) / ("e" * 70)
    directory.mkdir(parents=True)
    (directory / ("f" * 90)).write_bytes(b"prefix")
    archive = run_tar("tar", tmp_path, "--format=ustar")
    check_tree(parse(archive), archive, tmp_path / "tree")


@pytest.mark.needs("tar")
@pytest.mark.parametrize("dialect", ["gnu", "posix"])
def test_times_before_1970(parse: Parser, tmp_path: Path, dialect: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number, nanoseconds in enumerate((-1, -1_500_000_000, -(10**18), 0, 1, 2**34 * 10**9)):
        (tree / str(number)).touch()
        os.utime(tree / str(number), ns=(0, nanoseconds))
    archive = run_tar("tar", tmp_path, f"--format={dialect}")
    check_tree(parse(archive), archive, tree, nanoseconds=dialect == "posix")


@pytest.mark.needs("tar", "root")
@pytest.mark.parametrize("dialect", ["gnu", "posix"])
def test_large_owners(parse: Parser, tmp_path: Path, dialect: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.chown(tree, 2**31 + 5, 2**32 - 2)
    archive = run_tar("tar", tmp_path, f"--format={dialect}")
    check_tree(parse(archive), archive, tree, nanoseconds=dialect == "posix")


@pytest.mark.needs("tar")
def test_global_and_local_records_of_gnu_tar(parse: Parser, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", long_names=True, special=False)
    options = "uid=77,gid=78,gid:=79,mtime:={@5},comment=all"
    archive = run_tar("tar", tmp_path, "--format=posix", f"--pax-option={options}")
    entries = parse(archive)
    assert len(entries) == len(list(all_paths(tmp_path / "tree")))
    assert {(e.uid, e.gid, e.mtime_ns) for e in entries} == {(77, 79, 5_000_000_000)}


@pytest.mark.needs("tar")
def test_volume_label_and_incremental_directories(parse: Parser, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", long_names=True, special=False)
    arguments = ("--format=gnu", "--label=a label", "--incremental")
    archive = run_tar("tar", tmp_path, *arguments)
    assert {archive[156:157], archive[512 + 156 : 512 + 157]} == {b"V", b"D"}
    check_tree(parse(archive), archive, tmp_path / "tree")


# ---- sparse files ----


def write_sparse(path: Path, size: int, pieces: Iterable[tuple[int, bytes]]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)


def write_sparse_tree(root: Path) -> None:
    """Holes at the start, in between, at the end, everywhere; few runs and many."""
    mib = 1 << 20
    root.mkdir()
    write_sparse(root / "holes-only", mib, [])
    write_sparse(root / "start", mib, [(mib - 10, b"at the end")])
    write_sparse(root / "end", mib, [(0, b"at the start")])
    write_sparse(root / "odd-end", mib + 7, [(65536, b"m" * 5000)])
    write_sparse(root / "five", mib, [(i * 131072, b"%d" % i * 4096) for i in range(5)])
    write_sparse(root / "many", 4 * mib, [(i * 32768 + 8192, b"x" * 4096) for i in range(100)])
    write_sparse(root / ("long" * 40), mib, [(4096, b"l")])
    (root / "plain").write_bytes(b"no holes")


SPARSE = ["--format=oldgnu", "--format=gnu"] + [
    f"--format=posix --sparse-version={version}" for version in ("0.0", "0.1", "1.0")
]


@pytest.mark.needs("tar")
@pytest.mark.parametrize("detection", ["raw", "seek"])
@pytest.mark.parametrize("arguments", SPARSE)
def test_sparse_files_of_gnu_tar(
    parse: Parser, tmp_path: Path, arguments: str, detection: str
) -> None:
    write_sparse_tree(tmp_path / "tree")
    options = ("--sparse", f"--hole-detection={detection}", *arguments.split())
    archive = run_tar("tar", tmp_path, *options)
    entries = parse(archive)
    assert sum(entry.sparse for entry in entries) == 7
    assert max(len(entry.extents) for entry in entries) >= 100
    assert len(archive) < 2 << 20
    check_tree(entries, archive, tmp_path / "tree", nanoseconds="posix" in arguments)


@pytest.mark.needs("bsdtar")
def test_sparse_files_of_libarchive(parse: Parser, tmp_path: Path) -> None:
    write_sparse_tree(tmp_path / "tree")
    archive = run_tar("bsdtar", tmp_path, "--format=pax", "--read-sparse")
    entries = parse(archive)
    assert sum(entry.sparse for entry in entries) == 7
    check_tree(entries, archive, tmp_path / "tree", nanoseconds=True)


# ---- xattrs ----

XATTRS = {
    b"user.plain": b"value",
    b"user.empty": b"",
    b"user.bytes": bytes(range(256)),
    b"user.lines": b"\n9 path=x\n=\n",
    b"user.odd name \xc3\xa9": b"\0",
}


def write_xattr_tree(root: Path) -> None:
    root.mkdir()
    (root / "file").write_bytes(b"with attributes")
    try:
        for name, value in XATTRS.items():
            os.setxattr(root / "file", name, value)
    except OSError as error:
        pytest.skip(f"xattrs in {root}: {error.strerror}")


@pytest.mark.needs("tar")
def test_xattrs_of_gnu_tar(parse: Parser, tmp_path: Path) -> None:
    write_xattr_tree(tmp_path / "tree")
    archive = run_tar("tar", tmp_path, "--format=posix", "--xattrs")
    (file,) = (entry for entry in parse(archive) if entry.name == b"tree/file")
    assert file.xattrs == XATTRS


@pytest.mark.needs("bsdtar")
def test_xattrs_of_libarchive(parse: Parser, tmp_path: Path) -> None:
    """It writes each twice, as SCHILY.xattr and as LIBARCHIVE.xattr.

    It encodes the name of the first, too; engines, and so we, take that one literally.
    """
    write_xattr_tree(tmp_path / "tree")
    archive = run_tar("bsdtar", tmp_path, "--format=pax", "--xattrs")
    assert b"LIBARCHIVE.xattr.user." in archive
    (file,) = (entry for entry in parse(archive) if entry.name == b"tree/file")
    assert file.xattrs == XATTRS | {b"user.odd%20name%20%C3%A9": b"\0"}


# ---- random entries, written by Python ----

DIALECTS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
TAR_TYPES = {
    "file": tarfile.REGTYPE,
    "hardlink": tarfile.LNKTYPE,
    "symlink": tarfile.SYMTYPE,
    "character": tarfile.CHRTYPE,
    "block_device": tarfile.BLKTYPE,
    "directory": tarfile.DIRTYPE,
    "fifo": tarfile.FIFOTYPE,
}
USTAR_OWNER = 0o7777777
USTAR_TIME = 0o77777777777

component = st.binary(min_size=1, max_size=40).map(
    lambda data: data.replace(b"\0", b"0").replace(b"/", b"1")
)
short_names = st.lists(component, min_size=1, max_size=2).map(b"/".join)
long_names = st.lists(component, min_size=1, max_size=12).map(b"/".join)


@st.composite
def members(draw: st.DrawFn, dialect: str) -> tuple[str, tarfile.TarInfo, bytes]:
    """An entry that the dialect can hold, with its payload."""
    kind = draw(st.sampled_from(sorted(TAR_TYPES)))
    narrow = dialect == "ustar"
    names = short_names if narrow else long_names
    owner = st.integers(0, USTAR_OWNER if narrow else 2**32 - 1)
    info = tarfile.TarInfo(os.fsdecode(draw(names)))
    info.type = TAR_TYPES[kind]
    info.mode = draw(st.integers(0, 0o7777))
    info.uid, info.gid = draw(owner), draw(owner)
    info.mtime = draw(st.integers(0, USTAR_TIME) if narrow else st.integers(-(2**62), 2**62))
    payload = draw(st.binary(max_size=1100)) if kind == "file" else b""
    info.size = len(payload)
    if kind in ("hardlink", "symlink"):
        info.linkname = os.fsdecode(draw(names))
    if kind in ("character", "block_device"):
        info.devmajor, info.devminor = draw(st.tuples(*[st.integers(0, USTAR_OWNER)] * 2))
    if dialect == "pax" and draw(st.booleans()):
        info.pax_headers = {"SCHILY.xattr.user." + draw(st.text("abc", min_size=1)): "välue"}
    return kind, info, payload


@st.composite
def archives(draw: st.DrawFn) -> tuple[str, list[tuple[str, tarfile.TarInfo, bytes]]]:
    dialect = draw(st.sampled_from(sorted(DIALECTS)))
    return dialect, draw(st.lists(members(dialect), max_size=6))


def written_name(kind: str, info: tarfile.TarInfo) -> bytes:
    """A directory gets one slash; tarfile.TarInfo takes off all that the name had."""
    return os.fsencode(info.name) + (b"/" if kind == "directory" else b"")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=archives())
def test_random_entries(
    parse: Parser, case: tuple[str, list[tuple[str, tarfile.TarInfo, bytes]]]
) -> None:
    dialect, wanted = case
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=DIALECTS[dialect]) as tar:
        for _, info, payload in wanted:
            tar.addfile(info, io.BytesIO(payload))
    archive = out.getvalue()
    entries = parse(archive)
    assert len(entries) == len(wanted)
    for entry, (kind, info, payload) in zip(entries, wanted, strict=True):
        assert entry.type == kind
        assert entry.name == written_name(kind, info)
        assert entry.link == os.fsencode(info.linkname)
        assert (entry.mode, entry.uid, entry.gid) == (info.mode, info.uid, info.gid)
        assert entry.mtime_ns == info.mtime * 10**9
        assert entry.content(archive) == payload
        assert (entry.major, entry.minor) == (info.devmajor, info.devminor)
        assert entry.xattrs == {
            key.removeprefix("SCHILY.xattr.").encode(): value.encode()
            for key, value in info.pax_headers.items()
        }


def test_python_reads_the_same_globals(parse: Parser) -> None:
    out = io.BytesIO()
    everywhere = {"uid": "5", "mtime": "7", "comment": "for all"}
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=everywhere
    ) as tar:
        for name, records in (("a", {}), ("b", {"uid": "6"})):
            info = tarfile.TarInfo(name)
            info.pax_headers = records
            tar.addfile(info)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        wanted = [(info.name.encode(), info.uid, info.mtime * 10**9) for info in tar]
    assert wanted == [(b"a", 5, 7 * 10**9), (b"b", 6, 7 * 10**9)]
    assert [(e.name, e.uid, e.mtime_ns) for e in parse(out.getvalue())] == wanted


# ---- damage ----


@pytest.mark.needs("tar")
def test_every_truncation_is_noticed(
    tardump: Path, parse: Parser, refusal: Callable[[bytes], str], tmp_path: Path
) -> None:
    """Only an end between two entries, or within the last padding, passes for an end."""
    write_tree(tmp_path / "tree", long_names=False, special=False)
    archive = run_tar("tar", tmp_path, "--format=posix")
    ends = {0}
    for entry in parse(archive):
        data = entry.stored + (entry.size if entry.type == "file" else 0)
        ends.update(range(data, (data + 511) // 512 * 512 + 1))
    last = max(ends)
    for size in sorted({*range(0, last, 97), *(n * 512 for n in range(last // 512))}):
        if size in ends:
            parse(archive[:size])
        else:
            assert "archive ends within" in refusal(archive[:size])


@pytest.mark.needs("tar")
def test_flipped_bits_in_a_header_are_noticed(
    refusal: Callable[[bytes], str], tmp_path: Path
) -> None:
    (tmp_path / "tree").write_bytes(b"one file")
    archive = run_tar("tar", tmp_path, "--format=ustar")
    for position in range(0, 512, 7):
        damaged = bytearray(archive)
        damaged[position] ^= 1 << position % 8
        assert "checksum" in refusal(bytes(damaged))
