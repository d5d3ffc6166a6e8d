"""``unionmount-overlay`` as the mount program of podman and buildah, beside fuse-overlayfs.

The same script runs with both, as root and as an ordinary user, with both runtimes: the output of
podman, of the containers and of the saved layers has to be the same, line by line.
"""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.effort import LONG
from support.podman import Podman, our_program
from support.users import public_place

ASSETS = Path(__file__).parents[1] / "assets/podman"
WAYS = [("crun", False), ("runc", True), ("runc", False), ("crun", True)]

pytestmark = [
    pytest.mark.needs("root", "fuse", "podman", "fuse-overlayfs", "newuidmap", "busybox"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

_HEX = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for containers, which every user may enter."""
    made = Path(tempfile.mkdtemp(prefix="unionmount-podman-", dir=public_place())).resolve()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def ways(which: list[tuple[str, bool]]) -> pytest.MarkDecorator:
    """Run a test with these runtimes, as root or not."""
    return pytest.mark.parametrize(
        ("runtime", "root"),
        [pytest.param(*way, marks=pytest.mark.needs(way[0])) for way in which],
        ids=[f"{runtime}-{'root' if root else 'rootless'}" for runtime, root in which],
    )


def settings(runtime: str, root: bool) -> dict[str, str]:
    """Return the variables of the scripts for one way to call podman."""
    maps = "--uidmap 0:1:1000 --uidmap 1000:0:1 --uidmap 1001:1001:1000"
    if root:
        maps = "--uidmap 0:100000:5000 --gidmap 0:200000:5000"
    return {
        "CGROUPS": "" if runtime == "runc" else "--cgroups=disabled",  # runc refuses the option
        "MAPS": maps,
        "KEEP": maps if root else "--userns=keep-id",
        "ENTER": "" if root else "podman unshare",
    }


def fill(context: Path) -> None:
    """Make the files that are built into the image."""
    (context / "directory").mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, context / "busybox")
    compiler = ["cc", "-static", "-o", str(context / "euid"), str(ASSETS / "euid.c")]
    subprocess.run(compiler, check=True)
    (context / "a").write_text("a\n")
    for name in ("b", "gone"):
        (context / "directory" / name).write_text(name)
    shutil.copy(ASSETS / "Containerfile", context)


def play_both(place: Path, runtime: str, root: bool, *scripts: str, more: str = "") -> list[str]:
    """Run scripts with both programs; return the lines that both printed, once."""
    theirs = shutil.which("fuse-overlayfs")
    assert theirs
    text = "\n".join((ASSETS / name).read_text() for name in ("prelude.sh", *scripts))
    printed = []
    for program in (Path(theirs), our_program()):
        podman = Podman(
            place / program.name, root, program, runtime, more, settings(runtime, root)
        )
        fill(podman.top / "context")
        printed.append(_HEX.sub("ID", podman.play(text)).splitlines())
    assert printed[1] == printed[0], "\n".join(difflib.unified_diff(*printed, lineterm=""))
    return printed[1]


@ways(WAYS if LONG else WAYS[:2])
def test_the_same_as_with_fuse_overlayfs(place: Path, runtime: str, root: bool) -> None:
    printed = play_both(place, runtime, root, "short.sh")
    assert "= 0" in printed
    assert "= 125" not in printed
