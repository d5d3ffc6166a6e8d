"""The examples of the API's page, and what importing the package brings with it."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import unionmount
from unionmount import api

PROJECT = Path(__file__).parents[2]


@pytest.mark.needs("fuse")
def test_the_examples(place: Path) -> None:
    (place / "sample.tar").symlink_to(PROJECT / "sample/sample.tar")
    page = str(PROJECT / "docs/reference/api.md")
    found = doctest.testfile(page, module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 20
    assert found.failed == 0


def test_importing_is_light() -> None:
    code = "import unionmount, sys; print(*sys.modules); print(*dir(unionmount))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules, names = done.stdout.splitlines()
    heavy = {"trio", "pyfuse3", "unionmount._core", "unionmount.api", "subprocess"}
    assert not heavy & set(modules.split())
    assert {"open_image", "mount", "Image"} <= set(names.split())


def test_reading_an_image_is_light(place: Path) -> None:
    (place / "sample.tar").symlink_to(PROJECT / "sample/sample.tar")
    code = "import unionmount, sys; unionmount.open_image('sample.tar').tree.read('/etc/motd'); "
    code += "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"trio", "asyncio", "sniffio", "fsspec", "httpx2", "pyfuse3", "subprocess"}
    heavy |= {"unionmount.api.mounts", "unionmount.api.transfers", "unionmount.runtime"}
    assert not heavy & set(done.stdout.split())


def test_all_names_are_there() -> None:
    assert set(unionmount.__all__) | {"Path"} == set(api.__all__)
    for name in unionmount.__all__:
        assert getattr(unionmount, name) is getattr(api, name)
        assert getattr(api, name).__name__ == name
    assert set(api.__all__) <= set(dir(api))


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = unionmount.nonsense  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = api.nonsense  # type: ignore[attr-defined]
