"""Removing images and what nobody needs; and dying at each step of it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.image_files import (
    MadeImage,
    docker_archive,
    gzipped,
    manifest_of,
    small_image,
    tar,
    write_tar,
)
from support.store_worker import start_worker

from unionmount.errors import InvalidReference, NotFoundError, StoreError
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.manifest import Manifest
from unionmount.images.reference import Digest, Reference
from unionmount.store.check import StoreCheck
from unionmount.store.containers import ContainerImage, Containers
from unionmount.store.garbage import Removed, prune, remove_image
from unionmount.store.layer_import import Expected
from unionmount.store.store import Store, StoredImage
from unionmount.store.unused import PruneChoice
from unionmount.transfer.image_files import DirectoryWriter
from unionmount.transfer.load import load, open_image
from unionmount.transfer.save import find_wanted, save

pytestmark = pytest.mark.slow

BASE = tar({"base": b"b" * 5000})
ONE = MadeImage((BASE, tar({"one": b"1" * 9000})), names=("example.org/one:1",))
TWO = MadeImage((BASE, tar({"two": b"2" * 9000})), names=("example.org/two:1",))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with two images that share a layer."""
    store = Store(tmp_path / "store")
    load(store, str(write_tar(tmp_path / "images.tar", docker_archive(ONE, TWO))))
    return store


def remove(store: Store, text: str, *, force: bool = False) -> Removed:
    return remove_image(store, Containers(store), text, force=force)


def add_layer(store: Store, data: bytes) -> None:
    with store.import_layer(Expected(None, "x")) as layer:
        layer.write(data)
        layer.finish()


def make_container(store: Store, made: MadeImage, name: str, *, ephemeral: bool = False) -> None:
    stored = store.find_image(made.id)
    facts = ContainerImage("source", "name", stored.id, stored.manifest)
    Containers(store).create(facts, name, ephemeral=ephemeral).close()


def names(store: Store) -> list[str]:
    return sorted(name for one in store.list_images() for name in one.names)


def layers(store: Store) -> set[str]:
    return {str(one) for one in store.directory.layers()}


def deleted(removed: Removed, *kinds: str) -> list[str]:
    return [item.name for item in removed.items if item.kind in kinds]


def problems(store: Store) -> list[str]:
    return [one.text for one in StoreCheck(store, Containers(store)).run()]


def image_of(made: MadeImage) -> ImageDocuments:
    manifest = Manifest.parse(manifest_of(made), "m")
    return ImageDocuments.of(manifest, Config.parse(made.config, "c"), "i")


# -- rmi


def test_an_image_goes_with_what_only_it_needed(store: Store) -> None:
    removed = remove(store, "example.org/one:1")
    assert removed.untagged == ["example.org/one:1"]
    assert deleted(removed, "image", "layer") == [ONE.id, ONE.diff_ids[1]]
    assert names(store) == ["example.org/two:1"]
    assert layers(store) == set(TWO.diff_ids)
    assert len(list(store.directory.blobs())) == 2
    assert problems(store) == []
    removed = remove(store, TWO.id)
    assert deleted(removed, "image", "layer") == [TWO.id, *reversed(TWO.diff_ids)]
    assert layers(store) == set()
    assert list(store.directory.blobs()) == []
    with pytest.raises(NotFoundError):
        remove(store, TWO.id)


def test_of_several_names_only_one_is_taken_away(store: Store) -> None:
    store.tag(store.find_image("example.org/one:1"), Reference.parse("other:2"))
    removed = remove(store, "other:2")
    assert (removed.untagged, removed.items) == (["other:2"], [])
    assert names(store) == ["example.org/one:1", "example.org/two:1"]


def test_an_id_with_several_names_has_to_be_forced(store: Store) -> None:
    store.tag(store.find_image(ONE.id), Reference.parse("other:2"))
    before = names(store)
    with pytest.raises(StoreError, match=r"2 names \(example.org/one:1, other:2\); use -f"):
        remove(store, ONE.id)
    assert names(store) == before
    removed = remove(store, ONE.id[7:19], force=True)
    assert removed.untagged == ["example.org/one:1", "other:2"]
    assert deleted(removed, "image") == [ONE.id]
    assert names(store) == ["example.org/two:1"]


def with_digests(store: Store, *digests: str) -> StoredImage:
    image = store.read_image(store.find_image(ONE.id))
    found = [Reference.parse(one) for one in digests]
    return store.put_image([], image, digests=found)


def test_the_last_tag_of_a_repository_takes_its_digests_along(store: Store) -> None:
    index = Digest.of(b"index")
    with_digests(store, f"example.org/one@{index}", f"example.org/elsewhere@{index}")
    store.tag(store.find_image(ONE.id), Reference.parse("example.org/one:2"))
    assert remove(store, "example.org/one:2").untagged == ["example.org/one:2"]
    removed = remove(store, "example.org/one:1")
    assert removed.untagged == ["example.org/one:1", f"example.org/one@{index}"]
    assert removed.items == []  # it is known by a digest still
    assert store.find_image(f"example.org/elsewhere@{index}").names == ()
    removed = remove(store, f"example.org/elsewhere@{index}")
    assert removed.untagged == [f"example.org/elsewhere@{index}"]
    assert deleted(removed, "image") == [ONE.id]


def test_one_of_two_images_of_an_index_loses_the_digest(store: Store) -> None:
    index = f"example.org/both@{Digest.of(b'index')}"
    for made in (ONE, TWO):
        image = store.read_image(store.find_image(made.id))
        store.put_image([], image, digests=[Reference.parse(index)])
    assert str(store.find_image(index).id) == TWO.id  # the one that came last
    remove(store, index)
    assert str(store.find_image(index).id) == ONE.id
    remove(store, index)
    with pytest.raises(NotFoundError):
        store.find_image(index)
    assert names(store) == ["example.org/one:1", "example.org/two:1"]


def test_what_a_container_uses_is_refused_and_named(store: Store) -> None:
    make_container(store, ONE, "mine")
    for word in ("example.org/one:1", ONE.id):
        with pytest.raises(StoreError, match="in use: container 'mine'"):
            remove(store, word)
    with pytest.raises(StoreError, match="in use: container 'mine'"):
        remove(store, ONE.id, force=True)
    assert names(store) == ["example.org/one:1", "example.org/two:1"]
    removed = remove(store, "example.org/one:1", force=True)
    assert (removed.untagged, removed.items) == (["example.org/one:1"], [])
    assert [one.names for one in store.list_images() if str(one.id) == ONE.id] == [()]
    assert set(ONE.diff_ids) <= layers(store)
    prune(store, Containers(store), PruneChoice(named=True))
    assert layers(store) == set(ONE.diff_ids)
    Containers(store).remove("mine")
    prune(store, Containers(store))
    assert layers(store) == set()


def test_what_a_mount_uses_is_refused_and_named(store: Store) -> None:
    with store.lease("mount", "mounted at /x") as lease:
        store.use_image(store.find_image(ONE.id), lease)
        with pytest.raises(StoreError, match="in use: mounted at /x"):
            remove(store, "example.org/one:1")
        remove(store, "example.org/one:1", force=True)
        prune(store, Containers(store), PruneChoice(named=True))
        assert layers(store) == set(ONE.diff_ids)
        assert store.read_image(store.find_image(ONE.id)) is not None
    prune(store, Containers(store))
    assert layers(store) == set()


def test_an_image_that_is_being_saved_stays(store: Store, tmp_path: Path) -> None:
    with store.lease("save", "being saved") as lease:
        wanted = find_wanted(store, [ONE.names[0]], lease)
        with pytest.raises(StoreError, match="in use: being saved"):
            remove(store, ONE.id)
        prune(store, Containers(store), PruneChoice(named=True))
        save(store, wanted, DirectoryWriter(tmp_path), "oci")
    assert names(store) == [ONE.names[0]]


def test_an_image_that_is_removed_in_time_can_not_be_used(store: Store) -> None:
    stored = store.find_image(ONE.id)
    remove(store, ONE.id)
    with store.lease("mount", "x") as lease, pytest.raises(NotFoundError, match="document"):
        store.use_image(stored, lease)


def test_a_damaged_image_can_be_removed_and_its_layers_pruned(store: Store) -> None:
    stored = store.find_image(ONE.id)
    store.directory.blob_path(stored.manifest).write_bytes(b"{}")
    with pytest.raises(StoreError, match=f"image {ONE.id}.*its references are unknown"):
        prune(store, Containers(store))
    removed = remove(store, "example.org/two:1")
    assert "its references are unknown" in removed.left
    assert deleted(removed, "layer") == []
    remove(store, "example.org/one:1")
    assert len(layers(store)) == 3
    prune(store, Containers(store))
    assert layers(store) == set()


def test_an_ambiguous_id_is_refused(store: Store) -> None:
    seen: dict[str, MadeImage] = {}
    for number in itertools.count():
        made = MadeImage((), architecture=f"a{number}")
        other = seen.setdefault(made.id[7:11], made)
        if other is not made:
            break
    for one in (made, other):
        store.put_image([], image_of(one))
    with pytest.raises(InvalidReference, match="2 images"):
        remove(store, made.id[7:11])


# -- prune


def test_prune_removes_what_nobody_needs(store: Store) -> None:
    image_without_name = small_image("dangling")
    for data in (*image_without_name.layers, tar({"lost": b"x"})):
        add_layer(store, data)
    store.put_image([], image_of(image_without_name))
    kept = gzipped(tar({"blob": b"y" * 100_000}))
    expected = Expected(None, "x", Digest.of(kept))
    with store.import_layer(expected, keep_blob=True) as layer:
        layer.write(kept)
        layer.finish()
    before = layers(store)
    would = prune(store, Containers(store), dry_run=True)
    assert layers(store) == before
    assert store.open_blob(Digest.of(kept)) is not None
    removed = prune(store, Containers(store))
    assert removed.items == would.items
    assert removed.size == would.size > 0
    assert deleted(removed, "image") == [image_without_name.id]
    assert layers(store) == {*ONE.diff_ids, *TWO.diff_ids}
    assert set(deleted(removed, "layer")) == before - layers(store)
    assert str(Digest.of(kept)) in deleted(removed, "blob")
    assert prune(store, Containers(store)).items == []
    assert problems(store) == []


def test_prune_all_removes_named_images_that_nobody_uses(store: Store) -> None:
    make_container(store, TWO, "mine")
    removed = prune(store, Containers(store), PruneChoice(named=True))
    assert removed.untagged == ["example.org/one:1"]
    assert layers(store) == set(TWO.diff_ids)
    assert names(store) == ["example.org/two:1"]


def test_ephemeral_containers_of_the_dead_go(store: Store) -> None:
    make_container(store, ONE, "ended", ephemeral=True)
    removed = prune(store, Containers(store), PruneChoice(named=True), dry_run=True)
    assert deleted(removed, "container") == ["ended"]
    assert "ended" in Containers(store)
    removed = prune(store, Containers(store), PruneChoice(named=True))
    assert deleted(removed, "container") == ["ended"]
    assert "ended" not in Containers(store)
    assert layers(store) == set()


def test_a_damaged_container_stops_garbage_collection(store: Store) -> None:
    make_container(store, ONE, "mine")
    document = store.root / "containers/mine/container.json"
    document.write_text("{")
    with pytest.raises(StoreError, match=r"mine/container\.json: damaged"):
        prune(store, Containers(store), PruneChoice(named=True))
    assert len(layers(store)) == 3


@pytest.mark.parametrize("change", ["none", "touched", "removed", "unknown", "renamed key"])
def test_indexes_of_files_that_are_gone_or_changed_go(
    store: Store, tmp_path: Path, change: str
) -> None:
    path = write_tar(tmp_path / "inplace.tar", docker_archive(small_image("in place")))
    open_image(store, str(path)).close()
    assert len(store.in_place_indexes()) == 2
    if change == "touched":
        os.utime(path, ns=(1, 1))
    elif change == "removed":
        path.unlink()
    for document in store.directory.inplace.glob("*.json"):
        if change == "unknown":
            document.unlink()
        elif change == "renamed key":
            document.write_text(document.read_text().replace('"offset": ', '"offset": 1'))
    removed = prune(store, Containers(store))
    assert len(deleted(removed, "index")) == (0 if change == "none" else 2)
    assert len(store.in_place_indexes()) == (2 if change == "none" else 0)
    if change in ("touched", "removed"):
        assert deleted(removed, "index") == [str(path)] * 2


def test_the_size_that_is_told_is_what_was_on_the_disk(store: Store) -> None:
    paths = [store.root / "layers/sha256", store.root / "blobs/sha256"]

    def on_disk() -> int:
        lines = subprocess.run(
            ["du", "-s", "--block-size=1", *(one for path in paths for one in path.iterdir())],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        return sum(int(line.split()[0]) for line in lines)

    expected = on_disk()
    assert prune(store, Containers(store), PruneChoice(named=True)).size == expected > 3 * 9000


# -- dying on the way


def crashed(server: subprocess.Popen[str], *task: object) -> bool:
    """Whether the operation was killed before that step; False where it has fewer."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps([str(one) if isinstance(one, Path) else one for one in task]))
    server.stdin.write("\n")
    server.stdin.flush()
    status = int(server.stdout.readline())
    assert status in (0, -9)
    return status == -9


@pytest.mark.parametrize(
    ("operation", "argument"),
    [("rmi", "example.org/one:1"), ("rmi", ONE.id), ("prune", ""), ("prune-all", "")],
)
def test_dying_at_each_step(store: Store, tmp_path: Path, operation: str, argument: str) -> None:
    """Afterwards everything that is listed is whole, and the next prune leaves nothing else."""
    for name in ["example.org/two:1", *(["example.org/one:1"] if operation == "prune" else [])]:
        store.untag(Reference.parse(name))
    make_container(store, TWO, "mine")
    make_container(store, ONE, "ended", ephemeral=True)
    add_layer(store, tar({"lost": b"x"}))
    gone_part_way = 0
    with start_worker("crashes") as server:
        for step in itertools.count():
            root = tmp_path / f"{step}"
            shutil.copytree(store.root, root)
            again = crashed(server, root, operation, argument, step)
            gone_part_way += check_after_crash(Store(root))
            shutil.rmtree(root)
            if not again:
                break
    assert step > 20
    assert gone_part_way > 0, "no crash left anything half done"


def check_after_crash(store: Store) -> bool:
    """Whether anything was left half done."""
    assert list((store.root / "tmp").iterdir()) == []
    there = {str(one.id) for one in store.list_images()}
    assert problems(store) == []
    assert TWO.id in there
    half_done = ONE.id not in there and ONE.diff_ids[1] in layers(store)
    removed = prune(store, Containers(store))
    for made in (ONE, TWO):
        gone = made.id not in there or made.id in deleted(removed, "image")
        assert gone or set(made.diff_ids) <= layers(store)
    kept = {str(one.id) for one in store.list_images()}
    assert layers(store) == {
        diff_id for made in (ONE, TWO) if made.id in kept for diff_id in made.diff_ids
    }
    for name in ("tmp", "leases", "locks"):
        assert list((store.root / name).iterdir()) == []
    assert Containers(store).find("mine").name == "mine"
    assert "ended" not in Containers(store)
    assert problems(store) == []
    return half_done
