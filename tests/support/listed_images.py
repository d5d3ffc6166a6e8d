"""A store with images that differ in what lists and inspections tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.image_files import MadeImage, manifest_of, tar
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.manifest import Manifest
from unionmount.images.reference import Digest, Reference
from unionmount.store.layer_import import Expected
from unionmount.store.store import Store, StoredImage

DIGEST = "sha256:" + "1" * 64


@dataclass(frozen=True)
class DescribedImage(MadeImage):
    """An image with whatever stands in its config."""

    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> bytes:
        return json.dumps(json.loads(super().config) | dict(self.more)).encode()


def put(store: Store, image: MadeImage, digests: tuple[str, ...] = ()) -> StoredImage:
    """Put an image into a store, as if a registry knew it by ``digests``."""
    for data, diff_id in zip(image.layers, map(Digest.parse, image.diff_ids), strict=True):
        if not store.has_layer(diff_id):
            with store.import_layer(Expected(diff_id, "it")) as layer:
                layer.write(data)
                layer.finish()
    made = ImageDocuments.of(
        Manifest.parse(manifest_of(image), "made"), Config.parse(image.config, "made"), "made"
    )
    names = [Reference.parse(name) for name in image.names]
    return store.put_image(names, made, digests=[Reference.parse(one) for one in digests])


BASE = tar({"base": b"b" * 5000})
TOP = tar({"top": b"t" * 1_234})

WEB = DescribedImage(
    (BASE, TOP),
    ("nginx:1.25", "nginx:latest", "localhost:5000/my/web:1"),
    more={
        "created": "2024-03-01T10:11:12.123456789Z",
        "author": "Somebody <s@example.org>",
        "config": {
            "User": "web",
            "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
            "Env": ["PATH=/bin", "LANG=C.UTF-8"],
            "Entrypoint": ["/entry"],
            "Cmd": ["serve", "--all", "a b"],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30_000_000_000, "Retries": 3},
            "Volumes": {"/data": {}},
            "WorkingDir": "/srv",
            "Labels": {"maintainer": "N <n@x.org>", "org.example.x-y": "z", "é": "\x1b[1m"},
            "StopSignal": "SIGQUIT",
        },
        "history": [
            {"created": "2024-02-01T00:00:00Z", "created_by": "/bin/sh -c #(nop) ADD file:a in /"},
            {
                "created": "2024-02-01T00:00:01Z",
                "created_by": '/bin/sh -c #(nop)  CMD ["bash"]',
                "empty_layer": True,
            },
            {
                "created": "2024-03-01T10:11:11Z",
                "created_by": "RUN /bin/sh -c make -j4 && make install # buildkit",
                "comment": "buildkit.dockerfile.v0",
            },
            {
                "created_by": "CMD 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字",
                "empty_layer": True,
            },
        ],
    },
)
PLAIN = DescribedImage((BASE,), ("ghcr.io/a/b:2.0",), more={"created": "2023-01-01T00:00:00Z"})
NAMELESS = DescribedImage((TOP,), (), more={"created": "2024-01-01T00:00:00Z"})
DIGEST_ONLY = DescribedImage((TOP, BASE), (), more={"created": "2022-01-01T00:00:00Z"})
TIMELESS = DescribedImage((), ("old:1",), more={"created": "0001-01-01T00:00:00Z"})


def fill(root: Path) -> Store:
    """A store with all of them."""
    store = Store(root)
    put(store, PLAIN)
    put(store, WEB, (f"docker.io/library/nginx@{DIGEST}",))
    put(store, NAMELESS)
    put(store, DIGEST_ONLY, (f"quay.io/x/y@{DIGEST}",))
    put(store, TIMELESS)
    return store
