"""What a store keeps beside layers and names: digests, blobs as they came; and other stores."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from store.test_garbage import image_of
from support.image_files import (
    MadeImage,
    docker_archive,
    flip,
    gzipped,
    small_image,
    tar,
    tree_of,
    write_tar,
    zstd_frame,
)

from unionmount.errors import DigestMismatch, LimitExceeded, NotFoundError, StoreError, UsageError
from unionmount.images.reference import Digest, Reference
from unionmount.store.check import StoreCheck
from unionmount.store.containers import ContainerImage, Containers
from unionmount.store.garbage import prune, remove_image
from unionmount.store.layer_import import Expected
from unionmount.store.location import additional_stores
from unionmount.store.store import Store
from unionmount.store.unused import PruneChoice
from unionmount.transfer.load import load, open_image, open_stored

LAYER = tar({"a": b"1" * 50_000})
DIFF_ID = Digest.of(LAYER)
MADE = small_image("shared", names=("example.org/shared:1",))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "image.tar", docker_archive(MADE))


# -- digests


def test_an_image_is_found_by_the_digests_that_registries_know_it_by(store: Store) -> None:
    index, other = Digest.of(b"index"), Digest.of(b"other index")
    words = [f"example.org/app@{index}", f"mirror.example.org/app@{index}"]
    name = Reference.parse("example.org/app:1")
    digests = [Reference.parse(word) for word in words]
    image = image_of(MADE)
    stored = store.put_image([name], image, digests=digests)
    assert stored.digests == tuple(words)
    newer = [Reference.parse(f"example.org/app:1@{other}"), digests[0]]
    stored = store.put_image([name], image, digests=newer)
    assert stored.digests == (*words, f"example.org/app@{other}")
    assert Store(store.root).list_images() == [stored]
    for word in (*stored.digests, f"example.org/app:7@{index}", f"example.org/app@{image.id}"):
        if word.endswith(str(image.id)):
            with pytest.raises(NotFoundError):
                store.find_image(word)
        else:
            assert store.find_image(word) == stored
    assert store.untag(digests[0]).digests == (words[1], f"example.org/app@{other}")
    with pytest.raises(NotFoundError):
        store.untag(digests[0])


def test_a_tag_moves_and_the_digests_stay(store: Store) -> None:
    name, digest = Reference.parse("app:1"), Reference.parse(f"app@{Digest.of(b'index')}")
    store.put_image([name], image_of(MADE), digests=[digest])
    store.put_image([name], image_of(small_image("newer")))
    found = store.find_image(str(digest))
    assert (str(found.id), found.names) == (MADE.id, ())


def test_tag_and_untag(store: Store) -> None:
    stored = store.put_image([Reference.parse("a:1")], image_of(MADE))
    other = store.put_image([Reference.parse("b:1")], image_of(small_image("other")))
    tagged = store.tag(stored, Reference.parse("b:1"))
    assert tagged.names == ("docker.io/library/a:1", "docker.io/library/b:1")
    assert store.find_image(str(other.id)).names == ()
    assert store.tag(stored, Reference.parse("c")).names[-1] == "docker.io/library/c:latest"
    rest = ("docker.io/library/b:1", "docker.io/library/c:latest")
    assert store.untag(Reference.parse("a:1")).names == rest
    with pytest.raises(NotFoundError):
        store.untag(Reference.parse("a:1"))
    with pytest.raises(UsageError):
        store.tag(stored, Reference.parse(f"a@{stored.manifest}"))


# -- blobs as they came


@pytest.mark.parametrize("compress", [gzipped, zstd_frame])
def test_a_compressed_blob_is_kept_where_that_is_wanted(store: Store, compress: object) -> None:
    assert callable(compress)
    blob = compress(LAYER)
    digest = Digest.of(blob)
    for keep in (False, True):
        expected = Expected(DIFF_ID, "it", digest, len(blob))
        with store.import_layer(expected, keep_blob=keep) as layer:
            for start in range(0, len(blob), 100):
                layer.write(blob[start : start + 100])
            layer.finish()
        assert store.has_blob(digest) == keep
    opened = store.open_blob(digest)
    assert opened is not None
    with opened:
        assert (opened.offset, opened.length) == (0, len(blob))
        assert os.pread(opened.data.fd, opened.length, 0) == blob
    opened.close()
    assert opened.fd == -1
    path = store.directory.blob_path(digest)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list((store.root / "tmp").iterdir()) == []


def test_a_plain_blob_is_the_layer_and_kept_once(store: Store) -> None:
    with store.import_layer(Expected(DIFF_ID, "it", DIFF_ID), keep_blob=True) as layer:
        layer.write(LAYER)
        layer.finish()
    assert list(store.directory.blobs()) == []
    opened = store.open_blob(DIFF_ID)
    assert opened is not None
    with opened:
        assert os.pread(opened.fd, opened.length, 0) == LAYER
    assert store.open_blob(Digest.of(b"nothing")) is None


def test_of_a_wrong_blob_nothing_is_kept(store: Store) -> None:
    blob = gzipped(LAYER)
    expected = Expected(DIFF_ID, "it", Digest.of(b"another"))
    with store.import_layer(expected, keep_blob=True) as layer:
        layer.write(blob)
        with pytest.raises(DigestMismatch):
            layer.finish()
    assert list(store.directory.blobs()) == []
    assert list(store.directory.layers()) == []
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("left", ["nothing", "its index", "a directory"])
def test_a_layer_takes_the_place_of_what_is_left_of_one(store: Store, left: str) -> None:
    path = store.directory.layer_path(DIFF_ID)
    path.mkdir()
    if left == "its index":
        (path / "layer.idx").write_bytes(b"old")
    elif left == "a directory":
        (path / "layer.tar").mkdir()
    with store.import_layer(Expected(DIFF_ID, "it")) as layer:
        layer.write(LAYER)
        layer.finish()
    assert store.has_layer(DIFF_ID)
    assert list(StoreCheck(store, Containers(store)).run()) == []
    assert list((store.root / "tmp").iterdir()) == []


# -- formats


def test_a_store_of_format_1_is_taken_over(tmp_path: Path, archive: Path) -> None:
    store = Store(tmp_path / "store")
    load(store, str(archive))
    open_image(store, str(archive)).close()
    for name in ("leases", "locks", "quarantine"):
        (store.root / name).rmdir()
    for path in store.directory.inplace.glob("*.json"):
        path.unlink()
    document = json.loads((store.root / "images.json").read_bytes())
    for row in document["images"]:
        del row["digests"]
    (store.root / "images.json").write_text(json.dumps(document))
    (store.root / "version").write_text("1\n")
    shared = Store(tmp_path / "reading", additional=[store.root])
    assert str(shared.find_image(MADE.names[0]).id) == MADE.id  # read without a change
    assert (store.root / "version").read_text() == "1\n"
    store = Store(store.root)
    assert (store.root / "version").read_text() == "2\n"
    assert str(store.find_image(MADE.names[0]).id) == MADE.id
    assert list(StoreCheck(store, Containers(store)).run()) == []
    prune(store, Containers(store))
    assert store.in_place_indexes() == []  # whose they are nobody knows
    assert len(list(store.directory.layers())) == 2


# -- other stores, only read


def facts(top: Path) -> dict[str, tuple[int, ...]]:
    """All that a change of a tree would change."""
    return {
        str(path): (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path in (top, *sorted(top.rglob("*")))
        if (status := path.lstat())
    }


@pytest.fixture
def shared(tmp_path: Path, archive: Path) -> Path:
    """The root of somebody else's store."""
    load(Store(tmp_path / "shared"), str(archive))
    return tmp_path / "shared"


def test_an_image_of_an_additional_store_is_used_where_it_is(
    tmp_path: Path, shared: Path, archive: Path
) -> None:
    before = facts(shared)
    store = Store(tmp_path / "store", additional=[shared])
    stored = store.find_image("example.org/shared:1")
    assert store.list_images() == [stored]
    assert list(store.directory.images()) == []
    with open_image(store, "example.org/shared:1") as opened:
        tree = tree_of(opened)
        assert tree[b"etc/motd"] == b"hello shared\n"
    known = Containers(store)
    image = ContainerImage("it", "it", stored.id, stored.manifest)
    with known.create(image, "mine") as held, store.lease("mount", "x") as lease:
        container = held.container.image.stored
        with open_stored(store, container, "it", lease=lease, verify=True) as opened:
            assert tree_of(opened) == tree
    load(store, str(archive))  # of which all layers are there
    assert list(store.directory.layers()) == []
    assert [one.manifest for one in store.directory.images()] == [stored.manifest]
    assert list(StoreCheck(store, known).run()) == []
    prune(store, known, PruneChoice(named=True))
    assert store.find_image("example.org/shared:1")
    assert facts(shared) == before
    with pytest.raises(NotFoundError):
        open_stored(Store(store.root), stored, "it")


def test_indexes_that_others_can_change_are_bounded_together(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unionmount.images.opened.MAX_COPIED", 4096)  # less than one index has
    store = Store(tmp_path / "store", additional=[shared])
    with open_image(store, "example.org/shared:1") as image:
        assert sum(index.copied for index in image.indexes) == 0
    for path in shared.glob("layers/sha256/*/layer.idx"):
        path.chmod(0o666)
    refused = pytest.raises(LimitExceeded, match="that others can change")
    with open_image(store, "example.org/shared:1") as image, refused:
        image.tree()


def test_an_image_of_an_additional_store_is_not_removed_but_can_be_tagged(
    tmp_path: Path, shared: Path
) -> None:
    before = facts(shared)
    store = Store(tmp_path / "store", additional=[shared])
    known = Containers(store)
    for word in ("example.org/shared:1", MADE.id):
        with pytest.raises(StoreError, match="additional store, which is read-only"):
            remove_image(store, known, word)
    store.tag(store.find_image(MADE.id), Reference.parse("mine:1"))
    assert store.find_image("mine:1").names == ("docker.io/library/mine:1",)
    removed = remove_image(store, known, "mine:1")
    assert [one.kind for one in removed.items if one.kind == "layer"] == []
    assert store.find_image(MADE.id).names == ("example.org/shared:1",)
    assert facts(shared) == before


def test_our_names_hide_those_of_an_additional_store(tmp_path: Path, shared: Path) -> None:
    store = Store(tmp_path / "store", additional=[shared])
    ours = store.put_image([Reference.parse("example.org/shared:1")], image_of(small_image()))
    assert store.find_image("example.org/shared:1") == ours
    assert store.find_image(MADE.id).names == ()


def test_an_index_that_an_additional_store_lacks_is_ours(tmp_path: Path, shared: Path) -> None:
    for path in shared.rglob("layer.idx"):
        path.unlink()
    before = facts(shared)
    store = Store(tmp_path / "store", additional=[shared])
    for _ in range(2):
        with open_image(store, MADE.id) as opened:
            assert b"etc/motd" in tree_of(opened)
        assert len(store.in_place_indexes()) == 2
    prune(store, Containers(store))
    assert len(store.in_place_indexes()) == 2
    assert facts(shared) == before


def test_several_stores_are_looked_into_in_order(tmp_path: Path, shared: Path) -> None:
    second = Store(tmp_path / "second")
    other = small_image("second", names=("example.org/second:1",))
    load(second, str(write_tar(tmp_path / "second.tar", docker_archive(other))))
    store = Store(tmp_path / "store", additional=[second.root, shared])
    assert {str(one.id) for one in store.list_images()} == {other.id, MADE.id}
    upper = Digest.parse(MADE.diff_ids[1])  # which both have
    assert store.layer_place(upper) == second.directory.layer_path(upper)


def test_a_damaged_document_of_an_additional_store_is_an_error(
    tmp_path: Path, shared: Path
) -> None:
    store = Store(tmp_path / "store", additional=[shared])
    stored = store.find_image(MADE.id)
    path = shared / "blobs/sha256" / stored.id.hex
    path.write_bytes(flip(path.read_bytes(), 5))
    with pytest.raises(DigestMismatch, match=str(path)):
        store.read_image(stored)


def test_what_would_block_in_an_additional_store_is_an_error(tmp_path: Path, shared: Path) -> None:
    store = Store(tmp_path / "store", additional=[shared])
    stored = store.find_image(MADE.id)
    for path in (*shared.rglob("layer.tar"), shared / "blobs/sha256" / stored.id.hex):
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(StoreError, match="not a regular file"):
        store.read_image(stored)
    with pytest.raises(StoreError, match=r"layer\.tar.*not a regular file"):
        store.open_layer(Digest.parse(MADE.diff_ids[0]))
    (shared / "images.json").unlink()
    os.mkfifo(shared / "images.json")
    with pytest.raises(StoreError, match="not a regular file"):
        store.list_images()


@pytest.mark.parametrize("what", ["nothing", "no store", "newer", "a file"])
def test_an_additional_store_that_is_none(tmp_path: Path, shared: Path, what: str) -> None:
    match what:
        case "nothing":
            shutil.rmtree(shared)
        case "no store":
            (shared / "version").unlink()
        case "newer":
            (shared / "version").write_text("7\n")
        case _:
            shutil.rmtree(shared)
            shared.write_text("")
    text = "format '7', but this program supports up to 2" if what == "newer" else str(shared)
    with pytest.raises((NotFoundError, StoreError), match=text):
        Store(tmp_path / "store", additional=[shared])


def test_additional_stores_of_the_environment() -> None:
    assert additional_stores({}) == ()
    variable = "UNIONMOUNT_ADDITIONAL_STORES"
    assert additional_stores({variable: "/a::/b:"}) == (Path("/a"), Path("/b"))


def test_layers_of_an_image_that_is_committed_elsewhere(tmp_path: Path, shared: Path) -> None:
    """A new image on layers of another store takes only what is new."""
    store = Store(tmp_path / "store", additional=[shared])
    child = MadeImage((*MADE.layers, LAYER), names=("example.org/child:1",))
    load(store, str(write_tar(tmp_path / "child.tar", docker_archive(child))))
    assert [str(one) for one in store.directory.layers()] == child.diff_ids[2:]
    with open_image(store, "example.org/child:1") as opened:
        assert {b"a", b"new"} <= set(tree_of(opened))
    removed = remove_image(store, Containers(store), "example.org/child:1")
    assert [one.name for one in removed.items if one.kind == "layer"] == child.diff_ids[2:]
