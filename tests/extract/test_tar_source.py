"""Tar streams: every dialect as GNU tar unpacks it, and damaged or hostile ones as typed errors."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import resource
import subprocess
import tarfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from support.compare import differences, snapshot
from support.exported import ODD_NAMES, layers
from support.tar_streams import descriptor_of, member, tar_of, unpack

from unionmount.errors import FormatError, LimitExceeded, UnionmountError
from unionmount.extract.items import CopyItem
from unionmount.extract.tar_source import TarSource
from unionmount.extract.target import CopyPolicy

EVERYTHING = CopyPolicy(attributes=True, owners=True)


def items_of(data: bytes) -> list[tuple[CopyItem, bytes]]:
    """The items, with their content as it is without holes."""
    fd = descriptor_of(data)
    try:
        return [(item, content_of(item)) for item in TarSource(fd, "tar").items()]
    finally:
        os.close(fd)


def content_of(item: CopyItem) -> bytes:
    content = bytearray(item.size)
    for offset, data in item.content.pieces() if item.content else ():
        content[offset : offset + len(data)] = data
    return bytes(content)


@pytest.mark.needs("root", "tar")
@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "pax", "sparse"])
def test_every_dialect_is_what_gnu_tar_unpacks(tmp_path: Path, form: str) -> None:
    top = tmp_path / "top"
    (top / "below/deep").mkdir(parents=True)
    (top / "file").write_bytes(bytes(range(256)) * 5000)
    (top / "below/link").symlink_to("../file")
    os.mkfifo(top / "below/fifo")
    if form != "v7":
        (top / ("n" * 90)).mkdir()
        (top / ("n" * 90) / ("m" * 80)).write_bytes(b"long")
    os.link(top / "file", top / "below/again")
    os.chown(top / "below/deep", 33, 34)
    with (top / "holes").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"in the middle")
        file.truncate(9 << 20)
    how = ["--format=pax", "--sparse"] if form == "sparse" else [f"--format={form}"]
    how += ["--sparse"] if form in ("oldgnu", "gnu") else []
    exclude = ["--exclude=fifo"] if form == "v7" else []
    words = ["tar", *how, *exclude, "-C", str(top), "-cf", "-", "."]
    data = subprocess.run(words, check=True, capture_output=True).stdout
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    extract = ["tar", "-xpf", "-", "-C", str(tmp_path / "theirs")]
    subprocess.run(extract, input=data, check=True)
    assert unpack(data, tmp_path / "ours", EVERYTHING) == []

    def excuse(path: bytes, field: str, expected: object, found: object) -> bool:
        return path == b"" and field in ("mtime_ns", "mode")  # the place itself

    wanted, found = (snapshot(tmp_path / name) for name in ("theirs", "ours"))
    assert differences(wanted, found, excuse) == []
    if form == "sparse":
        assert (tmp_path / "ours/holes").stat().st_blocks < 1000


@pytest.mark.needs("root", "tar")
def test_every_kind_of_file(tmp_path: Path) -> None:
    data = layers()[0].data()
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    words = ["tar", "--xattrs", "--xattrs-include=*", "-xpf", "-", "-C", str(tmp_path / "theirs")]
    subprocess.run(words, input=data, check=True)
    assert unpack(data, tmp_path / "ours", EVERYTHING) == []
    made = (b"", b"times", b"sizes", b"odd", b"dev", b"deep")  # not in the tar

    def excuse(path: bytes, field: str, expected: object, found: object) -> bool:
        if field in ("mode", "uid", "gid") and path in (b"tool", b"home/tool", b"home/again"):
            return True  # tar applies what the header of a hard link says
        return field == "mtime_ns" and path.startswith(made)

    wanted, found = (snapshot(tmp_path / name) for name in ("theirs", "ours"))
    assert {os.fsencode(f"odd/{name}") for name in ODD_NAMES} <= found.keys()
    assert differences(wanted, found, excuse) == []


def test_compressed_streams() -> None:
    data = tar_of(member("one", content=b"1" * 100_000))
    for packed in (gzip.compress(data), lzma.compress(data)):
        ((item, content),) = items_of(packed)
        assert (item.path, content) == (b"one", b"1" * 100_000)


def test_a_pipe_is_read_to_its_end() -> None:
    """What follows the end of the tar would else stop its writer."""
    reader, writer = os.pipe()
    data = tar_of(member("one", content=b"1")) + bytes(1 << 20)

    def write() -> None:
        with open(writer, "wb") as pipe:  # noqa: PTH123
            pipe.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    assert [item.path for item in TarSource(reader, "tar").items()] == [b"one"]
    thread.join()
    os.close(reader)


# ---- damaged and hostile -------------------------------------------------------------------------


def test_what_is_no_tar() -> None:
    for data in (b"x" * 5000, b"hello\n", b""):
        with pytest.raises(FormatError):
            items_of(data)


def test_every_cut_is_noticed() -> None:
    """A stream that ends early is an error, wherever it ends; tarfile alone would not say so."""
    data = tar_of(member("a", content=b"1" * 1000), member("b", content=b"2" * 600))
    whole = len(data.rstrip(b"\0"))
    for size in range(1, whole, 97):
        if size % 512 == 0 and size < 1024:
            continue
        with pytest.raises(UnionmountError):
            items_of(data[:size])


def test_damage_in_the_middle_is_no_end() -> None:
    data = bytearray(tar_of(member("a"), member("b"), member("c")))
    data[512 + 148] ^= 1  # the checksum of b
    with pytest.raises(FormatError, match="damaged"):
        items_of(bytes(data))


def test_random_damage_is_a_typed_error() -> None:
    random.seed(20)
    data = layers()[0].data()[: 200 * 512]
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(random.randint(1, 8)):
            broken[random.randrange(len(broken))] = random.randrange(256)
        with suppress(UnionmountError):
            items_of(bytes(broken[: random.randrange(512, len(broken))]))


def pax_header(key: bytes, value: bytes, kind: bytes = b"x") -> bytes:
    """A header with one record whose size is written in front of it."""
    size = len(key) + len(value) + 3
    record = b"%d %s=%s\n" % (size + len(str(size + len(str(size)))), key, value)
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(record)
    return info.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)


@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_headers_that_fill_the_memory(kind: bytes) -> None:
    bomb = pax_header(b"comment", b"x" * (9 << 20), kind)
    with pytest.raises(LimitExceeded, match="headers"):
        items_of(bomb + tar_of(member("a")))
    many = b"".join(pax_header(b"k%d" % number, b"v" * 9000, b"g") for number in range(1500))
    with pytest.raises(LimitExceeded, match="headers"):
        items_of(many + tar_of(member("a")))
    apart = [
        pax_header(b"k%d" % number, b"v" * (1 << 20), b"g") + member_block(f"f{number}")
        for number in range(10)
    ]
    with pytest.raises(LimitExceeded, match="headers for all"):
        items_of(b"".join(apart))


def member_block(name: str) -> bytes:
    return tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)


def test_a_header_larger_than_the_stream() -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = b"x", 1 << 40
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LimitExceeded):
        items_of(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50_000


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1])
def test_a_file_of_an_impossible_size(tmp_path: Path, size: int) -> None:
    """Its sparse map says that it is one hole: the disk decides."""
    info = tarfile.TarInfo("huge")
    info.pax_headers = {
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": str(size),
        "GNU.sparse.numblocks": "1",
    }
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises((UnionmountError, OSError)) as caught:
        unpack(data.getvalue(), tmp_path)
    assert "Traceback" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("uid", "-1"), ("uid", "4294967295"), ("gid", str(2**40)), ("mtime", "1e30")),
        *(("mtime", "x"), ("mtime", "nan"), ("mtime", "9223372036854775807.9999999999")),
    ],
)
def test_numbers_that_cannot_be(field: str, value: str) -> None:
    with pytest.raises(FormatError):
        items_of(pax_header(field.encode(), value.encode()) + tar_of(member("a")))


@pytest.mark.parametrize("seconds", [-(2**40), 99999999999, 2**62])
def test_times_of_any_year(tmp_path: Path, seconds: int) -> None:
    """As with GNU tar, the file system takes the nearest time that it can hold."""
    info, content = member("a")
    info.mtime = seconds
    data = tar_of((info, content))
    assert [item.mtime_ns for item, _ in items_of(data)] == [seconds * 10**9]
    assert unpack(data, tmp_path) == []
    (tmp_path / "wanted").touch()
    os.utime(tmp_path / "wanted", (seconds, seconds))
    assert (tmp_path / "a").stat().st_mtime_ns == (tmp_path / "wanted").stat().st_mtime_ns


@pytest.mark.parametrize("name", ["a\0b", "x" * 256, "y/" + "x" * 300])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(FormatError):
        items_of(pax_header(b"path", name.encode()) + tar_of(member("a")))


def test_unknown_members() -> None:
    data = tar_of(member("a", kind=b"V"))
    with pytest.raises(FormatError, match="unknown type"):
        items_of(data)


@pytest.mark.parametrize(
    "key",
    [
        "SCHILY.xattr.user.a\0b",
        "SCHILY.xattr.",
        f"SCHILY.xattr.user.{'a' * 251}",
        "LIBARCHIVE.xattr.user.a%00%3D",
        f"LIBARCHIVE.xattr.user.{'a' * 250}%3D",
    ],
)
def test_names_of_attributes_that_cannot_be(key: str) -> None:
    info, _ = member("one")
    info.pax_headers = {key: "dmFsdWU="}
    with pytest.raises(FormatError, match="is not a valid name of an attribute"):
        items_of(tar_of((info, b"")))
