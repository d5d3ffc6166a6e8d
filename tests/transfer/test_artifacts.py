"""What is in registries and layouts beside images: named as what it is, and copied whole."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.artifact_tools import ArtifactTools, ReferrersRegistry
from support.commands import Commands
from support.image_files import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    MadeImage,
    Members,
    blob_path,
    descriptor,
    gzipped,
    index_of,
    sha256,
    write_directory,
)
from support.mounting import CommandLine
from support.registry_clients import feed
from support.servers import DockerRegistry
from support.transfers import (
    OCI_MANIFEST,
    Sender,
    Skopeo,
    assert_nothing_partial,
    command_line,
    image,
    layer,
    manifest,
    manifest_digest,
    raw_manifest,
    remote_digest,
)

from unionmount.store.store import Store

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

EMPTY = "application/vnd.oci.empty.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "application/vnd.docker.attestation.manifest.v1+json"
COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"
HELM = "application/vnd.cncf.helm.config.v1+json"
CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"

AMD64 = image(layer("artifacts-amd64"), architecture="amd64")
ARM64 = image(layer("artifacts-arm64"), architecture="arm64")
FOREIGN = image(layer("artifacts-s390x"), architecture="s390x")


class Artifact:
    """A manifest of something that is no image."""

    def __init__(
        self, config: tuple[str, bytes], *layers: tuple[str, bytes], kind: str = ""
    ) -> None:
        self.blobs = [config[1], *(data for _, data in layers)]
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            **({"artifactType": kind} if kind else {}),
            "config": descriptor(config[1], config[0]),
            "layers": [descriptor(data, media_type) for media_type, data in layers],
        }
        self.raw = json.dumps(document).encode()

    def members(self) -> Members:
        return {blob_path(blob): blob for blob in [self.raw, *self.blobs]}

    def row(self, **more: Any) -> dict[str, Any]:
        return descriptor(self.raw, OCI_MANIFEST, **more)


def config_of_image(*texts: bytes, system: str = "") -> bytes:
    """What cosign and older BuildKits have as config: an image's, for no platform."""
    rootfs = {"type": "layers", "diff_ids": list(map(sha256, texts))}
    return json.dumps({"architecture": system, "os": system, "rootfs": rootfs}).encode()


SAID = b'{"_type": "https://in-toto.io/Statement/v0.1"}'
SIGNED = b'{"critical": {"type": "cosign container image signature"}}'
ATTESTATION = Artifact((EMPTY, b"{}"), (IN_TOTO, SAID), kind=STATEMENT)
OLD_ATTESTATION = Artifact((OCI_CONFIG, config_of_image(SAID, system="unknown")), (IN_TOTO, SAID))
SIGNATURE = Artifact((OCI_CONFIG, config_of_image(SIGNED)), (COSIGN, SIGNED))
HELM_CHART = Artifact((HELM, b'{"name": "web"}'), (CHART, gzipped(layer("chart"))))
LISTING = Artifact((EMPTY, b"{}"), ("text/plain", b"a list\n"))
OTHER = Artifact((EMPTY, b"{}"), ("text/plain", b"other\n"), kind="application/vnd.example.thing")

ALONE = [
    (HELM_CHART, f"{HELM} (a Helm chart)"),
    (SIGNATURE, f"{COSIGN} (a cosign signature)"),
    (ATTESTATION, f"{STATEMENT} (an attestation)"),
    (OLD_ATTESTATION, f"{IN_TOTO} (an attestation)"),
    (LISTING, "text/plain"),
    (OTHER, "application/vnd.example.thing"),
]


def members_of(made: MadeImage) -> Members:
    blobs = [manifest(made), made.config, *map(gzipped, made.layers)]
    return {blob_path(blob): blob for blob in blobs}


def row_of(made: MadeImage, *, platform: bool = True) -> dict[str, Any]:
    said = {"platform": {"os": "linux", "architecture": made.architecture}} if platform else {}
    return descriptor(manifest(made), OCI_MANIFEST, **said)


ATTESTS = {
    "platform": {"os": "unknown", "architecture": "unknown"},
    "annotations": {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": manifest_digest(AMD64),
    },
}
WHOLE = index_of(
    [
        LISTING.row(),  # no platform, and before the images
        row_of(AMD64),
        row_of(ARM64),
        ATTESTATION.row(**ATTESTS),
        OLD_ATTESTATION.row(**ATTESTS),
        SIGNATURE.row(),
    ]
)
PARTS = [LISTING, ATTESTATION, OLD_ATTESTATION, SIGNATURE]


def layout(where: Path, root: dict[str, Any], members: Members) -> str:
    """An OCI layout with one root, as skopeo and we name it."""
    named = root | {"annotations": {"org.opencontainers.image.ref.name": "one"}}
    marker = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": index_of([named])}
    write_directory(where, marker | members)
    return f"oci:{where}:one"


def index_layout(where: Path, index: bytes, members: Members) -> str:
    return layout(where, descriptor(index, OCI_INDEX), members | {blob_path(index): index})


def whole_layout(where: Path) -> str:
    members = members_of(AMD64) | members_of(ARM64)
    for part in PARTS:
        members |= part.members()
    return index_layout(where, WHOLE, members)


def put(server: DockerRegistry, name: str, raw: bytes, media_type: str, *blobs: bytes) -> str:
    """Put a manifest and blobs into a registry by hand: skopeo does not take all there is."""
    repository, _, tag = name.partition(":")
    for blob in blobs:
        feed(server.address, repository, blob)
    connection = http.client.HTTPConnection(server.address, timeout=30)
    try:
        path = f"/v2/{repository}/manifests/{tag or sha256(raw)}"
        connection.request("PUT", path, body=raw, headers={"Content-Type": media_type})
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
    finally:
        connection.close()
    return f"{server.address}/{name}"


def put_artifact(server: DockerRegistry, name: str, artifact: Artifact) -> str:
    return put(server, name, artifact.raw, OCI_MANIFEST, *artifact.blobs)


def put_index(server: DockerRegistry, name: str, index: bytes, *parts: Artifact | MadeImage) -> str:
    repository = name.partition(":")[0]
    for part in parts:
        if isinstance(part, Artifact):
            put_artifact(server, repository, part)
        else:
            blobs = [part.config, *map(gzipped, part.layers)]
            put(server, repository, manifest(part), OCI_MANIFEST, *blobs)
    return put(server, name, index, OCI_INDEX)


@pytest.fixture
def cli(tmp_path: Path, server: Commands) -> CommandLine:
    return command_line(tmp_path / "store", server)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def whole(registry: DockerRegistry) -> str:
    """An index with two images, and with what is none."""
    return put_index(registry, "artifacts/whole:1", WHOLE, AMD64, ARM64, *PARTS)


# ---- copies


@pytest.mark.parametrize("form", ["docker", "oci", "oci-archive"])
def test_an_index_is_copied_whole(
    form: str,
    cli: CommandLine,
    store: Store,
    whole: str,
    skopeo: Skopeo,
    tmp_path: Path,
    start_registry: Callable[..., DockerRegistry],
) -> None:
    far = f"docker://{start_registry().address}/artifacts/whole:2"
    target = far if form == "docker" else f"{form}:{tmp_path / 'out'}:one"
    assert cli.run("copy", "--all", f"docker://{whole}", target).stdout == f"{sha256(WHOLE)}\n"
    if form != "docker":  # and from there to a registry
        assert cli.run("copy", "--all", target, far).stdout == f"{sha256(WHOLE)}\n"
    read = tmp_path / "read"
    skopeo("copy", "--all", "--src-tls-verify=false", far, f"oci:{read}:x")
    (row,) = json.loads((read / "index.json").read_text())["manifests"]
    assert row["digest"] == sha256(WHOLE)
    for part in PARTS:
        for path, content in part.members().items():
            assert (read / path).read_bytes() == content
    assert_nothing_partial(store, set())


@pytest.mark.parametrize("artifact", [one for one, _ in ALONE], ids=[text for _, text in ALONE])
def test_a_lone_artifact_is_copied_as_it_is(
    artifact: Artifact,
    cli: CommandLine,
    registry: DockerRegistry,
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    source = put_artifact(registry, "artifacts/alone:1", artifact)
    digest = sha256(artifact.raw)
    between = f"oci:{tmp_path / 'out'}:one"
    assert cli.run("copy", f"docker://{source}", between).stdout == f"{digest}\n"
    target = f"{registry.address}/artifacts/back:1"
    assert cli.run("copy", between, f"docker://{target}").stdout == f"{digest}\n"
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{target}")
    assert sha256(raw.encode()) == digest


@pytest.mark.needs("go")
@pytest.mark.parametrize("between", ["oci", "oci-archive"])
def test_files_that_oras_pushed_are_pulled_from_the_copy(
    between: str,
    cli: CommandLine,
    registry: DockerRegistry,
    listing_registry: ReferrersRegistry,
    tools: ArtifactTools,
    tmp_path: Path,
) -> None:
    files = {"text": b"a text\n", "bytes": bytes(range(256)) * 400, "empty": b""}
    config = b"a config of another kind, and larger than a document may be" * 80_000
    (tmp_path / "in").mkdir()
    for name, content in {**files, "config": config}.items():
        (tmp_path / "in" / name).write_bytes(content)
    source = f"{listing_registry.address}/artifacts/oras-{between}:1"
    kinds = {"text": "text/plain", "bytes": "application/x.other", "empty": "application/x.empty"}
    words = ("push", "--plain-http", source, "--config", "config:application/x.config")
    files_of_kinds = (f"{name}:{kind}" for name, kind in kinds.items())
    tools.oras(*words, *files_of_kinds, directory=tmp_path / "in")
    place = f"{between}:{tmp_path / 'layout'}:one"
    target = f"{registry.address}/artifacts/oras-{between}:2"
    digest = tools.digest(source)
    assert cli.run("copy", f"docker://{source}", place).stdout == f"{digest}\n"
    assert cli.run("copy", place, f"docker://{target}").stdout == f"{digest}\n"
    assert tools.digest(target) == digest
    tools.oras("pull", "--plain-http", "-o", tmp_path / "out", "--config", "config", target)
    for name, content in {**files, "config": config}.items():
        assert (tmp_path / "out" / name).read_bytes() == content


@pytest.mark.parametrize("kind", ["nondistributable", "docker's"])
def test_layers_that_only_their_publisher_distributes(
    kind: str, cli: CommandLine, tmp_path: Path
) -> None:
    own, theirs = gzipped(layer("own")), gzipped(layer("theirs"))
    foreign = {
        "nondistributable": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "docker's": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }[kind]
    config = image(layer("own"), layer("theirs")).config
    rows = [
        descriptor(own, f"{OCI_LAYER}+gzip"),
        descriptor(theirs, foreign, urls=["https://publisher.example/layer"]),
    ]
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(config, OCI_CONFIG),
            "layers": rows,
        }
    ).encode()
    members = {blob_path(blob): blob for blob in (raw, config, own)}
    source = layout(tmp_path / "layout", descriptor(raw, OCI_MANIFEST), members)
    done = cli.run("copy", source, f"oci:{tmp_path / 'out'}:one")
    assert done.stdout == f"{sha256(raw)}\n"
    assert done.stderr == (
        f"unionmount: layer {sha256(theirs)} is not copied: its type says that its publisher "
        "alone distributes it\n"
    )
    assert (tmp_path / "out" / blob_path(raw)).read_bytes() == raw
    assert not (tmp_path / "out" / blob_path(theirs)).exists()
    assert cli.run("copy", "-q", source, f"oci:{tmp_path / 'quiet'}:one").stderr == ""


# ---- images among others


def test_artifacts_are_passed_over(
    cli: CommandLine, store: Store, whole: str, tmp_path: Path
) -> None:
    for source in (whole, whole_layout(tmp_path / "layout")):
        for made in (AMD64, ARM64):
            platform = f"linux/{made.architecture}"
            if source == whole:
                found = cli.run("pull", "-q", "--platform", platform, source).stdout.strip()
            else:
                found = cli.run("copy", "--platform", platform, source, "mine:1").stdout.strip()
            assert found == made.id
    assert len(store.list_images()) == 2


def test_a_platform_that_is_not_there(cli: CommandLine, whole: str, tmp_path: Path) -> None:
    words = "no image for platform linux/s390x (it has linux/amd64, linux/arm64)"
    assert words in cli.error("pull", "--platform", "linux/s390x", whole)
    (tmp_path / "m").mkdir()
    assert words in cli.error("mount", "--platform", "linux/s390x", whole, tmp_path / "m")
    directory = whole_layout(tmp_path / "layout")
    assert words in cli.error("ls", "--platform", "linux/s390x", directory)
    assert words in cli.error("copy", "--platform", "linux/s390x", directory, "mine:1")


def test_what_is_for_a_platform_says_so_in_its_config(
    cli: CommandLine, registry: DockerRegistry, sender: Sender
) -> None:
    words = "no image for platform linux/riscv64 (it has linux/s390x)"
    alone = sender.send(FOREIGN, registry, "artifacts/s390x:1")
    assert words in cli.error("pull", "--platform", "linux/riscv64", alone)
    index = index_of([SIGNATURE.row(), row_of(FOREIGN, platform=False)])
    among = put_index(registry, "artifacts/among:1", index, FOREIGN, SIGNATURE)
    assert words in cli.error("pull", "--platform", "linux/riscv64", among)
    # it is the only image there is, as if it were alone
    assert cli.run("pull", "-q", among).stdout == f"{FOREIGN.id}\n"


def test_images_are_loaded_and_signatures_are_not(
    cli: CommandLine, store: Store, tmp_path: Path
) -> None:
    names = ("sig", "one")  # as cosign and skopeo put both into one layout
    rows = [
        row | {"annotations": {"org.opencontainers.image.ref.name": name}}
        for name, row in zip(names, (SIGNATURE.row(), row_of(AMD64)), strict=True)
    ]
    index = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": index_of(rows)}
    where = write_directory(tmp_path / "layout", SIGNATURE.members() | members_of(AMD64) | index)
    assert cli.run("load", "-q", "-i", where).stdout == f"{AMD64.id}\n"
    assert [str(one.id) for one in store.list_images()] == [AMD64.id]
    words = f"an artifact of type {COSIGN} (a cosign signature), not an image"
    assert words in cli.error("load", "-i", f"oci:{where}:sig")


# ---- artifacts alone


@pytest.mark.parametrize(("artifact", "text"), ALONE, ids=[text for _, text in ALONE])
def test_an_artifact_is_named_as_what_it_is(
    artifact: Artifact,
    text: str,
    cli: CommandLine,
    store: Store,
    registry: DockerRegistry,
    tmp_path: Path,
) -> None:
    words = f"manifest {sha256(artifact.raw)}: an artifact of type {text}, not an image"
    name = put_artifact(registry, "artifacts/said:1", artifact)
    directory = layout(tmp_path / "layout", artifact.row(), artifact.members())
    target = str(tmp_path / "m")
    (tmp_path / "m").mkdir()
    for command in (
        ("pull", name),
        ("pull", "--platform", "linux/arm64", name),
        ("mount", name, target),
        ("mount", directory, target),
        ("ls", directory),
        ("load", "-i", directory),
        ("copy", directory, "mine:1"),
        ("copy", f"docker://{name}", f"docker-archive:{tmp_path / 'x'}"),
    ):
        assert words in cli.error(*command)
    assert store.list_images() == []
    assert_nothing_partial(store, set())


def test_an_index_of_artifacts_alone(cli: CommandLine, registry: DockerRegistry) -> None:
    index = index_of([HELM_CHART.row(), SIGNATURE.row()])
    name = put_index(registry, "artifacts/charts:1", index, HELM_CHART, SIGNATURE)
    assert f"an artifact of type {HELM} (a Helm chart), not an image" in cli.error("pull", name)


# ---- layers without a type


def untyped(made: MadeImage, pack: Callable[[bytes], bytes]) -> bytes:
    rows: list[Mapping[str, Any]] = [descriptor(pack(one), OCI_LAYER) for one in made.layers]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(made.config, OCI_CONFIG),
        "layers": [{key: row[key] for key in ("digest", "size")} for row in rows],
    }
    return json.dumps(document).encode()


@pytest.mark.parametrize("packed", [True, False])
def test_a_layer_without_a_type_is_what_its_bytes_are(
    packed: bool,
    cli: CommandLine,
    registry: DockerRegistry,
    skopeo: Skopeo,
    tmp_path: Path,
    start_registry: Callable[..., DockerRegistry],
) -> None:
    made = image(layer("untyped-a"), layer("untyped-b"))
    pack = gzipped if packed else bytes
    raw = untyped(made, pack)
    blobs = [made.config, *map(pack, made.layers)]
    name = put(
        registry, f"artifacts/untyped-{'gzip' if packed else 'plain'}:1", raw, OCI_MANIFEST, *blobs
    )
    assert cli.run("pull", "-q", name).stdout == f"{made.id}\n"
    assert cli.run("ls", f"{name}:/files").stdout.split() == ["untyped-a", "untyped-b"]
    members = {blob_path(blob): blob for blob in [raw, *blobs]}
    directory = layout(tmp_path / "layout", descriptor(raw, OCI_MANIFEST), members)
    assert cli.run("ls", f"{directory}:/files").stdout.split() == ["untyped-a", "untyped-b"]
    far = start_registry()
    for words in (("push", name), ("copy", f"docker://{name}")):
        target = f"{far.address}/artifacts/{words[0]}:1"
        cli.run(*words, target if words[0] == "push" else f"docker://{target}")
        assert remote_digest(skopeo, target) == sha256(raw)
    zstd = f"{far.address}/artifacts/zstd:1"
    cli.run("push", "--compress", "zstd", name, zstd)
    kinds = {row["mediaType"].rpartition(".")[2] for row in raw_manifest(skopeo, zstd)["layers"]}
    assert kinds == {"tar+zstd"}
