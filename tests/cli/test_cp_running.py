"""``cp`` into and out of containers that run, of root and of ordinary users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archives import Layer
from support.rootless import UID, ordinary_user
from support.running import RUNTIMES, Runner, program_image, running

pytestmark = [pytest.mark.slow, pytest.mark.needs("fuse", "root", "busybox", *RUNTIMES)]
ordinary = pytest.mark.needs("ordinary-user", "unshare", "nsenter", "newuidmap")


@pytest.fixture(scope="module")
def image(make_public_tmp: Callable[[], Path]) -> Path:
    """An image whose programs can wait."""
    layer = Layer().directory("srv").symlink("data", "/srv")
    layer.file("srv/own", b"own\n", mode=0o600, owner=(1000, 1001))
    path = program_image(make_public_tmp() / "image.tar", layer)
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def roots(make_public_tmp: Callable[[], Path]) -> Iterator[Runner]:
    """The command line of root."""
    with running(Runner(make_public_tmp())) as line:
        yield line


@pytest.fixture(scope="module", params=[True, False])
def users(make_public_tmp: Callable[[], Path], request: pytest.FixtureRequest) -> Iterator[Runner]:
    """An ordinary user, with ranges of subordinate IDs and without."""
    with ordinary_user(make_public_tmp(), ranges=request.param) as line, running(line):
        yield line


def copy_both_ways(line: Runner, image: Path, top: Path) -> None:
    """Copy files into a container that runs, and what it has made out of it."""
    line.run("run", "-d", "--name", "web", image, "sleep", "1000")
    (top / "in/below").mkdir(parents=True)
    (top / "in/below/file").write_bytes(b"brought\n")
    for path in (top, top / "in", top / "in/below"):
        path.chmod(0o755)
    line.run("cp", top / "in", "web:/data")
    shown = line.output("exec", "web", "sh", "-c", "cat /srv/in/below/file; stat -c %u:%g /srv/in")
    assert shown.splitlines() == ["brought", "0:0"]
    made = line.store.parent / "made"
    line.run("exec", "web", "sh", "-c", "echo made >/srv/made; chmod 751 /srv/made")
    line.run("cp", "web:/srv/made", made)
    assert (made.read_bytes(), made.stat().st_mode & 0o7777) == (b"made\n", 0o751)
    line.run("cp", "web:/srv/own", "web:/copied")
    assert line.output("exec", "web", "cat", "/copied") == "own\n"
    line.run("stop", "-t", "0", "web")
    assert line.output("cat", "web:/srv/in/below/file") == "brought\n"
    line.run("cp", top / "in/below/file", "web:/srv/later")
    assert line.output("cat", "web:/srv/later") == "brought\n"


def test_of_root(roots: Runner, image: Path, tmp_path: Path) -> None:
    copy_both_ways(roots, image, tmp_path)


@ordinary
def test_of_an_ordinary_user(
    users: Runner, image: Path, make_public_tmp: Callable[[], Path]
) -> None:
    copy_both_ways(users, image, make_public_tmp())
    assert (users.store.parent / "made").stat().st_uid == UID


def test_a_link_of_the_container_leads_to_no_file_of_the_host(
    roots: Runner, image: Path, tmp_path: Path
) -> None:
    """CVE-2018-15664: a program in the container exchanges a directory for a symlink."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "file").write_bytes(b"brought\n")
    swap = "while :; do mv /d /t; mv /l /d; mv /d /l; mv /t /d; done"
    swap = f"mkdir /d; ln -s {tmp_path}/victim /l; {swap}"
    roots.run("run", "-d", "--name", "evil", image, "sh", "-c", swap)
    try:
        for _ in range(20):
            roots.call("cp", str(tmp_path / "file"), "evil:/d/file")
            roots.call("cp", f"{tmp_path}/.", "evil:/d/")
        assert not list((tmp_path / "victim").iterdir())
    finally:
        roots.run("rm", "-f", "evil")
