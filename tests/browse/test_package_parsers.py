"""The parsers of package databases: whatever an image has there, they answer or refuse."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cyclonedx.schema._res import SPDX_JSON  # the official list of identifiers, as a schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packageurl import PackageURL
from support.effort import examples
from support.package_images import ASSETS

from unionmount.browse.packages.apk import parse_apk
from unionmount.browse.packages.dpkg import license_of_copyright, parse_dpkg
from unionmount.browse.packages.licenses import OtherLicenses, spdx_expression, spdx_license
from unionmount.browse.packages.model import Distribution, Package
from unionmount.browse.packages.npm import parse_npm
from unionmount.browse.packages.os_release import parse_os_release
from unionmount.browse.packages.places import kind_of
from unionmount.browse.packages.purl import purl_of
from unionmount.browse.packages.python import parse_python
from unionmount.browse.packages.reading import ImageFile
from unionmount.browse.packages.rpm import parse_rpm
from unionmount.browse.packages.rpm_header import package_of_header
from unionmount.browse.packages.spdx_ids import EXCEPTIONS, LICENSES
from unionmount.errors import FormatError, LimitExceeded

pytestmark = pytest.mark.slow

quick = settings(
    max_examples=examples(300, 5000),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

Parser = Callable[[bytes], Iterator[Package]]
TEXT: dict[str, tuple[Parser, bytes]] = {
    "dpkg": (
        parse_dpkg,
        b"Package: a\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: all\n"
        b"Source: b (1)\nDescription: x\n Version: no\n .\n\nPackage: c\nVersion: 2\n",
    ),
    "apk": (parse_apk, (ASSETS / "apk-installed").read_bytes()),
    "python": (
        parse_python,
        b"Metadata-Version: 2.1\nName: a_B.c\nVersion: 1\nLicense: MIT\n"
        b"Classifier: License :: OSI Approved :: MIT License\n\nName: no\n",
    ),
    "npm": (
        parse_npm,
        b'{"name": "@a/b", "version": "1.0.0", "licenses": [{"type": "MIT"}, "ISC"]}',
    ),
}


@st.composite
def spoilt(draw: st.DrawFn, sound: bytes) -> bytes:
    """Something that was sound: bytes are changed, cut out, doubled, or lie at the end."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 16))
        how = draw(st.sampled_from(["set", "cut", "insert", "double", "end"]))
        if how == "set":
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif how == "cut":
            del data[at : at + length * 10]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif how == "double":
            data[at:at] = data[at : at + length * 10]
        else:
            del data[at:]
    return bytes(data)


def check_packages(packages: list[Package]) -> None:
    for one in packages:
        assert one.name
        assert one.version
        text = "".join([*one.key, one.source, one.source_version, one.license])
        text.encode("utf-8")  # no lone surrogates: JSON could not have them
        purl_of(one, Distribution("debian", "12")).encode("ascii")
        others = OtherLicenses()
        spdx_license(one.license, others).encode("ascii")


def check_message(error: FormatError) -> None:
    assert str(error).isprintable()


@pytest.mark.parametrize("name", TEXT)
def test_sound_data(name: str) -> None:
    parse, data = TEXT[name]
    found = list(parse(data))
    assert len(found) == {"dpkg": 2, "apk": 3, "python": 1, "npm": 1}[name]
    check_packages(found)


@pytest.mark.parametrize("name", TEXT)
@quick
@given(data=st.data())
def test_spoilt_data(name: str, data: st.DataObject) -> None:
    parse, sound = TEXT[name]
    try:
        check_packages(list(parse(data.draw(spoilt(sound) | st.binary(max_size=300)))))
    except FormatError as error:
        check_message(error)


@quick
@given(st.binary(max_size=300), st.text(max_size=60))
def test_other_texts(data: bytes, text: str) -> None:
    for parse in (license_of_copyright, parse_os_release):
        parse(b"Format: https://www.debian.org/copyright-format/1.0\n\nFiles: *\n" + data)
        parse(b"ID=" + data)
    spdx_expression(text)
    kind_of(data)


# ---- rpm -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bytes:
    """A tree of one file that is in memory."""

    data: bytes

    def read(self, _node: int, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]


def in_memory(data: bytes) -> ImageFile:
    attributes = SimpleNamespace(node=1, mode=0o100644, size=len(data))
    return ImageFile(cast("Any", Bytes(data)), cast("Any", attributes))


def parse_database(name: bytes, data: bytes) -> list[Package]:
    return list(parse_rpm(name, in_memory(data), None))


def header(*entries: tuple[int, int, bytes]) -> bytes:
    """A header of RPM: tag, type and value of each entry."""
    index, data = b"", b""
    for tag, kind, value in entries:
        index += struct.pack(">IIII", tag, kind, len(data), 1)
        data += value
    return struct.pack(">II", len(entries), len(data)) + index + data


HEADER = header(
    *((1000, 6, b"name\0"), (1001, 6, b"1.0\0"), (1002, 6, b"2\0"), (1003, 4, b"\0\0\0\x07")),
    *((1014, 6, b"MIT\0"), (1022, 6, b"noarch\0"), (1044, 6, b"name-1.0-2.src.rpm\0")),
)
NDB = (ASSETS / "Packages.db").read_bytes()


def sqlite_of(*statements: str, blobs: tuple[bytes, ...] = ()) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x"
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(b,) for b in blobs])
            connection.commit()
        return path.read_bytes()


TABLE = "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)"


@cache
def sqlite() -> bytes:
    return sqlite_of("PRAGMA page_size = 512", TABLE, blobs=(HEADER, HEADER + bytes(700)))


def bdb(*values: bytes, size: int = 512, order: str = "<") -> bytes:
    """A hash of BerkeleyDB with its values in overflow pages, as rpm writes it."""
    meta = bytearray(size)
    struct.pack_into(f"{order}III", meta, 12, 0x061561, 9, size)
    page, pages = bytearray(size), [bytes(meta)]
    free, offsets, chains, following = size, [], b"", 2
    for number, value in enumerate(values, 1):
        free -= 5
        page[free : free + 5] = b"\1" + struct.pack(f"{order}I", number)
        offsets.append(free)
        free -= 12
        page[free : free + 12] = struct.pack(f"{order}B3xII", 3, following, len(value))
        offsets.append(free)
        room = size - 26
        parts = [value[at : at + room] for at in range(0, len(value), room)]
        for at, part in enumerate(parts):
            after = following + 1 if at + 1 < len(parts) else 0
            head = struct.pack(f"{order}8xIIIHHBB", following, 0, after, 1, len(part), 0, 7)
            chains += (head + part).ljust(size, b"\0")
            following += 1
    struct.pack_into(f"{order}8xIIIHHBB", page, 0, 1, 0, 0, len(offsets), free, 0, 13)
    struct.pack_into(f"{order}{len(offsets)}H", page, 26, *offsets)
    return b"".join([*pages, bytes(page), chains])


def test_sound_databases() -> None:
    wanted = Package("rpm", "name", "7:1.0-2", "noarch", "name", "1.0-2", "MIT")
    assert package_of_header(HEADER) == wanted
    assert parse_database(b"rpmdb.sqlite", sqlite()) == [wanted, wanted]
    for order in "<>":
        found = parse_database(b"Packages", bdb(HEADER, HEADER + bytes(900), order=order))
        assert found == [wanted, wanted]
    assert len(parse_database(b"Packages.db", NDB)) == 5


def test_public_keys_are_no_packages() -> None:
    key = header((1000, 6, b"gpg-pubkey\0"), (1001, 6, b"1\0"), (1002, 6, b"2\0"))
    assert package_of_header(key) is None


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        bytes(7),
        bytes(8),
        struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF),
        struct.pack(">II", 0x10000, 0) + bytes(0x100000),
        header((1001, 6, b"1\0"), (1000, 6, b"no end")),
        header((1000, 4, b"\0")),
        header((1000, 6, b"a\0")),
        header((1000, 6, b"x" * 5000 + b"\0"), (1001, 6, b"1\0")),
        struct.pack(">IIIIII", 1, 1, 1000, 6, 0xFFFFFFFF, 1) + b"\0",
    ],
    ids=len,
)
def test_headers_that_are_refused(blob: bytes) -> None:
    with pytest.raises(FormatError):
        package_of_header(blob)


@pytest.mark.parametrize("name", [b"rpmdb.sqlite", b"Packages.db", b"Packages", b"header"])
@quick
@given(data=st.data())
def test_spoilt_databases(name: bytes, data: st.DataObject) -> None:
    sound = {
        b"rpmdb.sqlite": sqlite(),
        b"Packages.db": NDB,
        b"Packages": bdb(HEADER, HEADER + bytes(900)),
        b"header": HEADER,
    }[name]
    broken = data.draw(spoilt(sound) | st.binary(max_size=100))
    try:
        if name == b"header":
            found = [one for one in [package_of_header(broken)] if one is not None]
        else:
            found = parse_database(name, broken)
        check_packages(found)
    except FormatError as error:
        check_message(error)


@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_numbers_of_the_first_page(value: int) -> None:
    """Each number of the heads of the two binary formats, at its limits."""
    for name, sound in ((b"Packages.db", NDB), (b"Packages", bdb(HEADER))):
        for at in range(0, 1024, 4):
            data = bytearray(sound)
            struct.pack_into("<I", data, at, value)
            with suppress(FormatError):
                check_packages(parse_database(name, bytes(data)))


def test_a_chain_that_is_a_loop_ends() -> None:
    data = bytearray(bdb(HEADER + bytes(3000)))
    struct.pack_into("<I", data, 2 * 512 + 16, 2)  # the next page of the first one
    with pytest.raises(FormatError, match="a chain of pages is damaged"):
        parse_database(b"Packages", bytes(data))
    many = bytearray(bdb(*[HEADER + bytes(3000)] * 8))
    for number in range(2, len(many) // 512):
        struct.pack_into("<I", many, number * 512 + 16, number)
    with pytest.raises(FormatError):
        parse_database(b"Packages", bytes(many))
    full = bytearray(bdb(HEADER.ljust(10 * 486, b"\0")))
    struct.pack_into("<I", full, 2 * 512 + 16, 2)
    assert len(parse_database(b"Packages", bytes(full))) == 1  # as long as it says, and no longer
    struct.pack_into("<H", full, 2 * 512 + 22, 2)  # a page that is not full
    with pytest.raises(FormatError, match="a chain of pages is damaged"):
        parse_database(b"Packages", bytes(full))
    small = bdb(*[HEADER] * 5)[: 512 * 3]
    with pytest.raises(FormatError):
        parse_database(b"Packages", small)


RECURSION = "WITH RECURSIVE r(blob) AS (SELECT x'00' UNION ALL SELECT blob FROM r) SELECT * FROM r"


@pytest.mark.parametrize(
    "statements",
    [
        (f"CREATE VIEW Packages AS {RECURSION}",),
        ("CREATE VIEW Packages AS SELECT zeroblob(1000000000) AS blob",),
        ("CREATE TABLE a (blob)", "CREATE VIEW Packages AS SELECT blob FROM a"),
        ("CREATE TABLE Packages (other)",),
        ("CREATE TABLE Packages (a, blob AS (zeroblob(100000000)))",),
        ("CREATE TABLE Packages (a, blob AS (load_extension('/tmp/x')))",),
    ],
    ids=str,
)
def test_sqlite_runs_nothing_of_the_image(statements: tuple[str, ...]) -> None:
    try:
        data = sqlite_of(*statements)
    except sqlite3.OperationalError:  # this SQLite does not even make it
        return
    with pytest.raises(FormatError):
        parse_database(b"rpmdb.sqlite", data + b"")


@pytest.mark.parametrize("name", [b"rpmdb.sqlite", b"Packages"])
def test_a_sparse_file_is_not_read_to_its_end(name: bytes) -> None:
    data = {b"rpmdb.sqlite": sqlite(), b"Packages": bdb(HEADER)}[name]
    sparse = in_memory(data)
    cast("Any", sparse.attributes).size = 1 << 40
    with pytest.raises(LimitExceeded, match="has 1099511627776 bytes"):
        list(parse_rpm(name, sparse, None))


def test_rows_of_sqlite_that_share_pages() -> None:
    """Twenty short rows become copies of the long one, with its chain of overflow pages."""
    short = HEADER.ljust(37_412, b"\0")  # 589 bytes of the row are in the leaf, as of the long one
    long = short.ljust(len(short) + 88 * 4092, b"\0")
    data = bytearray(sqlite_of("PRAGMA page_size = 4096", TABLE, blobs=(long, *[short] * 20)))
    assert len(parse_database(b"rpmdb.sqlite", bytes(data))) == 21
    cells = []
    for page in range(4096, len(data), 4096):
        if data[page] == 13:  # a leaf
            n = struct.unpack_from(">H", data, page + 3)[0]
            cells += [page + at for at in struct.unpack_from(f">{n}H", data, page + 8)]
    rows = {data[at + 3]: at for at in cells if data[at] > 127}  # behind a length of three bytes
    assert sorted(rows) == list(range(1, 22))
    for number, at in rows.items():
        data[at : at + 597] = data[rows[1] : rows[1] + 597]
        data[at + 3] = number
    with pytest.raises(FormatError, match="its rows are longer than the file"):
        parse_database(b"rpmdb.sqlite", bytes(data))


def test_a_copy_has_the_holes_of_the_file(tmp_path: Path) -> None:
    data = b"head" + bytes(10 << 20) + b"middle" + bytes(3 << 20)
    in_memory(data).copy_to(tmp_path / "copy", 1 << 30)
    assert (tmp_path / "copy").read_bytes() == data
    assert (tmp_path / "copy").stat().st_blocks * 512 < 1 << 20


def test_rows_that_are_no_headers() -> None:
    for value in ("'text'", "7", "1.5", "x''"):
        data = sqlite_of(TABLE, f"INSERT INTO Packages (blob) VALUES ({value})")
        with pytest.raises(FormatError):
            parse_database(b"rpmdb.sqlite", data)


def test_a_copy_is_removed_when_the_reader_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        reader = parse_rpm(b"rpmdb.sqlite", in_memory(sqlite()), None)
        assert next(iter(reader)).name == "name"
        assert os.listdir(directory)  # noqa: PTH208
        cast("Any", reader).close()
        assert os.listdir(directory) == []  # noqa: PTH208


# ---- places, names and licenses ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"var/lib/dpkg/status", "deb"),
        (b"srv/root/var/lib/dpkg/status", None),
        (b"var/lib/dpkg/status.d/x", "deb"),
        (b"var/lib/dpkg/status.d/libstdc++6", "deb"),
        (b"var/lib/dpkg/status.d/x.md5sums", None),
        (b"var/lib/dpkg/status.d/x/y", None),
        (b"lib/apk/db/installed", "apk"),
        (b"usr/lib/apk/db/installed", "apk"),
        (b"x/lib/apk/db/installed", None),
        (b"var/lib/rpm/Packages", "rpm"),
        (b"opt/Packages", None),
        (b"x-1.dist-info/METADATA", "python"),
        (b"a/b/x-1.dist-info/METADATA", "python"),
        (b"a/x-1.dist-info/x/METADATA", None),
        (b"a/x.egg-info", "python"),
        (b"a/x.egg-info/PKG-INFO", "python"),
        (b"a/x.egg/EGG-INFO/PKG-INFO", "python"),
        (b"a/PKG-INFO", None),
        (b"node_modules/a/package.json", "npm"),
        (b"a/node_modules/@s/a/package.json", "npm"),
        (b"a/node_modules/@s/package.json", None),
        (b"a/node_modules/a/b/package.json", None),
        (b"a/node_modules/.cache/package.json", None),
        (b"a/node_modules/package.json", None),
        (b"a/my_node_modules/a/package.json", None),
        (b"package.json", None),
        (b"", None),
    ],
)
def test_places(path: bytes, kind: str | None) -> None:
    assert kind_of(path) == kind


def test_identifiers_are_those_of_the_list() -> None:
    official = set(json.loads(Path(SPDX_JSON).read_text(encoding="utf-8"))["enum"])
    assert official >= LICENSES
    assert official >= EXCEPTIONS
    assert not LICENSES & EXCEPTIONS


names = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=12)


@quick
@given(names, names, st.sampled_from(["deb", "apk", "rpm"]), names)
def test_package_urls_keep_what_they_are_made_of(
    name: str, version: str, kind: str, architecture: str
) -> None:
    name, version, architecture = name.strip(), version.strip(), architecture.strip()
    if not name or not version or ":" in version or not architecture:
        return
    package = Package(kind, name, version, architecture)  # type: ignore[arg-type]
    parsed = PackageURL.from_string(purl_of(package, Distribution("debian", "12")))
    assert parsed.version == version
    assert parsed.qualifiers["arch"] == architecture
    assert parsed.type == kind


@pytest.mark.timeout(20)
def test_very_many_licenses_that_look_the_same() -> None:
    others = OtherLicenses()
    names = ["".join(word) for word in product("/*", repeat=15)]
    found = [spdx_license(name, others) for name in names]
    assert found[:2] == ["LicenseRef-unnamed", "LicenseRef-unnamed-2"]
    assert [others.names[one] for one in found] == names
    assert [spdx_license(name, others) for name in names] == found
