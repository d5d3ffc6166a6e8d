"""Leases and the locks of layers: who holds them, what they protect, and what the dead leave."""

from __future__ import annotations

import fcntl
import itertools
import os
import resource
import stat
import subprocess
from pathlib import Path

import pytest
from support.image_files import docker_archive, gzipped, sha256, small_image, tar, write_tar
from support.store_worker import start_worker

from unionmount.errors import StoreError
from unionmount.images.reference import Digest
from unionmount.store.check import StoreCheck
from unionmount.store.containers import Containers
from unionmount.store.garbage import prune, remove_image
from unionmount.store.layer_import import Expected
from unionmount.store.leases import held_leases
from unionmount.store.references import users
from unionmount.store.store import Store

pytestmark = pytest.mark.slow

LAYER = tar({"a": b"1"})
DIFF_ID = Digest.parse(sha256(LAYER))
OTHER = Digest.of(b"other")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    add_layer(store)
    return store


def add_layer(store: Store) -> None:
    with store.import_layer(Expected(DIFF_ID, "it")) as layer:
        layer.write(LAYER)
        layer.finish()


def collect(store: Store) -> None:
    prune(store, Containers(store))


def users_of(store: Store, image_id: Digest) -> tuple[str, ...]:
    with store.locked():
        return users(store, Containers(store)).of(image_id)


def files(store: Store, name: str) -> list[Path]:
    return list((store.root / name).iterdir())


def told(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().rstrip("\n")


def kill(worker: subprocess.Popen[str]) -> None:
    with worker:
        worker.kill()


# -- leases


def test_a_lease_keeps_what_it_needs_until_it_is_closed(store: Store) -> None:
    with store.lease("pull", "pull of x") as lease:
        lease.protect(OTHER, DIFF_ID)
        collect(store)
        assert store.has_layer(DIFF_ID)
    assert files(store, "leases") == []
    collect(store)
    assert not store.has_layer(DIFF_ID)


def test_a_lease_without_needs_keeps_nothing(store: Store) -> None:
    with store.lease("pull", "pull of x") as lease:
        lease.protect(OTHER)
        collect(store)
        assert not store.has_layer(DIFF_ID)


def test_what_a_lease_says(store: Store) -> None:
    with store.lease("mount", "about to mount") as lease:
        lease.protect(DIFF_ID)
        lease.protect_image(OTHER)
        lease.describe("mounted at /x\n")
        with store.locked():
            (held,) = store.leases()
        assert (held.kind, held.what, held.pid) == ("mount", "mounted at /x\n", os.getpid())
        assert held.digests == {DIFF_ID}
        assert held.images == {OTHER}
        assert users_of(store, OTHER) == ("mounted at /x\n",)
        assert users_of(store, DIFF_ID) == ()
        assert stat.S_IMODE(lease.path.stat().st_mode) == 0o600
    assert users_of(store, OTHER) == ()
    lease.close()


def test_a_need_is_written_once(store: Store) -> None:
    with store.lease("pull", "x") as lease:
        lease.protect(DIFF_ID)
        size = lease.path.stat().st_size
        lease.protect(DIFF_ID)
        assert lease.path.stat().st_size == size


def test_the_lease_of_another_process_counts_and_ends_with_it(store: Store) -> None:
    worker = start_worker("lease", str(store.root), str(DIFF_ID))
    try:
        assert told(worker) == "held"
        collect(store)
        assert store.has_layer(DIFF_ID)
        assert users_of(store, DIFF_ID) == ("a test",)
    finally:
        kill(worker)
    assert len(files(store, "leases")) == 1
    assert users_of(store, DIFF_ID) == ()
    collect(store)
    assert not store.has_layer(DIFF_ID)
    assert files(store, "leases") == []


def test_a_child_holds_the_lease_of_its_parent(store: Store) -> None:
    worker = start_worker("hand-on", str(store.root), str(DIFF_ID))
    assert told(worker) == "held by the child"
    assert worker.wait() == 0  # the parent has closed it and is gone
    collect(store)
    assert store.has_layer(DIFF_ID)
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.close()
    assert worker.stdout.read() == ""  # the child has ended
    worker.stdout.close()
    assert files(store, "leases") == []
    collect(store)
    assert not store.has_layer(DIFF_ID)


def test_a_line_without_its_end_was_never_promised(store: Store) -> None:
    with store.lease("pull", "x") as lease:
        lease.protect(DIFF_ID)
        with lease.path.open("ab") as file:
            file.write(b'{"need": "sha256:')
        (held,) = held_leases(store.root / "leases")
        assert held.digests == {DIFF_ID}


def test_a_full_disk_spoils_no_lease(store: Store) -> None:
    with store.lease("pull", "x") as lease:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = lease.path.stat().st_size + 20
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(StoreError, match="leases"):
                lease.protect(OTHER)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        lease.protect(DIFF_ID)
        collect(store)
        assert store.has_layer(DIFF_ID)
        (held,) = held_leases(store.root / "leases")
        assert held.digests == {DIFF_ID}


@pytest.mark.parametrize(
    "line",
    [b"{", b"5", b'{"need": 5}', b'{"need": "sha256:../.."}', b'{"pid": []}', b"[" * 100_000],
)
def test_a_damaged_lease_stops_garbage_collection(store: Store, line: bytes) -> None:
    with store.lease("pull", "x") as lease:
        with lease.path.open("ab") as file:
            file.write(line + b"\n")
        with pytest.raises(StoreError, match="damaged lease"):
            collect(store)
        assert store.has_layer(DIFF_ID)
    collect(store)
    assert not store.has_layer(DIFF_ID)


def test_a_layer_that_is_being_made_is_registered_before_it_appears(store: Store) -> None:
    data = tar({"made": b"here"})
    with (
        store.lease("commit", "x") as lease,
        store.import_layer(Expected(None, "new"), lease=lease) as layer,
    ):
        layer.write(data)
        layer.finish()
        collect(store)
        assert store.has_layer(layer.diff_id)


def is_locked(store: Store) -> bool:
    with (store.root / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_what_was_registered_is_not_lost_to_a_collection_that_is_going_on(store: Store) -> None:
    """Whatever step a collection stands at: what is there after it was registered stays there."""
    outcomes = []
    for step in itertools.count():
        if not store.has_layer(DIFF_ID):
            add_layer(store)
        with (
            start_worker("operate", str(store.root), "prune", "", str(step)) as worker,
            store.lease("pull", "x") as lease,
        ):
            stopped = told(worker)
            assert worker.stdin is not None
            locked = is_locked(store)
            if locked:  # then who registers waits, and the collection has to go on first
                worker.stdin.close()
            lease.protect(DIFF_ID)
            there = store.has_layer(DIFF_ID)
            worker.stdin.close()
            assert worker.wait() == 0
            assert store.has_layer(DIFF_ID) == there
        if stopped == "done":
            break
        outcomes.append((locked, there))
    assert {(False, True), (True, False)} <= set(outcomes)


def test_a_collection_at_any_moment_of_a_load(store: Store, tmp_path: Path) -> None:
    """It takes nothing from the load: the image is whole in the end."""
    made = small_image("loaded")
    source = write_tar(tmp_path / "image.tar", docker_archive(made, compress=gzipped))
    collected = 0
    for step in itertools.count(step=5):
        with start_worker("load", str(store.root), str(source), str(step)) as worker:
            ended = told(worker).startswith("loaded")
            if not is_locked(store):
                collect(store)
                collected += 1
            assert worker.stdin is not None
            worker.stdin.close()
            assert worker.wait() == 0
        assert [one.text for one in StoreCheck(store, Containers(store)).run()] == []
        removed = remove_image(store, Containers(store), made.id)
        assert [item.name for item in removed.items][1:3] == made.diff_ids[::-1]
        if ended:
            break
    assert collected > 10


# -- locks of layers


def test_one_has_the_lock_of_a_layer(store: Store) -> None:
    with store.layer_lock(DIFF_ID) as lock, store.layer_lock(DIFF_ID) as second:
        assert lock.try_acquire()
        assert lock.try_acquire()
        assert not second.try_acquire()
        with store.layer_lock(OTHER) as other:
            assert other.try_acquire()
        lock.close()
        lock.close()
        assert second.try_acquire()
    assert files(store, "locks") == []


def test_the_lock_of_a_layer_ends_with_its_process(store: Store) -> None:
    worker = start_worker("layer-lock", str(store.root), str(DIFF_ID))
    try:
        assert told(worker) == "acquired True"
        with store.layer_lock(DIFF_ID) as lock:
            assert not lock.try_acquire()
            collect(store)  # does not take away what is held
            assert not lock.try_acquire()
    finally:
        kill(worker)
    assert len(files(store, "locks")) == 1
    collect(store)
    assert files(store, "locks") == []
    with store.layer_lock(DIFF_ID) as lock:
        assert lock.try_acquire()


def test_a_lock_file_that_was_taken_away_is_made_anew(store: Store) -> None:
    with store.layer_lock(DIFF_ID) as first, store.layer_lock(DIFF_ID) as second:
        assert first.try_acquire()
        first.path.unlink()
        assert second.try_acquire()
        assert second.path.exists()
