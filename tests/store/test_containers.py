"""Containers in the store: made, found, locked and removed; and the image they need."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest
from support.image_files import docker_archive, small_image, write_tar

from unionmount.errors import NotFoundError, StoreError, UsageError
from unionmount.images.image import scratch
from unionmount.images.platform import Platform
from unionmount.images.reference import Digest
from unionmount.store import containers
from unionmount.store.container_names import ADJECTIVES, ANIMALS
from unionmount.store.containers import (
    Container,
    ContainerImage,
    ContainerInUse,
    Containers,
    check_name,
)
from unionmount.store.image_name import name_of
from unionmount.store.store import Store
from unionmount.transfer.load import keep_image, load, open_image, open_stored

IMAGE = ContainerImage("some \udce9 source", "nginx:1.25", Digest.of(b"id"), Digest.of(b"manifest"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def known(store: Store) -> Containers:
    return Containers(store)


def make(known: Containers, name: str | None = None, *, ephemeral: bool = False) -> Container:
    with known.create(IMAGE, name, ephemeral=ephemeral) as held:
        return held.container


# -- making and finding


def test_a_container_is_found_as_it_was_made(known: Containers) -> None:
    made = make(known, "web")
    assert known.find("web") == made
    assert made.image == IMAGE
    assert made.upper.is_dir()
    assert made.work.is_dir()
    assert "web" in known
    assert known.all() == [made]


def test_nobody_else_can_look_into_it(known: Containers) -> None:
    made = make(known)
    for path in (made.path.parent, made.path, made.path / "container.json", made.work):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_names_are_two_words(known: Containers) -> None:
    adjective, animal = make(known).name.split("-")
    assert adjective in ADJECTIVES
    assert animal in ANIMALS


def test_every_word_makes_a_name() -> None:
    words = [*ADJECTIVES, *ANIMALS]
    assert all(word.isascii() and word.islower() and word.isalpha() for word in words)
    for list_of_words in (ADJECTIVES, ANIMALS):
        assert len(set(list_of_words)) == len(list_of_words) >= 75


def test_a_name_that_is_taken_is_not_given_again(
    known: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "ADJECTIVES", ("calm", "wise"))
    monkeypatch.setattr(containers, "ANIMALS", ("otter",))
    first, second, third = make(known).name, make(known).name, make(known).name
    assert {first, second} == {"calm-otter", "wise-otter"}
    assert third.startswith(("calm-otter-", "wise-otter-"))


def test_a_name_of_somebody_else_is_refused(known: Containers, store: Store) -> None:
    made = make(known, "web")
    (made.upper / "file").write_text("kept")
    with pytest.raises(StoreError, match="container 'web' already exists"):
        make(known, "web")
    assert (made.upper / "file").read_text() == "kept"
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", ["a", "A9", "web.1_x-y", "9", "x" * 64])
def test_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "-a",
        "_a",
        "a/b",
        "a:b",
        "a b",
        "a\n",
        "\xe9",
        "x" * 65,
        "../../etc",
        "scratch",
    ],
)
def test_what_is_no_name(known: Containers, name: str) -> None:
    with pytest.raises(UsageError):
        make(known, name)
    assert name not in known
    with pytest.raises(NotFoundError):
        known.find(name)
    with pytest.raises(NotFoundError):
        known.remove(name)


def test_what_is_not_there(known: Containers) -> None:
    for call in (known.find, known.remove, known.hold):
        with pytest.raises(NotFoundError, match="no container 'web'"):
            call("web")
    assert known.all() == []


def test_the_order_is_that_of_making(known: Containers) -> None:
    names = [make(known, name).name for name in ("c", "a", "b")]
    assert [one.name for one in known.all()] == names


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"id": 5}', '{"id": "sha256:x"}', "[" * 100_000]
)
def test_a_damaged_document_is_named_and_can_be_removed(known: Containers, text: str) -> None:
    made = make(known, "web")
    (made.path / "container.json").write_text(text)
    with pytest.raises(StoreError, match=r"web/container\.json: damaged"):
        known.find("web")
    with pytest.raises(StoreError):
        known.all()
    with pytest.raises(StoreError):
        known.users_of(IMAGE.id)
    known.clean()
    known.remove("web")
    assert known.all() == []


def test_a_missing_document(known: Containers) -> None:
    made = make(known, "web")
    (made.path / "container.json").unlink()
    with pytest.raises(StoreError, match=r"containers/web: No such file"):
        known.find("web")
    known.remove("web")


@pytest.mark.parametrize("missing", ["created", "ephemeral", "manifest", "source", "image", "id"])
def test_every_field_is_needed(known: Containers, missing: str) -> None:
    path = make(known, "web").path / "container.json"
    document = json.loads(path.read_text())
    del document[missing]
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="damaged"):
        known.find("web")


# -- locking


def test_one_holder_at_a_time(known: Containers) -> None:
    held = known.create(IMAGE, "web")
    for call in (known.hold, known.remove):
        with pytest.raises(ContainerInUse, match="container 'web' is in use"):
            call("web")
    held.close()
    held.close()
    with known.hold("web"), pytest.raises(ContainerInUse):
        known.remove("web")
    known.remove("web")


def test_a_child_that_was_forked_holds_it_on(known: Containers) -> None:
    reader, writer = os.pipe()
    held = known.create(IMAGE, "web")
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent closes its end
        os._exit(0)
    os.close(reader)
    held.close()
    with pytest.raises(ContainerInUse):
        known.remove("web")
    os.close(writer)
    os.waitpid(child, 0)
    known.remove("web")


def test_looking_does_not_need_the_lock(known: Containers) -> None:
    with known.create(IMAGE, "web") as held:
        assert known.all() == [held.container]
        assert "web" in known


def test_names_are_given_once(known: Containers) -> None:
    """Several at once: one makes the container, the others are told."""
    results: list[str] = []

    def attempt() -> None:
        try:
            make(known, "web")
        except StoreError as error:
            results.append(str(error))
        else:
            results.append("made")

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("made") == 1
    assert len(set(results)) == 2


# -- removing


def test_a_removed_container_leaves_nothing(known: Containers, store: Store) -> None:
    made = make(known, "web")
    (made.upper / "closed").mkdir()
    (made.upper / "closed/file").write_text("")
    (made.upper / "closed").chmod(0)
    known.remove("web")
    assert "web" not in known
    assert list((store.root / "containers").iterdir()) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_what_was_not_removed_to_the_end_is_removed_later(
    known: Containers, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(known, "web")
    (made.upper / "file").write_text("")
    with monkeypatch.context() as patch:
        for module in (containers, sys.modules["unionmount.store.staging"]):
            patch.setattr(module, "remove_tree", failing)
        with pytest.raises(StoreError, match="containers/web: Input/output error"):
            known.remove("web")
    assert "web" not in known
    assert len(list((store.root / "tmp").iterdir())) == 1
    Store(store.root)
    assert list((store.root / "tmp").iterdir()) == []


def failing(_path: Path) -> None:
    raise OSError(5, "Input/output error")


def test_ephemeral_ones_without_a_daemon_are_garbage(known: Containers) -> None:
    make(known, "dead", ephemeral=True)
    make(known, "kept")
    with known.create(IMAGE, "live", ephemeral=True) as live:
        known.clean()
        assert {one.name for one in known.all()} == {"kept", "live"}
        known.discard(live)
    assert [one.name for one in known.all()] == ["kept"]


def test_cleaning_takes_no_locks_of_what_stays(
    known: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(known, "kept")
    monkeypatch.setattr(Containers, "_locked", None)
    known.clean()


# -- images


def archive(tmp_path: Path, seed: str, name: str = "app:1") -> Path:
    made = small_image(seed, names=(name,))
    return write_tar(tmp_path / f"{seed}.tar", docker_archive(made))


def test_an_archive_is_kept(store: Store, tmp_path: Path) -> None:
    path = archive(tmp_path, "one")
    with open_image(store, str(path)) as opened:
        in_place = opened.image.id
    stored = keep_image(store, str(path))
    path.unlink()
    assert (stored.id, name_of(stored)) == (in_place, "app:1")
    with open_stored(store, stored, "its name", verify=True) as opened:
        assert opened.image.id == in_place
        assert opened.name == "its name"
    assert keep_image(store, "app:1") == stored


def test_keeping_moves_no_names(store: Store, tmp_path: Path) -> None:
    (first,) = load(store, str(archive(tmp_path, "one")))
    second = keep_image(store, str(archive(tmp_path, "two")))
    assert second.names == ()
    assert store.find_image("app:1") == first
    assert keep_image(store, str(archive(tmp_path, "one"))) == first
    (moved,) = load(store, str(archive(tmp_path, "two")))
    assert moved.names == ("docker.io/library/app:1",)


def test_one_image_of_many_is_kept(store: Store, tmp_path: Path) -> None:
    one, two = small_image("one", names=("a:1",)), small_image("two", names=("b:1",))
    path = write_tar(tmp_path / "both.tar", docker_archive(one, two))
    with pytest.raises(NotFoundError, match="contains 2 images"):
        keep_image(store, str(path))
    assert str(keep_image(store, f"{path}:b:1").id) == two.id
    assert len(store.list_images()) == 1


def test_an_image_is_needed_whatever_it_is_called(
    store: Store, known: Containers, tmp_path: Path
) -> None:
    first = keep_image(store, str(archive(tmp_path, "one")))
    image = ContainerImage("app:1", "app:1", first.id, first.manifest)
    known.create(image, "web").close()
    known.create(image, "passing", ephemeral=True).close()
    load(store, str(archive(tmp_path, "two")))
    assert known.users_of(first.id) == ["web"]
    assert known.users_of(store.find_image("app:1").id) == []
    with open_stored(store, known.find("web").image.stored, "it") as opened:
        assert opened.image.id == first.id


# -- the empty image


def test_scratch_is_always_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scratch() == scratch()
    assert scratch().config.platform == Platform.host()
    assert scratch().layers == ()
    (store.root.parent / "scratch").write_text("a file that happens to be called so")
    monkeypatch.chdir(store.root.parent)
    with open_image(store, "scratch") as opened:
        assert (opened.image, opened.name, opened.layers) == (scratch(), "scratch", ())


def test_scratch_is_in_no_list(store: Store) -> None:
    stored = keep_image(store, "scratch")
    assert store.list_images() == []
    assert name_of(stored) == "scratch"
    with open_stored(Store(store.root), stored, "scratch") as opened:
        assert opened.image == scratch()


def test_scratch_is_for_one_platform(store: Store) -> None:
    with pytest.raises(NotFoundError, match="image 'scratch' is for"):
        open_image(store, "scratch", platform=Platform("linux", "nonsense"))


def test_a_variant_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Platform, "host", lambda: Platform("linux", "arm", "v7"))
    assert scratch().config.platform == Platform("linux", "arm", "v7")
