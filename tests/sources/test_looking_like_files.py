"""A word that looks like a file is never a registry's to know; a name always is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounting import CommandLine
from support.servers.raw import Connection, RawServer

from unionmount.sources import looks_like_file

pytestmark = pytest.mark.slow

FILES = [
    "image.tar",
    "image.tar:1",
    "image.tar:@1",
    "image.tar:example.org/name:1",
    "image.TAR.GZ",
    "image.tgz",
    "image.tar.zst",
    "image.oci",
    "nginx:1.25.tar",
    "images/image.tar",
    "build.out/image.tar",
    "~/image",
    "a/../image",
    ".cache/image",
    "images/",
    "images//image",
    "my images/image",
    "Downloads/image",
    "Downloads/image:1",
    f"{'R' * 300}/name",  # longer than the name of a directory may be
]
NAMES = [
    "nginx",
    "nginx:1.25",
    "nginx:tar",
    "tar",
    "library/nginx",
    "library/nginx:latest",
    "images/debian",
    "ghcr.io/owner/tar:1.gz2",
    "host:5000/x/y:tag",
    "host:5000/x/image.tar",
    "host:5000/x/image.tar:1",
    "[::1]:5000/x/image.tar",
    "localhost/image.tar",
    "quay.io/directory/name",
    f"image.tar@sha256:{'0' * 64}",
    "Registry/name",
    "Registry.example/name",
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose names are also those of registries and repositories."""
    where = tmp_path / "work"
    for name in ("images", "library", "nginx", "quay.io", "Downloads", "Registry.example"):
        (where / name).mkdir(parents=True)
    monkeypatch.chdir(where)
    return where


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("text", FILES)
def test_files(text: str) -> None:
    assert looks_like_file(text)


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("text", NAMES)
def test_names(text: str) -> None:
    assert not looks_like_file(text)


class Asked:
    """A registry that has nothing, and counts who comes."""

    def __init__(self) -> None:
        self.count = 0
        self.server = RawServer(self._answer)

    def _answer(self, connection: Connection) -> None:
        while connection.head():
            self.count += 1
            connection.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def asked() -> Iterator[Asked]:
    registry = Asked()
    with registry.server:
        yield registry


@pytest.fixture
def cli(tmp_path: Path, asked: Asked) -> CommandLine:
    """The command, for whom all short names are of one registry."""
    configuration = tmp_path / "registries.conf"
    configuration.write_text(f'unqualified-search-registries = ["{asked.server.address}"]\n')
    return CommandLine(
        environment={
            "UNIONMOUNT_ROOT": str(tmp_path / "store"),
            "HOME": str(tmp_path),
            "CONTAINERS_REGISTRIES_CONF": str(configuration),
        }
    )


def test_no_registry_is_asked_for_a_file(cli: CommandLine, asked: Asked, work: Path) -> None:
    (work / "gone").symlink_to("nowhere")
    (work / "target").mkdir()
    for word in ("image.tar", "images/image.tar:1", "Downloads/image", "~/image", "gone"):
        for command in (
            ("mount", word, work / "target"),
            ("mount", "--pull", "always", word, work / "target"),
            ("mount", "--pull", "never", word, work / "target"),
            ("ls", word),
            ("inspect", word),
            ("copy", word, "oci:out"),
        ):
            said = cli.run(*command, status=1).stderr  # inspect prints an empty list, too
            assert word.partition(":")[0] in said
            assert "no such file or directory" in said.lower()
    assert "docker://image.tar is an image of a registry" in cli.error("ls", "image.tar")
    for word in ("image.tar", "images/image.tar", "./image", "/image"):
        assert "looks like a file; load it" in cli.error("pull", word, status=2)
    assert asked.count == 0


def test_a_registry_is_asked_for_a_name(cli: CommandLine, asked: Asked, work: Path) -> None:
    (work / "target").mkdir()
    for word in (
        "library/nginx:1",
        "docker://images/image.tar:1",
        f"{asked.server.address}/x.tar:1",
    ):
        before = asked.count
        cli.error("mount", word, work / "target")
        assert asked.count > before
        before = asked.count
        cli.error("pull", "-q", word)
        assert asked.count > before
