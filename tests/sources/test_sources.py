"""What a SOURCE means, and archives and layouts of every make."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.image_files import (
    OCI_INDEX,
    OCI_MANIFEST,
    SMALL_TREE,
    Compress,
    MadeImage,
    Members,
    blob_path,
    bzip2_streams,
    descriptor,
    docker_archive,
    gzip_members,
    gzipped,
    index_of,
    link,
    manifest_of,
    named_descriptor,
    oci_blobs,
    oci_layout,
    plain,
    small_image,
    tar,
    tree_of,
    write_directory,
    write_tar,
    xz_streams,
    zstd_frames,
)

from unionmount.errors import FormatError, NotFoundError, UsageError
from unionmount.images.platform import Platform
from unionmount.sources import Location
from unionmount.store.store import Store
from unionmount.transfer.load import fallback_name, load, open_image

IMAGE = small_image()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# -- SOURCE


def test_a_source_is_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.tar", "with:colon", "nginx.d"):
        (tmp_path / name).touch()
    (tmp_path / "nginx").mkdir()
    write_directory(tmp_path / "layout", oci_layout(IMAGE))
    (tmp_path / "x").mkdir()
    cases = {
        "docker-archive:a.tar": ("docker-archive", "a.tar", ""),
        "docker-archive:a.tar:app:1": ("docker-archive", "a.tar", "app:1"),
        "docker-archive:a.tar:@2": ("docker-archive", "a.tar", "@2"),
        "docker-archive:missing.tar:x": ("docker-archive", "missing.tar:x", ""),
        "oci-archive:with:colon:tag": ("oci-archive", "with:colon", "tag"),
        "oci:layout:tag": ("oci", "layout", "tag"),
        "oci:/none": ("oci", "/none", ""),
        "dir:layout:tag": ("dir", "layout:tag", ""),
        "dir:/none": ("dir", "/none", ""),
        "-": ("path", "-", ""),
        "docker-archive:-": ("docker-archive", "-", ""),
        "docker://nginx:1": ("registry", "nginx:1", ""),
        "a.tar": ("path", "a.tar", ""),
        "./a.tar:app": ("path", "./a.tar", "app"),
        "./missing": ("path", "./missing", ""),
        "/missing": ("path", "/missing", ""),
        "with:colon": ("path", "with:colon", ""),
        "layout": ("path", "layout", ""),
        "layout:tag": ("path", "layout", "tag"),
        "./nginx": ("path", "./nginx", ""),
        "nginx": ("stored", "nginx", ""),
        "nginx:1.25": ("stored", "nginx:1.25", ""),
        "localhost:5000/a": ("stored", "localhost:5000/a", ""),
        "example.org/a:1": ("stored", "example.org/a:1", ""),
        "4f5e6a": ("stored", "4f5e6a", ""),
        "x" * 5000: ("stored", "x" * 5000, ""),
        "\0": ("stored", "\0", ""),
    }
    for text, wanted in cases.items():
        location = Location.parse(text)
        assert (location.kind, location.path, location.selector) == wanted, text


@pytest.mark.parametrize(
    "text", ["", "oci:", "dir:", "docker:nginx", "docker-daemon:", "ostree:a", "https://a/b"]
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Location.parse(text)


def test_a_target_is_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    cases = {
        "oci:none": ("oci", "none", ""),
        "oci:none:tag": ("oci", "none", "tag"),
        "oci-archive:/a/b.tar:example.org/x:1": ("oci-archive", "/a/b.tar", "example.org/x:1"),
        "docker-archive:b.tar:x:1": ("docker-archive", "b.tar", "x:1"),
        "dir:/x": ("dir", "/x", ""),
        "docker-daemon:nginx:1": ("docker-daemon", "nginx:1", ""),
        "docker://nginx:1": ("registry", "nginx:1", ""),
        "there": ("stored", "there", ""),
        "example.org/x:1": ("stored", "example.org/x:1", ""),
    }
    for text, wanted in cases.items():
        location = Location.parse_target(text)
        assert (location.kind, location.path, location.selector) == wanted, text
    digest = f"sha256:{'0' * 64}"
    for text in (f"docker-daemon:{digest}", f"docker-daemon:a@{digest}", "docker-daemon:"):
        with pytest.raises(UsageError):
            Location.parse_target(text)
    for text in ("", "oci:", "oci::tag", "docker-archive:-", "./there", "/x", "dir:", "http://x"):
        with pytest.raises(UsageError):
            Location.parse_target(text)


def test_a_source_means_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b.tar").write_text("")
    monkeypatch.chdir(tmp_path)
    for text, absolute in (
        ("a b.tar", f"{tmp_path}/a b.tar"),
        ("./a b.tar:name:1", f"{tmp_path}/a b.tar:name:1"),
        ("docker-archive:a b.tar:@0", f"docker-archive:{tmp_path}/a b.tar:@0"),
        ("oci:none", f"oci:{tmp_path}/none"),
        ("dir:none", f"dir:{tmp_path}/none"),
        ("nginx:1", "nginx:1"),
        ("scratch", "scratch"),
        ("docker://a/b:1", "docker://a/b:1"),
        ("-", "-"),
    ):
        assert Location.parse(text).absolute() == absolute


# -- every way to write an image down


WRITERS: dict[str, Callable[[Path, Compress], str]] = {
    "docker-archive": lambda path, compress: (
        f"docker-archive:{write_tar(path / 'a.tar', docker_archive(IMAGE, compress=compress))}"
    ),
    "oci-archive": lambda path, compress: (
        f"oci-archive:{write_tar(path / 'a.tar', oci_layout(IMAGE, compress=compress))}"
    ),
    "oci": lambda path, compress: (
        f"oci:{write_directory(path / 'layout', oci_layout(IMAGE, compress=compress))}"
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "compress", [plain, gzipped, gzip_members, zstd_frames, xz_streams, bzip2_streams]
)
@pytest.mark.parametrize("sniffed", [False, True])
def test_every_form_shows_the_same_tree(
    store: Store, tmp_path: Path, kind: str, compress: Compress, sniffed: bool
) -> None:
    source = WRITERS[kind](tmp_path, compress)
    if sniffed:
        source = source.partition(":")[2]
    for _ in range(2):
        with open_image(store, source, verify=True) as image:
            assert str(image.image.id) == IMAGE.id
            assert tree_of(image) == SMALL_TREE
    in_store = len(list((store.root / "layers/sha256").iterdir()))
    indexed = len(list((store.root / "inplace").glob("*.idx")))
    assert (in_store, indexed) == ((0, 2) if compress is plain else (2, 0))


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes(store: Store, tmp_path: Path, form: str) -> None:
    original = write_tar(tmp_path / "a.tar", docker_archive(IMAGE))
    target = f"{form}:{tmp_path}/copy:example.org/made:2"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", f"docker-archive:{original}", target],
        check=True,
        timeout=120,
    )
    for source in (target, f"{tmp_path}/copy"):
        with open_image(store, source, verify=True) as image:
            assert tree_of(image) == SMALL_TREE


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("kind", WRITERS)
def test_skopeo_reads_what_the_tests_write(tmp_path: Path, kind: str) -> None:
    source = WRITERS[kind](tmp_path, gzipped if kind != "docker-archive" else plain)
    shown = subprocess.run(
        ["skopeo", "--insecure-policy", "inspect", "--config", source],
        check=True,
        timeout=120,
        capture_output=True,
    )
    assert json.loads(shown.stdout)["rootfs"]["diff_ids"] == IMAGE.diff_ids


@pytest.mark.needs("skopeo", "xz", "bzip2")
@pytest.mark.parametrize("tool", ["xz", "bzip2"])
@pytest.mark.parametrize("suffix", [False, True])
def test_a_compressed_archive_is_read_as_skopeo_reads_it(
    store: Store, tmp_path: Path, tool: str, suffix: bool
) -> None:
    path = write_tar(tmp_path / "a.tar", docker_archive(IMAGE))
    subprocess.run([tool, path], check=True, timeout=60)
    (packed,) = tmp_path.glob("a.tar.*")
    if not suffix:  # what it is, its bytes say
        packed = packed.rename(tmp_path / "b")
    shown = subprocess.run(
        ["skopeo", "--insecure-policy", "inspect", "--config", f"docker-archive:{packed}"],
        check=True,
        timeout=120,
        capture_output=True,
    )
    assert json.loads(shown.stdout)["rootfs"]["diff_ids"] == IMAGE.diff_ids
    with open_image(store, str(packed)) as image:
        assert tree_of(image) == SMALL_TREE
    assert [str(one.id) for one in load(store, str(packed))] == [IMAGE.id]


@pytest.mark.parametrize(
    "name",
    ["my App.tar", "my App.tar.gz", "my-App.tgz", "my_app.txz", "my.app.tar.xz", "my app.tbz2"],
)
def test_a_tag_alone_is_called_as_its_file_without_suffixes(tmp_path: Path, name: str) -> None:
    assert fallback_name(tmp_path / name) == "my-app"


# -- docker archives


def test_several_images_need_a_choice(store: Store, tmp_path: Path) -> None:
    other = small_image("other", names=("other:1", "other:2"))
    nameless = small_image("nameless", names=())
    path = write_tar(tmp_path / "a.tar", docker_archive(IMAGE, other, nameless))
    for selector, wanted in {
        "example.org/made:1": IMAGE,
        "other:2": other,
        "docker.io/library/other:1": other,
        "@0": IMAGE,
        "@2": nameless,
    }.items():
        with open_image(store, f"docker-archive:{path}:{selector}") as image:
            assert str(image.image.id) == wanted.id, selector
    with pytest.raises(NotFoundError, match=r"one: example\.org/made:1; other:1, other:2; @2"):
        open_image(store, f"{path}")
    for selector in ("other", "@3", "@-1", "none:1"):
        with pytest.raises(NotFoundError, match="no image"):
            open_image(store, f"{path}:{selector}")


def linked_archive(members: list[tarfile.TarInfo | tuple[str, bytes]], layer: str) -> bytes:
    """An archive of one image whose only layer is the member ``layer``."""
    image = MadeImage(IMAGE.layers[1:], ("a:1",))
    config = image.id[7:] + ".json"
    items = [{"Config": config, "RepoTags": ["a:1"], "Layers": [layer]}]
    return tar([*members, (config, image.config), ("manifest.json", json.dumps(items).encode())])


LAYER = ("real/layer.tar", IMAGE.layers[1])


@pytest.mark.parametrize(
    "members",
    [
        [LAYER, link("x/layer.tar", "../real/layer.tar")],
        [LAYER, link("x/layer.tar", "/real/layer.tar")],
        [LAYER, link("x/layer.tar", "../../../real/layer.tar")],
        [LAYER, link("x/layer.tar", "y"), link("x/y", "./../real/./layer.tar")],
        [LAYER, link("x", "real")],
        [link("x/layer.tar", "../real/layer.tar"), LAYER],
        [LAYER, link("x/layer.tar", "real/layer.tar", tarfile.LNKTYPE)],
        [link("x/layer.tar", "real/layer.tar", tarfile.LNKTYPE), LAYER],
        [LAYER, *(link(f"l{n}", f"l{n + 1}") for n in range(38)), link("l38", "real"),
         link("x", "l0")],
    ],
)  # fmt: skip
def test_layers_that_are_links(
    store: Store, tmp_path: Path, members: list[tarfile.TarInfo]
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(linked_archive([*members], "x/layer.tar"))
    with open_image(store, str(path), verify=True) as image:
        assert image.tree().resolve(b"new").size == 1000


@pytest.mark.parametrize(
    "members",
    [
        [],
        [link("x/layer.tar", "../missing")],
        [link("x/layer.tar", "layer.tar")],
        [link("x/layer.tar", "y"), link("x/y", "layer.tar")],
        [LAYER, *(link(f"l{n}", f"l{n + 1}") for n in range(60)), link("l60", "real"),
         link("x", "l0")],
        [link("x/layer.tar", "", tarfile.DIRTYPE)],
        [link("x/layer.tar", "", tarfile.FIFOTYPE)],
        [LAYER, link("x/layer.tar", "../real/layer.tar/more")],
        [link("x/layer.tar", "/etc/passwd")],
    ],
)  # fmt: skip
def test_links_that_lead_nowhere(
    store: Store, tmp_path: Path, members: list[tarfile.TarInfo]
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(linked_archive([*members], "x/layer.tar"))
    with pytest.raises(FormatError, match=r"a\.tar: 'x/layer\.tar'"):
        open_image(store, str(path))


def test_a_sparse_member_is_refused(store: Store, tmp_path: Path) -> None:
    folder = write_directory(tmp_path / "members", docker_archive(IMAGE))
    name = f"{IMAGE.diff_ids[0][7:]}/layer.tar"
    with (folder / name).open("r+b") as file:
        file.truncate(10 << 20)
    subprocess.run(["tar", "-C", folder, "--sparse", "-cf", tmp_path / "a.tar", "."], check=True)
    with pytest.raises(FormatError, match=f"'{name}': is sparse"):
        open_image(store, str(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{}",
        b"[1]",
        b"[{}]",
        b'[{"Config": 1, "Layers": []}]',
        b'[{"Config": "c.json", "Layers": {}}]',
        b'[{"Config": "c.json", "Layers": [1]}]',
        b'[{"Config": "c.json", "RepoTags": ["A A"], "Layers": []}]',
        b'[{"Config": "c.json", "RepoTags": "a:1", "Layers": []}]',
        b'[{"Config": "missing.json", "Layers": []}]',
        b'[{"Config": "../../etc/passwd", "Layers": []}]',
        b'[{"Config": "\\u0000", "Layers": []}]',
        b'[{"Config": "\\ud800", "Layers": []}]',
        b'[{"Config": "' + b"x/" * 5000 + b'", "Layers": []}]',
    ],
)
def test_damaged_manifest_json(store: Store, tmp_path: Path, manifest: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", docker_archive(IMAGE) | {"manifest.json": manifest})
    with pytest.raises(FormatError) as caught:
        open_image(store, str(path))
    assert "a.tar" in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_archive_without_images(store: Store, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"manifest.json": b"[]"})
    with pytest.raises(NotFoundError, match="contains no image"):
        open_image(store, str(path))
    half = write_tar(tmp_path / "half.tar", {"oci-layout": b"{}", "blobs/sha256/a": b""})
    with pytest.raises(FormatError, match=r"no manifest\.json or index\.json"):
        open_image(store, str(half))
    flat = str(write_tar(tmp_path / "b.tar", {"etc/passwd": b""}))
    with open_image(store, flat) as image:
        assert [path for path, _ in image.tree().walk()] == [b"etc", b"etc/passwd"]
    with pytest.raises(FormatError, match=r"no manifest\.json or index\.json"):
        open_image(store, f"docker-archive:{flat}")
    with pytest.raises(FormatError, match=r"Docker 1\.10"):
        open_image(store, str(write_tar(tmp_path / "c.tar", {"repositories": b"{}"})))
    with pytest.raises(FormatError, match="not an OCI archive"):
        open_image(store, f"oci-archive:{write_tar(tmp_path / 'd.tar', docker_archive(IMAGE))}")


def test_a_config_that_is_not_what_its_name_says(store: Store, tmp_path: Path) -> None:
    members = docker_archive(IMAGE)
    name = IMAGE.id[7:] + ".json"
    members[name] = members[name].replace(b"/bin/sh", b"/bin/sx")
    with pytest.raises(FormatError, match=IMAGE.id):
        open_image(store, str(write_tar(tmp_path / "a.tar", members)))


def test_a_wrong_platform_is_refused(store: Store, tmp_path: Path) -> None:
    path = str(write_tar(tmp_path / "a.tar", docker_archive(IMAGE)))
    open_image(store, path, platform=Platform.parse("linux/amd64")).close()
    with pytest.raises(NotFoundError, match="linux/amd64, not linux/arm64"):
        open_image(store, path, platform=Platform.parse("linux/arm64"))


# -- both forms in one archive (Docker 25 and later)


def both_forms(image: MadeImage, *, annotation: str = "", compress: Compress = plain) -> Members:
    members = oci_layout(image, compress=compress)
    more = {"annotations": {"io.containerd.image.name": annotation}} if annotation else {}
    manifest = descriptor(manifest_of(image, compress), OCI_MANIFEST, **more)
    members["index.json"] = index_of([manifest])
    item = {
        "Config": blob_path(image.config),
        "RepoTags": list(image.names) or None,
        "Layers": [blob_path(compress(layer)) for layer in image.layers],
    }
    return members | {"manifest.json": json.dumps([item]).encode()}


@pytest.mark.parametrize("compress", [plain, gzipped])
@pytest.mark.parametrize("annotation", ["", "docker.io/library/both:1"])
def test_both_forms_give_the_exact_manifest_and_the_names(
    store: Store, tmp_path: Path, annotation: str, compress: Compress
) -> None:
    image = small_image(names=("both:1",))
    path = write_tar(
        tmp_path / "a.tar", both_forms(image, annotation=annotation, compress=compress)
    )
    with open_image(store, f"docker-archive:{path}:both:1", verify=True) as opened:
        assert opened.image.manifest.raw == manifest_of(image, compress)
        assert tree_of(opened) == SMALL_TREE


def test_platforms_that_were_not_saved_are_passed_over(store: Store, tmp_path: Path) -> None:
    """Docker saves the index of all platforms, and the blobs of one."""
    members = both_forms(IMAGE)
    saved = descriptor(manifest_of(IMAGE), OCI_MANIFEST)
    index = index_of(
        [
            descriptor(b"x", OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64"}),
            saved | {"platform": {"os": "linux", "architecture": "amd64"}},
        ]
    )
    members |= {blob_path(index): index, "index.json": index_of([descriptor(index, OCI_INDEX)])}
    with open_image(store, str(write_tar(tmp_path / "a.tar", members))) as image:
        assert tree_of(image) == SMALL_TREE


@pytest.mark.parametrize("annotation", ["", "docker.io/library/both:1"])
def test_names_that_only_one_form_has_are_names(
    store: Store, tmp_path: Path, annotation: str
) -> None:
    image = small_image(names=("both:1", "both:2", "both:1"))
    path = write_tar(tmp_path / "a.tar", both_forms(image, annotation=annotation))
    (loaded,) = load(store, str(path))
    assert sorted(loaded.names) == ["docker.io/library/both:1", "docker.io/library/both:2"]
    with open_image(store, f"{path}:both:2") as opened:
        assert tree_of(opened) == SMALL_TREE


def test_an_image_that_is_damaged_is_not_in_the_way_of_another(
    store: Store, tmp_path: Path
) -> None:
    image, other = small_image(names=("both:1", "both:2")), small_image("x", names=("other:1",))
    members = both_forms(image, annotation="docker.io/library/both:1") | oci_blobs(other)
    more = {"annotations": {"io.containerd.image.name": "docker.io/library/both:1"}}
    manifest = descriptor(manifest_of(image), OCI_MANIFEST, **more)
    members["index.json"] = index_of([manifest, named_descriptor(other)])
    members[blob_path(other.config)] = b"{}"
    path = write_tar(tmp_path / "a.tar", members)
    with open_image(store, f"{path}:both:2") as opened:
        assert tree_of(opened) == SMALL_TREE
    with pytest.raises(FormatError, match="2 bytes"):
        open_image(store, f"{path}:other:1")


# -- one image under several names


def named(image: MadeImage, *names: str) -> list[MadeImage]:
    return [replace(image, names=(name,)) for name in names]


def three_names(path: Path, form: str) -> str:
    """An image that a source lists once for each of its names, as tools write it."""
    images = named(IMAGE, "one:1", "two:2", "three:3")
    if form == "oci":
        return f"oci:{write_directory(path / 'layout', oci_layout(*images))}"
    write = oci_layout if form == "oci-archive" else docker_archive
    return f"{form}:{write_tar(path / 'a.tar', write(*images))}"


FORMS = ["docker-archive", "oci-archive", "oci"]


@pytest.mark.parametrize("form", FORMS)
def test_one_image_under_three_names_needs_no_choice(
    store: Store, tmp_path: Path, form: str
) -> None:
    source = three_names(tmp_path, form)
    for selector in ("", ":one:1", ":three:3", ":@0", ":@2"):
        with open_image(store, source + selector) as image:
            assert str(image.image.id) == IMAGE.id
    with pytest.raises(
        NotFoundError, match=r"no image 'four' \(there are: one:1, two:2, three:3\)"
    ):
        open_image(store, f"{source}:four")


@pytest.mark.parametrize("form", FORMS)
def test_it_is_loaded_once_with_all_names_or_with_the_one_that_is_meant(
    store: Store, tmp_path: Path, form: str
) -> None:
    source = three_names(tmp_path, form)
    told: list[tuple[str, ...]] = []
    (only,) = load(store, f"{source}:two:2", loaded=lambda _, n: told.append(tuple(map(str, n))))
    assert only.names == ("docker.io/library/two:2",)
    (loaded,) = load(store, source, loaded=lambda _, n: told.append(tuple(map(str, n))))
    every = tuple(f"docker.io/library/{name}" for name in ("one:1", "two:2", "three:3"))
    assert told == [(every[1],), every]
    assert sorted(loaded.names) == sorted(every)


@pytest.mark.parametrize("form", FORMS)
def test_another_image_beside_it_is_still_a_choice(store: Store, tmp_path: Path, form: str) -> None:
    images = [*named(IMAGE, "one:1", "two:2"), small_image("other", names=("other:1",))]
    write = docker_archive if form == "docker-archive" else oci_layout
    path = write_tar(tmp_path / "a.tar", write(*images))
    with pytest.raises(NotFoundError, match="contains 2 images; choose one: one:1, two:2; other:1"):
        open_image(store, str(path))


@pytest.mark.needs("skopeo")
def test_what_skopeo_names_three_times_is_one_image(store: Store, tmp_path: Path) -> None:
    original = write_tar(tmp_path / "a.tar", docker_archive(IMAGE))
    for name in ("example.org/one:1", "example.org/two:2", "three"):
        target = f"oci:{tmp_path}/layout:{name}"
        command = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "-q",
            f"docker-archive:{original}",
            target,
        ]
        subprocess.run(command, check=True, timeout=120)
    index = json.loads((tmp_path / "layout/index.json").read_bytes())
    assert len(index["manifests"]) == 3
    with open_image(store, f"oci:{tmp_path}/layout") as image:
        assert tree_of(image) == SMALL_TREE
    (loaded,) = load(store, f"oci:{tmp_path}/layout")
    assert loaded.names == ("example.org/one:1", "example.org/two:2", "localhost/layout:three")


# -- OCI layouts


def test_tags_choose(store: Store, tmp_path: Path) -> None:
    first = small_image("1", names=("one",))
    second = small_image("2", names=("example.org/two:2",))
    path = write_directory(tmp_path / "layout", oci_layout(first, second))
    for selector, wanted in {"one": first, "example.org/two:2": second, "@1": second}.items():
        with open_image(store, f"oci:{path}:{selector}") as image:
            assert str(image.image.id) == wanted.id
    with pytest.raises(NotFoundError, match=r"choose one: one; example\.org/two:2"):
        open_image(store, f"oci:{path}")


def test_one_tag_for_several_platforms(store: Store, tmp_path: Path) -> None:
    arm = small_image("arm", architecture="arm64")
    members = oci_layout(IMAGE, arm)
    descriptors = [
        named_descriptor(image) | {"platform": {"os": "linux", "architecture": name}}
        for image, name in ((IMAGE, "amd64"), (arm, "arm64"))
    ]
    for one in descriptors, [{**one, "annotations": {}} for one in descriptors]:
        members["index.json"] = index_of(one)
        path = write_directory(tmp_path / "layout", members)
        with open_image(store, f"oci:{path}", platform=Platform.parse("linux/arm64")) as image:
            assert str(image.image.id) == arm.id


def test_a_missing_blob_is_named(store: Store, tmp_path: Path) -> None:
    for blob in (IMAGE.layers[0], IMAGE.config):
        members = oci_layout(IMAGE)
        del members[blob_path(blob)]
        path = write_directory(tmp_path / blob_path(blob), members)
        with pytest.raises(FormatError, match=f"{blob_path(blob)[13:]}.*missing"):
            open_image(store, f"oci:{path}")
    members = oci_layout(IMAGE)
    del members[blob_path(manifest_of(IMAGE))]
    with pytest.raises(NotFoundError):
        open_image(store, f"oci:{write_directory(tmp_path / 'x', members)}")


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_a_blob_of_another_size_is_named(store: Store, tmp_path: Path, which: str) -> None:
    blob = {"manifest": manifest_of(IMAGE), "config": IMAGE.config, "layer": IMAGE.layers[0]}[which]
    members = oci_layout(IMAGE) | {blob_path(blob): blob + bytes(512)}
    with pytest.raises(FormatError, match=f"{blob_path(blob)[13:]}.*size is"):
        open_image(store, f"oci:{write_directory(tmp_path / 'x', members)}")


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_a_changed_blob_is_named(store: Store, tmp_path: Path, which: str) -> None:
    blob = {"manifest": manifest_of(IMAGE), "config": IMAGE.config, "layer": IMAGE.layers[0]}[which]
    changed = blob.replace(b"hello", b"hullo").replace(b"/bin/sh", b"/bin/sx").replace(b"2", b"3")
    assert changed != blob
    members = oci_layout(IMAGE) | {blob_path(blob): changed}
    with pytest.raises(FormatError, match=f"{blob_path(blob)[13:]}"):
        open_image(store, f"oci:{write_directory(tmp_path / 'x', members)}", verify=True)


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_only_regular_files_are_opened(store: Store, tmp_path: Path, kind: str) -> None:
    path = write_directory(tmp_path / "layout", oci_layout(IMAGE))
    blob = path / blob_path(IMAGE.layers[0])
    blob.rename(tmp_path / "elsewhere")
    if kind == "symlink":
        blob.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(blob)
    else:
        blob.mkdir()
    with pytest.raises(FormatError, match=IMAGE.diff_ids[0][7:]):
        open_image(store, f"oci:{path}")


@pytest.mark.parametrize(
    "marker", [b"", b"{}", b"[]", b'{"imageLayoutVersion": "2.0"}', b'{"imageLayoutVersion": 1}']
)
def test_an_unknown_layout_is_refused(store: Store, tmp_path: Path, marker: bytes) -> None:
    members = oci_layout(IMAGE) | {"oci-layout": marker}
    with pytest.raises(FormatError, match="oci-layout"):
        open_image(store, f"oci:{write_directory(tmp_path / 'x', members)}")


def test_what_is_no_layout(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not an OCI image layout"):
        open_image(store, f"oci:{tmp_path}")
    with pytest.raises(NotFoundError, match="No such file"):
        open_image(store, f"oci:{tmp_path}/none")
    with pytest.raises(UsageError, match="is a directory"):
        open_image(store, f"docker-archive:{tmp_path}")


def test_more_images_than_descriptors(store: Store, tmp_path: Path) -> None:
    images = [MadeImage((tar({str(n): b""}),), (f"many:{n}",)) for n in range(40)]
    path = write_directory(tmp_path / "x", oci_layout(*images))
    used = len(list(Path("/proc/self/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 25, hard))
    try:
        assert len(load(store, f"oci:{path}")) == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_encrypted_layers_are_refused(store: Store, tmp_path: Path) -> None:
    manifest = manifest_of(IMAGE, layer_type="application/vnd.oci.image.layer.v1.tar+encrypted")
    members = oci_layout(IMAGE) | {blob_path(manifest): manifest}
    members["index.json"] = index_of([descriptor(manifest, OCI_MANIFEST)])
    with pytest.raises(FormatError, match="encrypted"):
        open_image(store, f"oci:{write_directory(tmp_path / 'x', members)}")


def test_media_types_are_not_believed(store: Store, tmp_path: Path) -> None:
    claims = "application/vnd.oci.image.layer.v1.tar+gzip"
    blobs = oci_blobs(IMAGE, zstd_frames)
    manifest = manifest_of(IMAGE, zstd_frames, layer_type=claims)
    members = oci_layout() | blobs | {blob_path(manifest): manifest}
    members["index.json"] = index_of([descriptor(manifest, OCI_MANIFEST)])
    with open_image(store, f"oci:{write_directory(tmp_path / 'x', members)}") as image:
        assert tree_of(image) == SMALL_TREE


def test_a_plain_layer_that_is_not_its_diff_id_needs_no_hashing(
    store: Store, tmp_path: Path
) -> None:
    other = MadeImage((IMAGE.layers[1], IMAGE.layers[0]))
    document = json.loads(manifest_of(IMAGE))
    document["layers"].reverse()
    manifest = json.dumps(document).encode()
    members = oci_layout(IMAGE) | {blob_path(manifest): manifest}
    members["index.json"] = index_of([descriptor(manifest, OCI_MANIFEST)])
    with pytest.raises(FormatError, match=r"diff_id.*expected " + IMAGE.diff_ids[0]):
        open_image(store, f"oci:{write_directory(tmp_path / 'x', members)}")
    assert other.diff_ids == IMAGE.diff_ids[::-1]


def test_an_archive_with_trailing_blocks_and_odd_members(store: Store, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in docker_archive(IMAGE).items():
            info = tarfile.TarInfo("./" + name)
            info.size = len(data)
            info.pax_headers = {"comment": "x" * 2000}
            archive.addfile(info, io.BytesIO(data))
    path = tmp_path / "a.tar"
    path.write_bytes(buffer.getvalue() + bytes(1 << 20))
    with open_image(store, str(path), verify=True) as image:
        assert tree_of(image) == SMALL_TREE
