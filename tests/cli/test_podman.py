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
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.effort import LONG
from support.podman import Podman, our_program
from support.users import public_place

ASSETS = Path(__file__).parents[1] / "assets/podman"
LAYERS = 120


@dataclass(frozen=True, slots=True)
class Case:
    """Scripts, and the way to call podman in them."""

    runtime: str
    root: bool
    scripts: tuple[str, ...] = ("short.sh", "clean.sh")
    storage: str = ""  # a line of storage.conf
    alone: bool = False  # whether it is not for fuse-overlayfs

    @property
    def name(self) -> str:
        user = "root" if self.root else "rootless"
        return "-".join((self.runtime, user, self.scripts[0].removesuffix(".sh")))

    @property
    def needs(self) -> pytest.MarkDecorator:
        return pytest.mark.needs(self.runtime)

    @property
    def variables(self) -> dict[str, str]:
        """Return the variables of the scripts."""
        maps = "--uidmap 0:1:1000 --uidmap 1000:0:1 --uidmap 1001:1001:1000"
        if self.root:
            maps = "--uidmap 0:100000:5000 --gidmap 0:200000:5000"
        return {
            "CGROUPS": "" if self.runtime == "runc" else "--cgroups=disabled",
            "MAPS": maps,
            "KEEP": maps if self.root else "--userns=keep-id",
            "ENTER": "" if self.root else "podman unshare",
        }


_WAYS = [("crun", False), ("runc", True), ("runc", False), ("crun", True)]
_EVERYTHING = ("short.sh", "more.sh", "clean.sh")
_SHORT = [Case(*way) for way in _WAYS[:2]]
_LONG = [
    *(Case(*way, _EVERYTHING) for way in _WAYS),
    # A container moves from one program to the other if no redirects are written.
    *(Case(*way, ("switch.sh",), 'mountopt = "redirect_dir=off"\n') for way in _WAYS[:2]),
    *(Case(*way, ("short.sh",), 'mountopt = "nodev,metacopy=on"\n') for way in _WAYS[:1]),
    # fuse-overlayfs 1.10 loses owners with force_mask; without it, it shows the right ones.
    *(Case(*way, ("mask.sh",), 'force_mask = "shared"\n', alone=True) for way in _WAYS[:2]),
]
CASES = _LONG if LONG else _SHORT

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


def programs() -> list[Path]:
    """The mount programs: the oracle, and ours."""
    theirs = shutil.which("fuse-overlayfs")
    assert theirs
    return [Path(theirs), our_program()]


def play(place: Path, case: Case, program: Path, other: Path) -> list[str]:
    """Run the case's scripts with a program; return what they print, without IDs."""
    more = "" if program.name == "fuse-overlayfs" and case.alone else case.storage
    variables = case.variables | {"OTHER": str(other)}
    podman = Podman(place / program.name, case.root, program, case.runtime, more, variables)
    fill(podman.top / "context")
    many_layers(podman.top / "context", LAYERS)
    text = "\n".join((ASSETS / name).read_text() for name in ("prelude.sh", *case.scripts))
    # An owner that no range shows is 4294967294 here and 65534 there (docs/reference/options.md).
    return _HEX.sub("ID", podman.play(text)).replace("4294967294", "65534").splitlines()


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=case.needs) for case in CASES]
)
def test_the_same_as_with_fuse_overlayfs(place: Path, case: Case) -> None:
    theirs, ours = programs()
    expected = play(place, case, theirs, ours)
    printed = play(place, case, ours, theirs)
    assert "\n".join(difflib.unified_diff(expected, printed, lineterm="")) == ""
    assert printed[0].startswith("$ podman build")
    assert printed[2] == "= 0"
    if "short.sh" in case.scripts:
        # The set-user-ID program that the build ran as user 1000 had root's rights.
        first = printed.index("1000")
        assert printed[first : first + 2] == ["1000", "0"]
