"""Checking a whole store: what is told of each damage, and what repair does about it."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest
from store.test_garbage import add_layer, crashed, make_container
from support.image_files import MadeImage, docker_archive, flip, gzipped, tar, write_tar
from support.store_worker import start_worker

from unionmount.errors import NotFoundError
from unionmount.images.reference import Digest
from unionmount.store.check import Finding, StoreCheck
from unionmount.store.containers import Containers
from unionmount.store.garbage import prune
from unionmount.store.layer_import import Expected
from unionmount.store.references import digests_of
from unionmount.store.store import Store
from unionmount.transfer.load import load, open_image

BASE = tar({"base": b"b" * 5000})
ONE = MadeImage((BASE, tar({"one": b"1" * 9000})), names=("example.org/one:1",))
TWO = MadeImage((BASE, tar({"two": b"2" * 9000})), names=("example.org/two:1",))
SHARED = Digest.parse(ONE.diff_ids[0])
OWN = Digest.parse(ONE.diff_ids[1])


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "images.tar", docker_archive(ONE, TWO))


@pytest.fixture
def store(tmp_path: Path, archive: Path) -> Store:
    store = Store(tmp_path / "store")
    load(store, str(archive))
    return store


def check(store: Store, *, repair: bool = False) -> list[Finding]:
    return list(StoreCheck(store, Containers(store), repair=repair).run())


def texts(store: Store, *, repair: bool = False) -> list[str]:
    return [one.text for one in check(store, repair=repair)]


def spoil(path: Path, at: int = 600) -> None:
    path.write_bytes(flip(path.read_bytes(), at))


def layer_file(store: Store, diff_id: Digest, name: str = "layer.tar") -> Path:
    return store.directory.layer_path(diff_id) / name


def test_a_sound_store_has_no_problem(store: Store, archive: Path) -> None:
    open_image(store, str(archive) + ":example.org/one:1").close()
    make_container(store, ONE, "mine")
    assert check(store) == []
    assert check(store, repair=True) == []


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped", "other layer"])
def test_a_bad_index_is_rebuilt(store: Store, damage: str) -> None:
    path = layer_file(store, SHARED, "layer.idx")
    good = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(good[:-1])
        case "flipped":
            spoil(path, len(good) - 20)
        case _:
            shutil.copy(layer_file(store, OWN, "layer.idx"), path)
    (text,) = texts(store)
    assert text.startswith(f"layer {SHARED}: its index")
    assert texts(store) == [text]
    (found,) = check(store, repair=True)
    assert found == Finding(f"{text}; rebuilt", repaired=True)
    assert path.read_bytes() == good
    assert check(store) == []


def test_a_damaged_layer_that_is_needed_is_put_aside_and_can_be_loaded(
    store: Store, archive: Path
) -> None:
    make_container(store, TWO, "mine")
    spoil(layer_file(store, SHARED))
    (text,) = texts(store)
    assert f"layer {SHARED}: digest is sha256:" in text
    assert f"expected {SHARED}" in text
    first, *rest = check(store, repair=True)
    assert first.text == (
        f"{text}; quarantined, needed by image example.org/one:1, image example.org/two:1, "
        "container 'mine'"
    )
    missing = f"layer {SHARED} is not in the store"
    expected = [
        f"{who}: {missing}"
        for who in ("image example.org/one:1", "image example.org/two:1", "container 'mine'")
    ]
    assert [one.text for one in rest] == expected
    assert not any(one.repaired for one in (first, *rest))
    assert texts(store) == expected
    prune(store, Containers(store))  # keeps what could be wanted still
    assert len(list(store.directory.quarantined())) == 1
    load(store, str(archive))
    assert check(store) == []
    prune(store, Containers(store))
    assert list(store.directory.quarantined()) == []


def test_a_damaged_layer_that_nobody_needs_is_removed(store: Store) -> None:
    data = tar({"lost": b"x"})
    add_layer(store, data)
    spoil(layer_file(store, Digest.of(data)))
    (found,) = check(store, repair=True)
    assert found.repaired
    assert "removed, as it is unused" in found.text
    assert not store.directory.layer_path(Digest.of(data)).exists()
    assert list(store.directory.quarantined()) == []


def test_what_is_leased_is_left_alone(store: Store) -> None:
    spoil(layer_file(store, SHARED))
    with store.lease("mount", "mounted at /x") as lease:
        lease.protect(SHARED)
        (text,) = texts(store, repair=True)
    assert text.endswith("; left in place, as it is in use: mounted at /x")
    assert store.has_layer(SHARED)


@pytest.mark.parametrize("how", ["a directory", "empty"])
def test_a_layer_without_its_tar(store: Store, archive: Path, how: str) -> None:
    path = layer_file(store, OWN)
    path.unlink()
    if how == "a directory":
        path.mkdir()
    found = texts(store, repair=True)
    assert found[0].startswith(f"layer {OWN}: ")
    assert "quarantined, needed by image example.org/one:1" in found[0]
    load(store, str(archive))
    assert check(store) == []


@pytest.mark.parametrize("document", ["manifest", "config"])
def test_a_damaged_document(store: Store, archive: Path, document: str) -> None:
    stored = store.find_image(ONE.id)
    digest = stored.manifest if document == "manifest" else stored.id
    spoil(store.directory.blob_path(digest), 9)
    found = texts(store)
    assert f"blob {digest}: digest is" in found[0]
    assert found[1].startswith(f"image example.org/one:1: {store.root}")
    found = texts(store, repair=True)
    assert "quarantined, needed by image example.org/one:1" in found[0]
    assert found[1] == f"image example.org/one:1: document {digest} is not in the store"
    load(store, str(archive))
    assert check(store) == []


def test_a_layer_that_an_unreadable_image_may_need_is_not_removed(store: Store) -> None:
    stored = store.find_image(ONE.id)
    store.directory.blob_path(stored.manifest).unlink()
    spoil(layer_file(store, OWN))
    found = texts(store, repair=True)
    assert "quarantined, needed by image example.org/one:1 (perhaps)" in found[0]


def test_a_damaged_kept_blob_is_removed(store: Store) -> None:
    blob = gzipped(tar({"kept": os.urandom(5000)}))
    digest = Digest.of(blob)
    with store.import_layer(Expected(None, "x", digest), keep_blob=True) as layer:
        layer.write(blob)
        layer.finish()
    assert check(store) == []
    spoil(store.directory.blob_path(digest))
    (found,) = check(store, repair=True)
    assert found.repaired
    assert store.open_blob(digest) is None


def test_a_damaged_index_in_place_is_removed(store: Store, archive: Path) -> None:
    open_image(store, str(archive) + ":example.org/one:1").close()
    (path, *_) = store.directory.inplace.glob("*.idx")
    spoil(path, 30)
    (found,) = check(store, repair=True)
    assert found.text.startswith(f"in-place index of {archive}: ")
    assert found.repaired
    assert check(store) == []
    open_image(store, str(archive) + ":example.org/one:1").close()


def test_documents_that_can_not_be_parsed_are_told(store: Store) -> None:
    make_container(store, ONE, "mine")
    (store.root / "containers/mine/container.json").write_text("{")
    (store.root / "images.json").write_text("[")
    found = texts(store, repair=True)
    assert [text.rpartition("/")[2] for text in found] == [
        "container.json: damaged",
        found[1].rpartition("/")[2],
    ]
    assert "images.json: damaged" in found[1]
    assert (store.root / "containers/mine/upper").is_dir()


def test_damage_in_a_store_whose_catalogue_is_lost_is_put_aside(store: Store) -> None:
    (store.root / "images.json").write_text("[")
    spoil(layer_file(store, OWN))
    found = texts(store, repair=True)
    assert "quarantined, needed by an image of the catalogue (perhaps)" in found[0]


def test_what_does_not_belong_there_is_told_and_left(store: Store) -> None:
    for place in ("layers/sha256", "blobs/sha512"):
        (store.root / place / "some\nthing").write_text("")
    found = texts(store, repair=True)
    assert len(found) == 2
    assert all("some\\nthing: does not belong here" in text for text in found)


def test_a_part_of_the_store_can_be_checked(store: Store) -> None:
    stored = store.find_image(ONE.id)
    only = digests_of(store, stored, "it")
    spoil(layer_file(store, Digest.parse(TWO.diff_ids[1])))
    known = Containers(store)
    assert list(StoreCheck(store, known, only=only).run()) == []
    spoil(layer_file(store, OWN))
    assert len(list(StoreCheck(store, known, only=only).run())) == 1


def test_what_came_anew_meanwhile_is_not_put_aside(store: Store) -> None:
    """Between hashing and repair a layer may be replaced: then the new one stays."""
    path = layer_file(store, SHARED)
    good = path.read_bytes()
    spoil(path)
    checker = StoreCheck(store, Containers(store), repair=True)
    damaged = checker._hash_layer(SHARED)
    assert damaged is not None
    path.rename(path.with_name("old"))
    path.write_bytes(good)
    path.with_name("old").unlink()
    assert checker._about(damaged).repaired
    assert path.read_bytes() == good
    shutil.rmtree(path.parent)
    assert checker._about(damaged).repaired


def test_dying_at_each_step_of_a_repair(store: Store, tmp_path: Path) -> None:
    """A container's changes stay, and the next repair finds all that was wrong."""
    make_container(store, TWO, "mine")
    (store.root / "containers/mine/upper/file").write_text("mine")
    lost = tar({"lost": b"x"})
    add_layer(store, lost)
    for diff_id in (SHARED, Digest.of(lost)):
        spoil(layer_file(store, diff_id))
    layer_file(store, OWN, "layer.idx").unlink()
    with start_worker("crashes") as server:
        for step in itertools.count():
            root = tmp_path / f"{step}"
            shutil.copytree(store.root, root)
            again = crashed(server, root, "repair", "", step)
            after = Store(root)
            texts(after, repair=True)
            missing = f"layer {SHARED} is not in the store"
            assert all(missing in text for text in texts(after))
            assert (root / "containers/mine/upper/file").read_text() == "mine"
            with pytest.raises(NotFoundError):
                after.open_layer(Digest.of(lost))
            assert list((root / "tmp").iterdir()) == []
            shutil.rmtree(root)
            if not again:
                break
    assert step > 20
