"""``load`` and ``copy`` of images in podman's store: their layers are made again, byte for byte.

The oracle is the image from which skopeo filled the store: its manifest and the tars of its layers,
of all kinds that tar writers make. containers/storage's own oracle of policies is skopeo.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer
from support.container_storage import PodmanStore, podman_store
from support.image_files import MadeImage, gzipped, oci_layout, write_directory
from support.mounting import unmounting
from support.running import Runner

pytestmark = pytest.mark.needs("root", "podman", "skopeo")

NAME = "example.org/odd:1"
SOURCE = f"containers-storage:{NAME}"


def odd_layers() -> tuple[bytes, ...]:
    """Tars with names, padding and members of many kinds."""
    first = Layer().directory("usr").directory("usr/lib").symlink("lib", "usr/lib")
    first.file("lib/through-link", b"through a link\n").symlink("abs", "/usr/lib")
    first.file("abs/through-absolute", b"absolute\n").file("./usr/./dotted", b"dotted")
    first.file("/slash", b"slash").file("caf\udce9", b"latin-1").file("n\u00e9", b"utf-8")
    first.file("long/" * 30 + "name", b"deep" * 3000).file("empty").hard_link("again", "slash")
    first.file("line\nbreak", b"x" * 511).file("large", os.urandom(3_000_000))
    first.file("attributed", b"a", xattrs={"user.note": b"1"}, owner=(33, 44), mode=0o600)
    first.add("pipe", tarfile.FIFOTYPE)
    plain = first.data()
    second = Layer().file(".wh.large").file("usr/.wh..wh..opq").file("usr/new", b"n" * 512).data()
    return plain + b"\0" * 20480 + b"what follows the end", second, Layer().data()


@pytest.fixture(scope="module")
def made() -> MadeImage:
    return MadeImage(odd_layers(), names=("t",))


@pytest.fixture(scope="module")
def store(made: MadeImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodmanStore]:
    layout = tmp_path_factory.mktemp("layout") / "oci"
    write_directory(layout, oci_layout(made, compress=gzipped))
    with podman_store() as filled:
        filled.run("skopeo", "copy", "-q", f"oci:{layout}:t", SOURCE)
        yield filled


@pytest.fixture
def line(store: PodmanStore, tmp_path: Path) -> Iterator[Runner]:
    home = tmp_path / "home"
    home.mkdir()
    made = Runner(tmp_path, environment=store.environment | {"HOME": str(home)})
    with unmounting(made):
        yield made


def layers_of(line: Runner) -> list[Path]:
    return sorted((line.store / "layers/sha256").glob("*/layer.tar"))


def record_of(store: PodmanStore, made: MadeImage, number: int) -> Path:
    """The file from which a layer is made again."""
    listed = json.loads((store.top / "g/overlay-layers/layers.json").read_text())
    (found,) = [one["id"] for one in listed if one["diff-digest"] == made.diff_ids[number]]
    return store.top / f"g/overlay-layers/{found}.tar-split.gz"


class TestLoad:
    def test_it_is_the_image_that_was_stored(
        self, store: PodmanStore, line: Runner, made: MadeImage
    ) -> None:
        assert line.output("load", SOURCE) == f"Loaded image: {NAME}\n"
        (shown,) = json.loads(line.output("inspect", NAME))
        assert (shown["Id"], shown["RootFS"]["Layers"]) == (made.id, made.diff_ids)
        contents = {path.read_bytes() for path in layers_of(line)}
        assert contents == set(made.layers)
        raw = store.run("skopeo", "inspect", "--raw", SOURCE)
        manifests = [path.read_text() for path in (line.store / "blobs/sha256").iterdir()]
        assert raw in manifests
        assert line.output("check") == ""

    @pytest.mark.parametrize("word", ["ID", "@ID", "odd"])
    def test_words(self, line: Runner, made: MadeImage, word: str) -> None:
        short = made.id.removeprefix("sha256:")[:12]
        if word == "odd":  # no name of a registry is searched
            assert "no such image" in line.error("load", "containers-storage:odd")
            return
        done = line.output("load", f"containers-storage:{word.replace('ID', short)}")
        assert done == f"Loaded image ID: {made.id}\n"

    def test_what_needs_layers_works_then(self, line: Runner) -> None:
        for words in (["which", SOURCE, "/slash"], ["find", "--all-layers", SOURCE]):
            assert f"unionmount load {SOURCE}" in line.error(*words, status=2)
        line.output("load", SOURCE)
        assert line.output("which", NAME, "/usr/new").splitlines()
        assert b"/large" in line.call("find", "--all-layers", NAME).stdout

    @pytest.mark.parametrize(
        ("target", "ref"), [("oci", ":t"), ("docker-archive", ":example.org/x:1"), ("dir", "")]
    )
    def test_copy(
        self,
        store: PodmanStore,
        line: Runner,
        made: MadeImage,
        tmp_path: Path,
        target: str,
        ref: str,
    ) -> None:
        place = f"{target}:{tmp_path / 'out'}{ref}"
        line.run("copy", SOURCE, place)
        theirs = json.loads(store.run("skopeo", "inspect", "--config", place))
        assert theirs["rootfs"]["diff_ids"] == made.diff_ids
        assert line.output("images", "-q") == ""

    @pytest.mark.parametrize("origin", [SOURCE, NAME])
    @pytest.mark.parametrize("kind", ["oci", "oci-archive", "dir", "docker-archive"])
    def test_a_digest_that_would_change_is_an_error(
        self, line: Runner, tmp_path: Path, origin: str, kind: str
    ) -> None:
        """The manifest has compressed layers, and neither store has these."""
        line.output("load", SOURCE)
        place = tmp_path / "out"
        message = line.error("copy", "--keep-digest", origin, f"{kind}:{place}", status=2)
        assert "--keep-digest" in message
        assert not place.exists()

    def test_a_digest_that_stays_is_none(
        self, store: PodmanStore, line: Runner, made: MadeImage, tmp_path: Path
    ) -> None:
        layout = write_directory(tmp_path / "oci", oci_layout(made))
        line.run("load", layout)
        line.output("copy", "--keep-digest", made.id, f"oci:{tmp_path / 'out'}:t")
        raw = [
            store.run("skopeo", "inspect", "--raw", f"oci:{one}:t")
            for one in (layout, tmp_path / "out")
        ]
        assert raw[0] == raw[1]

    def test_other_platforms(self, line: Runner) -> None:
        assert "is for linux/amd64" in line.error("load", "--platform", "linux/arm64", SOURCE)

    @pytest.mark.parametrize("command", ["pull", "push", "save", "run --pull always"])
    def test_no_registry_is_asked_for_it(self, line: Runner, command: str) -> None:
        words = command.split()
        if "run" in words:
            assert "/bin/sh" in line.error(*words, SOURCE, status=127)
        else:
            message = line.error(*words, SOURCE, status=2 if command == "pull" else 1)
            assert f"unionmount load {SOURCE}" in message

    def test_vfs(self, line: Runner, made: MadeImage, tmp_path: Path) -> None:
        layout = write_directory(tmp_path / "oci", oci_layout(made))
        with podman_store("vfs") as store:
            store.run("skopeo", "copy", "-q", f"oci:{layout}:t", SOURCE)
            line.environment |= store.environment
            line.output("load", SOURCE)
        assert {path.read_bytes() for path in layers_of(line)} == set(made.layers)


class TestPolicy:
    """skopeo accepts and refuses the same, with the same policy.json."""

    @pytest.mark.parametrize(
        "scope",
        [
            "",
            "[overlay@TOP/g]",
            "[TOP/g]",
            "[overlay@TOP/g]example.org",
            "[overlay@TOP/g]example.org/odd",
            "[overlay@TOP/g]example.org/odd:1",
            "[overlay@TOP/g]example.org/odd:2",
            "[overlay@TOP/g]example.com",
            "[vfs@TOP/g]",
        ],
    )
    @pytest.mark.parametrize("by_id", [False, True], ids=["name", "id"])
    def test_scopes(
        self,
        store: PodmanStore,
        line: Runner,
        made: MadeImage,
        tmp_path: Path,
        scope: str,
        by_id: bool,
    ) -> None:
        scope = scope.replace("TOP", str(store.top))
        accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
        policy = {"default": accept, "transports": {"containers-storage": {scope: reject}}}
        path = tmp_path / "home/.config/containers/policy.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(policy))
        source = f"containers-storage:@{made.id[7:]}" if by_id else SOURCE
        words = ["skopeo", "--policy", str(path), "copy", "-q", source, f"dir:{tmp_path / 'out'}"]
        theirs = store.call(*words)
        ours = line.call("load", source)
        # skopeo fails on the layers in any case, as it does not follow absolute symlinks in them.
        assert (ours.returncode != 0) == ("rejected by policy" in theirs.stderr), theirs.stderr
        if ours.returncode:
            assert b"refused by" in ours.stderr
            assert layers_of(line) == []


Entries = list[dict[str, Any]]


def emptied(_: Entries) -> Entries:
    return []


def named(name: str, size: int) -> Callable[[Entries], Entries]:
    def change(entries: Entries) -> Entries:
        one = {"type": 1, "name": name, "size": size, "payload": "", "position": 0}
        return [one, *entries]

    return change


def replaced(**fields: Any) -> Callable[[Entries], Entries]:
    return lambda entries: [one | fields for one in entries]


class TestDamage:
    """What is not as it was is an error of one line, and the store gets no layer of it."""

    @pytest.fixture(autouse=True)
    def restored(self, store: PodmanStore, made: MadeImage) -> Iterator[None]:
        self.record = record_of(store, made, 0)
        raw = self.record.read_bytes()
        yield
        self.record.unlink(missing_ok=True)
        self.record.write_bytes(raw)

    def refused(self, line: Runner, made: MadeImage, *texts: str) -> None:
        message = line.error("load", SOURCE)
        assert any(text in message for text in texts), message
        missing = made.diff_ids[0].removeprefix("sha256:")
        assert missing not in {path.parent.name for path in layers_of(line)}
        assert line.output("images", "-q") == ""

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (emptied, "digest"),
            (named("../../../../../../../../etc/passwd", 10), "missing"),
            (named("/etc/passwd", 10), "missing"),
            (named("slash", 1 << 62), "bytes in the tar"),
            (named("slash", 5), "checksum"),
            (named("slash", -5), "size"),
            (named("usr", 5), "a directory"),
            (named("pipe", 5), "a FIFO"),
            (named("x\0y", 5), "missing"),
            (named("a" * 5000, 5), "name"),
            (replaced(type=3), "neither bytes nor a file"),
            (replaced(type=None), "neither bytes nor a file"),
            (replaced(type=2, payload="*"), "base64"),
            (replaced(type=2, payload=7), "base64"),
            (replaced(type=1, name=7, name_raw="", size=1), "without a name"),
            (replaced(type=1, name_raw="*", size=1), "base64"),
            (replaced(type=1, size="1"), "size"),
            (replaced(type=1, size=True), "size"),
        ],
    )
    def test_records(
        self, line: Runner, made: MadeImage, change: Callable[[Entries], Entries], text: str
    ) -> None:
        entries = [
            json.loads(one) for one in gzip.decompress(self.record.read_bytes()).split(b"\n")[:-1]
        ]
        lines = b"".join(json.dumps(one).encode() + b"\n" for one in change(entries))
        self.record.write_bytes(gzip.compress(lines))
        self.refused(line, made, text)

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_raw_records(self, line: Runner, made: MadeImage, number: int) -> None:
        raw = self.record.read_bytes()
        damaged = [b"", raw[:-9], gzip.compress(b"[" * 100_000 + b"\n[]\n\xff\n")]
        self.record.write_bytes(damaged[number])
        self.refused(line, made, "digest", "truncated", "JSON")

    def test_a_line_without_end(self, line: Runner, made: MadeImage) -> None:
        with gzip.open(self.record, "wb") as file:
            for _ in range(64):
                file.write(b"x" * 1024 * 1024)
        self.refused(line, made, "more than")

    @pytest.mark.parametrize("kind", ["missing", "fifo", "directory"])
    def test_no_record(self, line: Runner, made: MadeImage, kind: str) -> None:
        self.record.unlink()
        if kind == "fifo":
            os.mkfifo(self.record)
        elif kind == "directory":
            self.record.mkdir()
        self.refused(line, made, "podman save", "a FIFO", "a directory")
        if kind == "directory":
            self.record.rmdir()

    @pytest.mark.parametrize("change", ["content", "longer", "gone", "symlink", "fifo"])
    def test_files(self, store: PodmanStore, line: Runner, made: MadeImage, change: str) -> None:
        listed = json.loads((store.top / "g/overlay-layers/layers.json").read_text())
        (layer,) = [one["id"] for one in listed if one["diff-digest"] == made.diff_ids[0]]
        file = store.top / f"g/overlay/{layer}/diff/usr/dotted"
        before = file.read_bytes()
        try:
            if change == "content":
                file.write_bytes(b"DOTTED")
            elif change == "longer":
                file.write_bytes(b"dotted and more")
            else:
                file.unlink()
            if change == "symlink":
                file.symlink_to("/etc/hostname")  # of the image, which has none
            elif change == "fifo":
                os.mkfifo(file)
            self.refused(line, made, "made again from its files", "bytes in the tar", "a FIFO")
        finally:
            file.unlink(missing_ok=True)
            file.write_bytes(before)


def test_a_name_that_is_no_text_is_raw(store: PodmanStore, made: MadeImage) -> None:
    """The image has what it is for: tar-split writes such names in a field of their own."""
    lines = gzip.decompress(record_of(store, made, 0).read_bytes()).split(b"\n")[:-1]
    raw = [base64.b64decode(found) for one in lines if (found := json.loads(one).get("name_raw"))]
    assert raw == [b"caf\xe9"]
