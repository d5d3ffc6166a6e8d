"""fsspec's own tests of writing, with its file system of local files on a writable mount."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem, make_path_posix
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)
from support.archives import Layer, docker_archive

import unionmount

pytestmark = pytest.mark.needs("fuse")


class OnMount(AbstractFixtures):  # type: ignore[misc]
    """The fixtures: the directory that all tests of a class work in comes from an image."""

    @pytest.fixture(scope="class")
    @classmethod
    def mounted(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """A writable mount."""
        place = tmp_path_factory.mktemp("fsspec")
        image = docker_archive(place / "image.tar", [Layer().directory("work")])
        with unionmount.mount(image, ephemeral=True, root=place / "root") as mounted:
            yield mounted.path

    @pytest.fixture
    def fs(self) -> LocalFileSystem:
        return LocalFileSystem(auto_mkdir=True)

    @pytest.fixture
    def fs_join(self) -> Any:
        return posixpath.join

    @pytest.fixture
    def fs_path(self, mounted: Path) -> str:
        return str(make_path_posix(str(mounted / "work")))


class TestCopy(OnMount, AbstractCopyTests):  # type: ignore[misc]
    pass


class TestGet(OnMount, AbstractGetTests):  # type: ignore[misc]
    pass


class TestPut(OnMount, AbstractPutTests):  # type: ignore[misc]
    pass


class TestOpen(OnMount, AbstractOpenTests):  # type: ignore[misc]
    pass


class TestPipe(OnMount, AbstractPipeTests):  # type: ignore[misc]
    pass
