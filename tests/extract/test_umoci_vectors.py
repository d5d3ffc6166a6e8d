"""The hostile layers of umoci's own tests, brought to the host in each of our ways.

The vectors and what becomes of them are those of oci/layer/tar_extract_test.go at commit
f5d1219acaf67127ebacf6306776d3ff465735ea of https://github.com/opencontainers/umoci; the names of
the tests are in ``VECTORS``. umoci itself unpacks the same images, but for those where our rules
(docs/explanation/layers.md, rule 6) or its version of Debian 12 differ.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine

pytestmark = pytest.mark.needs("root")

CONTENT = b"the new content"
OUTSIDE = b"the content outside"

Tree = Mapping[str, str | bytes | None]  # a target, a content, or None of all else


@dataclass(frozen=True)
class Vector:
    """Layers, the paths that are there afterwards, and those that are not."""

    layers: Sequence[Layer]
    there: Sequence[str] = ()
    gone: Sequence[str] = ()
    umoci_differs: bool = False


# ---- the vectors ---------------------------------------------------------------------------------


def sanitise_scoping() -> Iterable[tuple[str, Vector]]:
    """TestUnpackEntrySanitiseScoping."""
    for name, prefix in (("GarbagePrefix", "/.."), ("DotDotPrefix", "..")):
        yield name, Vector([Layer().file(f"{prefix}/file", CONTENT)], ["file"])


PREFIXES = {
    "RootPrefix": "/",
    "GarbagePrefix1": "/../",
    "GarbagePrefix2": "/../../../../../../../../../../../../../../../",
    "GarbagePrefix3": "/./.././.././.././.././.././.././.././.././../",
    "DotDotPrefix": "..",
}


def symlink_scoping() -> Iterable[tuple[str, Vector]]:
    """TestUnpackEntrySymlinkScoping; links of the same layer are followed, others not."""
    for name, target in PREFIXES.items():
        link = Layer().symlink("link", target)
        yield f"{name}-same-layer", Vector([link.file("link/file", CONTENT)], ["file", "link"])
        layers = [Layer().symlink("link", target), Layer().file("link/file", CONTENT)]
        yield f"{name}-layer-below", Vector(layers, ["link/file"], ["file"], umoci_differs=True)


def parents() -> Iterable[tuple[str, Vector]]:
    """TestUnpackEntryNonDirParent and TestUnpackEntryParentDir."""
    layer = Layer().file("nondir").file("nondir/foo/bar/baz")
    there = ["nondir/foo/bar/baz"]
    yield "NonDirParent", Vector([layer], there, umoci_differs=True)
    yield "ParentDir", Vector([Layer().file("a/b/c/file", CONTENT)], ["a/b/c/file"])


WHITEOUTS = {
    "FileInRoot": ("rootpath", False),
    "HiddenFileInRoot": (".hiddenroot", False),
    "FileInSubdir": ("some/path/file", False),
    "HiddenFileInSubdir": ("another/path/.hiddenfile", False),
    "DirInRoot": ("rootpath", True),
    "HiddenDirInRoot": (".hiddenroot", True),
    "DirInSubdir": ("some/path/dir", True),
    "HiddenDirInSubdir": ("another/path/.hiddendir", True),
}


def whiteouts() -> Iterable[tuple[str, Vector]]:
    """TestUnpackEntryWhiteout."""
    for name, (path, is_directory) in WHITEOUTS.items():
        below = Layer()
        if is_directory:
            below.directory(path)
            for inside in ("file1", "file2", ".subdir/file3"):
                below.file(f"{path}/{inside}", b"some value")
        else:
            below.file(path, b"some value")
        parent, base = os.path.split(path)
        mark = Layer().file(str(Path(parent, f".wh.{base}")))
        yield name, Vector([below, mark], [parent] if parent else [], [path])


def hard_links() -> Iterable[tuple[str, Vector]]:
    """TestUnpackHardlink."""
    layer = Layer().file("regular", CONTENT).hard_link("hard link", "/regular")
    layer.symlink("link", "../../../regular")
    layer.hard_link("hard link to symlink", "../../../link")
    yield "Hardlink", Vector([layer], ["regular", "hard link", "link", "hard link to symlink"])


BAD = "../../../../../../../../../../../../etc/shadow"
# path, target of a symlink, whether it is in the layer with the mark, whether it survives that
OPAQUE: dict[str, list[tuple[str, str, bool, bool]]] = {
    "OneLevel": [
        ("file", "", False, False),
        ("link", "..", True, True),
        ("badlink", "./nothing", True, True),
    ],
    "TwoLevel": [
        ("file", "", True, True),
        ("link", "..", False, False),
        ("badlink", "./nothing", False, False),
        ("dir/", "", True, True),
        ("dir/file", "", True, True),
        ("dir/link", "../badlink", False, False),
        ("dir/verybadlink", BAD, True, True),
        ("dir/verybadlink2", f"/{BAD}", False, False),
    ],
    "MultiLevel": [
        ("level1_file", "", True, True),
        ("level1_link", "..", False, False),
        ("level1a/", "", True, True),
        ("level1a/level2_file", "", False, False),
        ("level1a/level2_link", "../../../", True, True),
        ("level1a/level2a/", "", False, False),
        ("level1a/level2a/level3_fileA", "", False, False),
        ("level1a/level2b/", "", True, True),
        ("level1a/level2b/level3_fileA", "", True, True),
        ("level1a/level2b/level3_fileB", "", False, False),
        ("level1a/level2b/level3/level4/", "", False, False),
        ("level1b/", "", False, False),
        ("level1b/level2/level3_file", "", False, False),
    ],
    "MissingUpperAncestor": [
        ("some/", "", False, True),
        ("some/dir/", "", False, True),
        ("some/dir/somewhere", "", True, True),
        ("another/", "", False, False),
        ("another/dir/somewhere", "", False, False),
    ],
    "UpperWhiteout": [
        (".wh.fileB", "", True, True),
        ("fileA", "", True, True),
        ("fileB", "", True, True),
        ("fileC", "", False, False),
        (".wh.fileA", "", True, True),
        (".wh.fileC", "", True, True),
    ],
    "UpperDirWhiteout": [
        ("file", "", False, False),
        ("dir1/", "", True, True),
        ("dir1/file", "", True, True),
        ("dir1/link", "../badlink", False, False),
        ("dir1/verybadlink", BAD, True, True),
        ("dir1/verybadlink2", f"/{BAD}", False, False),
        (".wh.dir1", "", True, True),
        (".wh.dir2", "", True, True),
        ("dir2/", "", True, True),
        ("dir2/file", "", True, True),
        ("dir2/link", "../badlink", False, False),
    ],
}


def opaque_whiteouts() -> Iterable[tuple[str, Vector]]:
    """TestUnpackOpaqueWhiteout: the mark is the last entry of its layer."""
    for name, entries in OPAQUE.items():
        for above in (True, False):  # False: the vectors that are called …NoUpper
            layers = [Layer().directory("test-subdir"), Layer()]
            there, gone = ["test-subdir"], list[str]()
            for path, target, is_upper, survives in entries:
                layer = layers[1] if is_upper and above else layers[0]
                if ".wh." in path and not above:
                    continue
                full = f"test-subdir/{path.rstrip('/')}"
                if target:
                    layer.symlink(full, target)
                elif path.endswith("/"):
                    layer.directory(full)
                else:
                    layer.file(full)
                if ".wh." not in path:
                    (there if survives and above else gone).append(full)
            layers[1].file("test-subdir/.wh..wh..opq")
            yield name if above else f"{name}NoUpper", Vector(layers, there, gone)


VECTORS: dict[str, Vector] = {
    f"{function.__name__}-{name}": vector
    for function in (
        sanitise_scoping, symlink_scoping, parents, whiteouts, hard_links, opaque_whiteouts
    )
    for name, vector in function()
}  # fmt: skip


# ---- the ways out --------------------------------------------------------------------------------


def tree(top: Path) -> Tree:
    """What is below a directory."""
    found: dict[str, str | bytes | None] = {}
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            value: str | bytes | None = None
            if stat.S_ISLNK(mode):
                value = str(path.readlink())
            elif stat.S_ISREG(mode):
                value = path.read_bytes()
            found[str(path.relative_to(top))] = value
    return found


def by_cp(cli: CommandLine, image: Path, place: Path) -> Tree:
    cli.run("cp", "-a", f"{image}:/.", place)
    return tree(place)


def by_export(cli: CommandLine, image: Path, place: Path) -> Tree:
    script = f'set -o pipefail; {" ".join(COMMAND)} export "$1" | tar -x -C "$2"'
    subprocess.run(["bash", "-c", script, "bash", image, place], check=True, env=cli.environment)
    return tree(place)


def by_mount(cli: CommandLine, image: Path, place: Path) -> Tree:
    cli.run("mount", "--ro", image, place)
    try:
        return tree(place)
    finally:
        cli.run("umount", place)


def by_store(cli: CommandLine, image: Path, place: Path) -> Tree:
    """Through a layout with compressed layers and the store."""
    cli.run("copy", f"docker-archive:{image}", f"oci:{place.parent}/layout:app")
    cli.run("load", "-i", place.parent / "layout")
    cli.run("cp", "-a", f"oci:{place.parent}/layout:app:/.", place)
    return tree(place)


def by_umoci(cli: CommandLine, image: Path, place: Path) -> Tree:
    cli.run("copy", f"docker-archive:{image}", f"oci:{place.parent}/umoci-layout:app")
    layout = f"{place.parent}/umoci-layout:app"
    command = ["umoci", "unpack", "--image", layout, str(place / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    return tree(place / "bundle/rootfs")


def by_import(cli: CommandLine, image: Path, place: Path) -> Tree:
    """As a flat root file system, which is possible for what has one layer and no marks."""
    layer = place.parent / "layer.tar"
    with tarfile.open(image) as members:
        data = members.extractfile("0/layer.tar")
        assert data is not None
        layer.write_bytes(data.read())
    cli.run("import", layer, "imported:1")
    cli.run("cp", "-a", "imported:1:/.", place)
    return tree(place)


WAYS = (by_cp, by_export, by_store, by_mount)


@pytest.fixture
def own(tmp_path: Path) -> CommandLine:
    return CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})


@dataclass(frozen=True)
class Host:
    """A directory of the host with one to bring files to, beside files that nothing may touch."""

    top: Path

    def place(self, name: str) -> Path:
        """Make the directory of one way."""
        for path in (f"{name}/file", f"{name}/link", f"{name}/in/file"):
            (self.top / path).parent.mkdir(parents=True, exist_ok=True)
            (self.top / path).write_bytes(OUTSIDE)
        (self.top / name / "in/rootfs").mkdir()
        return self.top / name / "in/rootfs"

    def untouched(self, name: str) -> bool:
        """Whether nothing but the directory changed; our own layouts and tars are beside it."""
        around = self.top / name
        files = [around / "file", around / "link", around / "in/file"]
        names = {path.name for path in around.iterdir()}
        inner = {path.name for path in (around / "in").iterdir()} - {"layout", "layer.tar"}
        return (
            names == {"file", "link", "in"}
            and inner == {"file", "rootfs"}
            and all(path.read_bytes() == OUTSIDE for path in files)
        )


@pytest.mark.slow
@pytest.mark.needs("fuse", "tar", "umoci")
@pytest.mark.parametrize("name", VECTORS)
def test_vectors(own: CommandLine, tmp_path: Path, name: str) -> None:
    vector, host = VECTORS[name], Host(tmp_path / "host")
    image = docker_archive(tmp_path / "image.tar", vector.layers)
    ways = WAYS if len(vector.layers) > 1 else (*WAYS, by_import)
    found = [way(own, image, host.place(way.__name__)) for way in ways]
    assert set(vector.there) <= found[0].keys()
    assert not set(vector.gone) & found[0].keys()
    for way, shown in zip(ways, found, strict=True):
        assert host.untouched(way.__name__)
        assert shown == found[0], way.__name__
    if not vector.umoci_differs:
        assert found[0] == by_umoci(own, image, host.place("umoci"))


@pytest.mark.needs("fuse")
@pytest.mark.parametrize(
    "name", [".wh.", "some/path/.wh.", ".wh..", ".wh...", "some/path/.wh..", "some/../.wh..."]
)
def test_whiteouts_of_no_name(own: CommandLine, tmp_path: Path, name: str) -> None:
    """TestUnpackEntryWhiteout, EmptyWhiteoutName: they are refused, by umoci as well."""
    layers = [Layer().file("some/path/file", CONTENT), Layer().file(name)]
    image = docker_archive(tmp_path / "image.tar", layers)
    host = Host(tmp_path / "host")
    place = host.place("all")
    commands: list[list[str | Path]] = [
        ["cp", "-a", f"{image}:/.", place],
        ["export", image, "-o", place / "tar"],
        ["mount", "--ro", image, place],
        ["load", "-i", image],
        ["find", image],
    ]
    for words in commands:
        message = own.error(*words)
        assert "whiteout" in message
        assert message.count("\n") <= 1
    assert host.untouched("all")
    assert tree(place) == {}
    assert own.run("images", "-q").stdout == ""


@pytest.mark.parametrize("name", ["../.wh.file", "/../some/.wh.file", "a/../../../.wh.file"])
def test_whiteouts_that_lead_out(own: CommandLine, tmp_path: Path, name: str) -> None:
    """They hide the name in the image, and nothing beside or above the target is removed."""
    layers = [Layer().file("file").file("some/file"), Layer().file(name)]
    image = docker_archive(tmp_path / "image.tar", layers)
    host = Host(tmp_path / "host")
    hidden = "some/file" if "some" in name else "file"
    for way in (by_cp, by_export, by_store):
        found = way(own, image, host.place(way.__name__))
        assert hidden not in found
        assert len({"file", "some/file"} & found.keys()) == 1
        assert host.untouched(way.__name__)
