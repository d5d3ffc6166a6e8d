"""Opening, loading and checking images: what is copied, what is kept, what is noticed."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.image_files import (
    SMALL_TREE,
    Compress,
    MadeImage,
    docker_archive,
    flip,
    gzipped,
    link,
    oci_layout,
    plain,
    sha256,
    small_image,
    tar,
    tree_of,
    write_directory,
    write_tar,
    zstd_frames,
)

from unionmount.core import Indexer
from unionmount.errors import DigestMismatch, FormatError, LimitExceeded, NotFoundError, UsageError
from unionmount.images.platform import Platform
from unionmount.images.reference import Digest
from unionmount.store.layer_import import ImportLimits
from unionmount.store.store import Store
from unionmount.transfer.check_image import Problem, check_image
from unionmount.transfer.load import load, open_image

IMAGE = small_image()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "a.tar", docker_archive(IMAGE))


def stored_layers(store: Store) -> set[str]:
    return {"sha256:" + path.name for path in (store.root / "layers/sha256").iterdir()}


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- in place


def test_plain_layers_are_used_in_place_and_indexed_once(store: Store, archive: Path) -> None:
    with open_image(store, str(archive)) as image:
        assert tree_of(image) == SMALL_TREE
    indexes = {path: path.stat().st_ino for path in (store.root / "inplace").glob("*.idx")}
    with open_image(Store(store.root), str(archive)) as image:
        assert tree_of(image) == SMALL_TREE
    assert {path: path.stat().st_ino for path in (store.root / "inplace").glob("*.idx")} == indexes
    assert len(indexes) == 2
    assert stored_layers(store) == set()


def test_an_open_image_needs_no_names(store: Store, archive: Path) -> None:
    with open_image(store, str(archive)) as image:
        archive.unlink()
        for path in (store.root / "inplace").glob("*.idx"):
            path.unlink()
        assert tree_of(image) == SMALL_TREE


def test_a_stored_image_that_is_open_survives_its_removal(store: Store, archive: Path) -> None:
    load(store, str(archive))
    with open_image(store, "example.org/made:1") as image:
        for path in (store.root / "layers/sha256").iterdir():
            path.rename(store.root / "tmp" / path.name)
        Store(store.root)
        assert tree_of(image) == SMALL_TREE
    with pytest.raises(NotFoundError, match="not in the store"):
        open_image(store, "example.org/made:1")


def test_only_verify_hashes_what_is_in_place(store: Store, tmp_path: Path) -> None:
    members = docker_archive(IMAGE)
    name = IMAGE.diff_ids[0][7:] + "/layer.tar"
    members[name] = members[name].replace(b"hello", b"hullo")
    path = write_tar(tmp_path / "changed.tar", members)
    with open_image(store, str(path)) as image:
        assert tree_of(image)[b"etc/motd"] == b"hullo \n"
    with pytest.raises(DigestMismatch) as caught:
        open_image(store, str(path), verify=True)
    assert caught.value.expected == IMAGE.diff_ids[0]
    assert caught.value.actual == sha256(members[name])
    assert "changed.tar" in str(caught.value)


def test_a_file_that_changes_meanwhile_is_noticed(
    store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program touches the archive between the first and the last look at it."""
    scan = Indexer.scan

    def scan_and_touch(self: Indexer, fd: int, offset: int, length: int) -> Iterator[None]:
        yield from scan(self, fd, offset, length)
        if offset:  # a layer, not the archive
            os.utime(archive, ns=(1, 1))

    monkeypatch.setattr(Indexer, "scan", scan_and_touch)
    with pytest.raises(FormatError, match=r"a\.tar.*changed while it was read"):
        open_image(store, str(archive))
    assert list((store.root / "inplace").iterdir()) == []


def test_nothing_stays_open(store: Store, archive: Path, tmp_path: Path) -> None:
    layout = write_directory(tmp_path / "layout", oci_layout(IMAGE, compress=gzipped))
    damaged = write_tar(tmp_path / "b.tar", docker_archive(IMAGE) | {IMAGE.id[7:] + ".json": b"{"})
    before = open_descriptors()
    for source in (str(archive), f"oci:{layout}"):
        image = open_image(store, source)
        image.tree()
        assert open_descriptors() > before
        image.close()
        image.close()
        assert open_descriptors() == before
    load(store, str(archive))
    list(check_image(store, str(archive)))
    for source in (str(damaged), f"{archive}:none", f"oci:{tmp_path}", "none", "./none"):
        with pytest.raises((FormatError, NotFoundError)):
            open_image(store, source)
    assert open_descriptors() == before


def test_the_tree_is_made_once(store: Store, archive: Path) -> None:
    with open_image(store, str(archive)) as image:
        assert image.tree() is image.tree()
        assert image.name == str(archive)


def test_an_image_without_layers(store: Store, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", docker_archive(MadeImage((), ("empty:1",))))
    with open_image(store, str(path)) as image:
        assert tree_of(image) == {}
    load(store, str(path))
    with open_image(store, "empty:1") as image:
        assert tree_of(image) == {}


def test_one_layer_twice(store: Store, tmp_path: Path) -> None:
    made = MadeImage((IMAGE.layers[0], IMAGE.layers[1], IMAGE.layers[0]))
    for compress in (plain, gzipped):
        path = write_tar(tmp_path / "a.tar", docker_archive(made, compress=compress))
        with open_image(store, str(path), verify=True) as image:
            assert set(tree_of(image)) == {b"etc", b"etc/motd", b"gone", b"new"}


# -- imports


def test_layers_are_imported_once_for_all_images(store: Store, tmp_path: Path) -> None:
    other = MadeImage((IMAGE.layers[0], tar({"other": b""})), ("other:1",))
    path = write_tar(tmp_path / "a.tar", docker_archive(IMAGE, other, compress=gzipped))
    seen: list[str] = []
    names = [
        str(one.id) for one in load(store, str(path), progress=lambda what, *_: seen.append(what))
    ]
    assert names == [IMAGE.id, other.id]
    assert sorted(seen) == sorted({*IMAGE.diff_ids, *other.diff_ids})
    assert stored_layers(store) == {*IMAGE.diff_ids, *other.diff_ids}
    with open_image(store, "other:1") as image:
        assert set(tree_of(image)) == {b"etc", b"etc/motd", b"gone", b"other"}


@pytest.mark.parametrize("compress", [plain, gzipped, zstd_frames])
@pytest.mark.parametrize("form", ["docker-archive", "oci"])
def test_loaded_images_are_found_and_whole(
    store: Store, tmp_path: Path, form: str, compress: Compress
) -> None:
    if form == "oci":
        path = write_directory(tmp_path / "x", oci_layout(IMAGE, compress=compress))
    else:
        path = write_tar(tmp_path / "x", docker_archive(IMAGE, compress=compress))
    [stored] = load(store, str(path))
    assert stored.names == ("example.org/made:1",)
    for name in ("example.org/made:1", IMAGE.id, IMAGE.id[7:19]):
        with open_image(store, name, verify=True) as image:
            assert tree_of(image) == SMALL_TREE
            assert image.name == "example.org/made:1"
            assert [str(one) for one in image.image.diff_ids] == IMAGE.diff_ids
    assert stored_layers(store) == set(IMAGE.diff_ids)
    assert list((store.root / "tmp").iterdir()) == []
    if form == "docker-archive":
        sizes = [layer.size for layer in store.read_image(stored).layers]
        assert sizes == [len(layer) for layer in IMAGE.layers]


def test_a_bare_tag_goes_with_the_name_of_the_file(store: Store, tmp_path: Path) -> None:
    made = small_image(names=("v2",))
    path = write_tar(tmp_path / "My App.tar", oci_layout(made))
    [stored] = load(store, f"oci-archive:{path}")
    assert stored.names == ("localhost/my-app:v2",)
    assert store.find_image("my-app:v2") == stored


def test_loading_one_of_several(store: Store, tmp_path: Path) -> None:
    other = small_image("other", names=("other:1",))
    path = write_tar(tmp_path / "a.tar", docker_archive(IMAGE, other))
    [stored] = load(store, f"{path}:other:1")
    assert str(stored.id) == other.id
    assert stored_layers(store) == set(other.diff_ids)


def test_what_was_loaded_before_an_error_is_told_and_stays(store: Store, tmp_path: Path) -> None:
    other = small_image("other", names=("other:1",))
    members = docker_archive(IMAGE, other)
    path = other.diff_ids[0].removeprefix("sha256:") + "/layer.tar"
    members[path] = tar({"etc/motd": b"not what the config says"})
    archive = write_tar(tmp_path / "a.tar", members)
    told: list[str] = []
    with pytest.raises(DigestMismatch):
        load(store, str(archive), loaded=lambda one, _: told.append(str(one.id)))
    assert told == [str(one.id) for one in store.list_images()] == [IMAGE.id]


def test_loading_what_is_not_there(store: Store) -> None:
    for source in ("nginx", "./none.tar", "docker-archive:none"):
        with pytest.raises(NotFoundError, match=r"no such file|No such file"):
            load(store, source)


def test_progress_tells_bytes(store: Store, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", docker_archive(IMAGE, compress=gzipped))
    calls: list[tuple[str, int, int | None]] = []
    load(store, str(path), progress=lambda *call: calls.append(call))
    assert [(what, total) for what, _, total in calls] == [
        (diff_id, len(gzipped(layer)))
        for diff_id, layer in zip(IMAGE.diff_ids, IMAGE.layers, strict=True)
    ]
    assert all(done == total for _, done, total in calls)


def test_a_wrong_platform_of_a_stored_image(store: Store, archive: Path) -> None:
    load(store, str(archive))
    with pytest.raises(NotFoundError, match="linux/amd64, not linux/arm64"):
        open_image(store, IMAGE.id, platform=Platform.parse("linux/arm64"))


# -- compressed archives and streams


@pytest.mark.parametrize("compress", [gzip.compress, zstd_frames])
def test_a_compressed_archive(store: Store, tmp_path: Path, compress: Compress) -> None:
    path = tmp_path / "a.tar.compressed"
    path.write_bytes(compress(tar(docker_archive(IMAGE))))
    for _ in range(2):
        with open_image(store, str(path)) as image:
            assert tree_of(image) == SMALL_TREE
    assert stored_layers(store) == set(IMAGE.diff_ids)
    assert list((store.root / "inplace").iterdir()) == []
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("compress", [plain, gzip.compress])
@pytest.mark.parametrize("source", ["-", "docker-archive:-", "-:example.org/made:1"])
def test_a_pipe_on_stdin(store: Store, compress: Compress, source: str) -> None:
    program = (
        "import sys, pathlib; from unionmount.store.store import Store;"
        "from unionmount.transfer.load import load;"
        "print(load(Store(pathlib.Path(sys.argv[1])), sys.argv[2])[0].id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, store.root, source],
        input=compress(tar(docker_archive(IMAGE))),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode().strip() == IMAGE.id
    assert list((store.root / "tmp").iterdir()) == []


def test_a_fifo(store: Store, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = subprocess.Popen(
        ["sh", "-c", f"cat {write_tar(tmp_path / 'a', docker_archive(IMAGE))} >{fifo}"]
    )
    assert str(load(store, str(fifo))[0].id) == IMAGE.id
    assert writer.wait() == 0


def test_a_spooled_archive_is_bounded(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    store = Store(store.root, ImportLimits(4 << 20))
    with pytest.raises(LimitExceeded, match=r"a\.tar\.gz"):
        open_image(store, str(path))
    assert list((store.root / "tmp").iterdir()) == []


def test_a_directory_is_no_archive(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load(store, f"oci-archive:{tmp_path}")


# -- check


def texts(store: Store, source: str) -> list[str]:
    return [f"{one.layer}: {one.text}" for one in check_image(store, source)]


def test_a_sound_image_has_no_problems(store: Store, archive: Path) -> None:
    assert texts(store, str(archive)) == []
    load(store, str(archive))
    assert texts(store, "example.org/made:1") == []


def test_check_lists_broken_hard_links(store: Store, tmp_path: Path) -> None:
    layer = tar([("file", b"x"), link("good", "file", b"1"), link("bad\n", "missing", b"1")])
    made = MadeImage((layer,), ("links:1",))
    path = write_tar(tmp_path / "a.tar", docker_archive(made))
    load(store, str(path))
    for source in (str(path), "links:1"):
        [text] = texts(store, source)
        assert text.startswith(made.diff_ids[0])
        assert "'bad\\n' leads to 'missing'" in text


def test_check_finds_what_rotted_in_the_store(store: Store, archive: Path) -> None:
    load(store, str(archive))
    folder = store.root / "layers/sha256" / IMAGE.diff_ids[1][7:]
    data = folder / "layer.tar"
    good = data.read_bytes()
    data.write_bytes(flip(good, len(good) - 3))
    [text] = texts(store, "example.org/made:1")
    assert IMAGE.diff_ids[1] in text
    assert sha256(flip(good, len(good) - 3)) in text
    data.write_bytes(good)
    index = folder / "layer.idx"
    index.write_bytes(flip(index.read_bytes(), index.read_bytes().index(b"new")))
    assert any("index" in text for text in texts(store, "example.org/made:1"))


def test_check_finds_a_changed_archive(store: Store, archive: Path) -> None:
    raw = archive.read_bytes()
    archive.write_bytes(raw.replace(b"hello", b"hullo"))
    [text] = texts(store, str(archive))
    assert IMAGE.diff_ids[0] in text


def test_check_of_a_damaged_document(store: Store, archive: Path) -> None:
    load(store, str(archive))
    config = store.root / "blobs/sha256" / Digest.parse(IMAGE.id).hex
    config.write_bytes(config.read_bytes() + b" ")
    [text] = texts(store, "example.org/made:1")
    assert IMAGE.id in text
    assert Problem(None, text.removeprefix("None: ")) in list(
        check_image(store, "example.org/made:1")
    )
