"""Pull, push and copy as functions: a real registry, and skopeo, say what they did."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import trio
from support.servers import DockerRegistry, FaultProxy
from support.servers.proxy import Stall
from support.transfers import (
    Sender,
    Skopeo,
    assert_nothing_partial,
    blobs_of,
    image,
    layer,
    manifest,
    manifest_digest,
)

import unionmount
from unionmount.errors import NotFoundError, UsageError
from unionmount.images.reference import Digest
from unionmount.store.store import Store

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

PLAIN = unionmount.RegistryAccess(tls_verify=False)
# Pieces of a megabyte are told, so that the layers of this image are told of several times.
BIG = image(layer("a", 3_500_000), layer("b", 2_000_000), layer("c", 1000))


@pytest.fixture
def name(registry: DockerRegistry, proxy: FaultProxy, sender: Sender, place: Path) -> str:
    """The image in the registry, by way of the proxy; this user knows nothing else."""
    sender.send(BIG, registry, "api/big:1")
    return f"{proxy.address}/api/big:1"


@pytest.fixture
def store(place: Path) -> Store:
    """The store that the functions use."""
    return Store(place / "root")


def test_pull(name: str, store: Store) -> None:
    pulled = unionmount.pull(name, access=PLAIN)
    assert str(pulled.digest) == manifest_digest(BIG)
    assert str(pulled.id) == BIG.id
    assert pulled.names == (name,)
    assert pulled.warnings == ()
    assert_nothing_partial(store, set(BIG.diff_ids))
    with unionmount.open_image(name) as opened:
        assert len(opened.tree.read("/files/a")) == 3_500_000


def test_progress_of_a_pull(name: str) -> None:
    told: list[unionmount.TransferProgress] = []
    threads = set()

    def tell(report: unionmount.TransferProgress) -> None:
        told.append(report)
        threads.add(threading.current_thread())

    unionmount.pull(name, access=PLAIN, progress=tell)
    assert threads == {threading.current_thread()}
    sizes = [one["size"] for one in json.loads(manifest(BIG))["layers"]]
    totals = {report.layer: report.total for report in told}
    assert sorted(totals.values(), key=str) == sorted(sizes, key=str)
    for digest, total in totals.items():
        steps = [report.bytes for report in told if report.layer == digest]
        assert steps == sorted(steps)
        assert steps[-1] == total
    assert len(told) > len(sizes)


def test_policies(name: str, proxy: FaultProxy) -> None:
    with pytest.raises(NotFoundError, match="forbids pulling"):
        unionmount.pull(name, access=PLAIN, policy="never")
    first = unionmount.pull(name, access=PLAIN, policy="missing")
    proxy.reset()
    assert unionmount.pull(name, access=PLAIN, policy="missing") == first
    assert proxy.seen == []
    assert unionmount.pull(f"docker://{name}", access=PLAIN) == first
    assert not set(proxy.fetched()) & set(blobs_of(BIG))


def test_what_is_not_there(name: str, store: Store) -> None:
    with pytest.raises(NotFoundError, match="api/big:2"):
        unionmount.pull(name.replace(":1", ":2"), access=PLAIN)
    assert_nothing_partial(store, set())


def test_what_cannot_be_meant(name: str, place: Path) -> None:
    login = unionmount.RegistryAccess(user="me", password="secret")
    assert "secret" not in repr(login)
    with pytest.raises(UsageError, match=r"RegistryAccess\.user is for one registry"):
        unionmount.copy(f"docker://{name}", "docker://other.example.org/x:1", access=login)
    with pytest.raises(UsageError, match="cert_dir"):
        unionmount.pull(name, access=unionmount.RegistryAccess(cert_dir=place / "nowhere"))


# ---- the end in the middle -----------------------------------------------------------------------


class StopError(Exception):
    """An exception of the caller's own."""


@pytest.mark.parametrize("kind", [StopError, KeyboardInterrupt, SystemExit, NotFoundError])
def test_an_exception_of_the_function_cancels(
    name: str, store: Store, kind: type[BaseException]
) -> None:
    def tell(report: unionmount.TransferProgress) -> None:
        raise kind(report.layer)

    with pytest.raises(kind) as error:
        unionmount.pull(name, access=PLAIN, progress=tell)
    assert error.value.__cause__ is None
    assert_nothing_partial(store, set())
    assert not store.has_image_named(name)
    assert "unionmount transfer" not in [one.name for one in threading.enumerate()]
    assert str(unionmount.pull(name, access=PLAIN).id) == BIG.id


@pytest.mark.parametrize("has_progress", [True, False])
def test_an_interruption_cancels(
    name: str, store: Store, proxy: FaultProxy, has_progress: bool
) -> None:
    stall = Stall(1_500_000, threading.Event())
    proxy.fault(stall, kind="blob", reference=blobs_of(BIG)[0])

    def interrupt() -> None:
        assert stall.reached.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        unionmount.pull(name, access=PLAIN, progress=(lambda _: None) if has_progress else None)
    thread.join()
    stall.released.set()
    assert_nothing_partial(store)
    assert not store.has_layer(Digest.parse(BIG.diff_ids[0]))
    assert not store.has_image_named(name)


# ---- from event loops ----------------------------------------------------------------------------


def test_under_trio(name: str) -> None:
    async def main() -> unionmount.ImageInStore:
        waiting = await trio.to_thread.run_sync(partial(unionmount.pull, name, access=PLAIN))
        assert unionmount.pull(name, access=PLAIN) == waiting  # it may block the loop, too
        return waiting

    assert str(trio.run(main).id) == BIG.id


def test_under_asyncio(name: str) -> None:
    async def main() -> unionmount.ImageInStore:
        waiting = await asyncio.to_thread(unionmount.pull, name, access=PLAIN)
        assert unionmount.pull(name, access=PLAIN) == waiting
        return waiting

    assert str(asyncio.run(main()).id) == BIG.id


def test_cancellation_under_trio(name: str, store: Store) -> None:
    """A thread of trio's hears of its cancellation where it asks."""

    async def main() -> bool:
        with trio.CancelScope() as scope:

            def tell(_: unionmount.TransferProgress) -> None:
                trio.from_thread.run_sync(scope.cancel)
                trio.from_thread.check_cancelled()

            pull = partial(unionmount.pull, name, access=PLAIN, progress=tell)
            await trio.to_thread.run_sync(pull)
        return scope.cancelled_caught

    assert trio.run(main)
    assert_nothing_partial(store, set())


# ---- push and copy -------------------------------------------------------------------------------


def test_push(name: str, registry: DockerRegistry, skopeo: Skopeo) -> None:
    pulled = unionmount.pull(name, access=PLAIN)
    told: list[unionmount.TransferProgress] = []
    target = f"{registry.address}/api/pushed:1"
    pushed = unionmount.push(name, target, access=PLAIN, progress=told.append)
    assert (pushed.digest, pushed.changes) == (pulled.digest, ())
    assert told
    assert _inspected(skopeo, f"docker://{target}") == str(pulled.digest)
    with pytest.raises(UsageError, match="has a digest"):
        unionmount.push(name, f"{registry.address}/api/pushed@{pulled.digest}", access=PLAIN)
    other = unionmount.push(name, f"{registry.address}/api/zstd:1", access=PLAIN, compress="zstd")
    assert other.digest != pulled.digest
    assert _inspected(skopeo, f"docker://{registry.address}/api/zstd:1") == str(other.digest)


def test_a_push_that_is_cancelled(name: str, registry: DockerRegistry, skopeo: Skopeo) -> None:
    unionmount.pull(name, access=PLAIN)

    def tell(_: unionmount.TransferProgress) -> None:
        raise StopError

    target = f"{registry.address}/api/cancelled:1"
    with pytest.raises(StopError):
        unionmount.push(name, target, access=PLAIN, progress=tell)
    with pytest.raises(Exception, match=r"unknown|not found|exit status"):
        _inspected(skopeo, f"docker://{target}")


@pytest.mark.parametrize("form", ["oci-archive:{}/x.tar:1", "oci:{}/x:1"])
def test_copy(name: str, place: Path, skopeo: Skopeo, form: str) -> None:
    target = form.format(place)
    told: list[unionmount.TransferProgress] = []
    copied = unionmount.copy(f"docker://{name}", target, access=PLAIN, progress=told.append)
    assert str(copied.digest) == manifest_digest(BIG) == _inspected(skopeo, target)
    assert told
    assert str(unionmount.copy(target, "localhost/back:1").digest) == BIG.id
    with unionmount.open_image("localhost/back:1") as opened:
        assert len(opened.layers) == 3


@pytest.mark.parametrize("target", ["oci:made:1", "oci-archive:made.tar:1", "dir:made"])
def test_the_digest_of_a_manifest_that_is_made(
    name: str, place: Path, skopeo: Skopeo, target: str
) -> None:
    unionmount.pull(name, access=PLAIN)
    unionmount.copy(name, "docker-archive:docker.tar:a:1")
    for source in (name, "docker-archive:docker.tar"):
        made = unionmount.copy(source, target)
        assert str(made.digest) == _inspected(skopeo, target)
        if target == "dir:made":  # such a directory has one image
            shutil.rmtree(place / "made")
    assert unionmount.copy(name, "docker-archive:other.tar:a:1").digest is None


def test_a_copy_that_squashes(name: str, place: Path, skopeo: Skopeo) -> None:
    wanted: dict[int | Literal["all"], int] = {"all": 1, 2: 2, 3: 1, 100: 1}
    for squash, count in wanted.items():
        made = unionmount.copy(
            f"docker://{name}", "oci:squashed:1", access=PLAIN, squash=squash, epoch=1000
        )
        assert _inspected(skopeo, "oci:squashed:1") == str(made.digest)
        assert made.digest == unionmount.copy("oci:squashed:1", "oci:again:1").digest
        with unionmount.open_image("oci:squashed:1") as image:
            assert len(image.layers) == count
            assert image.config.created == "1970-01-01T00:16:40Z"
            assert len(image.tree.read("/files/a")) == 3_500_000
        assert list(unionmount.diff("oci:squashed:1", _copied(name))) == []


def _copied(name: str) -> str:
    unionmount.copy(f"docker://{name}", "oci:whole:1", access=PLAIN)
    return "oci:whole:1"


WRONG: dict[str, Callable[[], object]] = {
    "policy='newer' is not known; use one of always, missing, never": lambda: unionmount.pull(
        "example.org/x", policy=cast("Any", "newer")
    ),
    "compress='lzma' is not known; use one of none, gzip, zstd": lambda: unionmount.copy(
        "docker-archive:x.tar", "y", compress=cast("Any", "lzma")
    ),
    "squash=0 is not a number of layers; give one, or 'all'": lambda: unionmount.copy(
        "a:1", "b:1", squash=0
    ),
    "squash=True is not a number of layers; give one, or 'all'": lambda: unionmount.copy(
        "a:1", "b:1", squash=True
    ),
    "epoch is the time of an image that squash makes; add squash='all'": lambda: unionmount.copy(
        "a:1", "b:1", epoch=0
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_words_that_have_no_meaning(place: Path, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        WRONG[message]()
    assert str(caught.value) == message
    assert not {*os.listdir(place)} - {"root"}


@pytest.mark.parametrize("target", ["oci-archive:x.tar", "oci:x", "docker-archive:x.tar:a:1"])
def test_a_copy_that_is_cancelled(name: str, place: Path, target: str) -> None:
    def tell(_: unionmount.TransferProgress) -> None:
        raise StopError

    before = sorted(os.listdir(place))
    with pytest.raises(StopError):
        unionmount.copy(f"docker://{name}", target, access=PLAIN, progress=tell)
    assert sorted({*os.listdir(place)} - {"root"}) == sorted({*before} - {"root"})
    assert_nothing_partial(Store(place / "root"), set())


def _inspected(skopeo: Callable[..., str], name: str) -> str:
    found = json.loads(skopeo("inspect", "--tls-verify=false", name))
    digest: str = found["Digest"]
    return digest
