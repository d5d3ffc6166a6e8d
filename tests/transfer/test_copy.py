"""Copies between registries, layouts, archives and the store, read back by skopeo and umoci."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.commands import Commands
from support.mounting import CommandLine
from support.real_images import run
from support.servers import DockerRegistry, FaultProxy
from support.servers.proxy import Flip, Reply
from support.transfers import (
    Sender,
    Skopeo,
    assert_nothing_partial,
    blobs_of,
    command_line,
    image,
    layer,
    manifest_digest,
    raw_manifest,
    remote_digest,
)

from unionmount.images.reference import Digest
from unionmount.store.store import Store

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

SMALL = image(layer("ca", 200_000), layer("cb", 1000))
MANY = {
    "linux/amd64": image(layer("copy-amd64"), architecture="amd64"),
    "linux/arm64": image(layer("copy-arm64"), architecture="arm64"),
}


@pytest.fixture
def cli(tmp_path: Path, server: Commands) -> CommandLine:
    return command_line(tmp_path / "store", server)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def name(registry: DockerRegistry, sender: Sender) -> str:
    return sender.send(SMALL, registry, "copy/small:1")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A docker-archive, whose layers are plain and which has no manifest."""
    layers = [Layer().file("a", b"a" * 5000), Layer().file("b", b"b" * 5000)]
    return docker_archive(tmp_path / "plain.tar", layers, "plain:1")


def layout_manifest(skopeo: Skopeo, place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(skopeo("inspect", "--raw", place))
    return found


def digest_at(skopeo: Skopeo, place: str) -> str:
    return str(Digest.of(skopeo_raw(skopeo, place)))


def skopeo_raw(skopeo: Skopeo, place: str) -> bytes:
    return skopeo("inspect", "--raw", place).encode()


@pytest.mark.parametrize("form", ["oci", "oci-archive", "dir"])
def test_from_a_registry_to_a_layout_and_back(
    form: str,
    cli: CommandLine,
    store: Store,
    name: str,
    registry: DockerRegistry,
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    place = f"{form}:{tmp_path / 'out'}"
    done = cli.run("copy", f"docker://{name}", f"{place}:tagged")
    assert (done.stdout, done.stderr) == (f"{manifest_digest(SMALL)}\n", "")
    assert digest_at(skopeo, f"{place}:tagged") == manifest_digest(SMALL)
    assert store.list_images() == []
    assert_nothing_partial(store, set())
    skopeo("copy", f"{place}:tagged", f"dir:{tmp_path / 'dir'}")  # which verifies each blob
    back = f"{registry.address}/copy/back-{form}:1"
    done = cli.run("copy", f"{place}:tagged", f"docker://{back}")
    assert done.stdout == f"{manifest_digest(SMALL)}\n"
    assert remote_digest(skopeo, back) == manifest_digest(SMALL)
    again = f"{form}:{tmp_path / 'again'}"
    cli.run("copy", f"{place}:tagged", again)
    assert digest_at(skopeo, again) == manifest_digest(SMALL)
    assert_nothing_partial(store, set())


def test_from_registry_to_registry(
    cli: CommandLine,
    store: Store,
    name: str,
    registry: DockerRegistry,
    start_registry: Callable[..., DockerRegistry],
    skopeo: Skopeo,
) -> None:
    with FaultProxy(registry.address) as proxy:
        source = f"docker://{proxy.address}/copy/small:1"
        near = f"{proxy.address}/copy/near:1"
        cli.run("copy", source, f"docker://{near}")
        assert remote_digest(skopeo, near) == manifest_digest(SMALL)
        assert sum(one.received for one in proxy.requests("upload")) == 0
        far = f"{start_registry().address}/copy/far:1"
        assert cli.run("copy", "-q", source, f"docker://{far}").stdout == (
            f"{manifest_digest(SMALL)}\n"
        )
        assert remote_digest(skopeo, far) == manifest_digest(SMALL)
        assert {digest: proxy.fetched()[digest] for digest in blobs_of(SMALL)} == dict.fromkeys(
            blobs_of(SMALL), 1
        )
    assert_nothing_partial(store, set())


@pytest.mark.parametrize("form", ["docker", "oci", "oci-archive", "dir"])
def test_all_platforms(
    form: str,
    cli: CommandLine,
    registry: DockerRegistry,
    sender: Sender,
    skopeo: Skopeo,
    tmp_path: Path,
    start_registry: Callable[..., DockerRegistry],
) -> None:
    index = sender.send_index(MANY, registry, "copy/many:1")
    source = f"docker://{registry.address}/copy/many:1"
    if form == "docker":
        target = f"docker://{start_registry().address}/copy/many:1"
    else:
        target = f"{form}:{tmp_path / 'many'}:x"
    assert cli.run("copy", "--all", source, target).stdout == f"{index}\n"
    words = ("--src-tls-verify=false",) if form == "docker" else ()
    skopeo("copy", "--all", *words, target, f"oci:{tmp_path / 'read'}:x")
    (row,) = json.loads((tmp_path / "read/index.json").read_text())["manifests"]
    assert row["digest"] == index
    for made in MANY.values():
        for digest in blobs_of(made):
            assert (tmp_path / "read/blobs/sha256" / digest.removeprefix("sha256:")).is_file()
    one = f"oci:{tmp_path / 'one'}:x"
    made = MANY["linux/arm64"]
    done = cli.run("copy", "--platform", "linux/arm64", target, one)
    assert done.stdout == f"{manifest_digest(made)}\n"
    assert digest_at(skopeo, one) == manifest_digest(made)


def test_from_a_registry_to_a_docker_archive_and_back(
    cli: CommandLine,
    store: Store,
    name: str,
    registry: DockerRegistry,
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    target = f"docker-archive:{tmp_path / 'out.tar'}"
    done = cli.run("copy", f"docker://{name}", target)
    assert (done.stdout, done.stderr) == ("", "")
    skopeo("copy", target, f"oci:{tmp_path / 'read'}:x")
    config = layout_manifest(skopeo, f"oci:{tmp_path / 'read'}:x")["config"]["digest"]
    (item,) = json.loads(run("tar", "-xOf", tmp_path / "out.tar", "manifest.json"))
    assert item["RepoTags"] == [name]
    assert item["Config"] == SMALL.id.removeprefix("sha256:") + ".json"
    assert store.list_images() == []
    assert_nothing_partial(store, set())
    back = f"{registry.address}/copy/from-archive:1"
    done = cli.run("copy", target, f"docker://{back}")
    assert raw_manifest(skopeo, back)["config"]["digest"] == SMALL.id
    assert remote_digest(skopeo, back) == done.stdout.strip()
    assert config.startswith("sha256:")


def test_from_a_docker_archive(
    cli: CommandLine, store: Store, archive: Path, registry: DockerRegistry, skopeo: Skopeo
) -> None:
    target = f"{registry.address}/copy/plain:1"
    cli.run("copy", "--compress", "zstd", archive, f"docker://{target}")
    kinds = {row["mediaType"].rpartition(".")[2] for row in raw_manifest(skopeo, target)["layers"]}
    assert kinds == {"tar+zstd"}
    layout = archive.parent / "layout"
    cli.run("copy", archive, f"oci:{layout}:x")
    assert layout_manifest(skopeo, f"oci:{layout}:x")["layers"][0]["mediaType"].endswith(".tar")
    assert_nothing_partial(store, set())


def test_to_the_store_and_from_it(
    cli: CommandLine,
    store: Store,
    name: str,
    archive: Path,
    sender: Sender,
    registry: DockerRegistry,
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    assert cli.run("copy", f"docker://{name}", "mine:1").stdout == f"{SMALL.id}\n"
    stored = store.find_image("mine:1")
    assert stored.names == ("docker.io/library/mine:1",)
    assert str(stored.manifest) == manifest_digest(SMALL)
    cli.run("copy", sender.layout(SMALL), "layout:1")
    assert store.find_image("layout:1").id == stored.id
    cli.run("copy", archive, "archive:1")
    assert store.find_image("archive:1").names == ("docker.io/library/archive:1",)
    cli.run("copy", "archive:1", "again:1")
    assert store.find_image("again:1").id == store.find_image("archive:1").id
    target = f"{registry.address}/copy/of-store:1"
    assert cli.run("copy", "mine:1", f"docker://{target}").stdout == f"{manifest_digest(SMALL)}\n"
    assert remote_digest(skopeo, target) == manifest_digest(SMALL)
    for form in ("oci", "oci-archive", "docker-archive", "dir"):
        place = f"{form}:{tmp_path / form}"
        said = cli.run("copy", "archive:1", place).stdout.strip()
        assert said == ("" if form == "docker-archive" else digest_at(skopeo, place))
        skopeo("copy", f"{form}:{tmp_path / form}", f"dir:{tmp_path / f'{form}-read'}")


@pytest.mark.needs("umoci", "root")
def test_umoci_unpacks_a_copied_layout(cli: CommandLine, name: str, tmp_path: Path) -> None:
    cli.run("copy", f"docker://{name}", f"oci:{tmp_path / 'layout'}:x")
    run("umoci", "unpack", "--image", f"{tmp_path / 'layout'}:x", tmp_path / "bundle")
    assert len(list((tmp_path / "bundle/rootfs/files").iterdir())) == 2


@pytest.mark.parametrize(
    "ref",
    [
        *("1", "a--b", "a/b:1", "a:b", "A@b+c", "1.2+x"),
        *("bad name", "-a", "/a", "a..b", "_a", "a/", "\u00e9"),
    ],
)
@pytest.mark.parametrize("kind", ["archive", "registry"])
def test_the_names_in_a_layout_are_those_of_skopeo(
    cli: CommandLine, archive: Path, name: str, skopeo: Skopeo, tmp_path: Path, ref: str, kind: str
) -> None:
    source = f"docker-archive:{archive}" if kind == "archive" else f"docker://{name}"
    plain = "--src-tls-verify=false"
    theirs = ["skopeo", "copy", plain, source, f"oci:{tmp_path / 'theirs'}:{ref}"]
    target = f"oci:{tmp_path / 'ours'}:{ref}"
    if subprocess.run(theirs, capture_output=True, check=False).returncode == 0:
        said = cli.run("copy", source, target).stdout.strip()
        assert digest_at(skopeo, target) == said
        assert cli.run("inspect", "--raw", target).stdout.encode() == skopeo_raw(skopeo, target)
    else:
        assert "cannot be the name" in cli.error("copy", source, target, status=2)
        assert not (tmp_path / "ours").exists()


def test_what_makes_no_sense(cli: CommandLine, name: str, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for words in (
        ("--all", f"docker://{name}", "mine:1"),
        ("--all", str(archive), f"oci:{tmp_path / 'x'}"),
        (f"docker://{name}", str(tmp_path / "x")),
        (f"docker://{name}", "oci:"),
        (f"docker://{name}", "dir:"),
        (f"docker://{name}", ""),
        (f"docker://{name}", f"oci:{tmp_path / 'full'}"),
        (f"docker://{name}", "ostree:x"),
        (f"docker://{name}", f"docker-daemon:{SMALL.id}"),
        ("--compress", "zstd", f"docker://{name}", f"oci:{tmp_path / 'x'}"),
        ("docker-archive:-", "mine:1"),
    ):
        cli.error("copy", *words, status=2)
    assert not (tmp_path / "x").exists()


def test_a_fault_leaves_nothing(
    cli: CommandLine, store: Store, proxy: FaultProxy, name: str, tmp_path: Path
) -> None:
    source = f"docker://{proxy.address}/copy/small:1"
    digest = blobs_of(SMALL)[0]
    for fault in (Reply(404), Flip(5_000)):
        for target in (f"oci:{tmp_path / 'out'}", f"oci-archive:{tmp_path / 'out'}", "mine:1"):
            proxy.fault(fault, kind="blob", reference=digest, times=100)
            assert digest in cli.error("copy", source, target)
            proxy.reset()
            assert not (tmp_path / "out").exists()
            assert store.list_images() == []
            assert [path.name for path in tmp_path.iterdir() if ".unionmount" in path.name] == []
            assert list((store.root / "tmp").iterdir()) == []
