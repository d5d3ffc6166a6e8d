"""Manifests, indexes, configs, platforms: what is taken and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.image_files import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    MadeImage,
    descriptor,
    index_of,
    manifest_of,
    sha256,
    small_image,
)

from unionmount.errors import FormatError, LimitExceeded, NotFoundError, UsageError
from unionmount.images.config import MAX_LAYERS, Config
from unionmount.images.image import ImageDocuments
from unionmount.images.json_fields import MAX_DOCUMENT, load_json
from unionmount.images.manifest import Descriptor, ImageIndex, Manifest, parse_manifest
from unionmount.images.platform import Platform
from unionmount.images.reference import Digest
from unionmount.images.selection import Selection, run_selection, select

IMAGE = small_image()
MANIFEST = json.loads(manifest_of(IMAGE))
CONFIG = json.loads(IMAGE.config)


def spoiled(document: dict[str, Any], path: str, value: Any) -> bytes:
    """The document with one field set (``...`` removes it)."""
    copy = json.loads(json.dumps(document))
    *parents, last = path.split(".")
    inner = copy
    for part in parents:
        inner = inner[int(part)] if part.isdigit() else inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(copy).encode()


def test_manifest_and_config_make_an_image() -> None:
    manifest = parse_manifest(manifest_of(IMAGE), "m")
    assert isinstance(manifest, Manifest)
    config = Config.parse(IMAGE.config, "c")
    image = ImageDocuments.of(manifest, config, "i")
    assert str(image.id) == IMAGE.id
    assert [str(one) for one in image.diff_ids] == IMAGE.diff_ids
    assert [one.size for one in image.layers] == [len(layer) for layer in IMAGE.layers]
    assert config.history[0].empty_layer
    assert config.runtime["Cmd"] == ["/bin/sh"]
    assert config.platform == Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schemaVersion", 1),
        ("schemaVersion", "2"),
        ("schemaVersion", ...),
        ("schemaVersion", True),
        ("config", ...),
        ("config", []),
        ("config.mediaType", "application/vnd.cncf.helm.config.v1+json"),
        ("config.digest", "sha256:00"),
        ("config.digest", 5),
        ("config.size", -1),
        ("config.size", 2**63),
        ("config.size", 1.5),
        ("config.size", True),
        ("layers", {}),
        ("layers", ...),
        ("layers", [1]),
        ("layers.0.size", None),
        ("layers.1.digest", "sha256:" + "z" * 64),
        ("layers.0.mediaType", 5),
        ("annotations", {"a": 1}),
        ("annotations", "a"),
        ("manifests", []),
        ("mediaType", 7),
        ("mediaType", OCI_INDEX),
    ],
)
def test_damaged_manifests_are_refused(path: str, value: Any) -> None:
    with pytest.raises(FormatError, match="the manifest"):
        parse_manifest(spoiled(MANIFEST, path, value), "the manifest")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rootfs", ...),
        ("rootfs", 1),
        ("rootfs.type", "zip"),
        ("rootfs.diff_ids", "sha256:" + "0" * 64),
        ("rootfs.diff_ids", ["x"]),
        ("rootfs.diff_ids", [1]),
        ("architecture", 5),
        ("history", {}),
        ("history", [{"empty_layer": "yes"}]),
        ("history", [[]]),
        ("config", "sh"),
    ],
)
def test_damaged_configs_are_refused(path: str, value: Any) -> None:
    with pytest.raises(FormatError, match="the config"):
        Config.parse(spoiled(CONFIG, path, value), "the config")


def test_an_old_config_without_history_is_fine() -> None:
    raw = spoiled(json.loads(spoiled(CONFIG, "history", ...)), "config", None)
    config = Config.parse(raw, "c")
    assert config.history == ()
    assert config.runtime == {}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b'{"a":' + b"9" * 10000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"\x00"',
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    for parse in (Config.parse, Manifest.parse, ImageIndex.parse, parse_manifest):
        with pytest.raises(FormatError):
            parse(raw, "it")


def test_large_documents_and_counts_are_refused() -> None:
    with pytest.raises(LimitExceeded):
        load_json(b" " * MAX_DOCUMENT + b"{}", "it")
    layer = MANIFEST["layers"][0]
    with pytest.raises(LimitExceeded, match="layers"):
        Manifest.parse(spoiled(MANIFEST, "layers", [layer] * (MAX_LAYERS + 1)), "it")
    with pytest.raises(LimitExceeded, match="diff_ids"):
        Config.parse(spoiled(CONFIG, "rootfs.diff_ids", [IMAGE.diff_ids[0]] * 4097), "it")
    with pytest.raises(LimitExceeded, match="history"):
        Config.parse(spoiled(CONFIG, "history", [{}] * 20000), "it")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["schemaVersion", "config", "layers", "manifests", "rootfs", "size",
                         "digest", "mediaType", "diff_ids", "type", "platform", "annotations"]),
        inner,
    ),
))  # fmt: skip
def test_any_json_gives_a_document_or_a_format_error(value: Any) -> None:
    raw = json.dumps(value).encode()
    for parse in (Config.parse, parse_manifest):
        with suppress(FormatError):  # any other error fails the test
            parse(raw, "it")


def test_image_refuses_documents_that_do_not_belong_together() -> None:
    manifest = Manifest.parse(manifest_of(IMAGE), "m")
    other = Config.parse(small_image("other").config, "c")
    with pytest.raises(FormatError, match=str(other.digest)):
        ImageDocuments.of(manifest, other, "i")
    short = MadeImage(IMAGE.layers[:1])
    raw = spoiled(MANIFEST, "config", descriptor(short.config, OCI_CONFIG))
    with pytest.raises(FormatError, match=r"2 layers in the manifest, but 1 diff_ids"):
        ImageDocuments.of(Manifest.parse(raw, "m"), Config.parse(short.config, "c"), "i")


def test_a_made_up_manifest_is_the_same_every_time() -> None:
    config = Config.parse(IMAGE.config, "c")
    one, two = (ImageDocuments.from_config(config, [10, 20], "i") for _ in range(2))
    assert one.manifest.raw == two.manifest.raw
    assert [layer.digest for layer in one.layers] == list(config.diff_ids)
    with pytest.raises(FormatError, match="1 layers, but 2 diff_ids"):
        ImageDocuments.from_config(config, [10], "i")


# -- platforms


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
    ],
)
def test_platforms_are_normalised(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/a\nb"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("wanted", "offered", "distance"),
    [
        ("linux/arm/v7", "linux/arm/v7", 0),
        ("linux/arm/v7", "linux/arm/v6", 1),
        ("linux/arm/v7", "linux/arm/v5", 2),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/arm64", "linux/arm/v7", None),
        ("linux/amd64/v3", "linux/amd64", 2),
        ("linux/amd64", "linux/amd64/v3", None),
        ("linux/amd64", "windows/amd64", None),
        ("linux/mips/a", "linux/mips/b", None),
    ],
)
def test_lower_variants_are_usable(wanted: str, offered: str, distance: int | None) -> None:
    assert Platform.parse(wanted).distance(Platform.parse(offered)) == distance


@pytest.mark.parametrize(
    ("host", "offered", "foreign"),
    [
        ("linux/amd64", "linux/amd64", False),
        ("linux/amd64", "linux/amd64/v3", False),
        ("linux/amd64", "linux/386", False),
        ("linux/386", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", True),
        ("linux/amd64", "windows/amd64", True),
        ("linux/arm64", "linux/arm64/v9", False),
        ("linux/arm64", "linux/arm/v7", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm/v6", "linux/arm/v7", True),
    ],
)
def test_what_a_machine_does_not_run(host: str, offered: str, foreign: bool) -> None:
    assert Platform.parse(host).is_foreign(Platform.parse(offered)) is foreign


def test_what_says_nothing_is_not_foreign() -> None:
    assert not Platform.parse("linux/amd64").is_foreign(Platform("", ""))
    assert not Platform.parse("linux/amd64").is_foreign(Platform("linux", ""))


# -- selection


class Blobs:
    """Documents by digest, and which were asked for."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.asked: list[str] = []

    def add(self, data: bytes, media_type: str = OCI_MANIFEST, **more: Any) -> dict[str, Any]:
        self.data[sha256(data)] = data
        return descriptor(data, media_type, **more)

    def image(self, image: MadeImage, **more: Any) -> dict[str, Any]:
        self.add(image.config)
        return self.add(manifest_of(image), **more)

    def index(self, *manifests: dict[str, Any]) -> dict[str, Any]:
        return self.add(index_of(manifests), OCI_INDEX)

    def select(self, root: dict[str, Any], platform: str | None = None) -> Selection:
        roots = ImageIndex.parse(index_of([root]), "root").manifests
        wanted = Platform.parse(platform) if platform else None
        return run_selection(select(roots, wanted, "it", self._available), self._fetch)

    def _available(self, one: Descriptor) -> bool:
        return str(one.digest) in self.data

    def _fetch(self, one: Descriptor) -> bytes:
        self.asked.append(str(one.digest))
        return self.data[str(one.digest)]


def on(architecture: str, variant: str = "") -> dict[str, str]:
    more = {"variant": variant} if variant else {}
    return {"os": "linux", "architecture": architecture, **more}


def arm(variant: str) -> MadeImage:
    return small_image(variant, architecture="arm", variant=variant)


def test_the_platform_chooses_through_nested_indexes() -> None:
    blobs = Blobs()
    amd, arm64 = small_image("amd"), small_image("arm", architecture="arm64")
    inner = blobs.index(blobs.image(arm64, platform=on("arm64", "v8")))
    root = blobs.index(blobs.image(amd, platform=on("amd64")), blobs.index(inner))
    assert str(blobs.select(root, "linux/amd64").config.digest) == amd.id
    assert str(blobs.select(root, "linux/arm64").config.digest) == arm64.id
    with pytest.raises(NotFoundError, match=r"linux/s390x \(it has linux/amd64, linux/arm64\)"):
        blobs.select(root, "linux/s390x")


def test_the_nearest_variant_wins() -> None:
    blobs = Blobs()
    images = {variant: arm(variant) for variant in ("v5", "v6", "v8")}
    root = blobs.index(
        *(blobs.image(image, platform=on("arm", variant)) for variant, image in images.items())
    )
    assert str(blobs.select(root, "linux/arm").config.digest) == images["v6"].id
    assert str(blobs.select(root, "linux/arm/v5").config.digest) == images["v5"].id


def test_attestations_are_passed_over() -> None:
    blobs = Blobs()
    image = small_image()
    statement = blobs.image(
        small_image("statement"),
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    root = blobs.index(statement, blobs.image(image, platform=on("amd64")))
    assert str(blobs.select(root).config.digest) == image.id


def test_a_lone_image_is_taken_unless_a_platform_is_wanted() -> None:
    blobs = Blobs()
    image = small_image(architecture="s390x")
    lone = blobs.image(image)
    assert str(blobs.select(lone).config.digest) == image.id
    with pytest.raises(NotFoundError):
        blobs.select(lone, "linux/amd64")


def test_without_platform_fields_the_config_decides() -> None:
    blobs = Blobs()
    images = [small_image(architecture=name) for name in ("s390x", "arm64", "amd64")]
    root = blobs.index(*map(blobs.image, images))
    assert str(blobs.select(root, "linux/arm64").config.digest) == images[1].id


def test_the_error_names_a_document_that_is_missing() -> None:
    blobs = Blobs()
    there = blobs.image(small_image(architecture="arm64"), platform=on("arm64"))
    for platform in ({}, {"platform": on("amd64")}):
        gone = descriptor(manifest_of(small_image("gone")), OCI_MANIFEST, **platform)
        root = blobs.index(there, gone)
        with pytest.raises(NotFoundError, match=f"its manifest {gone['digest']} is missing"):
            blobs.select(root, "linux/amd64")
    with pytest.raises(NotFoundError, match=r"linux/s390x \(it has linux/arm64\)"):
        blobs.select(root, "linux/s390x")  # what is missing would not fit, either
    no_index = descriptor(b"{}", OCI_INDEX)
    with pytest.raises(NotFoundError, match=f"its index {no_index['digest']} is missing"):
        blobs.select(no_index)


def test_what_is_not_available_is_passed_over() -> None:
    blobs = Blobs()
    image = small_image(architecture="arm64")
    absent = descriptor(b"not here", OCI_MANIFEST, platform=on("amd64"))
    root = blobs.index(absent, blobs.image(image, platform=on("arm64")))
    assert str(blobs.select(root).config.digest) == image.id


def test_indexes_nested_too_deeply_are_refused() -> None:
    blobs = Blobs()
    root = blobs.image(small_image())
    for _ in range(20):
        root = blobs.index(root)
    with pytest.raises(LimitExceeded):
        blobs.select(root)


def test_an_index_that_holds_itself_ends() -> None:
    digest = "sha256:" + "1" * 64
    entry = {"mediaType": OCI_INDEX, "digest": digest, "size": 10}
    blobs = Blobs()
    blobs.data[digest] = index_of([entry, entry])
    with pytest.raises(NotFoundError):
        blobs.select(entry)
    assert blobs.asked == [digest]


def test_very_many_indexes_are_refused() -> None:
    blobs = Blobs()
    root = blobs.index(*(blobs.add(index_of([]) + b" " * n, OCI_INDEX) for n in range(1000)))
    with pytest.raises(LimitExceeded):
        blobs.select(root)
    assert len(blobs.asked) < 400


def test_host_platform_is_normal() -> None:
    host = Platform.host()
    assert host == host.normalised()
    assert Digest.parse(IMAGE.id)
