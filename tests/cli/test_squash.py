"""``commit --squash`` and ``copy --squash``, beside umoci, buildah and grep."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.backing import backing
from support.compare import Snapshot, differences, snapshot
from support.mounting import CommandLine, is_mounted
from support.programs import run
from support.servers import DockerRegistry

NAME = "example.org/app:1"
SECRET = "s3cr3t-4f7a"


def layers() -> list[Layer]:
    """Three layers: what the later ones remove has the secret."""
    lower = Layer().directory("./").directory("etc").file("etc/key", f"{SECRET} 1".encode())
    lower.file("etc/motd", b"hello\n", mode=0o640, owner=(1000, 1001))
    lower.directory("d").file("d/old", f"{SECRET} 2".encode()).symlink("link", "d")
    lower.file("one", b"1" * 5000, xattrs={"user.x": b"y"}).hard_link("etc/two", "one")
    middle = Layer().file("etc/.wh.key").file("token", f"{SECRET} 3".encode()).directory("d")
    middle.file("d/.wh..wh..opq").file("d/new", b"new").add("fifo", b"6", mode=0o600)
    middle.add("null", b"3", device=(1, 3), mode=0o666)
    top = Layer().file(".wh.token").hard_link("three", "etc/two").file("set", b"", mode=0o4755)
    return [lower, middle, top]


@pytest.fixture
def own(tmp_path: Path) -> CommandLine:
    """A command line with a store of its own, which has an image."""
    cli = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})
    cli.run("load", "-i", docker_archive(tmp_path / "image.tar", layers(), NAME, ["a", "b", "c"]))
    return cli


def layout(cli: CommandLine, image: str, where: Path) -> Path:
    cli.run("copy", image, f"oci:{where}:app")
    return where


def unpacked(layout: Path, where: Path) -> Snapshot:
    run("umoci", "unpack", "--image", f"{layout}:app", where)
    return snapshot(where / "rootfs")


def blobs_with(word: str, directory: Path) -> int:
    """How many files below a directory have the word, as grep counts."""
    done = subprocess.run(
        ["grep", "-rlaF", "--", word, directory], capture_output=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return len(done.stdout.splitlines())


def count(cli: CommandLine, image: str) -> int:
    return len(json.loads(cli.run("layers", "--format", "json", image).stdout))


@pytest.mark.needs("root", "umoci")
@pytest.mark.parametrize("option", ["--squash", "--squash=1", "--squash=2", "--squash=9"])
def test_umoci_unpacks_the_same(own: CommandLine, tmp_path: Path, option: str) -> None:
    wanted = unpacked(layout(own, NAME, tmp_path / "before"), tmp_path / "wanted")
    own.run("copy", option, NAME, "squashed:1")
    found = unpacked(layout(own, "squashed:1", tmp_path / "after"), tmp_path / "found")
    assert differences(wanted, found) == []


@pytest.mark.needs("root", "buildah", "umoci")
def test_buildah_squashes_to_the_same_files(own: CommandLine, tmp_path: Path) -> None:
    before = layout(own, NAME, tmp_path / "before")
    places = ["--root", str(tmp_path / "b"), "--runroot", str(tmp_path / "br")]
    buildah = ["buildah", *places, "--storage-driver", "vfs"]
    box = run(*buildah, "from", "--quiet", f"oci:{before}:app").strip().splitlines()[-1]
    run(*buildah, "commit", "--quiet", "--squash", box, f"oci:{tmp_path}/theirs:app")
    wanted = unpacked(tmp_path / "theirs", tmp_path / "wanted")
    own.run("copy", "--squash", NAME, f"oci:{tmp_path}/ours:app")
    found = unpacked(tmp_path / "ours", tmp_path / "found")

    def excuse(path: bytes, field: str, expected: object, found: object) -> bool:
        """Buildah makes the root anew, cuts times to seconds, and removes names afterwards."""
        if path in (b"", b"etc") and field in ("mtime_ns", "mode"):
            return True
        return field == "mtime_ns" and isinstance(found, int) and expected == found - found % 10**9

    assert differences(wanted, found, excuse) == []


@pytest.mark.needs("skopeo")
def test_a_removed_secret_is_gone_from_all_layers(own: CommandLine, tmp_path: Path) -> None:
    before = layout(own, NAME, tmp_path / "before")
    assert blobs_with(SECRET, before) == 2
    for option, left in (("--squash=2", 1), ("--squash", 0)):
        after = tmp_path / option
        own.run("copy", option, NAME, f"oci:{after}:app")
        assert blobs_with(SECRET, after) == left
        again = tmp_path / f"{option}-again"
        run("skopeo", "copy", "--quiet", f"oci:{after}:app", f"dir:{again}")
        for blob in again.iterdir():  # skopeo may have compressed them
            if blob.read_bytes()[:2] == b"\x1f\x8b":
                blob.write_bytes(gzip.decompress(blob.read_bytes()))
        assert blobs_with(SECRET, again) == left


def test_every_kind_of_source_and_target(own: CommandLine, tmp_path: Path) -> None:
    archive, made = tmp_path / "image.tar", tmp_path / "made"
    made.mkdir()
    (image_id,) = own.run("copy", "--squash", archive, "from-archive:1").stdout.split()
    assert image_id.startswith("sha256:")
    assert count(own, "from-archive:1") == 1
    own.run("copy", "--squash", NAME, f"docker-archive:{made}/a.tar:x:1")
    own.run("copy", "--squash=2", f"docker-archive:{archive}", f"oci-archive:{made}/b.tar")
    own.run("copy", "--squash", f"oci-archive:{made}/b.tar", f"oci:{made}/c")
    listing = own.run("find", NAME, "-type", "f").stdout
    for place, layers in ((f"{made}/a.tar", 1), (f"{made}/b.tar", 2), (f"{made}/c", 1)):
        assert count(own, place) == layers
        assert own.run("find", place, "-type", "f").stdout == listing
    assert own.run("diff", NAME, "from-archive:1").stdout == ""
    own.run("rmi", "from-archive:1")
    assert own.run("check").stdout == ""


@pytest.mark.needs("docker-registry")
def test_a_registry_as_source_and_target(own: CommandLine, tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "registry") as registry:
        name = f"{registry.address}/app"
        own.run("push", "-q", NAME, f"{name}:1")
        (digest,) = own.run(
            "copy", "-q", "--squash", f"docker://{name}:1", f"docker://{name}:flat"
        ).stdout.split()
        own.run("pull", "-q", f"{name}@{digest}")
        own.run("pull", "-q", f"{name}:flat")
        assert count(own, f"{name}:flat") == 1
        assert own.run("diff", NAME, f"{name}:flat").stdout == ""


def test_what_cannot_be_is_said(own: CommandLine, tmp_path: Path) -> None:
    for word in ("0", "-1", "x", "", "1.5", "12345678901"):
        message = own.error("copy", f"--squash={word}", NAME, "x:1", status=2)
        assert "is not a number of layers" in message
    assert "--all" in own.error("copy", "--squash", "--all", NAME, "x:1", status=2)
    assert "--keep-digest" in own.error("copy", "--squash", "--keep-digest", NAME, "x:1", status=2)
    assert "nothing" in own.error("copy", "--squash", "nothing", "x:1")
    assert own.run("images", "-q", "x:1").stdout == ""


def test_the_time_is_that_of_source_date_epoch(own: CommandLine) -> None:
    own.environment["SOURCE_DATE_EPOCH"] = "1600000000"
    first = own.run("copy", "--squash", NAME, "a:1").stdout
    assert own.run("copy", "--squash", NAME, "b:1").stdout == first
    created = own.run("inspect", "--format", "{{.Created}}", "a:1").stdout
    assert created == "2020-09-13T12:26:40Z\n"


@pytest.mark.needs("fuse")
def test_a_container_becomes_one_layer(own: CommandLine, tmp_path: Path) -> None:
    top = tmp_path / "mnt"
    top.mkdir()
    own.run("mount", "--name", "box", NAME, top)
    try:
        (top / "fresh").write_text(f"{SECRET} 4")
        own.run("commit", "box", "plain:1")
        (top / "fresh").unlink()
        (top / "etc/motd").write_bytes(b"changed\n")
        os.link(top / "one", top / "d/four")
        (top / "tmp").mkdir()
        (top / "tmp/left").write_text("out")
        own.run("commit", "--exclude", "/tmp/*", "-c", 'CMD ["x"]', "--squash", "box", "flat:1")
        own.run("commit", "--exclude", "/tmp/*", "-c", 'CMD ["x"]', "box", "stacked:1")
    finally:
        if is_mounted(top):
            own.run("umount", top)
    assert own.run("diff", "stacked:1", "flat:1").stdout == ""
    assert (count(own, "flat:1"), count(own, "stacked:1")) == (1, 4)
    assert own.run("inspect", "--format", "{{.Config.Cmd}}", "flat:1").stdout == "[x]\n"
    assert own.run("find", "flat:1", "-links", "4", "-size", "10b").stdout.split() == [
        *("/d/four", "/etc/two", "/one", "/three")
    ]
    assert blobs_with(SECRET, layout(own, "flat:1", tmp_path / "after")) == 0
    comments = own.run("history", "--format", "{{.CreatedBy}}|{{.Comment}}", "flat:1").stdout
    assert comments.splitlines()[0].startswith("|create new from sha256:")
    assert comments.splitlines()[1].startswith("unionmount commit")
    own.run("rmi", "plain:1", "stacked:1")
    assert own.run("check").stdout == ""


def test_an_interrupted_copy_leaves_nothing(own: CommandLine, tmp_path: Path) -> None:
    big = Layer().file("big", os.urandom(8 << 20))
    for number in range(20_000):
        big.file(f"d{number % 100}/f{number}")
    own.run("load", "-i", docker_archive(tmp_path / "big.tar", [big], "big:1"))
    before = stored(tmp_path / "root")
    words = [sys.executable, "-m", "unionmount", "copy", "--squash", "big:1", "small:1"]
    with subprocess.Popen(
        words, env=own.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        staging = tmp_path / "root/tmp"
        while process.poll() is None and not any(staging.glob("*/layer.tar")):
            pass  # it takes seconds to be written
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode != 0
    assert (out, "Traceback" in err) == ("", False)
    assert stored(tmp_path / "root") == before
    own.run("copy", "--squash", "big:1", "small:1")


def stored(root: Path) -> tuple[list[str], list[str], bytes]:
    """The layers, what is unfinished, and the catalogue."""
    layers = sorted(path.name for path in (root / "layers/sha256").iterdir())
    return layers, [path.name for path in (root / "tmp").iterdir()], catalogue(root)


def catalogue(root: Path) -> bytes:
    return (root / "images.json").read_bytes()


@pytest.mark.needs("root", "backing-tmpfs")
def test_a_full_disk_leaves_nothing(own: CommandLine, tmp_path: Path) -> None:
    big = docker_archive(tmp_path / "big.tar", [Layer().file("big", os.urandom(6 << 20))], "big:1")
    with backing("tmpfs", megabytes=10) as disk:
        cli = CommandLine(environment={"UNIONMOUNT_ROOT": str(disk / "root")})
        cli.run("load", "-i", big)
        before = stored(disk / "root")
        assert "No space left" in cli.error("copy", "--squash", "big:1", "small:1")
        assert stored(disk / "root") == before
        shutil.rmtree(disk / "root")
