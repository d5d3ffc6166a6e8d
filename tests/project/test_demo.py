"""The demo: what a newcomer runs first."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("fuse")


@pytest.fixture
def demo(project: Path) -> str:
    return str(project / "scripts" / "demo.sh")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The demo's temporary directory is one that the test can look into afterwards."""
    return os.environ | {"TMPDIR": str(tmp_path), "LC_ALL": "C"}


def test_it_shows_the_sample_and_leaves_nothing(
    demo: str, environment: dict[str, str], tmp_path: Path
) -> None:
    result = subprocess.run(
        [demo], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "Hello from the second layer: it changed this file." in result.stdout
    assert "$ unionmount diff image\nA /hello\n" in result.stdout
    assert "D /etc/greeter/de.conf" in result.stdout
    assert "de.conf" not in result.stdout.partition("unionmount layers")[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("getfattr")
def test_it_says_which_layer_a_file_comes_from(demo: str, environment: dict[str, str]) -> None:
    result = subprocess.run(
        [demo], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    command = "$ getfattr --only-values -n user.unionmount.layer_index image/"
    answers = {
        part.split("\n")[0]: part.split("\n")[1] for part in result.stdout.split(command)[1:]
    }
    expected = {"bin/hello": "0", "etc/motd": "1", "etc/greeter/en.conf": "2", "app/greet.sh": "3"}
    assert answers == expected


def test_it_takes_another_image_by_a_relative_path(
    demo: str, environment: dict[str, str], sample: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.tar").write_bytes(sample.read_bytes())
    result = subprocess.run(
        [demo, "mine.tar"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "COPY app /app" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tar"]


def test_an_image_that_is_not_there_is_one_line(
    demo: str, environment: dict[str, str], tmp_path: Path
) -> None:
    result = subprocess.run(
        [demo, "nosuch"], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_it_cleans_up_when_nobody_reads_on(
    demo: str, environment: dict[str, str], tmp_path: Path
) -> None:
    with subprocess.Popen(
        [demo],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Python ignores SIGPIPE; programs that a user starts do not
        restore_signals=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) != 0
    assert not list(tmp_path.iterdir())
