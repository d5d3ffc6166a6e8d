"""Images written to files: they are what they were, for us and for other tools."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer
from support.compare import differences, snapshot
from support.image_files import (
    MadeImage,
    blob_path,
    docker_archive,
    gzipped,
    oci_layout,
    sha256,
    small_image,
    tree_of,
    write_directory,
    write_tar,
    zstd_frame,
)
from support.mounting import COMMAND, CommandLine

from unionmount.errors import DigestMismatch, NotFoundError, UsageError
from unionmount.formats.compression import Compression
from unionmount.images.reference import Reference
from unionmount.store.store import Store
from unionmount.transfer.image_files import DirectoryWriter, TarWriter, new_directory, replaced_file
from unionmount.transfer.load import load, open_image
from unionmount.transfer.save import Form, find_wanted, save

NAME = "example.org/made:1"
FORMS: list[tuple[Form, str]] = [
    ("docker-archive", "none"),
    *((form, one) for form in ("oci-archive", "oci") for one in ("none", "gzip", "zstd")),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


def keep(store: Store, tmp_path: Path, image: MadeImage, **more: Any) -> None:
    load(store, str(write_tar(tmp_path / "in.tar", oci_layout(image, **more))))


def saved(
    store: Store, target: Path, form: Form = "docker-archive", *texts: str, compress: str = "none"
) -> Path:
    wanted = find_wanted(store, texts or (NAME,))
    compression = None if compress == "none" else Compression(compress)
    if form == "oci":
        with new_directory(target) as directory:
            save(store, wanted, DirectoryWriter(directory), form, compression=compression)
        return target
    with replaced_file(target) as fd:
        sink = TarWriter.to_file(fd, str(target))
        save(store, wanted, sink, form, compression=compression)
        sink.finish()
    return target


def files(path: Path) -> dict[str, bytes]:
    """All files of an archive or directory."""
    if path.is_dir():
        return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}
    with tarfile.open(path) as tar:
        members = [member for member in tar if member.isfile()]
        return {one.name: tar.extractfile(one).read() for one in members}  # type: ignore[union-attr]


@pytest.mark.parametrize(("form", "compress"), FORMS)
def test_what_is_saved_is_loaded_again(
    form: Form, compress: str, store: Store, tmp_path: Path
) -> None:
    image = small_image()
    keep(store, tmp_path, image)
    file = saved(store, tmp_path / "out", form, compress=compress)
    other = Store(tmp_path / "other")
    (found,) = load(other, str(file))
    assert str(found.id) == image.id
    assert found.names == (NAME,)
    with open_image(other, NAME) as again, open_image(store, NAME) as first:
        assert tree_of(again) == tree_of(first)
        assert again.image.diff_ids == first.image.diff_ids


@pytest.mark.parametrize(("form", "compress"), FORMS)
def test_the_same_image_gives_the_same_bytes(
    form: Form, compress: str, store: Store, tmp_path: Path
) -> None:
    keep(store, tmp_path, small_image())
    one, two = (saved(store, tmp_path / name, form, compress=compress) for name in ("one", "two"))
    assert files(one) == files(two)
    if form != "oci":
        assert one.read_bytes() == two.read_bytes()


def test_a_docker_archive_is_as_docker_writes_it(store: Store, tmp_path: Path) -> None:
    image = small_image()
    keep(store, tmp_path, image)
    found = files(saved(store, tmp_path / "out"))
    config = image.id.removeprefix("sha256:") + ".json"
    paths = [one.removeprefix("sha256:") + "/layer.tar" for one in image.diff_ids]
    assert json.loads(found["manifest.json"]) == [
        {"Config": config, "RepoTags": [NAME], "Layers": paths}
    ]
    assert json.loads(found["repositories"]) == {
        "example.org/made": {"1": image.diff_ids[-1].removeprefix("sha256:")}
    }
    assert found[config] == image.config
    assert [found[path] for path in paths] == list(image.layers)
    assert len(found) == 5


@pytest.mark.parametrize(
    ("name", "shown"),
    [("docker.io/library/a:1", "a:1"), ("docker.io/b/a:1", "b/a:1"), ("localhost/a:1",) * 2],
)
def test_docker_knows_names_in_their_short_form(
    name: str, shown: str, store: Store, tmp_path: Path
) -> None:
    keep(store, tmp_path, small_image(names=(name,)))
    found = files(saved(store, tmp_path / "out", "docker-archive", name))
    assert json.loads(found["manifest.json"])[0]["RepoTags"] == [shown]


def test_a_stored_manifest_of_plain_layers_is_kept(store: Store, tmp_path: Path) -> None:
    image = small_image()
    keep(store, tmp_path, image)
    stored = store.find_image(NAME)
    found = files(saved(store, tmp_path / "out", "oci-archive"))
    raw = store.get_blob(stored.manifest)
    assert found[blob_path(raw)] == raw
    (descriptor,) = json.loads(found["index.json"])["manifests"]
    assert descriptor["digest"] == str(stored.manifest)
    assert descriptor["platform"] == {"architecture": "amd64", "os": "linux"}
    assert descriptor["annotations"] == {
        "org.opencontainers.image.ref.name": "1",
        "io.containerd.image.name": NAME,
    }


@pytest.mark.parametrize("squeeze", [gzipped, zstd_frame])
def test_compressed_layers_are_saved_plain(
    squeeze: Callable[[bytes], bytes], store: Store, tmp_path: Path
) -> None:
    image = small_image()
    keep(store, tmp_path, image, compress=squeeze)
    found = files(saved(store, tmp_path / "out", "oci-archive"))
    (descriptor,) = json.loads(found["index.json"])["manifests"]
    manifest = json.loads(found["blobs/sha256/" + descriptor["digest"].partition(":")[2]])
    assert manifest["config"]["digest"] == image.id
    for layer, content in zip(manifest["layers"], image.layers, strict=True):
        assert layer == {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": sha256(content),
            "size": len(content),
        }
        assert found[blob_path(content)] == content


def test_several_images_share_what_they_can(store: Store, tmp_path: Path) -> None:
    first = small_image(names=("example.org/one:1",))
    second = MadeImage(
        (first.layers[0], first.layers[0]), names=("example.org/two:1", "example.org/two:2")
    )
    keep(store, tmp_path, first)
    keep(store, tmp_path, second)
    load(store, str(write_tar(tmp_path / "again.tar", docker_archive(second))))
    for form in ("docker-archive", "oci-archive"):
        file = saved(store, tmp_path / form, form, "example.org/one:1", "example.org/two:2")
        with tarfile.open(file) as tar:
            assert len(tar.getnames()) == len(set(tar.getnames()))
        other = Store(tmp_path / f"other-{form}")
        names = [image.names for image in load(other, str(file))]
        assert names == [("example.org/one:1",), ("example.org/two:2",)]


def test_a_tag_that_two_images_have_is_told_with_its_name(store: Store, tmp_path: Path) -> None:
    for text in ("one", "two"):
        keep(store, tmp_path, small_image(text, names=(f"example.org/{text}:1",)))
    names = "example.org/one:1", "example.org/two:1"
    found = files(saved(store, tmp_path / "out", "oci-archive", *names))
    annotations = [one["annotations"] for one in json.loads(found["index.json"])["manifests"]]
    assert [one["org.opencontainers.image.ref.name"] for one in annotations] == list(names)


def test_an_image_given_by_its_id_has_no_name(store: Store, tmp_path: Path) -> None:
    image = small_image()
    keep(store, tmp_path, image)
    found = files(saved(store, tmp_path / "out", "docker-archive", image.id[:20]))
    assert json.loads(found["manifest.json"])[0]["RepoTags"] is None
    assert "repositories" not in found
    (wanted,) = find_wanted(store, [image.id, NAME, NAME])
    assert wanted.names == (Reference.parse(NAME),)


def test_a_short_name_is_the_name_it_stands_for(store: Store, tmp_path: Path) -> None:
    keep(store, tmp_path, small_image(names=("localhost/made:latest",)))
    (wanted,) = find_wanted(store, ["made"])
    assert wanted.names == (Reference.parse("localhost/made:latest"),)
    with pytest.raises(NotFoundError):
        find_wanted(store, ["made", "nothing"])


def test_a_docker_archive_is_not_compressed(store: Store, tmp_path: Path) -> None:
    keep(store, tmp_path, small_image())
    with pytest.raises(UsageError):
        saved(store, tmp_path / "out", compress="gzip")
    assert not (tmp_path / "out").exists()


# ---- where it goes -------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "compress"), FORMS)
def test_a_damaged_layer_is_not_saved(
    form: Form, compress: str, store: Store, tmp_path: Path
) -> None:
    image = small_image()
    keep(store, tmp_path, image)
    tar = store.root / "layers/sha256" / image.diff_ids[1].removeprefix("sha256:") / "layer.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DigestMismatch):
        saved(store, tmp_path / "out", form, compress=compress)
    assert sorted(tmp_path.iterdir()) == before
    assert list((store.root / "tmp").iterdir()) == []


def test_a_file_is_replaced_when_all_is_there(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with replaced_file(tmp_path / "link") as fd:
        os.write(fd, b"new")
        assert (tmp_path / "real").read_bytes() == b"old"
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_new_file_has_the_mode_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replaced_file(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with suppress(RuntimeError), replaced_file(tmp_path / "file") as fd:
        os.write(fd, b"new")
        raise RuntimeError
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with replaced_file(tmp_path / "fifo") as fd:
        os.write(fd, b"new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing/file"
    for make in (replaced_file, new_directory):
        with pytest.raises(OSError, match="missing/file"), make(missing):
            pytest.fail("there is no such directory")


def test_a_layout_goes_into_an_empty_directory_only(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_directory(tmp_path / "empty") as directory:
        (directory / "x").write_bytes(b"")
    assert (tmp_path / "empty/x").exists()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("empty", "file", "dangling"):
        with pytest.raises(UsageError), new_directory(tmp_path / name):
            pytest.fail("something is there")


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def cli(store: Store, tmp_path: Path) -> CommandLine:
    keep(store, tmp_path, small_image())
    return CommandLine(environment={"UNIONMOUNT_ROOT": str(store.root)})


def test_the_command_saves_to_a_file_and_to_a_pipe(cli: CommandLine, tmp_path: Path) -> None:
    cli.run("save", "-o", tmp_path / "file.tar", NAME)
    piped = subprocess.run(
        ["sh", "-c", 'exec "$@" | cat', "sh", *COMMAND, "save", NAME],
        env=cli.environment,
        capture_output=True,
        check=True,
    ).stdout
    assert piped == (tmp_path / "file.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(piped)) as tar:
        assert "manifest.json" in tar.getnames()


def test_the_command_says_what_makes_no_sense(cli: CommandLine, tmp_path: Path) -> None:
    assert "cannot be combined with a docker-archive" in cli.error(
        "save", "--compress", "gzip", NAME, status=2
    )
    assert "directory" in cli.error("save", "--format", "oci", NAME, status=2)
    assert "no image 'nothing'" in cli.error("save", "-o", tmp_path / "x", "nothing")
    assert cli.error("save", "-o", tmp_path / "a/b", NAME).endswith(
        "a/b: No such file or directory"
    )


# ---- other tools ---------------------------------------------------------------------------------


LOWER = Layer().directory("./").directory("d").file("d/a", b"a" * 70_000).file("d/b", b"b")
UPPER = Layer().directory("d").file("d/.wh.b", b"").file("d/c", b"c", xattrs={"user.x": b"y"})
WITH_TIMES = MadeImage((LOWER.data(), UPPER.data()), names=(NAME,))


@pytest.fixture
def reference(store: Store, tmp_path: Path) -> Path:
    """What umoci unpacks of the image as it came."""
    keep(store, tmp_path, WITH_TIMES)
    layout = write_directory(tmp_path / "layout", oci_layout(replace(WITH_TIMES, names=("1",))))
    _run("umoci", "unpack", "--image", f"{layout}:1", tmp_path / "reference")
    return tmp_path / "reference/rootfs"


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("skopeo", "umoci", "root")
@pytest.mark.parametrize(("form", "compress"), FORMS)
def test_skopeo_and_umoci_read_it(
    form: Form, compress: str, reference: Path, store: Store, tmp_path: Path
) -> None:
    file = saved(store, tmp_path / "out", form, compress=compress)
    about = json.loads(_run("skopeo", "inspect", "--config", f"{form}:{file}"))
    assert about["rootfs"]["diff_ids"] == WITH_TIMES.diff_ids
    # umoci 0.4 knows no zstd
    _run("skopeo", "copy", "--dest-compress-format=gzip", f"{form}:{file}", f"oci:{tmp_path}/gz:x")
    if compress != "zstd":
        _run("umoci", "unpack", "--image", f"{tmp_path}/gz:x", tmp_path / "bundle")
        assert differences(snapshot(reference), snapshot(tmp_path / "bundle/rootfs")) == []


@pytest.mark.needs("buildah", "root")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci"])
def test_buildah_reads_it(form: Form, store: Store, tmp_path: Path) -> None:
    keep(store, tmp_path, small_image())
    file = saved(store, tmp_path / "out", form)
    places = ("--root", tmp_path / "b", "--runroot", tmp_path / "br")
    buildah = ("buildah", *places, "--storage-driver", "vfs")
    name = _run(*buildah, "from", f"{form}:{file}").strip()
    try:
        root = Path(_run(*buildah, "mount", name).strip())
        assert (root / "etc/motd").read_bytes() == b"hello \n"
        assert not (root / "gone").exists()
    finally:
        _run(*buildah, "umount", name)
        _run(*buildah, "rm", name)
