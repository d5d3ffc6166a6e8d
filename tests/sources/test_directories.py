"""Directories with images: those of skopeo's ``dir:``, and archives that somebody has unpacked."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.image_files import (
    OCI_INDEX,
    OCI_MANIFEST,
    SMALL_TREE,
    Members,
    blob_path,
    descriptor,
    docker_archive,
    flip,
    gzipped,
    index_of,
    manifest_of,
    oci_layout,
    plain,
    sha256,
    small_image,
    tree_of,
    write_directory,
    write_tar,
    zstd_frames,
)

from unionmount.errors import DigestMismatch, FormatError, NotFoundError, UsageError
from unionmount.images.platform import Platform
from unionmount.sources import Location
from unionmount.store.store import Store
from unionmount.transfer.load import load, open_image

IMAGE = small_image()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def skopeo(*words: str | Path) -> bytes:
    command = ["skopeo", "--insecure-policy", *map(str, words)]
    return subprocess.run(command, check=True, timeout=120, capture_output=True).stdout


def skopeo_directory() -> Members:
    """The files that skopeo writes for IMAGE, made by hand so that a test can spoil them."""
    layers = {sha256(layer).partition(":")[2]: layer for layer in IMAGE.layers}
    return {
        "version": b"Directory Transport Version: 1.1\n",
        "manifest.json": manifest_of(IMAGE),
        IMAGE.id.partition(":")[2]: IMAGE.config,
        **layers,
    }


# -- dir:


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("compress", [plain, gzipped, zstd_frames])
@pytest.mark.parametrize("prefix", ["dir:", ""])
def test_what_skopeo_writes(store: Store, tmp_path: Path, compress: object, prefix: str) -> None:
    layout = write_directory(tmp_path / "layout", oci_layout(IMAGE, compress=compress))  # type: ignore[arg-type]
    skopeo("copy", "-q", f"oci:{layout}", f"dir:{tmp_path}/copy")
    raw = skopeo("inspect", "--raw", f"dir:{tmp_path}/copy")
    with open_image(store, f"{prefix}{tmp_path}/copy", verify=True) as image:
        assert tree_of(image) == SMALL_TREE
        assert image.image.manifest.raw == raw
        assert str(image.image.id) == IMAGE.id
    (loaded,) = load(store, f"{prefix}{tmp_path}/copy")
    assert (str(loaded.id), str(loaded.manifest), loaded.names) == (IMAGE.id, sha256(raw), ())


def test_plain_layers_are_read_where_they_are(store: Store, tmp_path: Path) -> None:
    path = write_directory(tmp_path / "d", skopeo_directory())
    with open_image(store, f"dir:{path}", verify=True) as image:
        assert tree_of(image) == SMALL_TREE
    assert not list((store.root / "layers/sha256").iterdir())


@pytest.mark.needs("skopeo")
def test_all_platforms_of_an_index(store: Store, tmp_path: Path) -> None:
    images = {name: small_image(name, architecture=name) for name in ("amd64", "arm64")}
    members = oci_layout(*images.values())
    rows = [
        descriptor(manifest_of(one), OCI_MANIFEST, platform={"os": "linux", "architecture": name})
        for name, one in images.items()
    ]
    index = index_of(rows)
    members[blob_path(index)] = index
    members["index.json"] = index_of([descriptor(index, OCI_INDEX)])
    layout = write_directory(tmp_path / "layout", members)
    skopeo("copy", "-q", "--all", f"oci:{layout}", f"dir:{tmp_path}/copy")
    for name, one in images.items():
        platform = Platform.parse(f"linux/{name}")
        with open_image(store, f"dir:{tmp_path}/copy", platform=platform) as image:
            assert str(image.image.id) == one.id


def test_a_directory_is_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_directory(tmp_path / "of-skopeo", skopeo_directory())
    write_directory(tmp_path / "site", {"manifest.json": b'{"name": "a web application"}'})
    assert Location.parse("of-skopeo").kind == "path"
    assert Location.parse("site").kind == "stored"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", b"{}", "schemaVersion"),
        ("manifest.json", b"[]", "write docker-archive:"),
        ("manifest.json", b"\xff", "manifest.json"),
        ("version", b"Directory Transport Version: 2.0\n", "unknown version"),
        (IMAGE.id.partition(":")[2], None, "is missing"),
        (IMAGE.diff_ids[1].partition(":")[2], None, "is missing"),
        (IMAGE.diff_ids[1].partition(":")[2], b"short", "size is 5 bytes"),
    ],
)
def test_a_damaged_directory(
    store: Store, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    members = skopeo_directory()
    if content is None:
        del members[name]
    else:
        members[name] = content
    path = write_directory(tmp_path / "d", members)
    with pytest.raises(FormatError, match=message) as caught:
        open_image(store, f"dir:{path}")
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()


def test_flipped_bits_are_noticed(store: Store, tmp_path: Path) -> None:
    for name in (IMAGE.id, *IMAGE.diff_ids):
        members = skopeo_directory()
        digits = name.partition(":")[2]
        members[digits] = flip(members[digits], 300)
        path = write_directory(tmp_path / digits[:12], members)
        with pytest.raises(DigestMismatch):
            open_image(store, f"dir:{path}", verify=True)
        with pytest.raises(FormatError):
            load(store, f"dir:{path}")
    assert store.list_images() == []


def test_a_directory_has_no_names(store: Store, tmp_path: Path) -> None:
    path = write_directory(tmp_path / "d", skopeo_directory())
    with pytest.raises(NotFoundError, match="no image 'tag'"):
        open_image(store, f"{path}:tag")
    with pytest.raises(NotFoundError, match="No such file"):
        open_image(store, f"dir:{path}:tag")


@pytest.mark.parametrize("kind", ["docker-archive", "oci"])
def test_another_transport_names_the_right_one(store: Store, tmp_path: Path, kind: str) -> None:
    path = write_directory(tmp_path / "d", skopeo_directory())
    with pytest.raises(UsageError, match=f"write dir:{path}"):
        open_image(store, f"{kind}:{path}")


@pytest.mark.parametrize("name", ["manifest.json", IMAGE.diff_ids[0].partition(":")[2]])
def test_a_symlink_out_of_the_directory_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    path = write_directory(tmp_path / "d", skopeo_directory())
    (path / name).rename(tmp_path / "outside")
    (path / name).symlink_to("../outside")
    with pytest.raises(FormatError, match="symbolic link"):
        open_image(store, f"dir:{path}")


# -- an archive that was unpacked

LAYERS = [f"{one.partition(':')[2]}/layer.tar" for one in IMAGE.diff_ids]


def unpacked(path: Path) -> Path:
    archive = write_tar(path.with_suffix(".tar"), docker_archive(IMAGE))
    path.mkdir()
    subprocess.run(["tar", "-C", path, "-xf", archive], check=True)
    return path


@pytest.mark.parametrize("prefix", ["docker-archive:", ""])
@pytest.mark.parametrize("selector", ["", ":example.org/made:1", ":@0"])
def test_an_unpacked_archive(store: Store, tmp_path: Path, prefix: str, selector: str) -> None:
    path = unpacked(tmp_path / "d")
    with open_image(store, f"{prefix}{path}{selector}", verify=True) as image:
        assert tree_of(image) == SMALL_TREE
    assert not list((store.root / "layers/sha256").iterdir())
    (loaded,) = load(store, f"{prefix}{path}{selector}")
    assert (str(loaded.id), loaded.names) == (IMAGE.id, ("example.org/made:1",))


@pytest.mark.needs("skopeo")
def test_an_unpacked_archive_of_skopeo(store: Store, tmp_path: Path) -> None:
    layout = write_directory(tmp_path / "layout", oci_layout(IMAGE, compress=gzipped))
    archive = tmp_path / "a.tar"
    skopeo("copy", "-q", f"oci:{layout}", f"docker-archive:{archive}:example.org/made:2")
    (tmp_path / "d").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "d", "-xf", archive], check=True)
    with tarfile.open(archive) as tar:
        assert any(member.issym() for member in tar)  # as docker wrote them once
    with open_image(store, f"{tmp_path}/d", verify=True) as image:
        assert tree_of(image) == SMALL_TREE


@pytest.mark.parametrize(
    "target",
    [
        "../real/layer.tar",
        "/real/layer.tar",
        "../../../../real/layer.tar",
        "../chain/one",
        "../folder/layer.tar",
    ],
)
def test_layers_that_are_symlinks(store: Store, tmp_path: Path, target: str) -> None:
    path = unpacked(tmp_path / "d")
    layer = path / LAYERS[1]
    (path / "real").mkdir()
    (path / "chain").mkdir()
    layer.rename(path / "real/layer.tar")
    (path / "chain/one").symlink_to("two")
    (path / "chain/two").symlink_to("../real/layer.tar")
    (path / "folder").symlink_to("real")
    layer.symlink_to(target)
    for word in (f"docker-archive:{path}", str(path)):
        with open_image(store, word, verify=True) as image:
            assert tree_of(image) == SMALL_TREE


@pytest.mark.parametrize("target", ["../../outside", "ABSOLUTE", "layer.tar", "../none"])
def test_symlinks_never_lead_out(store: Store, tmp_path: Path, target: str) -> None:
    path = unpacked(tmp_path / "d")
    layer = path / LAYERS[1]
    (tmp_path / "outside").write_bytes(layer.read_bytes())
    layer.unlink()
    layer.symlink_to(target.replace("ABSOLUTE", f"{tmp_path}/outside"))
    for word in (f"docker-archive:{path}", str(path)):
        with pytest.raises(FormatError, match=LAYERS[1]):
            open_image(store, word)


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket-like"])
def test_what_is_no_file_is_refused(store: Store, tmp_path: Path, kind: str) -> None:
    path = unpacked(tmp_path / "d")
    layer = path / LAYERS[0]
    layer.unlink()
    if kind == "directory":
        layer.mkdir()
    else:
        os.mkfifo(layer if kind == "fifo" else path / "pipe")
    if kind == "socket-like":
        layer.symlink_to("../pipe")
    with pytest.raises(FormatError, match="not a regular file"):
        open_image(store, f"docker-archive:{path}")


@pytest.mark.parametrize("name", ["\0", "\ud800", "x/" * 5000])
def test_names_that_no_file_can_have(store: Store, tmp_path: Path, name: str) -> None:
    path = unpacked(tmp_path / "d")
    items = [{"Config": name, "RepoTags": None, "Layers": LAYERS}]
    (path / "manifest.json").write_text(json.dumps(items))
    with pytest.raises(FormatError) as caught:
        open_image(store, f"docker-archive:{path}")
    assert str(caught.value).isprintable()


def test_a_directory_without_an_archive(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory, and no archive that was unpacked"):
        open_image(store, f"docker-archive:{tmp_path}")
    with pytest.raises(FormatError, match="not an OCI image layout"):
        open_image(store, str(tmp_path))


def test_both_forms_in_one_directory(store: Store, tmp_path: Path) -> None:
    """As Docker 25 and later save them: the names are in manifest.json."""
    item = {
        "Config": blob_path(IMAGE.config),
        "RepoTags": ["both:1"],
        "Layers": [blob_path(layer) for layer in IMAGE.layers],
    }
    members = oci_layout(IMAGE) | {"manifest.json": json.dumps([item]).encode()}
    path = write_directory(tmp_path / "d", members)
    with open_image(store, f"{path}:both:1", verify=True) as image:
        assert image.image.manifest.raw == manifest_of(IMAGE)


def test_a_layout_may_have_a_manifest_json_of_its_own(store: Store, tmp_path: Path) -> None:
    for raw in (b'{"schemaVersion": 2}', b"{", b"{}"):
        path = write_directory(tmp_path / str(len(raw)), oci_layout(IMAGE) | {"manifest.json": raw})
        with open_image(store, str(path)) as image:
            assert tree_of(image) == SMALL_TREE
