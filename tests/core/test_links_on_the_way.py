"""Names whose way leads through a symlink of their own layer (docs/explanation/layers.md, rule 6).

umoci is the oracle of the whole, GNU tar of what stays below the directory that it extracts in.
"""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.image_files import MadeImage, oci_layout, write_directory
from support.model import Stack

from unionmount import core
from unionmount.store.layer_import import ImportLimits
from unionmount.store.store import Store
from unionmount.transfer.check_image import check_image
from unionmount.transfer.load import load, open_image

Shown = dict[str, str]


def own_library() -> list[Layer]:
    layer = Layer().directory("usr").directory("usr/lib").symlink("lib", "usr/lib")
    return [layer.file("lib/x.so", b"x").file("lib/deep/er/y.so", b"y")]


def climbing() -> list[Layer]:
    layer = Layer().directory("run").directory("var").symlink("var/run", "../run")
    return [layer.file("var/run/pid", b"1")]


def several() -> list[Layer]:
    layer = Layer().directory("c").directory("c/d").symlink("a", "b").symlink("b", "c/e")
    return [layer.symlink("c/e", "d").file("a/f", b"f").directory("a/g").file("a/g/h", b"h")]


def linked() -> list[Layer]:
    layer = Layer().directory("usr").directory("usr/lib").symlink("lib", "usr/lib")
    return [layer.file("usr/lib/y", b"y").hard_link("h", "lib/y").hard_link("lib/z", "h")]


def absolute() -> list[Layer]:
    layer = Layer().directory("usr").directory("usr/bin").symlink("bin", "/usr/bin")
    return [layer.file("bin/sh", b"sh").hard_link("bin/bash", "bin/sh")]


def out_of_the_image() -> list[Layer]:
    layer = Layer().directory("d").symlink("d/up", "../../../x").symlink("e", "/../../etc")
    return [layer.file("d/up/f", b"f").file("e/passwd", b"not the host's")]


def not_in_the_layer() -> list[Layer]:
    lower = Layer().directory("etc", mode=0o700).file("etc/old", b"old")
    return [lower, Layer().symlink("s", "/etc").file("s/n", b"n")]


def whiteouts() -> list[Layer]:
    lower = Layer().directory("usr").directory("usr/lib").file("usr/lib/old", b"old")
    lower.file("usr/lib/kept", b"kept").directory("opt").file("opt/gone", b"gone")
    upper = Layer().directory("usr").directory("usr/lib").symlink("lib", "usr/lib")
    upper.file("lib/.wh.old").symlink("o", "opt")
    return [lower, upper.file("o/.wh..wh..opq").file("o/new", b"new")]


def linked_below() -> list[Layer]:
    lower = Layer().directory("usr").directory("usr/lib").file("usr/lib/y", b"y")
    return [lower, Layer().symlink("lib", "usr/lib").hard_link("h", "lib/y")]


CASES = (
    *(own_library, climbing, several, linked, absolute, out_of_the_image),
    *(not_in_the_layer, whiteouts, linked_below),
)


def described(mode: int, target: str, content: Callable[[], bytes]) -> str:
    if stat.S_ISLNK(mode):
        return f"-> {target}"
    return "directory" if stat.S_ISDIR(mode) else content().decode()


def extracted(top: Path) -> Shown:
    shown = {}
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode
        target = str(path.readlink()) if stat.S_ISLNK(mode) else ""
        shown[str(path.relative_to(top))] = described(mode, target, path.read_bytes)
    return shown


def of_image(archive: Path, store: Store) -> Shown:
    with open_image(store, str(archive)) as image:
        tree = image.tree()
        return {
            path.decode(): described(
                found.mode,
                tree.readlink(found.node).decode() if stat.S_ISLNK(found.mode) else "",
                lambda found=found: tree.read(found.node, 0, found.size),  # type: ignore[misc]
            )
            for path, found in tree.walk()
            if path
        }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.needs("umoci", "root")
@pytest.mark.parametrize("case", CASES)
def test_umoci_puts_it_there(case: Callable[[], list[Layer]], store: Store, tmp_path: Path) -> None:
    layers = case()
    image = MadeImage(tuple(layer.data() for layer in layers), names=("made",))
    layout = write_directory(tmp_path / "layout", oci_layout(image))
    command = ["umoci", "unpack", "--image", f"{layout}:made", str(tmp_path / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    archive = docker_archive(tmp_path / "image.tar", case())
    assert of_image(archive, store) == extracted(tmp_path / "bundle/rootfs")


@pytest.mark.parametrize("case", [own_library, several, linked])
def test_gnu_tar_puts_it_there(
    case: Callable[[], list[Layer]], store: Store, tmp_path: Path
) -> None:
    (layer,) = case()
    top = tmp_path / "extracted"
    top.mkdir()
    subprocess.run(["tar", "-x", "-C", str(top)], input=layer.data(), check=True)
    archive = docker_archive(tmp_path / "image.tar", case())
    assert of_image(archive, store) == extracted(top)


def test_links_are_one_file(store: Store, tmp_path: Path) -> None:
    with open_image(store, str(docker_archive(tmp_path / "image.tar", linked()))) as image:
        tree = image.tree()
        nodes = {tree.resolve(path).node for path in (b"h", b"usr/lib/y", b"usr/lib/z")}
        assert len(nodes) == 1
        assert tree.resolve(b"h").nlink == 3


def test_a_symlink_of_a_lower_layer_makes_way(store: Store, tmp_path: Path) -> None:
    """As in docker, containers/storage and containerd."""
    lower = Layer().directory("usr").directory("usr/lib").symlink("lib", "usr/lib")
    archive = docker_archive(tmp_path / "image.tar", [lower, Layer().file("lib/x.so", b"x")])
    shown = of_image(archive, store)
    assert (shown["lib"], shown["lib/x.so"]) == ("directory", "x")
    assert "usr/lib/x.so" not in shown


def circles() -> Layer:
    layer = Layer().symlink("a", "b").symlink("b", "a").file("a/lost", b"x")
    layer.symlink("w", ".wh.x").file("w/lost too", b"x").symlink("l", "n" * 256)
    return layer.file("l/and this", b"x").hard_link("nowhere", "a/lost").file("kept", b"kept")


def test_what_has_no_place_is_left_out_and_listed(store: Store, tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "image.tar", [circles()])
    shown = of_image(archive, store)
    assert shown == {
        "a": "-> b",
        "b": "-> a",
        "w": "-> .wh.x",
        "l": f"-> {'n' * 256}",
        "kept": "kept",
    }
    told = [problem.text for problem in check_image(store, str(archive))]
    assert told == [
        *(f"'{name}' has no path: symlinks in its directories form a loop" for name in LOST),
        "hard link 'nowhere' leads to 'a/lost', which does not exist",
    ]


def test_what_can_not_be_listed_is_a_problem_of_its_layer(store: Store, tmp_path: Path) -> None:
    """The names are in the tar alone, and reading it may take more memory than is allowed now."""
    (image,) = load(store, str(docker_archive(tmp_path / "image.tar", [circles()])))
    frugal = Store(store.root, ImportLimits(core=core.IndexLimits(max_memory=512)))
    first, *others = check_image(frugal, str(image.id))
    assert first.layer is not None
    assert "more than 512 bytes of memory" in first.text
    assert [one.text.partition(" leads")[0] for one in others] == ["hard link 'nowhere'"]


LOST = ("a/lost", "w/lost too", "l/and this")


def test_a_way_is_never_long(store: Store, tmp_path: Path) -> None:
    """A chain of 40 links is followed, one of 41 is not; nor are targets of more than 16 KiB."""
    layer = Layer().directory("end")
    for number in range(41):
        layer.symlink(f"l{number}", "end" if number == 0 else f"l{number - 1}")
    layer.file("l39/followed", b"x").file("l40/not", b"x")
    far = "x/../" * 800
    for number in range(6):
        layer.symlink(f"f{number}", far + ("end" if number == 0 else f"f{number - 1}"))
    layer.file("f3/followed too", b"x").file("f5/neither", b"x")
    data = layer.data()
    model = Stack([data])
    with core.Indexer("layer") as indexer:
        indexer.feed(data)
        assert (
            list(indexer.unresolved()) == model.layers[0].unresolved == [b"l40/not", b"f5/neither"]
        )
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"")
    assert {path[-1] for path in model.view if path and path[0] == b"end"} == {
        *(b"end", b"followed", b"followed too"),
    }
