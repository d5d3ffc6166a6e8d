"""packages: against the lists of dpkg-query, rpm, apk, pip and npm on the same databases."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import get_spdx_licensing
from packageurl import PackageURL
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine, is_mounted
from support.package_images import ASSETS, Dpkg, Rpm, npm_tree, tree_layer_of
from support.programs import run

Rows = list[dict[str, Any]]
DEBIAN = b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n'


def listed(cli: CommandLine, *words: str | Path, status: int = 0) -> Rows:
    rows: Rows = json.loads(cli.run("packages", "--format", "json", *words, status=status).stdout)
    return rows


def archive(tmp_path: Path, *layers: Layer, name: str = "image.tar") -> Path:
    return docker_archive(tmp_path / name, layers)


def layers_of(rows: Rows) -> dict[str, int]:
    return {f"{row['name']} {row['version']}": row["layer"] for row in rows}


# ---- dpkg ----------------------------------------------------------------------------------------

_DPKG = ("name", "version", "architecture", "source", "source_version")


@pytest.mark.needs("dpkg", "dpkg-deb", "dpkg-query")
def test_dpkg(cli: CommandLine, tmp_path: Path) -> None:
    dpkg = Dpkg(tmp_path)
    dpkg.install("plain", "1.0-1")
    dpkg.install("epoch", "2:3.4~rc1-1+b2", more="Source: other (2:3.4~rc1-1)\n")
    dpkg.install("foreign", "1", "i386", more="Source: other\n")
    dpkg.install("kept-config", "1")
    dpkg.remove("kept-config")
    rows = listed(cli, archive(tmp_path, Layer().file("var/lib/dpkg/status", dpkg.status())))
    assert {tuple(row[key] for key in _DPKG) for row in rows} == dpkg.listed()
    assert len(rows) == 3
    assert {row["path"] for row in rows} == {"/var/lib/dpkg/status"}


@pytest.mark.needs("dpkg-query")
def test_dpkg_of_this_machine(cli: CommandLine, tmp_path: Path) -> None:
    """Hundreds of packages of real life."""
    dpkg = Dpkg(tmp_path)
    (dpkg.admin / "status").write_bytes(Path("/var/lib/dpkg/status").read_bytes())
    rows = listed(cli, archive(tmp_path, Layer().file("var/lib/dpkg/status", dpkg.status())))
    assert {tuple(row[key] for key in _DPKG) for row in rows} == dpkg.listed()
    assert len(rows) > 50


@pytest.mark.needs("dpkg", "dpkg-deb", "dpkg-query")
def test_each_package_has_the_layer_that_brought_it(cli: CommandLine, tmp_path: Path) -> None:
    dpkg = Dpkg(tmp_path)
    status = "var/lib/dpkg/status"
    dpkg.install("stays", "1")
    dpkg.install("upgraded", "1")
    dpkg.install("comes-back", "1")
    layers = [Layer().file(status, dpkg.status())]
    dpkg.install("upgraded", "2")
    dpkg.remove("comes-back")
    layers.append(Layer().file(status, dpkg.status()))
    layers.append(Layer().file("other"))
    dpkg.install("comes-back", "1")
    dpkg.install("new", "1")
    layers.append(Layer().file(status, dpkg.status()))
    image = archive(tmp_path, *layers)
    rows = listed(cli, image)
    assert layers_of(rows) == {"stays 1": 0, "upgraded 2": 1, "comes-back 1": 3, "new 1": 3}
    digests = [
        row["diff_id"] for row in json.loads(cli.run("layers", image, "--format=json").stdout)
    ]
    assert all(row["diff_id"] == digests[row["layer"]] for row in rows)
    older = layers_of(listed(cli, "--layer", "2", image))
    assert older == {"stays 1": 0, "upgraded 2": 1}


def test_many_layers(cli: CommandLine, tmp_path: Path) -> None:
    """Each of 128 layers installs one package, and upgrades another."""
    layers, status = [], b""
    for number in range(128):
        status += f"Package: p{number}\nVersion: 1\n\n".encode()
        upgraded = f"Package: moving\nVersion: {number}\n".encode()
        layers.append(Layer().file("var/lib/dpkg/status", status + upgraded))
    image = archive(tmp_path, *layers)
    wanted = {f"p{number} 1": number for number in range(128)}
    assert layers_of(listed(cli, image)) == wanted | {"moving 127": 127}
    older = {name: layer for name, layer in wanted.items() if layer <= 60}
    assert layers_of(listed(cli, "--layer", "60", image)) == older | {"moving 60": 60}


def test_a_database_that_was_deleted_in_between_begins_anew(
    cli: CommandLine, tmp_path: Path
) -> None:
    status = b"Package: a\nStatus: install ok installed\nVersion: 1\n"
    path = "var/lib/dpkg/status"
    base = Layer().file(path, status)
    for whiteout in ("var/lib/dpkg/.wh.status", "var/.wh.lib", "var/lib/dpkg/.wh..wh..opq"):
        image = archive(tmp_path, base, Layer().file(whiteout), Layer().file(path, status))
        assert layers_of(listed(cli, image)) == {"a 1": 2}
    image = archive(tmp_path, base, Layer().file("var/lib/.wh.dpkg"))
    assert listed(cli, image) == []


def test_images_without_dpkg_have_stanzas(cli: CommandLine, tmp_path: Path) -> None:
    """As distroless images are made; md5sums lie beside the stanzas."""
    place = "var/lib/dpkg/status.d"
    base = Layer().file(f"{place}/base", b"Package: base-files\nVersion: 12\nArchitecture: amd64\n")
    base.file(f"{place}/base.md5sums", b"0 x\n").file("etc/os-release", DEBIAN)
    top = Layer().file(f"{place}/libc6", b"Package: libc6\nSource: glibc\nVersion: 2.36\n")
    rows = listed(cli, archive(tmp_path, base, top))
    assert layers_of(rows) == {"base-files 12": 0, "libc6 2.36": 1}
    assert [row["path"] for row in rows] == [f"/{place}/base", f"/{place}/libc6"]
    assert rows[0]["purl"] == "pkg:deb/debian/base-files@12?arch=amd64&distro=debian-12"


COPYRIGHT = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
License: ignored

Files: *
Copyright: x
License: GPL-2+ or Artistic
 text
 License: no-field

Files: y
License: Expat

License: GPL-2+
 text
"""


def test_licenses_of_debian(cli: CommandLine, tmp_path: Path) -> None:
    names = ("free", "linked", "old", "none")
    status = b"\n".join(f"Package: {name}\nVersion: 1\n".encode() for name in names)
    layer = Layer().file("var/lib/dpkg/status", status)
    layer.file("usr/share/doc/free/copyright", COPYRIGHT)
    layer.symlink("usr/share/doc/linked", "free")
    layer.file("usr/share/doc/old/copyright", b"This is free.\n\nFiles: *\nLicense: X\n")
    found = {row["name"]: row["license"] for row in listed(cli, archive(tmp_path, layer))}
    text = "(GPL-2+ or Artistic) AND Expat"
    assert found == {"free": text, "linked": text, "old": None, "none": None}


def test_a_copyright_file_is_read_once(cli: CommandLine, tmp_path: Path) -> None:
    """2000 packages have one of 3 MiB, which takes a tenth of a second or more."""
    status = b"\n".join(b"Package: a%d\nVersion: 1\n" % number for number in range(2000))
    layer = Layer().file("var/lib/dpkg/status", status)
    layer.file("usr/share/doc/all/copyright", COPYRIGHT + b"\nFiles: z\nLicense: Expat\n" * 125_000)
    for number in range(2000):
        layer.symlink(f"usr/share/doc/a{number}", "all")
    began = time.monotonic()
    found = listed(cli, archive(tmp_path, layer))
    assert {row["license"] for row in found} == {"(GPL-2+ or Artistic) AND Expat"}
    assert time.monotonic() - began < 20


def test_packages_without_number_are_refused(cli: CommandLine, tmp_path: Path) -> None:
    status = b"".join(b"Package: a%d\nVersion: 1\n\n" % number for number in range(200_001))
    layer = Layer().file("var/lib/dpkg/status", status)
    told = cli.run("packages", archive(tmp_path, layer), status=1).stderr
    assert "/var/lib/dpkg/status: lists more than 200000 packages" in told


# ---- apk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["lib/apk/db", "usr/lib/apk/db"])
def test_apk(cli: CommandLine, tmp_path: Path, place: str) -> None:
    """The database and the list were made by apk; see tests/assets/packages/make.sh."""
    layer = Layer().file(f"{place}/installed", (ASSETS / "apk-installed").read_bytes())
    rows = listed(cli, archive(tmp_path, layer))
    wanted = json.loads((ASSETS / "apk-installed.json").read_text(encoding="utf-8"))
    assert len(rows) == len(wanted) == 3
    for row, theirs in zip(rows, wanted, strict=True):
        assert row["kind"] == "apk"
        assert (row["name"], row["version"]) == (theirs["name"], theirs["version"])
        assert (row["architecture"], row["license"]) == (theirs["arch"], theirs["license"])
        assert row["source"] == theirs.get("origin")


# ---- rpm -----------------------------------------------------------------------------------------


def as_rpm_lists(rows: Rows) -> list[str]:
    lines = []
    for row in rows:
        epoch, colon, version = row["version"].rpartition(":")
        source = f"{row['source']}-{row['source_version']}.src.rpm"
        parts = (row["name"], epoch if colon else "(none)", version, row["architecture"], source)
        lines.append("|".join([*parts, row["license"]]))
    return sorted(lines)


@pytest.fixture(scope="module")
def rpm(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Rpm:
    require("rpm", "rpmbuild")
    made = Rpm(tmp_path_factory.mktemp("rpm"))
    made.install(made.build("alpha", "1.0", "1"))
    made.install(
        made.build("beta-x", "2.5~rc1", "3.el9", epoch="4", license_="GPLv2+ and (BSD or X)")
    )
    made.install(made.build("gamma", "0", "0.1"))
    made.erase("alpha-sub")
    return made


@pytest.mark.parametrize("place", ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"])
def test_rpm_in_sqlite(cli: CommandLine, tmp_path: Path, rpm: Rpm, place: str) -> None:
    rows = listed(cli, archive(tmp_path, Layer().file(f"{place}/rpmdb.sqlite", rpm.database())))
    assert as_rpm_lists(rows) == rpm.listed()
    assert len(rows) == 5


def test_rpm_in_ndb(cli: CommandLine, tmp_path: Path) -> None:
    """The database and the list were made by rpm; see tests/assets/packages/make.sh."""
    layer = Layer().file("usr/lib/sysimage/rpm/Packages.db", (ASSETS / "Packages.db").read_bytes())
    layer.file("etc/os-release", b"ID='opensuse-leap'\nVERSION_ID=15.6")
    rows = listed(cli, archive(tmp_path, layer))
    wanted = (ASSETS / "Packages.db.list").read_text(encoding="utf-8").splitlines()
    assert as_rpm_lists(rows) == sorted(wanted)
    assert rows[1]["purl"] == (
        "pkg:rpm/opensuse-leap/beta@2.5~rc1-3.el9?arch=x86_64&distro=opensuse-leap-15.6&epoch=4"
    )


@pytest.mark.needs("rpm", "rpmbuild", "db_load")
def test_rpm_in_berkeley_db(cli: CommandLine, tmp_path: Path, rpm: Rpm) -> None:
    """BerkeleyDB's own program writes it, and rpm reads it."""
    wanted = rpm.berkeley(tmp_path / "bdb")
    layer = Layer().file("var/lib/rpm/Packages", (tmp_path / "bdb/Packages").read_bytes())
    rows = listed(cli, archive(tmp_path, layer))
    assert as_rpm_lists(rows) == wanted == rpm.listed()


def test_the_newest_format_counts(cli: CommandLine, tmp_path: Path, rpm: Rpm) -> None:
    layer = Layer().file("var/lib/rpm/Packages", b"left over").file("var/lib/rpm/Packages.db", b"")
    layer.file("var/lib/rpm/rpmdb.sqlite", rpm.database())
    assert as_rpm_lists(listed(cli, archive(tmp_path, layer))) == rpm.listed()


@pytest.mark.needs("rpm", "rpmbuild")
def test_layers_of_rpm(cli: CommandLine, tmp_path: Path) -> None:
    made, place = Rpm(tmp_path), "var/lib/rpm/rpmdb.sqlite"
    made.install(made.build("stays", "1", "1"))
    made.install(made.build("upgraded", "1", "1"))
    layers = [Layer().file(place, made.database())]
    made.install(made.build("upgraded", "2", "1"))
    layers.append(Layer().file(place, made.database()))
    made.install(made.build("new", "1", "1"))
    layers.append(Layer().file(place, made.database()))
    found = layers_of(listed(cli, archive(tmp_path, *layers)))
    assert {name: layer for name, layer in found.items() if "-sub" not in name} == {
        "new 1-1": 2,
        "stays 1-1": 0,
        "upgraded 2-1": 1,
    }


@pytest.mark.needs("rpm", "rpmbuild")
def test_what_is_only_in_the_log_of_sqlite_counts(
    cli: CommandLine, tmp_path: Path, rpm: Rpm
) -> None:
    """As after a build that was stopped before SQLite wrote its log into the database."""
    path = tmp_path / "rpmdb.sqlite"
    path.write_bytes(rpm.database())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        connection.execute("DELETE FROM Packages WHERE hnum = (SELECT max(hnum) FROM Packages)")
        connection.commit()
        layer = Layer().file("var/lib/rpm/rpmdb.sqlite", path.read_bytes())
        log = path.with_name("rpmdb.sqlite-wal").read_bytes()
    assert log
    before = listed(cli, archive(tmp_path, layer))
    after = listed(cli, archive(tmp_path, layer, Layer().file("var/lib/rpm/rpmdb.sqlite-wal", log)))
    assert len(after) == len(before) - 1


def test_a_database_leaves_no_copy_behind(
    tmp_path: Path, rpm: Rpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    own = CommandLine(environment={"TMPDIR": str(temporary)})
    listed(own, archive(tmp_path, Layer().file("var/lib/rpm/rpmdb.sqlite", rpm.database())))
    assert list(temporary.iterdir()) == []


@pytest.mark.needs("rpm", "rpmbuild", "bash")
def test_a_full_disk_is_told(cli: CommandLine, tmp_path: Path, rpm: Rpm) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    image = archive(tmp_path, Layer().file("var/lib/rpm/rpmdb.sqlite", rpm.database()))
    listed(cli, image)  # the index is there from now on
    script = 'ulimit -f 20; exec "$@"'  # blocks of 1024 bytes that a file may have
    done = subprocess.run(
        ["bash", "-c", script, "bash", *COMMAND, "packages", image],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "/var/lib/rpm/rpmdb.sqlite: cannot be copied to " in done.stderr
    assert "File too large; set TMPDIR" in done.stderr
    assert list(temporary.iterdir()) == []


# ---- Python and npm ------------------------------------------------------------------------------


def pip_list(directory: Path) -> set[tuple[str, str]]:
    words = ("-m", "pip", "list", "--path", directory, "--format", "json")
    shown = run(sys.executable, *words, "--disable-pip-version-check", "--no-color")
    rows = json.loads(next(line for line in shown.splitlines() if line.startswith("[")))
    return {(row["name"], row["version"]) for row in rows}


def metadata_of(directory: Path, where: str) -> Layer:
    layer = Layer()
    for path in sorted(directory.glob("*-info/*")):
        if path.name in ("METADATA", "PKG-INFO", "RECORD"):
            layer.file(f"{where}/{path.relative_to(directory)}", path.read_bytes())
    return layer


def test_python_of_this_environment(cli: CommandLine, tmp_path: Path) -> None:
    directory = Path(sysconfig.get_path("purelib"))
    rows = listed(cli, archive(tmp_path, metadata_of(directory, "usr/lib/python3/site-packages")))
    wanted = pip_list(directory)
    assert len(wanted) > 30
    assert {(row["name"], row["version"]) for row in rows} >= wanted - {
        ("unionmount", wanted and "")
    }
    assert {row["name"] for row in rows} <= {name for name, _ in wanted}
    known = {row["name"].lower(): row["license"] for row in rows}
    assert known["hypothesis"] == "MPL-2.0"
    assert "MIT" in known["pytest"]


def test_eggs(cli: CommandLine, tmp_path: Path) -> None:
    """One as setuptools makes it, one of distutils (a single file), one zipped and unpacked."""
    top = tmp_path / "site"
    egg = top / "made.egg-info"
    egg.mkdir(parents=True)
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\r\nName: made\r\nVersion: 1.0\r\n")
    (top / "old-2.egg-info").write_text(
        "Metadata-Version: 1.0\nName: old\nVersion: 2\nLicense: BSD\n"
    )
    wanted = pip_list(top)
    assert wanted == {("made", "1.0"), ("old", "2")}
    layer = tree_layer_of(top, "srv/site")
    layer.file(
        "srv/x-3-py3.egg/EGG-INFO/PKG-INFO", b"Name: x\nVersion: 3\nLicense: UNKNOWN\n\nName: no"
    )
    rows = listed(cli, archive(tmp_path, layer))
    assert {(row["name"], row["version"]) for row in rows} == wanted | {("x", "3")}
    assert {row["name"]: row["license"] for row in rows} == {"made": None, "old": "BSD", "x": None}


def npm_ls(top: Path) -> set[tuple[str, str]]:
    done = subprocess.run(
        ["npm", "ls", "--all", "--json", "--offline"],
        cwd=top,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HOME": str(top), "NO_UPDATE_NOTIFIER": "1"},
    )
    found = set()
    pending = [json.loads(done.stdout)]
    while pending:
        for name, inner in pending.pop().get("dependencies", {}).items():
            found.add((name, inner["version"]))
            pending.append(inner)
    return found


@pytest.mark.needs("npm")
def test_npm(cli: CommandLine, tmp_path: Path) -> None:
    top = npm_tree(tmp_path / "app")
    rows = listed(cli, archive(tmp_path, tree_layer_of(top, "srv/app")))
    wanted = npm_ls(top)
    assert len(wanted) == 5
    assert {(row["name"], row["version"]) for row in rows} == wanted
    assert {row["license"] for row in rows} == {"MIT"}


@pytest.mark.needs("npm")
def test_npm_of_this_machine(cli: CommandLine, tmp_path: Path) -> None:
    """The modules of npm itself, with all oddities of real life."""
    program = Path(run("which", "npm").strip()).resolve()
    top = program.parents[1]
    layer = Layer()
    for path in sorted(top.rglob("package.json")):
        layer.file(f"usr/lib/npm/{path.relative_to(top)}", path.read_bytes())
    rows = listed(cli, archive(tmp_path, layer))
    wanted = set()
    for path in top.rglob("package.json"):
        parts = path.relative_to(top).parts[:-1]
        if parts[-2:-1] == ("node_modules",) or (
            parts[-3:-2] == ("node_modules",) and parts[-2].startswith("@")
        ):
            document = json.loads(path.read_text(encoding="utf-8"))
            if "name" in document and "version" in document:
                wanted.add((document["name"], document["version"]))
    assert wanted
    assert {(row["name"], row["version"]) for row in rows} == wanted


@pytest.mark.parametrize(
    ("license_", "shown"),
    [
        ('"license": "ISC"', "ISC"),
        ('"license": {"type": "MIT", "url": "x"}', "MIT"),
        ('"licenses": [{"type": "MIT"}, {"type": "Apache-2.0"}, 7]', "MIT OR Apache-2.0"),
        ('"license": 5', None),
        ('"licenses": null', None),
    ],
)
def test_licenses_of_npm(
    cli: CommandLine, tmp_path: Path, license_: str, shown: str | None
) -> None:
    document = f'\ufeff{{"name": "a", "version": "1", "name": "a", {license_}}}'.encode()
    layer = Layer().file("node_modules/a/package.json", document)
    assert [row["license"] for row in listed(cli, archive(tmp_path, layer))] == [shown]


# ---- containers ----------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path) -> Iterator[tuple[CommandLine, Path, Path]]:
    base = Layer().file(
        "var/lib/dpkg/status", b"Package: a\nVersion: 1\n\nPackage: b\nVersion: 1\n"
    )
    image = archive(tmp_path, base)
    own = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})
    where = tmp_path / "box"
    where.mkdir()
    own.run("mount", "--name", "box", image, where)
    try:
        yield own, where, image
    finally:
        if is_mounted(where):
            own.run("umount", where)


@pytest.mark.needs("fuse")
def test_containers(box: tuple[CommandLine, Path, Path]) -> None:
    own, where, image = box
    (where / "var/lib/dpkg/status").write_text("Package: a\nVersion: 1\n\nPackage: c\nVersion: 2\n")
    rows = listed(own, "box")
    assert layers_of(rows) == {"a 1": 0, "c 2": None}
    assert [row["diff_id"] is None for row in rows] == [False, True]
    assert "container" in own.run("packages", "box").stdout.splitlines()[2].split()
    shown = own.run("diff", "--packages", image, "box", status=1).stdout
    assert shown == "D package:deb/b  1\nA package:deb/c  2\n"
    for form in ("spdx", "cyclonedx"):
        assert "container" in own.run("packages", "--format", form, "box").stdout


# ---- documents -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None], rpm: Rpm) -> Path:
    """An image of everything, with odd names and licenses."""
    require("dpkg-query")
    work = tmp_path_factory.mktemp("mixed")
    layer = Layer().file("etc/os-release", DEBIAN)
    layer.file("var/lib/dpkg/status", Path("/var/lib/dpkg/status").read_bytes())
    for path in sorted(Path("/usr/share/doc").glob("[a-l]*/copyright"))[:150]:
        layer.file(str(path).removeprefix("/"), path.read_bytes())
    layer.file("lib/apk/db/installed", (ASSETS / "apk-installed").read_bytes())
    layer.file("var/lib/rpm/rpmdb.sqlite", rpm.database())
    tree_layer_of(npm_tree(work / "app"), "srv/app", layer)
    top = Layer().file("a/n.dist-info/METADATA", 'Name: Né "q" <x>\nVersion: 1 2/3\n'.encode())
    for number, license_ in enumerate(LICENSES):
        text = f"Name: p_{number}.x\nVersion: 1!{number}+a\nLicense-Expression: {license_}\n"
        top.file(f"a/p{number}.dist-info/METADATA", text.encode())
    top.file("caf\udce9/m.dist-info/METADATA", b"Name: \xff\x01\nVersion: \xfe\n")
    return docker_archive(work / "mixed.tar", [layer, top])


LICENSES = (
    "MIT",
    "mit",
    "GPL-2.0-or-later WITH Classpath-exception-2.0",
    "GPL-2.0+",
    "Apache-2.0+",
    "(MIT OR ISC) AND BSD-3-Clause",
    "MIT OR ",
    "WITH",
    ") (",
    "((((",
    "MIT WITH nothing",
    "LicenseRef-own AND MIT",
    "a name of words",
    "ä/ö",
    "a/ö",
    "GPL-2.0-only with Linux-syscall-note or expat",
)


def document_of(cli: CommandLine, form: str, image: Path, tmp_path: Path) -> Path:
    path = tmp_path / f"x.{form}.json"
    own = CommandLine(environment={"SOURCE_DATE_EPOCH": "1600000000"})
    path.write_text(own.run("packages", "--format", form, image).stdout, encoding="utf-8")
    return path


def test_spdx_is_valid(cli: CommandLine, tmp_path: Path, mixed: Path) -> None:
    path = document_of(cli, "spdx", mixed, tmp_path)
    document = parse_file(str(path))
    assert validate_full_spdx_document(document) == []
    rows = listed(cli, mixed)
    packages = [one for one in document.packages if one.spdx_id != "SPDXRef-Image"]
    assert len(packages) == len(rows) > 100
    for package, row in zip(packages, rows, strict=True):
        assert (package.name, package.version) == (row["name"], row["version"])
        assert [one.locator for one in package.external_references] == [row["purl"]]
        assert f"layer {row['layer']} ({row['diff_id']})" in (package.source_info or "")
    kinds = [one.relationship_type.name for one in document.relationships]
    assert kinds == ["DESCRIBES", *["CONTAINS"] * len(rows)]
    assert document.creation_info.created.isoformat() == "2020-09-13T12:26:40"


def test_expressions_are_those_of_the_list(cli: CommandLine, tmp_path: Path, mixed: Path) -> None:
    document = json.loads(document_of(cli, "spdx", mixed, tmp_path).read_text(encoding="utf-8"))
    others = {one["licenseId"]: one["name"] for one in document["hasExtractedLicensingInfos"]}
    declared = {one["name"]: one["licenseDeclared"] for one in document["packages"]}
    known = get_spdx_licensing()
    for text in set(declared.values()) - {"NOASSERTION"}:
        wrong = set(known.validate(text).invalid_symbols)
        assert wrong <= others.keys(), text
    found = [declared[f"p_{number}.x"] for number in range(len(LICENSES))]
    assert found[:6] == [
        "MIT",
        "MIT",
        "GPL-2.0-or-later WITH Classpath-exception-2.0",
        "GPL-2.0-or-later",
        "LicenseRef-Apache-2.0",
        "(MIT OR ISC) AND BSD-3-Clause",
    ]
    assert found[-1] == "GPL-2.0-only WITH Linux-syscall-note OR MIT"
    for number in range(6, len(LICENSES) - 1):
        assert "LicenseRef-" in found[number]
    assert others[found[12]] == "a name of words"
    assert {others[found[13]], others[found[14]]} == {"ä/ö", "a/ö"}


def test_cyclonedx_is_valid(cli: CommandLine, tmp_path: Path, mixed: Path) -> None:
    text = document_of(cli, "cyclonedx", mixed, tmp_path).read_text(encoding="utf-8")
    for version in (SchemaVersion.V1_5,):
        assert JsonStrictValidator(version).validate_str(text) is None
    document = json.loads(text)
    rows = listed(cli, mixed)
    system, *components = document["components"]
    assert (system["type"], system["name"], system["version"]) == (
        "operating-system",
        "debian",
        "12",
    )
    assert len(components) == len(rows)
    for component, row in zip(components, rows, strict=True):
        assert (component["name"], component["version"]) == (row["name"], row["version"])
        assert component["purl"] == row["purl"]
        properties = {one["name"]: one["value"] for one in component["properties"]}
        assert properties["unionmount:layer"] == str(row["layer"])
        assert properties["unionmount:layer:diff_id"] == row["diff_id"]
    assert document["metadata"]["timestamp"] == "2020-09-13T12:26:40Z"


def test_a_validator_would_notice(cli: CommandLine, tmp_path: Path, mixed: Path) -> None:
    text = document_of(cli, "cyclonedx", mixed, tmp_path).read_text(encoding="utf-8")
    spoilt = text.replace('"type": "library"', '"type": "shelf"')
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(spoilt) is not None


@pytest.mark.parametrize("form", ["spdx", "cyclonedx"])
def test_documents_are_reproducible(
    cli: CommandLine, tmp_path: Path, mixed: Path, form: str
) -> None:
    first = document_of(cli, form, mixed, tmp_path).read_text(encoding="utf-8")
    assert document_of(cli, form, mixed, tmp_path).read_text(encoding="utf-8") == first
    other = archive(tmp_path, Layer().file("x"))
    second = json.loads(document_of(cli, form, other, tmp_path).read_text(encoding="utf-8"))
    name = "documentNamespace" if form == "spdx" else "serialNumber"
    assert second[name] != json.loads(first)[name]


def test_package_urls_are_canonical(cli: CommandLine, mixed: Path) -> None:
    """The library of package-url parses each, and writes it again."""
    rows = listed(cli, mixed)
    assert {row["kind"] for row in rows} == {"deb", "apk", "rpm", "python", "npm"}
    for row in rows:
        parsed = PackageURL.from_string(row["purl"])
        # it leaves slashes as they are, and writes escapes in lower case
        assert parsed.to_string().lower() == row["purl"].lower().replace("%2f", "/")
        epoch, colon, version = row["version"].partition(":")
        is_rpm = row["kind"] == "rpm" and colon
        assert parsed.version == (version if is_rpm else row["version"])
        assert parsed.qualifiers.get("epoch") == (epoch if is_rpm else None)
        assert parsed.qualifiers.get("arch") == row["architecture"]
    by_name = {row["name"]: row["purl"] for row in rows}
    assert by_name["@scope/one"] == "pkg:npm/%40scope/one@1.2.3"
    assert by_name["p_0.x"] == "pkg:pypi/p-0.x@1%210%2Ba"


# ---- the table, and trouble ----------------------------------------------------------------------


def test_the_table(cli: CommandLine, tmp_path: Path) -> None:
    layer = Layer().file("node_modules/a/package.json", b'{"name":"a\\u001b","version":"1"}')
    shown = cli.run("packages", archive(tmp_path, layer)).stdout.splitlines()
    assert shown[0].split() == ["NAME", "VERSION", "KIND", "ARCH", "LAYER", "LICENSE"]
    assert shown[1].split() == ["a\\x1b", "1", "npm", "-", "0", "-"]
    assert cli.run("packages", "scratch").stdout.count("\n") == 1
    assert cli.run("packages", "scratch", "--format", "json").stdout == "[]\n"


def test_kinds_are_chosen(cli: CommandLine, mixed: Path) -> None:
    for kinds in (["npm"], ["rpm", "apk"]):
        words = [word for kind in kinds for word in ("--kind", kind)]
        assert {row["kind"] for row in listed(cli, *words, mixed)} == set(kinds)


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("var/lib/rpm/Packages", b"x" * 5000, "is not a hash of BerkeleyDB"),
        ("var/lib/rpm/Packages", b"", "too short"),
        ("var/lib/rpm/Packages.db", b"RpmP" + bytes(5000), "pages of slots"),
        ("var/lib/rpm/Packages.db", b"", "ends before"),
        ("var/lib/rpm/rpmdb.sqlite", b"x" * 5000, "SQLite cannot read it"),
        ("var/lib/rpm/rpmdb.sqlite", b"", "no such table"),
        ("node_modules/a/package.json", b"[" * 100_000, "damaged JSON"),
        ("node_modules/a/package.json", b"7", "not a JSON object"),
        ("a.dist-info/METADATA", b"Name: " + b"x" * 5000 + b"\n", "more than 4096"),
        ("a.dist-info/METADATA", bytes(5 << 20), "more than 4194304"),
    ],
)
def test_what_cannot_be_read_is_named(
    cli: CommandLine, tmp_path: Path, path: str, content: bytes, reason: str
) -> None:
    layer = (
        Layer()
        .file(path, content)
        .file("node_modules/ok/package.json", b'{"name":"ok","version":"1"}')
    )
    done = cli.run("packages", "--format", "jsonl", archive(tmp_path, layer), status=1)
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["ok"]
    assert done.stderr.startswith(f"unionmount: /{path}: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_paths_that_are_no_files_are_passed_over(cli: CommandLine, tmp_path: Path) -> None:
    layer = Layer().directory("var/lib/dpkg/status").symlink("lib/apk/db/installed", "/etc/passwd")
    layer.symlink("node_modules/a", "../loop").symlink("loop", "node_modules/a")
    layer.add("var/lib/rpm/Packages", b"6").symlink("etc/os-release", "os-release")
    assert listed(cli, archive(tmp_path, layer)) == []


def test_wrong_usage(cli: CommandLine) -> None:
    assert "--kind" in cli.error("packages", "--kind", "gem", "scratch", status=2)
    own = CommandLine(environment={"SOURCE_DATE_EPOCH": "yesterday"})
    assert "SOURCE_DATE_EPOCH" in own.error("packages", "--format", "spdx", "scratch", status=2)
