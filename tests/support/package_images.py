"""Images with the databases of package managers, which these programs make themselves."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from support.archives import Layer
from support.programs import run

ASSETS = Path(__file__).parents[1] / "assets" / "packages"
RPM_FORMAT = "%{NAME}|%{EPOCH}|%{VERSION}-%{RELEASE}|%{ARCH}|%{SOURCERPM}|%{LICENSE}\n"

_SPECIFICATION = """\
Name: {name}
Version: {version}
Release: {release}
{epoch}
Summary: A package of a test
License: {license}
BuildArch: {architecture}
%description
Text, naïve.
%package -n {name}-sub
Summary: A part of it
License: MIT
%description -n {name}-sub
Text.
%files
%files -n {name}-sub
"""


# ---- dpkg


class Dpkg:
    """A root directory that dpkg works on."""

    def __init__(self, work: Path) -> None:
        self.root = work / "root"
        self._work = work
        for name in ("info", "updates", "triggers"):
            (self.admin / name).mkdir(parents=True)
        (self.admin / "status").touch()
        (self.admin / "available").touch()

    @property
    def admin(self) -> Path:
        return self.root / "var/lib/dpkg"

    def _run(self, *words: str | Path) -> str:
        places = (f"--root={self.root}", f"--admindir={self.admin}", f"--log={self._work}/log")
        return run("dpkg", *places, "--force-all", *words)

    def install(self, name: str, version: str, architecture: str = "all", more: str = "") -> None:
        """Build a package with a file and a configuration file, and install it."""
        tree = self._work / "build"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "etc").mkdir()
        (tree / f"etc/{name}.conf").write_text("x\n")
        (tree / "DEBIAN/conffiles").write_text(f"/etc/{name}.conf\n")
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n{more}"
            "Maintainer: Nobody <n@example.org>\nDescription: A package of a test\n"
            " Version: 9 is not the version\n .\n More.\n"
        )
        made = self._work / "made.deb"
        run("dpkg-deb", "-b", "--root-owner-group", tree, made)
        self._run("-i", made)

    def remove(self, name: str) -> None:
        """Remove a package; its configuration file stays."""
        self._run("-r", name)

    def status(self) -> bytes:
        return (self.admin / "status").read_bytes()

    def listed(self) -> set[tuple[str, ...]]:
        """The packages by dpkg-query, without those that left only their configuration."""
        fields = ("db:Status-Status", "Package", "Version", "Architecture", "source:Package")
        form = "|".join(f"${{{name}}}" for name in (*fields, "source:Version")) + "\n"
        shown = run("dpkg-query", f"--admindir={self.admin}", "-W", f"--showformat={form}")
        rows = (tuple(line.split("|")) for line in shown.splitlines())
        return {row[1:] for row in rows if row[0] not in ("not-installed", "config-files")}


# ---- rpm


class Rpm:
    """Packages that rpmbuild made, and databases of them."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self.directory = work / "db"

    def build(
        self, name: str, version: str, release: str, *, epoch: str = "", license_: str = "MIT"
    ) -> list[Path]:
        specification = self._work / f"{name}.spec"
        text = _SPECIFICATION.format(
            name=name,
            version=version,
            release=release,
            license=license_,
            architecture="noarch",
            epoch=f"Epoch: {epoch}" if epoch else "",
        )
        specification.write_text(text, encoding="utf-8")
        top = self._work / "top" / f"{name}-{version}"
        run(
            "rpmbuild",
            "-bb",
            "--define",
            f"_topdir {top}",
            specification,
            env={"LC_ALL": "C.UTF-8"},
        )
        return sorted(top.rglob("*.rpm"))

    def _run(self, *words: str | Path) -> None:
        options = ["--justdb", "--nodeps", "--noscripts", "--nosignature"]
        if Path("/etc/debian_version").exists():  # whose rpm warns, or refuses without it
            options.append("--force-debian")
        run("rpm", "--dbpath", self.directory, *options, *words)

    def install(self, packages: Iterable[Path]) -> None:
        self._run("-U", *packages)

    def erase(self, *names: str) -> None:
        self._run("-e", *names)

    def database(self) -> bytes:
        return (self.directory / "rpmdb.sqlite").read_bytes()

    def listed(self) -> list[str]:
        """The packages as rpm lists them."""
        words = ("--dbpath", self.directory, "-qa", "--qf", RPM_FORMAT)
        return sorted(run("rpm", *words).splitlines())

    def berkeley(self, path: Path) -> list[str]:
        """Write the same packages as a database of BerkeleyDB; return how rpm lists them."""
        with sqlite3.connect(self.directory / "rpmdb.sqlite") as connection:
            rows = list(connection.execute("SELECT hnum, blob FROM Packages"))
        connection.close()
        lines = ["VERSION=3", "format=bytevalue", "type=hash", "HEADER=END"]
        lines += [f" {bytes(4).hex()}", f" {len(rows).to_bytes(4, 'little').hex()}"]
        for number, blob in rows:
            lines += [f" {number.to_bytes(4, 'little').hex()}", f" {blob.hex()}"]
        path.mkdir()
        text = "\n".join([*lines, "DATA=END", ""])
        subprocess.run(["db_load", path / "Packages"], input=text, text=True, check=True)
        shown = subprocess.run(
            ["rpm", "--define", "_db_backend bdb_ro", "--dbpath", path, "-qa", "--qf", RPM_FORMAT],
            check=True,
            capture_output=True,  # it complains of the indexes that are missing
            text=True,
        )
        return sorted(shown.stdout.splitlines())


# ---- files


def tree_layer_of(top: Path, where: str, layer: Layer | None = None) -> Layer:
    """A layer with the files below a directory of the machine."""
    layer = layer or Layer()
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink():
            layer.file(f"{where}/{path.relative_to(top)}", path.read_bytes())
    return layer


def npm_tree(top: Path) -> Path:
    """A project with nested modules, scopes, and files that look like modules."""
    modules: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
        "node_modules/left": ("left", "1.0.0", {"deep": "^2.0.0", "@scope/one": "^1.0.0"}),
        "node_modules/left/node_modules/deep": ("deep", "2.1.0", {}),
        "node_modules/deep": ("deep", "1.0.0-rc.1+build", {}),
        "node_modules/@scope/one": ("@scope/one", "1.2.3", {"@scope/two": "*"}),
        "node_modules/@scope/one/node_modules/@scope/two": ("@scope/two", "0.0.1", {}),
    }
    needs = {"left": "1.0.0", "deep": "1.0.0-rc.1", "@scope/one": "^1.0.0"}
    _write(top / "package.json", {"name": "app", "version": "9.9.9", "dependencies": needs})
    for where, (name, version, wanted) in modules.items():
        _write(
            top / where / "package.json",
            {"name": name, "version": version, "license": "MIT", "dependencies": dict(wanted)},
        )
    _write(top / "node_modules/left/dist/esm/package.json", {"type": "module"})
    _write(top / "node_modules/left/test/package.json", {"name": "fixture", "version": "1"})
    _write(top / "node_modules/.bin/package.json", {"name": "hidden", "version": "1"})
    return top


def _write(path: Path, document: object) -> None:

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
