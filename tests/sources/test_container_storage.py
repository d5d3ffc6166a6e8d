"""Damaged and strange stores of podman: one line says what is wrong, and nothing is opened."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.container_storage import PodmanStore, podman_store

from unionmount.errors import InvalidReference, NotFoundError, UnionmountError, UsageError
from unionmount.sources import Location
from unionmount.sources.container_storage import ContainerStorage
from unionmount.sources.docker_overlay import split_root
from unionmount.sources.storage_places import StoragePlace, find_place, split_specifier
from unionmount.system.text import printable
from unionmount.transfer.open_unpacked import open_to_load, open_unpacked

Document = list[dict[str, Any]]


@pytest.fixture(scope="module")
def built() -> Iterator[PodmanStore]:
    with podman_store() as store:
        store.build()
        yield store


@pytest.fixture
def place(built: PodmanStore, tmp_path: Path) -> StoragePlace:
    """A copy of the lists and documents, without the files of layers."""
    for kind in ("images", "layers"):
        shutil.copytree(built.top / f"g/overlay-{kind}", tmp_path / f"overlay-{kind}")
    return StoragePlace("overlay", tmp_path)


def changed(place: StoragePlace, kind: str, change: Callable[[Document], Any]) -> None:
    path = place.graph_root / f"overlay-{kind}/{kind}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def top_of(place: StoragePlace) -> str:
    """The ID of the topmost layer of the second image."""
    document = json.loads((place.graph_root / "overlay-images/images.json").read_text())
    (found,) = [one for one in document if "localhost/second:latest" in one["names"]]
    return str(found["layer"])


@pytest.mark.needs("root", "podman", "buildah")
class TestDamage:
    def test_it_is_found_as_it_is(self, place: StoragePlace) -> None:
        found = ContainerStorage(place).find("second")
        assert len(found.layers) == len(found.image.diff_ids) == 2
        assert found.layers[1].path == place.graph_root / "overlay" / top_of(place) / "diff"

    @pytest.mark.parametrize("field", ["id", "layer"])
    @pytest.mark.parametrize("value", ["../../etc", "0" * 63, "0" * 63 + "/", 7])
    def test_ids_of_images(self, place: StoragePlace, field: str, value: Any) -> None:
        changed(place, "images", lambda all_: [one.update({field: value}) for one in all_])
        with pytest.raises(UnionmountError, match=f"field '{field}'"):
            ContainerStorage(place).find("second")

    @pytest.mark.parametrize("field", ["id", "parent"])
    def test_ids_of_layers(self, place: StoragePlace, field: str) -> None:
        changed(place, "layers", lambda all_: [one.update({field: "../x"}) for one in all_])
        with pytest.raises(UnionmountError, match=f"field '{field}'"):
            ContainerStorage(place).find("second")

    def test_layers_in_a_circle(self, place: StoragePlace) -> None:
        changed(place, "layers", lambda all_: [one.update(parent=one["id"]) for one in all_])
        with pytest.raises(UnionmountError, match=r"has digest|not those of its config"):
            ContainerStorage(place).find("second")

    def test_a_layer_of_another_digest(self, place: StoragePlace) -> None:
        other = {"diff-digest": "sha256:" + "0" * 64}
        changed(place, "layers", lambda all_: [one.update(other) for one in all_])
        with pytest.raises(UnionmountError, match="has digest"):
            ContainerStorage(place).find("second")

    def test_a_layer_is_missing(self, place: StoragePlace) -> None:
        changed(place, "layers", lambda all_: all_.clear())
        with pytest.raises(UnionmountError, match="not those of its config"):
            ContainerStorage(place).find("second")

    def test_owners_are_mapped(self, place: StoragePlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """They cannot be used in place; made again, the layers have the owners of the image."""
        maps = {"uidmap": [{"container_id": 0, "host_id": 100_000, "size": 10}]}
        changed(place, "layers", lambda all_: [one.update(maps) for one in all_])
        monkeypatch.setenv("CONTAINERS_STORAGE_CONF", os.devnull)
        location = Location.parse(f"containers-storage:[overlay@{place.graph_root}]second")
        with pytest.raises(UnionmountError, match=r"owners .*uidmap.*unionmount load"):
            open_unpacked(location)
        with open_to_load(location, None) as archive:
            assert len(archive.image(archive.entries()[0], None).layers) == 2

    @pytest.mark.parametrize("size", [-1, None])
    def test_a_size_that_is_not_known(self, place: StoragePlace, size: int | None) -> None:
        """A layer of which only parts were pulled has none."""

        def forget(layers: Document) -> None:
            for one in layers:
                del one["diff-size"]
                if size is not None:
                    one["diff-size"] = size

        changed(place, "layers", forget)
        assert [one.size for one in ContainerStorage(place).find("second").layers] == [0, 0]

    def test_composefs(self, place: StoragePlace) -> None:
        (place.graph_root / "overlay" / top_of(place) / "composefs-data").mkdir(parents=True)
        with pytest.raises(UnionmountError, match="composefs"):
            ContainerStorage(place).find("second")

    @pytest.mark.parametrize("text", ["{", "{}", "[1]", "[" * 100_000, '[{"id": "x"}]', "\xff"])
    @pytest.mark.parametrize("kind", ["images", "layers"])
    def test_lists(self, place: StoragePlace, kind: str, text: str) -> None:
        (place.graph_root / f"overlay-{kind}/{kind}.json").write_text(text, encoding="latin-1")
        with pytest.raises(UnionmountError) as raised:
            ContainerStorage(place).find("second")
        assert "\n" not in str(raised.value)

    def test_documents_are_missing_or_others(self, place: StoragePlace) -> None:
        for path in (place.graph_root / "overlay-images").glob("*/manifest"):
            path.write_bytes(b"{}")
        with pytest.raises(UnionmountError, match="manifest"):
            ContainerStorage(place).find("second")
        for path in (place.graph_root / "overlay-images").glob("*/manifest"):
            path.unlink()
        with pytest.raises(UnionmountError, match="No such file"):
            ContainerStorage(place).find("second")

    @pytest.mark.parametrize("name", ["images.json", "*/manifest", "*/=*"])
    @pytest.mark.parametrize("kind", ["fifo", "directory"])
    def test_nothing_waits_for_what_is_no_file(
        self, place: StoragePlace, name: str, kind: str
    ) -> None:
        for path in (place.graph_root / "overlay-images").glob(name):
            path.unlink()
            if kind == "fifo":
                os.mkfifo(path)
            else:
                path.mkdir()
        with pytest.raises(UnionmountError) as raised:
            ContainerStorage(place).find("second")
        assert "\n" not in str(raised.value)

    def test_a_lock_that_is_a_fifo_is_not_waited_for(self, place: StoragePlace) -> None:
        path = place.graph_root / "overlay-images/images.lock"
        path.unlink()
        os.mkfifo(path)
        assert ContainerStorage(place).find("second").name is not None

    @pytest.mark.parametrize("word", ["nothing", "@0123456", "second@0123456", "fff0001"])
    def test_names_that_mean_nothing(self, place: StoragePlace, word: str) -> None:
        with pytest.raises(NotFoundError, match="no such image"):
            ContainerStorage(place).find(word)

    @pytest.mark.parametrize("word", ["SECOND", "a b", "second:", "..", "sec\nond"])
    def test_an_error_has_the_word_as_it_was_written(self, place: StoragePlace, word: str) -> None:
        with pytest.raises(InvalidReference) as raised:
            ContainerStorage(place).find(word)
        assert str(raised.value).startswith(f"'{printable(word)}' ")

    def test_a_store_without_images(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="no images with the driver vfs"):
            ContainerStorage(StoragePlace("vfs", tmp_path)).find("second")

    def test_additional_stores(self, place: StoragePlace, tmp_path: Path) -> None:
        more = StoragePlace("overlay", tmp_path / "empty", additional=(place.graph_root,))
        assert (
            ContainerStorage(more).find("second").layers
            == ContainerStorage(place).find("second").layers
        )


def test_brackets_name_a_store(tmp_path: Path) -> None:
    text, name = split_specifier(f"[vfs@{tmp_path}/g+{tmp_path}/r:mountopt=nodev]a/b:1")
    found = find_place(text, {"CONTAINERS_STORAGE_CONF": "/dev/null"})
    assert (name, found.driver, found.graph_root) == ("a/b:1", "vfs", tmp_path / "g")
    assert found.options() == [
        *("--root", f"{tmp_path}/g", "--runroot", f"{tmp_path}/r", "--storage-driver", "vfs")
    ]


@pytest.mark.parametrize("text", ["[relative]a", "[overlay@x]a", "[/a+b]c"])
def test_brackets_need_absolute_paths(text: str) -> None:
    with pytest.raises(UsageError, match="absolute paths"):
        find_place(split_specifier(text)[0], {"CONTAINERS_STORAGE_CONF": "/dev/null"})


@pytest.mark.parametrize("text", ["[a", "[a@b@c@d"])
def test_brackets_are_closed(text: str) -> None:
    with pytest.raises(UsageError, match="DRIVER@ROOT"):
        split_specifier(text)


@pytest.mark.parametrize("split", [split_specifier, split_root])
def test_brackets_alone_name_no_image(split: Callable[[str], object]) -> None:
    with pytest.raises(UsageError, match="name of the image is missing"):
        split("[/srv/store]")


def test_other_drivers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="btrfs"):
        find_place(f"[btrfs@{tmp_path}]", {"CONTAINERS_STORAGE_CONF": "/dev/null"})


def test_a_configuration_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "storage.conf")
    with pytest.raises(UnionmountError, match=r"storage\.conf: is a FIFO"):
        find_place("", {"CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf")})


@pytest.mark.parametrize("text", ["[storage", "storage = 1", "\xff"])
def test_a_damaged_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "storage.conf").write_text(text, encoding="latin-1")
    with pytest.raises(UnionmountError, match=r"storage\.conf"):
        find_place("", {"CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf")})


@pytest.mark.needs("root", "podman")
@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_the_configured_store_is_that_of_podman(driver: str) -> None:
    with podman_store(driver) as store:
        words = ["podman", "info", "--format", "{{.Store.GraphRoot}} {{.Store.GraphDriverName}}"]
        found = find_place("", store.environment)
        assert store.run(*words).split() == [str(found.graph_root), found.driver]
