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
from support.archives import Layer, docker_archive
from support.effort import LONG
from support.podman import Podman, our_program
from support.users import public_place

ASSETS = Path(__file__).parents[1] / "assets/podman"
LAYERS = 120
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


def many_layers(context: Path, count: int) -> None:
    """Make an archive of an image of ``count`` layers, most of which change what is below them."""
    first = Layer().directory("bin").directory("many").directory("many/d")
    first.file("bin/busybox", (context / "busybox").read_bytes(), mode=0o755)
    for name in ("sh", "ls", "wc", "cat", "md5sum", "find", "stat", "sort", "mv", "rm", "chown"):
        first.symlink(f"bin/{name}", "busybox")
    layers = [first.symlink("bin/touch", "busybox")]
    for number in range(1, count):
        layer = Layer().file(f"many/f{number}", owner=(number, 2 * number))
        layer.file("many/shared", b"%d\n" % number).file(f"many/d/{number}", b"x" * number)
        if number % 3 == 0:
            layer.file(f"many/.wh.f{number - 2}")
        layers.append(layer)
    docker_archive(context / "many.tar", layers, "many:latest")


def scripts(*names: str) -> str:
    return "\n".join((ASSETS / name).read_text() for name in ("prelude.sh", *names))


def programs() -> list[Path]:
    """The mount programs: the oracle, and ours."""
    theirs = shutil.which("fuse-overlayfs")
    assert theirs
    return [Path(theirs), our_program()]


def play_both(place: Path, runtime: str, root: bool, *names: str, more: str = "") -> list[str]:
    """Run scripts with both programs; return the lines that both printed."""
    printed = []
    for program in programs():
        podman = Podman(
            place / program.name, root, program, runtime, more, settings(runtime, root)
        )
        fill(podman.top / "context")
        many_layers(podman.top / "context", LAYERS)
        printed.append(_HEX.sub("ID", podman.play(scripts(*names))).splitlines())
    assert printed[1] == printed[0], "\n".join(difflib.unified_diff(*printed, lineterm=""))
    return printed[1]


@ways(WAYS if LONG else WAYS[:2])
def test_the_same_as_with_fuse_overlayfs(place: Path, runtime: str, root: bool) -> None:
    printed = play_both(place, runtime, root, "short.sh")
    # the set-user-ID program that the build ran as user 1000, and that of a container
    assert printed[printed.index("1000") + 1] == "0"
    assert "= 125" not in printed
