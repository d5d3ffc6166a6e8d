"""Pushing to a real registry: digests that stay, blobs that are not sent twice, other tools."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine
from support.real_images import run
from support.registry_fixtures import PASSWORD, USER
from support.servers import DockerRegistry, FaultProxy, TokenServer
from support.servers.proxy import CutUpload, Kind, Reply
from support.transfers import (
    OCI_MANIFEST,
    Sender,
    Skopeo,
    assert_nothing_partial,
    blobs_of,
    command_line,
    image,
    layer,
    manifest_digest,
    new_client,
    parsed,
    raw_manifest,
    remote_digest,
)

from unionmount.errors import NotFoundError, RegistryError, UsageError
from unionmount.formats.compression import Compression
from unionmount.images.reference import Digest
from unionmount.registry import RegistryClient
from unionmount.store.store import Store, StoredImage
from unionmount.transfer.load import load
from unionmount.transfer.pull import pull
from unionmount.transfer.push import PushOptions, push

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

SMALL = image(layer("pa", 300_000), layer("pb", 200_000), layer("pc", 1000))


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    async with new_client() as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def origin(start_registry: Callable[..., DockerRegistry], sender: Sender) -> DockerRegistry:
    """A registry of the test's own that has the small image."""
    started = start_registry()
    sender.send(SMALL, started, "origin/small:1")
    return started


@pytest.fixture
async def pulled(store: Store, client: RegistryClient, origin: DockerRegistry) -> StoredImage:
    """The small image in the store; its blobs are not kept."""
    return await pull(store, client, parsed(f"{origin.address}/origin/small:1"))


@pytest.fixture
def made_here(store: Store, tmp_path: Path) -> StoredImage:
    """An image that no registry knows, with plain layers."""
    layers = [
        Layer().directory("etc").file("etc/motd", b"hello\n" * 10_000),
        Layer().file("etc/.wh.motd").file("etc/new", b"new\n" * 1000),
    ]
    (loaded,) = load(store, str(docker_archive(tmp_path / "made.tar", layers, "made:1")))
    return loaded


def sent(proxy: FaultProxy) -> int:
    """Bytes of blobs that were uploaded."""
    return sum(one.received for one in proxy.requests("upload"))


# -- what came from a registry keeps its digest


async def test_blobs_come_from_the_registry_that_has_them(
    store: Store,
    client: RegistryClient,
    pulled: StoredImage,
    registry: DockerRegistry,
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    ref = f"{registry.address}/push/elsewhere:1"
    done = await push(store, client, pulled, parsed(ref))
    assert (str(done.digest), done.changes) == (manifest_digest(SMALL), ())
    assert remote_digest(skopeo, ref) == manifest_digest(SMALL)
    skopeo("copy", "--src-tls-verify=false", f"docker://{ref}", f"oci:{tmp_path / 'back'}:x")
    for digest in blobs_of(SMALL):
        path = tmp_path / "back/blobs/sha256" / digest.removeprefix("sha256:")
        assert path.read_bytes() == registry.blob_path(digest).read_bytes()
    known = store.find_image(str(pulled.id)).digests
    assert known[-1] == f"{registry.address}/push/elsewhere@{manifest_digest(SMALL)}"
    assert len(known) == 2
    assert_nothing_partial(store)


async def test_blobs_are_mounted_from_the_same_registry(
    store: Store, client: RegistryClient, registry: DockerRegistry, sender: Sender
) -> None:
    sender.send(SMALL, registry, "push/first:1")
    with FaultProxy(registry.address) as proxy:
        ref = f"{proxy.address}/push/first:1"
        stored = await pull(store, client, parsed(ref))
        proxy.reset()
        done = await push(store, client, stored, parsed(f"{proxy.address}/push/second:1"))
        assert str(done.digest) == manifest_digest(SMALL)
        assert sent(proxy) == 0
        assert proxy.fetched() == {}
        mounts = [one for one in proxy.requests("upload", "POST") if "mount=" in one.target]
        assert len(mounts) == 4
        assert all("from=push%2Ffirst" in one.target for one in mounts)
        proxy.reset()
        again = await push(store, client, stored, parsed(f"{proxy.address}/push/second:2"))
        assert again == done
        assert proxy.requests("upload") == []
        assert len(proxy.requests("blob", "HEAD")) == 4


async def test_kept_blobs_need_no_registry(
    store: Store,
    client: RegistryClient,
    origin: DockerRegistry,
    registry: DockerRegistry,
    skopeo: Skopeo,
) -> None:
    ref = parsed(f"{origin.address}/origin/small:1")
    stored = await pull(store, client, ref, keep_blobs=True)
    with origin.stopped():
        target = f"{registry.address}/push/kept:1"
        done = await push(store, client, stored, parsed(target), PushOptions(keep_digest=True))
    assert str(done.digest) == manifest_digest(SMALL) == remote_digest(skopeo, target)


async def test_without_its_blobs_the_digest_changes_and_that_is_told(
    store: Store,
    client: RegistryClient,
    pulled: StoredImage,
    origin: DockerRegistry,
    registry: DockerRegistry,
    skopeo: Skopeo,
) -> None:
    target = f"{registry.address}/push/anew:1"
    with origin.stopped():
        with pytest.raises(NotFoundError, match="digest would change"):
            await push(store, client, pulled, parsed(target), PushOptions(keep_digest=True))
        done = await push(store, client, pulled, parsed(target))
    assert len(done.changes) == 3
    assert all(blob in "".join(done.changes) for blob in blobs_of(SMALL))
    assert str(done.digest) != manifest_digest(SMALL)
    assert remote_digest(skopeo, target) == str(done.digest)
    manifest = raw_manifest(skopeo, target)
    assert manifest["config"]["digest"] == SMALL.id
    other = Store(store.root.parent / "other")
    again = await pull(other, client, parsed(target))
    assert str(again.id) == SMALL.id
    assert_nothing_partial(other, set(SMALL.diff_ids))


async def test_one_platform_of_several_is_pushed(
    store: Store, client: RegistryClient, registry: DockerRegistry, sender: Sender, skopeo: Skopeo
) -> None:
    images = {
        "linux/amd64": image(layer("push-amd64"), architecture="amd64"),
        "linux/arm64": image(layer("push-arm64"), architecture="arm64"),
    }
    sender.send_index(images, registry, "push/many:1")
    stored = await pull(store, client, parsed(f"{registry.address}/push/many:1"))
    target = f"{registry.address}/push/one-of-many:1"
    done = await push(store, client, stored, parsed(target))
    (here,) = [one for one in images.values() if one.id == str(stored.id)]
    assert str(done.digest) == manifest_digest(here)
    assert raw_manifest(skopeo, target)["mediaType"] == OCI_MANIFEST


# -- what was made here


@pytest.mark.parametrize(
    "compression", [None, Compression.PLAIN, Compression.GZIP, Compression.ZSTD]
)
async def test_an_image_that_was_made_here(
    compression: Compression | None,
    store: Store,
    client: RegistryClient,
    made_here: StoredImage,
    registry: DockerRegistry,
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    with FaultProxy(registry.address) as proxy:
        target = f"{proxy.address}/push/made-{compression.value if compression else 'default'}:1"
        done = await push(store, client, made_here, parsed(target), PushOptions(compression))
        assert done.changes == ()
        assert remote_digest(skopeo, target) == str(done.digest)
        suffix = {Compression.PLAIN: "tar", Compression.ZSTD: "tar+zstd"}
        wanted = suffix.get(compression or Compression.GZIP, "tar+gzip")
        rows = raw_manifest(skopeo, target)["layers"]
        assert [row["mediaType"].rpartition(".")[2] for row in rows] == [wanted] * 2
        proxy.reset()
        stored = store.find_image(str(made_here.id))
        assert await push(store, client, stored, parsed(target), PushOptions(compression)) == done
        assert sent(proxy) == 0
        skopeo("copy", "--src-tls-verify=false", f"docker://{target}", f"oci:{tmp_path / 'back'}:x")
        other = Store(tmp_path / "other")
        (back,) = load(other, f"oci:{tmp_path / 'back'}:x")
        assert back.id == made_here.id


@pytest.mark.needs("buildah", "root")
async def test_buildah_pulls_what_was_pushed(
    store: Store,
    client: RegistryClient,
    made_here: StoredImage,
    pulled: StoredImage,
    registry: DockerRegistry,
    tmp_path: Path,
) -> None:
    storage = ("--storage-driver", "vfs", "--root", tmp_path / "b", "--runroot", tmp_path / "r")
    for number, stored in enumerate((made_here, pulled)):
        target = f"{registry.address}/push/buildah{number}:1"
        done = await push(store, client, stored, parsed(target))
        run("buildah", *storage, "pull", "-q", "--tls-verify=false", target)
        (row,) = json.loads(run("buildah", *storage, "images", "--json", target))
        assert (row["digest"], row["id"]) == (str(done.digest), stored.id.short)


# -- the way


async def test_a_cut_upload_goes_on(
    store: Store, client: RegistryClient, pulled: StoredImage, registry: DockerRegistry
) -> None:
    with FaultProxy(registry.address) as proxy:
        proxy.fault(CutUpload(100_000), kind="upload", method="PATCH", times=2)
        done = await push(store, client, pulled, parsed(f"{proxy.address}/push/cut:1"))
        assert str(done.digest) == manifest_digest(SMALL)


async def test_relative_locations(
    store: Store,
    client: RegistryClient,
    pulled: StoredImage,
    start_registry: Callable[..., DockerRegistry],
    skopeo: Skopeo,
) -> None:
    relative = start_registry(http={"relativeurls": True})
    target = f"{relative.address}/push/relative:1"
    done = await push(store, client, pulled, parsed(target))
    assert remote_digest(skopeo, target) == str(done.digest)


async def test_a_refusal_is_an_error_and_nothing_is_recorded(
    store: Store, client: RegistryClient, pulled: StoredImage, registry: DockerRegistry
) -> None:
    with FaultProxy(registry.address) as proxy:
        cases: list[tuple[Kind, str]] = [("manifest", "PUT"), ("upload", "POST")]
        for kind, method in cases:
            proxy.fault(Reply(403), kind=kind, method=method, times=100)
            with pytest.raises(RegistryError, match="403"):
                await push(store, client, pulled, parsed(f"{proxy.address}/push/refused-{kind}:1"))
            assert proxy.requests("manifest", "PUT")[1:] == []
            proxy.reset()
    assert store.find_image(str(pulled.id)).digests == pulled.digests
    with pytest.raises(UsageError):
        await push(store, client, pulled, parsed(pulled.digests[0]))
    assert_nothing_partial(store)


async def test_tokens(
    store: Store, pulled: StoredImage, token_registry: DockerRegistry, token_server: TokenServer
) -> None:
    target = parsed(f"{token_registry.address}/push/tokens:1")
    async with new_client(creds=(USER, PASSWORD)) as client:
        done = await push(store, client, pulled, target)
    assert str(done.digest) == manifest_digest(SMALL)
    assert all(one.user == USER for one in token_server.asked)


# -- the command


def test_the_command(
    tmp_path: Path, registry: DockerRegistry, sender: Sender, skopeo: Skopeo
) -> None:
    cli: CommandLine = command_line(tmp_path / "cli-store")
    name = sender.send(SMALL, registry, "push/command:1")
    cli.run("pull", name)
    target = f"{registry.address}/push/command:2"
    done = cli.run("push", name, target)
    assert (done.stdout, done.stderr) == (f"{manifest_digest(SMALL)}\n", "")
    assert remote_digest(skopeo, target) == manifest_digest(SMALL)
    done = cli.run("push", "-q", name)
    assert (done.stdout, done.stderr) == (f"{manifest_digest(SMALL)}\n", "")
    assert "no image" in cli.error("push", "none:1", target)
    store = Store(tmp_path / "cli-store")
    assert Digest.parse(SMALL.id) == store.find_image(name).id
