"""Commands that read a container whose upper was tampered with: an error, and always an end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine, own_places

pytestmark = [pytest.mark.needs("fuse", "root"), pytest.mark.timeout(120)]

MEMORY = 3 << 20  # KiB of address space: a walk without an end fails soon
LOOP = "/deep/closed"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A container with a directory that continues the root, and so has itself below it."""
    top = tmp_path_factory.mktemp("loop")
    layer = Layer().directory("deep").directory("deep/closed").file("open", b"password\n")
    for name in ("a", "closed/inner", "z"):
        layer.file(f"deep/{name}", b"password\n")
    limited = ("sh", "-c", f'ulimit -v {MEMORY}; exec "$@"', "sh")
    made = CommandLine(limited, own_places(top))
    made.run("load", "-i", docker_archive(top / "image.tar", [layer], "test"))
    (top / "mnt").mkdir()
    made.run("mount", "--name", "looped", "test", top / "mnt")
    (top / "mnt/deep/closed/own").touch()
    made.run("umount", top / "mnt")
    upper = Path(made.environment["UNIONMOUNT_ROOT"], "containers/looped/upper")
    os.setxattr(f"{upper}{LOOP}", "trusted.overlay.redirect", b"//")
    return made


@pytest.fixture
def mounted(line: CommandLine, tmp_path: Path) -> Iterator[Path]:
    """A mount of that container."""
    line.run("mount", "looped", tmp_path)
    yield tmp_path
    line.run("umount", tmp_path)


def test_searches_go_on(line: CommandLine) -> None:
    found = line.run("find", "looped", status=1)
    assert found.stdout.split() == ["/", "/deep", "/deep/a", LOOP, "/deep/z", "/open"]
    assert found.stderr == f"unionmount: find: '{LOOP}': Input/output error\n"
    for words in (("password",), ("-c", "password"), ("--format", "jsonl", "password")):
        found = line.run("grep", *words, "looped", status=2)
        assert [name in found.stdout for name in ("/deep/a", "/deep/z", "/open")] == [True] * 3
        assert found.stderr == f"unionmount: looped:{LOOP}: Input/output error\n"
    assert line.error("grep", "x", f"looped:{LOOP}", status=2).startswith(f"looped:{LOOP}: ")


@pytest.mark.parametrize(
    "words",
    [
        ("export", "-o", "{top}/tar", "looped"),
        ("cp", "looped:/deep", "{top}/out"),
        ("diff", "looped"),
        ("diff", "test", "looped", "--files"),
        ("commit", "looped", "new:1"),
        ("packages", "looped"),
        ("ls", "-R", "looped"),
        ("ls", f"looped:{LOOP}"),
    ],
    ids=" ".join,
)
def test_what_needs_all_is_an_error(
    line: CommandLine, tmp_path: Path, words: tuple[str, ...]
) -> None:
    status = 2 if "--files" in words else 1  # as diff(1), where two images are compared
    done = line.run(*(word.format(top=tmp_path) for word in words), status=status)
    assert done.stderr.endswith(f"{LOOP}: Input/output error\n")
    assert not (tmp_path / "tar").exists()


def test_the_mount(mounted: Path) -> None:
    """The kernel finds no loop, and the files beside it are there."""
    found = subprocess.run(["find", mounted], capture_output=True, text=True, check=False)
    names = {line.removeprefix(str(mounted)) for line in found.stdout.splitlines()}
    assert names >= {"", "/deep", "/deep/a", LOOP, "/deep/z", "/open"}
    assert found.stderr == f"find: ‘{mounted}{LOOP}’: Input/output error\n"  # noqa: RUF001
    assert (mounted / "deep/closed/own").exists()


def test_the_damage_can_be_removed(line: CommandLine, tmp_path: Path) -> None:
    words = [*line.prefix, *COMMAND, "rm", "looped"]
    done = subprocess.run(
        words, env=line.environment, capture_output=True, input=b"y\n", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "looped" not in line.run("ps", "-a").stdout
