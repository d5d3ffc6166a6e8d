"""Wheels for pip, made of the standard library of this Python: real modules, and no network."""

from __future__ import annotations

import base64
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

_EXCLUDED = {"idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}
_METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
_WHEEL = "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def _packages() -> Iterator[Path]:
    top = Path(sysconfig.get_path("stdlib"))
    for path in sorted(top.iterdir()):
        is_wanted = path.name not in _EXCLUDED and not path.name.startswith("_")
        if is_wanted and (path / "__init__.py").exists():
            yield path


def _record(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def _write(package: Path, place: Path) -> str:
    """One wheel; the name that pip knows it by."""
    name = f"bench_{package.name}"
    facts = f"{name}-1.0.dist-info"
    contents = {
        f"{name}/{path.relative_to(package)}": path.read_bytes()
        for path in sorted(package.rglob("*.py"))
        if not _EXCLUDED.intersection(path.parts)
    }
    contents[f"{facts}/METADATA"] = _METADATA.format(name=name).encode()
    contents[f"{facts}/WHEEL"] = _WHEEL.encode()
    records = "".join(_record(*one) for one in contents.items()) + f"{facts}/RECORD,,\n"
    contents[f"{facts}/RECORD"] = records.encode()
    with ZipFile(place / f"{name}-1.0-py3-none-any.whl", "w", ZIP_DEFLATED) as wheel:
        for inside, content in contents.items():
            wheel.writestr(inside, content)
    return name


def write(place: Path, most: int) -> list[str]:
    """Wheels of that many packages at most, in a new directory; their names."""
    place.mkdir(parents=True)
    return [_write(package, place) for package in list(_packages())[:most]]
