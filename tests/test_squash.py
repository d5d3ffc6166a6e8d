"""Layers that are joined show the same files as before, and keep nothing else."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from support import strategies
from support.archives import Layer
from support.effort import examples
from support.strategies import Entry, tar_of
from support.trees import Shown, facts, tree_of

from unionmount.committing import LayerWriter
from unionmount.core import Tree
from unionmount.errors import FormatError
from unionmount.formats.tar_writer import END
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.reference import Digest, Reference
from unionmount.squash import SquashRequest, joined, squash
from unionmount.store.layer_import import Expected
from unionmount.store.store import Store, StoredImage
from unionmount.transfer.load import open_stored

NAME = Reference.parse("example.org/squashed:1")


def put(store: Store, tars: Sequence[bytes], history: Sequence[dict[str, Any]] = ()) -> StoredImage:
    """An image of these layers."""
    diff_ids = []
    for tar in tars:
        with store.import_layer(Expected(None, "a layer")) as incoming:
            incoming.write(tar)
            incoming.finish()
            diff_ids.append(incoming.diff_id)
    document = {
        "architecture": "amd64",
        "os": "linux",
        "author": "me",
        "container": "gone",
        "config": {"Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": [str(one) for one in diff_ids]},
        "history": list(history),
    }
    config = Config.parse(json.dumps(document).encode(), "test")
    sizes = [store.layer_info(one).layer_size for one in diff_ids]
    return store.put_image([], ImageDocuments.from_config(config, sizes, "test"))


def squashed(store: Store, stored: StoredImage, layers: int | None) -> StoredImage:
    warnings: list[str] = []
    with open_stored(store, stored, "test") as image:
        made = squash(store, image, [NAME], SquashRequest(layers, 0), warnings.append)
    assert warnings == []
    return made


def shown(store: Store, stored: StoredImage) -> dict[bytes, Shown]:
    with open_stored(store, stored, "test") as image:
        return facts(image.tree())


def config_of(store: Store, stored: StoredImage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read_image(stored).config.raw)
    return found


def tar_of_layer(store: Store, diff_id: Digest) -> tarfile.TarFile:
    layer = store.open_layer(diff_id)
    try:
        with open(layer.data_fd, "rb", closefd=False) as file:
            return tarfile.open(fileobj=io.BytesIO(file.read()))
    finally:
        layer.close()


@pytest.mark.slow
@settings(
    max_examples=examples(300, 3000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(strategies.stacks)
def test_whatever_is_joined_shows_the_same(stack: list[list[Entry]]) -> None:
    tars = [tar_of(entries) for entries in stack]
    with ExitStack() as opened:
        try:
            whole = opened.enter_context(tree_of(tars))
        except FormatError:  # other tests are about what is refused
            assume(False)
        wanted = facts(whole)
        for kept in range(len(tars)):
            below = opened.enter_context(tree_of(tars[:kept]))
            made, warnings = joined_tar(below, whole)
            assert warnings == []
            with tree_of([*tars[:kept], made]) as result:
                found = facts(result)
            if made == END:  # the time of the root alone is no difference
                found[b""] = replace(found[b""], mtime_ns=wanted[b""].mtime_ns)
            assert found == wanted


def joined_tar(below: Tree, whole: Tree) -> tuple[bytes, list[str]]:
    pieces: list[bytes] = []
    warnings: list[str] = []
    LayerWriter(whole, pieces.append, None, warnings.append).write(joined(below, whole))
    return b"".join(pieces), warnings


LOWER = Layer().directory("./").directory("etc").file("etc/secret", b"s3cret-lower")
LOWER.directory("d").file("d/old", b"old").hard_link("two", "one")
LOWER.file("one", b"1", xattrs={"security.selinux": b"label", "user.x": b"y"})
MIDDLE = Layer().file("etc/.wh.secret").file("token", b"s3cret-middle")
MIDDLE.directory("d").file("d/.wh..wh..opq").file("d/new", b"new")
TOP = Layer().file(".wh.token").hard_link("three", "two").file("etc/motd", b"hello")
TARS = [layer.data() for layer in (LOWER, MIDDLE, TOP)]
HISTORY: list[dict[str, Any]] = [
    {"created_by": "ADD"},
    {"created_by": "ENV", "empty_layer": True},
    {"created_by": "RUN middle", "created": "2020-01-01T00:00:00Z"},
    {"created_by": "RUN top", "comment": "last"},
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_all_layers_have_the_names_that_are_shown_and_no_marks(store: Store) -> None:
    made = squashed(store, put(store, TARS, HISTORY), None)
    (diff_id,) = store.read_image(made).diff_ids
    tar = tar_of_layer(store, diff_id)
    names = ["d", "d/new", "etc", "etc/motd", "one", "three", "two"]
    assert tar.getnames() == [".", *names]
    assert {one.name: one.linkname for one in tar if one.islnk()} == {"three": "one", "two": "one"}
    assert shown(store, made)[b"one"].xattrs == (
        *((b"security.selinux", b"label"), (b"user.x", b"y")),
    )
    assert b"s3cret" not in b"".join(
        file.read() for one in tar if (file := tar.extractfile(one)) is not None
    )


def test_the_topmost_layers_keep_whiteouts_of_what_is_below(store: Store) -> None:
    stored = put(store, TARS, HISTORY)
    made = squashed(store, stored, 2)
    below, diff_id = store.read_image(made).diff_ids
    assert below == store.read_image(stored).diff_ids[0]
    assert tar_of_layer(store, diff_id).getnames() == [
        *(".", "d", "d/.wh..wh..opq", "d/new"),
        *("etc", "etc/.wh.secret", "etc/motd"),
        *("one", "three", "two"),  # a hard link leads to a file of its own layer
    ]


def test_the_history_is_that_of_docker(store: Store) -> None:
    stored = put(store, TARS, HISTORY)
    now = "1970-01-01T00:00:00Z"
    config = config_of(store, squashed(store, stored, None))
    assert config["history"] == [
        *(step | {"empty_layer": True} for step in HISTORY),
        {"created": now, "comment": f"create new from {stored.id}"},
    ]
    assert (config["created"], config["author"]) == (now, "me")
    assert config["config"] == {"Env": ["A=b"]}
    assert "container" not in config
    config = config_of(store, squashed(store, stored, 1))
    below = store.read_image(stored).diff_ids[:2]
    assert config["history"] == [
        *HISTORY[:3],
        HISTORY[3] | {"empty_layer": True},
        {
            "created": now,
            "comment": f"merge {stored.id} to {ImageDocuments.chain_of(below)}",
        },
    ]


def test_layers_without_steps_keep_their_places(store: Store) -> None:
    stored = put(store, TARS, HISTORY[:1])
    made = squashed(store, stored, 1)
    config = config_of(store, made)
    assert [bool(step.get("empty_layer")) for step in config["history"]] == [False] * 3
    assert len(config["rootfs"]["diff_ids"]) == 3


def test_layers_that_change_nothing_leave_no_layer(store: Store) -> None:
    back = Layer().file("x", b"x").data(), Layer().file(".wh.x").data()
    stored = put(store, [TARS[0], *back])
    made = squashed(store, stored, 2)
    assert store.read_image(made).diff_ids == store.read_image(stored).diff_ids[:1]
    assert config_of(store, made)["history"][-1]["empty_layer"] is True


def test_the_same_image_gives_the_same_image(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    made = [squashed(one, put(one, TARS, HISTORY), 2) for one in (store, other)]
    assert made[0].id == made[1].id
    assert made[0].manifest == made[1].manifest


def test_a_squashed_image_can_be_squashed(store: Store) -> None:
    first = squashed(store, put(store, TARS), None)
    second = squashed(store, first, None)
    assert store.read_image(first).diff_ids == store.read_image(second).diff_ids
    more = put(store, [layer_tar(store, first), Layer().file("more", b"1").data()])
    assert shown(store, squashed(store, more, None)) == shown(store, more)


def layer_tar(store: Store, stored: StoredImage) -> bytes:
    (diff_id,) = store.read_image(stored).diff_ids
    fileobj = tar_of_layer(store, diff_id).fileobj
    assert isinstance(fileobj, io.BytesIO)
    return fileobj.getvalue()


def test_128_layers(store: Store) -> None:
    tars = []
    for number in range(128):
        layer = Layer().file(f"f{number}", b"%d" % number).file("same", b"%d" % number)
        if number:
            layer.file(f".wh.f{number - 1}")
        tars.append(layer.data())
    stored = put(store, tars)
    wanted = shown(store, stored)
    assert set(wanted) == {b"", b"f127", b"same"}
    for layers in (None, 127, 64, 1):
        made = squashed(store, stored, layers)
        assert shown(store, made) == wanted
        assert len(store.read_image(made).diff_ids) == (1 if layers is None else 129 - layers)
