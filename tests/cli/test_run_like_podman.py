"""The same containers with podman and with ``unionmount``: fifty steps, whose output is compared.

Both load the same archives and call the same runtime, as root and as an ordinary user. The script
has the list of mount points that podman leaves in the layer of a container.
"""

from __future__ import annotations

import difflib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.effort import LONG
from support.podman import Podman
from support.running import busybox_layer
from support.users import public_place

ASSETS = Path(__file__).parents[1] / "assets/podman"
_WAYS = [("crun", False), ("runc", True), ("runc", False), ("crun", True)]
WAYS = _WAYS if LONG else _WAYS[:2]

pytestmark = [
    pytest.mark.needs("root", "fuse", "podman", "fuse-overlayfs", "newuidmap", "busybox"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for containers, which every user may enter."""
    made = Path(tempfile.mkdtemp(prefix="unionmount-podman-", dir=public_place())).resolve()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def fill(context: Path) -> None:
    """Make the archive with both images."""
    context.mkdir(parents=True)
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


def play(place: Path, engine: str, runtime: str, *, root: bool) -> list[str]:
    """Run the script with an engine, and return what it prints."""
    mounts = shutil.which("fuse-overlayfs")
    assert mounts
    variables = {
        "ENGINE": engine,
        "RUNTIME": runtime,
        "CGROUPS": "" if runtime == "runc" else "--cgroups=disabled",
        "UNIONMOUNT": f"{sys.prefix}/bin/unionmount",
    }
    podman = Podman(place / engine, root, Path(mounts), runtime, "", variables)
    fill(podman.top / "context")
    return podman.play((ASSETS / "engines.sh").read_text()).splitlines()


@pytest.mark.parametrize(
    ("runtime", "root"),
    [
        pytest.param(
            *way, id=f"{way[0]}-{'root' if way[1] else 'rootless'}", marks=pytest.mark.needs(way[0])
        )
        for way in WAYS
    ],
)
def test_the_same_as_with_podman(place: Path, runtime: str, *, root: bool) -> None:
    theirs = play(place, "podman", runtime, root=root)
    ours = play(place, "unionmount", runtime, root=root)
    difference = list(difflib.unified_diff(theirs, ours, "podman", "unionmount", lineterm=""))
    assert not difference, "\n".join(difference)
    assert len([line for line in ours if re.fullmatch(r"-- \d+", line)]) > 50
