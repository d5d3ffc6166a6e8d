"""What a store takes, against du(1)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from store.test_garbage import add_layer, make_container
from support.image_files import MadeImage, docker_archive, gzipped, tar, write_tar

from unionmount.images.reference import Digest
from unionmount.store.containers import Containers
from unionmount.store.garbage import prune
from unionmount.store.layer_import import Expected
from unionmount.store.store import Store
from unionmount.store.unused import PruneChoice
from unionmount.store.usage import UsageRow, allocated, measure
from unionmount.transfer.load import load, open_image

BASE = tar({"base": b"b" * 500_000})
IMAGES = tuple(
    MadeImage((BASE, tar({f"{n}": b"1" * 9000 * (n + 1)})), names=(f"example.org/{n}:1",))
    for n in range(3)
)
ALONE = MadeImage((tar({"alone": b"a" * 70_000}),), names=("example.org/alone:1",))


def filled(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    load(store, str(write_tar(tmp_path / "images.tar", docker_archive(*IMAGES, ALONE))))
    return store


def du(*paths: Path) -> int:
    lines = subprocess.run(
        ["du", "-s", "--block-size=1", *paths], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return sum(int(line.split()[0]) for line in lines)


def below(path: Path) -> list[Path]:
    return sorted(path.iterdir())


def rows(store: Store, *mounted: str) -> dict[str, UsageRow]:
    return {row.kind: row for row in measure(store, Containers(store), mounted).rows}


def layer_bytes(store: Store, *images: MadeImage) -> int:
    wanted = {Digest.parse(diff_id) for made in images for diff_id in made.diff_ids}
    return du(*map(store.directory.layer_path, sorted(wanted)))


def test_a_file_with_two_names_holes_and_links_counts_as_du_counts(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a/b").mkdir(parents=True)
    (top / "a/data").write_bytes(os.urandom(100_000))
    os.link(top / "a/data", top / "a/b/again")
    with (top / "hole").open("wb") as file:
        file.truncate(1 << 30)
    (top / "link").symlink_to(tmp_path)
    os.mkfifo(top / "fifo")
    assert allocated(top) == du(top) < 1 << 20
    assert allocated(tmp_path / "nothing") == 0


def test_rows_are_what_du_says(tmp_path: Path) -> None:
    store = filled(tmp_path)
    make_container(store, IMAGES[0], "mine")
    (store.root / "containers/mine/upper/file").write_bytes(b"x" * 50_000)
    make_container(store, IMAGES[1], "other")
    add_layer(store, tar({"lost": b"l" * 20_000}))
    blob = gzipped(tar({"kept": os.urandom(30_000)}))
    with store.import_layer(Expected(None, "x", Digest.of(blob)), keep_blob=True) as layer:
        layer.write(blob)
        layer.finish()
    archive = write_tar(tmp_path / "inplace.tar", docker_archive(ALONE))
    open_image(store, str(archive)).close()
    open_image(store, str(write_tar(tmp_path / "gone.tar", docker_archive(ALONE)))).close()
    (tmp_path / "gone.tar").unlink()
    found = rows(store, "mine")
    layers, blobs = below(store.root / "layers/sha256"), below(store.root / "blobs/sha256")
    kept = store.root / "blobs/sha256" / Digest.of(blob).hex
    documents = [path for path in blobs if path != kept]
    unneeded = du(*layers) - layer_bytes(store, *IMAGES, ALONE)
    assert found["Layers"] == UsageRow("Layers", len(layers), 5, du(*layers), unneeded)
    assert (found["Images"].total, found["Images"].active) == (4, 2)
    assert found["Images"].size == layer_bytes(store, *IMAGES, ALONE) + du(*documents)
    assert found["Kept blobs"] == UsageRow("Kept blobs", 1, 0, du(kept), du(kept))
    uppers = {name: du(store.root / "containers" / name) for name in ("mine", "other")}
    assert found["Containers"] == UsageRow(
        "Containers", 2, 1, sum(uppers.values()), uppers["other"]
    )
    inplace = du(*below(store.directory.inplace))
    assert found["In-place indexes"] == UsageRow("In-place indexes", 2, 1, inplace, inplace // 2)


def test_what_is_reclaimable_is_what_prune_frees(tmp_path: Path) -> None:
    store = filled(tmp_path)
    make_container(store, IMAGES[0], "mine")
    expected = rows(store)["Images"].reclaimable
    assert prune(store, Containers(store), PruneChoice(named=True)).size == expected > 0
    assert rows(store)["Images"].reclaimable == 0


def test_what_sharing_saves(tmp_path: Path) -> None:
    store = filled(tmp_path)
    make_container(store, IMAGES[0], "mine")
    usage = measure(store, Containers(store), ())
    base = du(store.directory.layer_path(Digest.of(BASE)))
    assert usage.shared == base
    assert usage.shared + usage.unique == du(*below(store.root / "layers/sha256"))
    assert usage.saved == 2 * base
    by_name = {one.image.names[0]: one for one in usage.images}
    for made in (*IMAGES, ALONE):
        one = by_name[made.names[0]]
        assert one.size == layer_bytes(store, made)
        assert one.shared == (0 if made is ALONE else base)
        assert one.unique == one.size - one.shared
        assert one.containers == (("mine",) if made is IMAGES[0] else ())


def test_where_a_layer_lives(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert store.layer_place(Digest.of(BASE)) == store.directory.layer_path(Digest.of(BASE))
    assert store.layer_place(Digest.of(b"nothing")) is None
    other = Store(tmp_path / "other", additional=[store.root])
    assert other.layer_place(Digest.of(BASE)) == store.directory.layer_path(Digest.of(BASE))
