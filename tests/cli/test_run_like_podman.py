"""The same containers with podman and with ``unionmount``: scripts, whose output is compared.

Both load the same archives and call the same runtime, as root and as an ordinary user: a small
image with BusyBox, images that have nothing but one static program, and a Debian made by
debootstrap. ``engine-prelude.sh`` has the list of mount points that podman leaves in the layer of a
container.
"""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import support.terminal
from support.archives import Layer, docker_archive
from support.effort import LONG
from support.podman import Podman
from support.real_images import TOOLS, RealImage
from support.running import PROGRAMS, busybox_layer
from support.users import public_place

ASSETS = Path(__file__).parents[1] / "assets/podman"
_ROOTLESS, _ROOT = ("crun", False), ("runc", True)
# Times that podman is asked if the answers differ: 4.3 loses the output of a container now and then
# that ends at once, with status 0, on a busy machine. unionmount is asked once.
_ASKED = 3
_WAYS = (_ROOTLESS, _ROOT, ("runc", False), ("crun", True))

pytestmark = [
    pytest.mark.needs("root", "fuse", "podman", "fuse-overlayfs", "newuidmap", "busybox"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for containers, which every user may enter."""
    made = Path(tempfile.mkdtemp(prefix="unionmount-podman-", dir=public_place())).resolve()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def fill_engines(context: Path, _: pytest.FixtureRequest) -> None:
    """Make the archives of the small images."""
    base = busybox_layer().directory("data").directory("mnt").directory("tmp", mode=0o1777)
    for number in range(3):
        base.file(f"data/{number}", b"%d\n" % number, owner=(number, 10 * number))
    docker_archive(context / "app.tar", [base], "app:latest", config={"Cmd": ["/bin/sh"]})
    config = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["id; pwd; echo $A $B $HOME"],
        "User": "app",
        "WorkingDir": "/srv/x",
        "Env": ["A=1", "B=x y", "PATH=/bin"],
    }
    docker_archive(context / "service.tar", [base, Layer()], "service:latest", config=config)


def fill_scratch(context: Path, _: pytest.FixtureRequest) -> None:
    """Make the archives of images that have one program and no shell, users or directories."""
    program = context / "probe"
    compiler = ["cc", "-static", "-O1", "-s", "-o", str(program), str(ASSETS / "probe.c")]
    subprocess.run(compiler, check=True)
    base = Layer().file("probe", program.read_bytes(), mode=0o755)
    bare = {"Cmd": ["/probe"]}
    docker_archive(context / "bare.tar", [base], "bare:latest", ["COPY probe /"], bare)
    more = Layer().file("plain", b"x\n").file("script", b"#!/nosuch/shell\n", mode=0o755)
    more.file("garbage", b"\x00\x01no program\n", mode=0o755).symlink("dangling", "nowhere")
    more.symlink("loop", "loop").symlink("link", "probe").directory("d", mode=0o2750, owner=(5, 6))
    config = {
        "Entrypoint": ["/probe"],
        "Cmd": ["id", "cwd", "stat", "/made/by", "caps"],
        "User": "5:6",
        "WorkingDir": "/made/by/config/",
        "Env": ["A=1", "B=x  y", "ODD=\u00e9\"'$`=\\\t", "EMPTY="],
        "StopSignal": "SIGINT",
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"l": "a label", "odd/label": '\u00e9 "\n'},
        "OnBuild": ["RUN nothing"],
        "Shell": ["/bin/nosuch", "-c"],
    }
    docker_archive(context / "config.tar", [base, more], "config:latest", config=config)


def fill_terminal(context: Path, _: pytest.FixtureRequest) -> None:
    """Make the archive of an image with programs that use terminals."""
    shutil.copy(ASSETS / "on_terminal.py", context)
    (context / "support").mkdir()
    shutil.copy(Path(support.terminal.__file__), context / "support")
    base = busybox_layer().directory("tmp", mode=0o1777)
    for name in {"less", "top", "vi"}.difference(PROGRAMS):
        base.symlink(f"bin/{name}", "busybox")
    docker_archive(context / "app.tar", [base], "app:latest", config={"Cmd": ["/bin/sh"]})


def fill_debian(context: Path, request: pytest.FixtureRequest) -> None:
    """Bring the archive of the Debian, which is built once and kept."""
    real: RealImage = request.getfixturevalue("real")
    shutil.copy(real.base / "built.tar", context / "debian.tar")


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and what has to be there for it."""

    fill: Callable[[Path, pytest.FixtureRequest], None]
    steps: int  # at least
    short: tuple[tuple[str, bool], ...]  # the ways of the short form
    needs: tuple[str, ...] = ()


SCRIPTS = {
    "engines": Script(fill_engines, 50, (_ROOTLESS, _ROOT)),
    "terminal": Script(fill_terminal, 20, (_ROOTLESS,)),
    "scratch": Script(fill_scratch, 70, (_ROOTLESS,), ("cc",)),
    "debian": Script(fill_debian, 50, (_ROOT,), (*TOOLS, "setcap", "setfattr", "setfacl")),
}


@dataclass(frozen=True, slots=True)
class Way:
    """A script, and how the engines run it."""

    script: str
    runtime: str
    root: bool

    @property
    def param(self) -> object:
        """Return it as a parameter of a test."""
        name = f"{self.script}-{self.runtime}-{'root' if self.root else 'rootless'}"
        needs = pytest.mark.needs(self.runtime, *SCRIPTS[self.script].needs)
        return pytest.param(self, id=name, marks=needs)

    def prepare(self, place: Path, engine: str, request: pytest.FixtureRequest) -> Podman:
        """Return what runs the script with an engine."""
        mounts = shutil.which("fuse-overlayfs")
        assert mounts
        variables = {
            "ENGINE": engine,
            "RUNTIME": self.runtime,
            "CGROUPS": "" if self.runtime == "runc" else "--cgroups=disabled",
            "UNIONMOUNT": f"{sys.prefix}/bin/unionmount",
            "PYTHON": sys.executable,
            "LONG": "1" if LONG else "",
        }
        podman = Podman(place / engine, self.root, Path(mounts), self.runtime, "", variables)
        context = podman.top / "context"
        context.mkdir(parents=True)
        shutil.copy(ASSETS / "list_layer.py", context)
        SCRIPTS[self.script].fill(context, request)
        return podman

    def play(self, podman: Podman) -> list[str]:
        """Run the script, and return what it prints."""
        parts = [(ASSETS / f"{name}.sh").read_text() for name in ("engine-prelude", self.script)]
        return podman.play("\n".join(parts)).splitlines()


ALL_WAYS = [
    Way(name, *way).param
    for name, script in SCRIPTS.items()
    for way in (_WAYS if LONG else script.short)
]


@pytest.mark.parametrize("way", ALL_WAYS)
def test_the_same_as_with_podman(place: Path, way: Way, request: pytest.FixtureRequest) -> None:
    engines = [way.prepare(place, engine, request) for engine in ("podman", "unionmount")]
    with ThreadPoolExecutor() as pool:
        theirs, ours = pool.map(way.play, engines)
    for again in range(1, _ASKED):
        if theirs == ours:
            break
        theirs = way.play(way.prepare(place / f"again-{again}", "podman", request))
    difference = list(difflib.unified_diff(theirs, ours, "podman", "unionmount", lineterm=""))
    assert not difference, "\n".join(difference)
    assert not [line for line in ours if line.startswith("Traceback")]
    steps = [line for line in ours if re.fullmatch(r"-- \d+", line)]
    assert len(steps) > SCRIPTS[way.script].steps
