"""The store: names, documents, indexes that are made anew, several processes at once."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.image_files import (
    MadeImage,
    flip,
    gzipped,
    manifest_of,
    sha256,
    small_image,
    tar,
)
from support.store_worker import start_worker
from support.users import NOBODY, call_as

from unionmount.core import Index
from unionmount.errors import (
    DigestMismatch,
    FormatError,
    InvalidReference,
    LimitExceeded,
    NotFoundError,
    StoreError,
)
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.manifest import Manifest
from unionmount.images.opened import OpenLayer
from unionmount.images.reference import Digest, Reference
from unionmount.store.layer_import import Expected
from unionmount.store.location import default_root
from unionmount.store.store import Store, StoredImage
from unionmount.system.files import FileRange

LAYER = tar({"a": b"1", "b/c": b"2" * 5000})
DIFF_ID = Digest.parse(sha256(LAYER))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def add_layer(store: Store, data: bytes = LAYER) -> Digest:
    with store.import_layer(Expected(Digest.parse(sha256(data)), "it")) as layer:
        layer.write(data)
        layer.finish()
    return layer.diff_id


def image_of(made: MadeImage) -> ImageDocuments:
    manifest = Manifest.parse(manifest_of(made), "m")
    return ImageDocuments.of(manifest, Config.parse(made.config, "c"), "i")


def put(store: Store, made: MadeImage, *names: str) -> StoredImage:
    return store.put_image([Reference.parse(name) for name in names], image_of(made))


def paths_below(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


# -- where it is, and who may look into it


def test_default_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_root({"UNIONMOUNT_ROOT": "/x"}) == Path("/x")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root({"XDG_DATA_HOME": "/data"}) == Path("/var/lib/unionmount")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    home = {"HOME": str(tmp_path)}
    assert default_root({"XDG_DATA_HOME": "/data"} | home) == Path("/data/unionmount")
    there = tmp_path / ".local/share/unionmount"
    assert default_root({"XDG_DATA_HOME": "relative"} | home) == there
    assert default_root(home) == there


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "relative"}], ids=str)
def test_default_root_without_a_home(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = pwd.getpwall()[0].pw_uid
    monkeypatch.setattr(os, "geteuid", lambda: uid or 1)
    home = Path(pwd.getpwuid(uid or 1).pw_dir)
    assert default_root(environment) == home / ".local/share/unionmount"
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    with pytest.raises(StoreError, match="--root"):
        default_root(environment)


def test_nobody_else_can_look_into_it(store: Store, stack: ExitStack) -> None:
    blob = gzipped(LAYER)
    expected = Expected(DIFF_ID, "it", Digest.of(blob))
    with store.import_layer(expected, keep_blob=True) as layer:
        layer.write(blob)
        layer.finish()
    put(store, small_image(), "a")
    (store.root.parent / "file").write_bytes(LAYER)
    in_place(store, store.root.parent / "file")
    lease = stack.enter_context(store.lease("pull", "it"))
    lease.protect(DIFF_ID)
    assert stack.enter_context(store.layer_lock(DIFF_ID)).try_acquire()
    made = {path.parent.name for path in paths_below(store.root) if path.is_file()}
    assert {"leases", "locks", "inplace", DIFF_ID.hex} <= made
    for path in [store.root, *paths_below(store.root)]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_newer_format_is_refused_and_left_alone(store: Store) -> None:
    (store.root / "version").write_text("3\n")
    before = paths_below(store.root)
    with pytest.raises(StoreError, match="format '3', but this program supports up to 2"):
        Store(store.root)
    assert paths_below(store.root) == before


def test_a_root_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/store"):
        Store(tmp_path / "file" / "store")


def test_opening_again_changes_nothing(store: Store) -> None:
    add_layer(store)
    before = paths_below(store.root)
    Store(store.root)
    assert paths_below(store.root) == before


# -- layers


def read_layer(layer: OpenLayer) -> bytes:
    with Index(layer.index_fd, "it") as index:
        index.verify()
        assert index.info.layer_size == layer.length
    return os.pread(layer.data_fd, layer.length, layer.offset)


def test_an_open_layer_survives_its_removal(store: Store) -> None:
    add_layer(store)
    layer = store.open_layer(DIFF_ID)
    (store.root / "layers/sha256" / DIFF_ID.hex).rename(store.root / "tmp/gone")
    Store(store.root)  # cleans up
    assert not store.has_layer(DIFF_ID)
    assert read_layer(layer) == LAYER
    layer.close()
    layer.close()
    with pytest.raises(NotFoundError, match=DIFF_ID.hex):
        store.open_layer(DIFF_ID)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped", "other layer"])
def test_an_index_that_does_not_fit_is_made_anew(store: Store, damage: str) -> None:
    add_layer(store)
    other = add_layer(store, tar({"other": b"x" * 100_000}))
    path = store.root / "layers/sha256" / DIFF_ID.hex / "layer.idx"
    good = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other layer":
        path.write_bytes((store.root / "layers/sha256" / other.hex / "layer.idx").read_bytes())
    else:
        spoiled = {"empty": b"", "truncated": good[: len(good) // 2], "flipped": flip(good, 20)}
        path.write_bytes(spoiled[damage])
    layer = store.open_layer(DIFF_ID)
    assert read_layer(layer) == LAYER
    layer.close()
    assert path.read_bytes() == good
    assert list((store.root / "tmp").iterdir()) == []


def test_sizes_come_from_the_index(store: Store) -> None:
    add_layer(store)
    info = store.layer_info(DIFF_ID)
    assert (info.layer_size, info.files, info.file_bytes) == (len(LAYER), 2, 5001)


def test_a_symlink_in_place_of_a_layer_is_not_followed(store: Store, tmp_path: Path) -> None:
    add_layer(store)
    path = store.root / "layers/sha256" / DIFF_ID.hex / "layer.tar"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"layer\.tar|layers"):
        store.open_layer(DIFF_ID)


# -- indexes in place


def in_place(store: Store, path: Path, offset: int = 0) -> None:
    with path.open("rb") as file:
        data = FileRange(file.fileno(), offset, len(LAYER))
        fd = store.index_in_place(data, "it")
    layer = OpenLayer(DIFF_ID, os.open(path, os.O_RDONLY), offset, len(LAYER), fd)
    try:
        assert read_layer(layer) == LAYER
    finally:
        layer.close()


def kept_indexes(store: Store) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (store.root / "inplace").glob("*.idx")}


def test_an_index_in_place_is_kept(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"#" * 512 + LAYER + b"#" * 512)
    in_place(store, path, 512)
    kept = kept_indexes(store)
    assert len(kept) == 1
    in_place(Store(store.root), path, 512)
    assert kept_indexes(store) == kept


def test_an_index_in_place_is_not_used_for_another_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LAYER)
    in_place(store, path)
    os.utime(path, ns=(1, 1))
    in_place(store, path)
    path.write_bytes(bytes(512) + LAYER)
    in_place(store, path, 512)
    assert len(kept_indexes(store)) == 3


def test_a_damaged_index_in_place_is_made_anew(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LAYER)
    in_place(store, path)
    kept = next((store.root / "inplace").glob("*.idx"))
    good = kept.read_bytes()
    kept.write_bytes(flip(good, 9))
    in_place(store, path)
    assert kept.read_bytes() == good


def test_a_damaged_layer_in_place_leaves_no_index(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(flip(LAYER, 3))
    with pytest.raises(FormatError, match="the file"), path.open("rb") as file:
        store.index_in_place(FileRange(file.fileno(), 0, len(LAYER)), "the file")
    assert kept_indexes(store) == {}
    assert list((store.root / "tmp").iterdir()) == []


# -- documents


def test_documents_are_verified(store: Store) -> None:
    digest = store.put_blob(b"{}")
    assert store.get_blob(digest) == b"{}"
    path = store.root / "blobs/sha256" / digest.hex
    path.write_bytes(b"{]")
    with pytest.raises(DigestMismatch) as caught:
        store.get_blob(digest)
    assert str(path) in str(caught.value)
    store.put_blob(b"{}")
    assert store.get_blob(digest) == b"{}"


def test_a_document_with_a_wrong_digest_is_not_kept(store: Store) -> None:
    with pytest.raises(DigestMismatch):
        store.put_blob(b"{}", Digest.of(b"other"))
    assert list((store.root / "blobs/sha256").iterdir()) == []


def test_a_huge_document_is_not_read(store: Store) -> None:
    digest = Digest.of(b"x")
    path = store.root / "blobs/sha256" / digest.hex
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitExceeded):
        store.get_blob(digest)


def test_missing_documents_are_named(store: Store) -> None:
    digest = Digest.of(b"x")
    with pytest.raises(NotFoundError, match=digest.hex):
        store.get_blob(digest)


# -- images


def test_images_are_found_by_name_and_id(store: Store) -> None:
    made = small_image()
    put(store, made, "nginx", "example.org/app:2")
    hexadecimal = made.id.removeprefix("sha256:")
    manifest = sha256(manifest_of(made))
    for text in (
        "nginx",
        "nginx:latest",
        "docker.io/library/nginx",
        "example.org/app:2",
        f"nginx@{manifest}",
        made.id,
        hexadecimal,
        hexadecimal[:12],
        hexadecimal[:4],
        manifest,
    ):
        assert str(store.find_image(text).id) == made.id, text
    for text in (
        "nginx:2",
        "example.org/app",
        hexadecimal[:3],
        "f" * 64,
        "",
        "\n",
        f"other@{manifest}",
        f"nginx@{made.id}",
    ):
        with pytest.raises(NotFoundError):
            store.find_image(text)


def test_a_local_name_is_found_without_its_registry(store: Store) -> None:
    put(store, small_image("local"), "localhost/app:1")
    assert store.find_image("app:1").names == ("localhost/app:1",)
    put(store, small_image("hub"), "app:1")
    assert store.find_image("app:1").names == ("docker.io/library/app:1",)


def images_with_like_ids() -> tuple[MadeImage, MadeImage]:
    """Two images whose IDs begin with the same four digits."""
    seen: dict[str, MadeImage] = {}
    for number in itertools.count():
        made = MadeImage((), architecture=f"a{number}")
        other = seen.setdefault(made.id[7:11], made)
        if other is not made:
            return other, made
    raise AssertionError


def test_an_id_that_fits_two_images_is_refused(store: Store) -> None:
    first, second = images_with_like_ids()
    put(store, first)
    put(store, second)
    with pytest.raises(InvalidReference, match="stands for 2 images"):
        store.find_image(first.id[7:11])
    assert str(store.find_image(first.id).id) == first.id


def test_a_name_moves_to_the_image_that_took_it(store: Store) -> None:
    first, second = small_image("1"), small_image("2")
    put(store, first, "a:1", "a:2")
    put(store, second, "a:1")
    put(store, second, "a:3")
    names = {str(one.id): one.names for one in store.list_images()}
    assert names == {
        first.id: ("docker.io/library/a:2",),
        second.id: ("docker.io/library/a:1", "docker.io/library/a:3"),
    }


def test_a_stored_image_reads_as_it_was(store: Store) -> None:
    made = small_image()
    stored = put(store, made, "a")
    assert store.read_image(stored) == image_of(made)
    assert store.read_image(store.find_image("a")).manifest.raw == manifest_of(made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"images": 5}',
        '{"images": [{}]}',
        '{"images": [{"names": ["A A"], "manifest": "x", "id": "y", "created": 1}]}',
        '{"images": [{"names": [], "manifest": "sha256:../..", "id": "y", "created": 1}]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_catalogue_is_an_error_that_names_it(store: Store, text: str) -> None:
    (store.root / "images.json").write_text(text)
    with pytest.raises(StoreError, match=r"images\.json: damaged"):
        store.list_images()
    with pytest.raises(StoreError):
        put(store, small_image(), "a")
    assert (store.root / "images.json").read_text() == text


# -- several processes


def test_many_processes_at_once(store: Store) -> None:
    with ExitStack() as stack:
        workers = [
            stack.enter_context(start_worker("add-many", str(store.root), str(number)))
            for number in range(4)
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()
        assert [worker.wait() for worker in workers] == [0] * 4
    assert len(store.list_images()) == 20
    assert len(list((store.root / "layers/sha256").iterdir())) == 5
    assert list((store.root / "tmp").iterdir()) == []
    json.loads((store.root / "images.json").read_text())


def test_where_a_store_may_not_be_made_another_place_is_advised(public_tmp: Path) -> None:
    public_tmp.chmod(0o555)

    def message() -> str:
        with pytest.raises(StoreError) as error:
            Store(public_tmp / "share/unionmount")
        return str(error.value)

    try:
        said = call_as(NOBODY, message)
    finally:
        public_tmp.chmod(0o755)
    assert said.endswith(
        "/share/unionmount: Permission denied; choose another store (--root, UNIONMOUNT_ROOT)"
    )
