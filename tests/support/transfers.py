"""What tests of transfers share: images, a client, and a look at a store."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support.commands import Commands, ForkedCommandLine
from support.image_files import (
    OCI_LAYER,
    MadeImage,
    Members,
    blob_path,
    descriptor,
    gzipped,
    index_of,
    manifest_of,
    tar,
    write_directory,
)
from support.mounting import CommandLine
from support.servers import DockerRegistry, FaultProxy
from unionmount.images.reference import Digest, Reference
from unionmount.registry import Credentials, Registries, RegistryClient, RegistryLimits
from unionmount.store.store import Store

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
Skopeo = Callable[..., str]

QUICK = RegistryLimits(silence=2.0, answer=4.0, first_pause=0.01, longest_pause=0.05, attempts=4)
"""Waits that a test can wait for."""


def layer(name: str, size: int = 1000) -> bytes:
    """A tar of one file that does not shrink; the same name is the same layer."""
    return tar({f"files/{name}": random.Random(name).randbytes(size)})


def image(*layers: bytes, **more: Any) -> MadeImage:
    """An image of these layers."""
    return MadeImage(layers, names=("one",), **more)


def blobs_of(made: MadeImage) -> list[str]:
    """Digests of its layers as they are transported."""
    return [descriptor(gzipped(one), "")["digest"] for one in made.layers]


def manifest(made: MadeImage) -> bytes:
    """Its manifest, with layers in gzip."""
    return manifest_of(made, gzipped, f"{OCI_LAYER}+gzip")


def manifest_digest(made: MadeImage) -> str:
    """The digest of its manifest."""
    return str(descriptor(manifest(made), "")["digest"])


def _layout(index: Mapping[str, Any], *images: MadeImage, more: Members | None = None) -> Members:
    """An OCI layout of images with one entry in its index, which is named "one"."""
    members = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'} | (more or {})
    for made in images:
        blobs = [manifest(made), made.config, *map(gzipped, made.layers)]
        members |= {blob_path(blob): blob for blob in blobs}
    named = {"annotations": {"org.opencontainers.image.ref.name": "one"}}
    return members | {"index.json": index_of([dict(index) | named])}


class Sender:
    """Puts images into registries, by skopeo."""

    def __init__(self, work: Path, skopeo: Skopeo) -> None:
        self._work = work
        self._skopeo = skopeo
        self._count = 0

    def layout(self, made: MadeImage) -> str:
        """An image as skopeo names it."""
        self._count += 1
        where = self._work / f"layout{self._count}"
        write_directory(where, _layout(descriptor(manifest(made), OCI_MANIFEST), made))
        return f"oci:{where}:one"

    def send(self, made: MadeImage, server: DockerRegistry | FaultProxy | str, name: str) -> str:
        """Send an image; returns its full name."""
        address = server if isinstance(server, str) else server.address
        target = f"docker://{address}/{name}"
        self._skopeo("copy", "--dest-tls-verify=false", self.layout(made), target)
        return f"{address}/{name}"

    def send_index(
        self, platforms: Mapping[str, MadeImage], server: DockerRegistry, name: str
    ) -> str:
        """Send images for several platforms as one; returns the digest of the index."""
        self._count += 1
        where = self._work / f"layout{self._count}"
        rows = []
        for platform, made in platforms.items():
            found = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
            rows.append(descriptor(manifest(made), OCI_MANIFEST, platform=found))
        index = index_of(rows)
        about = descriptor(index, "application/vnd.oci.image.index.v1+json")
        members = _layout(about, *platforms.values(), more={blob_path(index): index})
        write_directory(where, members)
        target = f"docker://{server.address}/{name}"
        self._skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{where}:one", target)
        return str(about["digest"])


def new_client(
    creds: tuple[str, str] | None = None,
    configuration: Path | None = None,
    home: Path = Path("/nonexistent"),
    limits: RegistryLimits = QUICK,
) -> RegistryClient:
    """A client that knows nothing of this machine's user."""
    environment = {"HOME": str(home)}
    if configuration is not None:
        environment["CONTAINERS_REGISTRIES_CONF"] = str(configuration)
    return RegistryClient(
        Registries.load(environment, system=Path("/nonexistent")),
        Credentials.load(environment, creds=creds),
        environment=environment,
        limits=limits,
    )


def command_line(root: Path, server: Commands | None = None) -> CommandLine:
    """The command, with a store and a home of its own; run by ``server`` where there is one."""
    home = root.parent / f"home-of-{root.name}"
    home.mkdir(exist_ok=True)
    environment = {"UNIONMOUNT_ROOT": str(root), "HOME": str(home)}
    if server is not None:
        return ForkedCommandLine(server, environment)
    return CommandLine(environment=environment)


def assert_nothing_partial(store: Store, expected: set[str] | None = None) -> None:
    """What is in the store is complete; with ``expected``, it is these layers."""
    assert list((store.root / "tmp").iterdir()) == []
    assert list((store.root / "leases").iterdir()) == []
    assert list((store.root / "locks").iterdir()) == []
    layers = {f"sha256:{path.name}" for path in (store.root / "layers/sha256").iterdir()}
    if expected is not None:
        assert layers == expected
    for text in layers:
        diff_id = Digest.parse(text)
        path = store.root / "layers/sha256" / diff_id.hex
        assert Digest.of((path / "layer.tar").read_bytes()) == diff_id
        store.open_layer(diff_id).close()


def parsed(name: str) -> Reference:
    return Reference.parse(name)


def raw_manifest(skopeo: Skopeo, name: str) -> dict[str, Any]:
    """A manifest of a registry, as skopeo reads it."""
    found: dict[str, Any] = json.loads(
        skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    )
    return found


def remote_digest(skopeo: Skopeo, name: str) -> str:
    """The digest of a manifest of a registry, as skopeo computes it."""
    return skopeo("inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{name}")
