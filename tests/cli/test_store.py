"""The store from the shell: rmi, tag, prune, df, check beside live mounts; stores of others."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.killed import daemon_of
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine, is_mounted
from support.users import become_nobody

from unionmount.cli.output import human_size

pytestmark = pytest.mark.needs("fuse")

NAME = "example.org/image:1"


def layer_names(root: Path) -> set[str]:
    return {path.name for path in (root / "layers/sha256").iterdir()}


class Shell:
    """The command line on a store of the test's own."""

    def __init__(self, cli: CommandLine, place: Path) -> None:
        self.cli = cli
        self.root = place / "store"
        self.where = place / "where"
        self.where.mkdir()

    def run(self, *words: str | Path, status: int = 0) -> list[str]:
        """The lines on standard output."""
        return self.cli.run("--root", self.root, *words, status=status).stdout.splitlines()

    def error(self, *words: str | Path) -> str:
        return self.cli.error("--root", self.root, *words)

    def json(self, *words: str) -> Any:
        return json.loads("\n".join(self.run(*words, "--format", "json")))

    def left(self) -> list[Path]:
        """Leases, locks and half done things."""
        return [one for name in ("leases", "locks", "tmp") for one in (self.root / name).iterdir()]


@pytest.fixture
def shell(cli: CommandLine, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(cli, tmp_path)
    yield made
    if is_mounted(made.where):
        cli.run("umount", "--lazy", made.where)


@pytest.fixture
def loaded(shell: Shell, tmp_path: Path) -> Shell:
    """With an image of two layers."""
    lower = Layer().directory("etc").file("etc/motd", b"hello\n")
    upper = Layer().file("new", b"n" * 9999)
    shell.run("load", "-i", docker_archive(tmp_path / "image.tar", [lower, upper], name=NAME))
    return shell


def test_rmi_and_tag(loaded: Shell) -> None:
    (image,) = loaded.json("images")
    loaded.run("tag", NAME, "other:2")
    text = loaded.cli.error("--root", loaded.root, "tag", NAME, "scratch", status=2)
    assert "is the empty image" in text
    assert "use -f to remove it" in loaded.error("rmi", image["id"][7:19])
    assert loaded.run("rmi", "other:2") == ["Untagged: other:2"]
    layers = sorted(layer_names(loaded.root))
    lines = loaded.run("rmi", NAME, "nothing", status=1)
    assert lines[:2] == [f"Untagged: {NAME}", f"Deleted: {image['id']}"]
    assert sorted(lines[2:]) == [f"Deleted: sha256:{layer}" for layer in layers]
    assert loaded.run("images", "-q") == []


def unmount(shell: Shell) -> None:
    """Unmount, and wait for the end of the daemon."""
    with daemon_of(shell.where) as daemon:
        shell.run("umount", shell.where)
        daemon.wait()


MOUNTS = {
    "ro": ("--ro", NAME),
    "ephemeral": ("--ephemeral", NAME),
    "container": ("--name", "mine", NAME),
    "upper": ("--upper", "UPPER", NAME),
    "foreground": ("--ro", NAME),
}


@pytest.mark.parametrize("kind", MOUNTS)
def test_garbage_collection_leaves_a_mount_alone(loaded: Shell, tmp_path: Path, kind: str) -> None:
    layers = layer_names(loaded.root)
    words = [str(tmp_path / "upper") if word == "UPPER" else word for word in MOUNTS[kind]]
    server = None
    if kind == "foreground":
        command = [*COMMAND, "--root", loaded.root, "mount", "-f", *words, loaded.where]
        server = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == os.fsencode(f"{loaded.where}\n")
    else:
        loaded.run("mount", *words, loaded.where)
    for word in (NAME, loaded.json("images")[0]["id"]):
        text = loaded.error("rmi", word)
        assert f"is in use: mounted at {loaded.where}" in text
        assert ("container 'mine'" in text) == (kind == "container")
    assert loaded.run("prune", "-a") == ["Total reclaimed space: 0B"]
    assert loaded.run("rmi", "-f", NAME) == [f"Untagged: {NAME}"]
    assert loaded.run("prune", "-a") == ["Total reclaimed space: 0B"]
    assert layer_names(loaded.root) == layers
    assert (loaded.where / "etc/motd").read_bytes() == b"hello\n"
    assert loaded.run("check") == []
    unmount(loaded)
    if server is not None:
        with server:
            assert server.wait() == 0
    if kind == "container":
        assert loaded.run("prune", "-a") == ["Total reclaimed space: 0B"]
        loaded.run("mount", "mine", loaded.where)
        assert (loaded.where / "new").stat().st_size == 9999
        unmount(loaded)
        loaded.run("rm", "mine")
    loaded.run("prune")
    assert layer_names(loaded.root) == set()
    assert loaded.left() == []


def test_a_killed_daemon_holds_nothing(loaded: Shell) -> None:
    loaded.run("mount", "--ephemeral", NAME, loaded.where)
    with daemon_of(loaded.where) as daemon:
        daemon.kill()
    loaded.run("umount", loaded.where)
    lines = loaded.run("prune", "-a", "--dry-run")
    assert f"Would untag: {NAME}" in lines
    assert any(line.startswith("Would delete: ephemeral container ") for line in lines)
    assert any(line.startswith("Would delete: lease ") for line in lines)
    assert lines[-1].startswith("Total reclaimable space: ")
    assert loaded.run("images", "-q") != []
    for old, new in (("Would untag", "Untagged"), ("Would delete", "Deleted"), ("able", "ed")):
        lines = [line.replace(old, new) for line in lines]
    assert loaded.run("prune", "-a") == lines
    assert layer_names(loaded.root) == set()
    assert loaded.left() == []


def test_layers_that_a_mount_decompressed_go_after_it(shell: Shell, tmp_path: Path) -> None:
    plain = docker_archive(tmp_path / "image.tar", [Layer().file("a", b"1")])
    packed = tmp_path / "image.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    shell.run("mount", "--ro", packed, shell.where)
    assert len(layer_names(shell.root)) == 1
    shell.run("prune", "-a")
    assert len(layer_names(shell.root)) == 1
    assert (shell.where / "a").read_bytes() == b"1"
    unmount(shell)
    shell.run("prune")
    assert layer_names(shell.root) == set()


def test_logs_of_ended_mounts_go(loaded: Shell) -> None:
    logs = Path(os.environ["UNIONMOUNT_RUNTIME_DIR"]) / "mounts"
    loaded.run("mount", "--ro", NAME, loaded.where)
    (live,) = [path.stem for path in logs.glob("*.log") if path.with_suffix(".json").exists()]
    ended = logs / "0123456789ab.log"
    ended.write_text("something went wrong\n")
    assert loaded.run("prune", "--dry-run")[:-1] == [f"Would delete: log {ended.name}"]
    assert ended.exists()
    size = human_size(ended.stat().st_blocks * 512)
    lines = loaded.run("prune")
    assert lines == [f"Deleted: log {ended.name}", f"Total reclaimed space: {size}"]
    assert not ended.exists()
    assert (logs / f"{live}.log").exists()


def test_df(loaded: Shell) -> None:
    loaded.run("mount", "--name", "mine", NAME, loaded.where)
    header, *rows = loaded.run("df")
    assert header.split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    kinds = [row[:16].strip() for row in rows[:5]]
    assert kinds == ["Images", "Containers", "Layers", "Kept blobs", "In-place indexes"]
    assert rows[6].startswith("Layers of images: 0B shared, ")
    by_type = {one["type"]: one for one in loaded.json("df")}
    assert (by_type["Images"]["total"], by_type["Images"]["active"]) == (1, 1)
    assert (by_type["Containers"]["total"], by_type["Containers"]["active"]) == (1, 1)
    assert by_type["Layers"]["size"] == by_type["Sharing"]["unique"] > 0
    lines = loaded.run("df", "--format", "jsonl")
    assert [json.loads(line)["type"] for line in lines] == kinds
    (image,) = loaded.json("df", "-v")
    assert (image["names"], image["containers"]) == ([NAME], ["mine"])
    (row,) = [line for line in loaded.run("df", "-v") if line.startswith(NAME)]
    assert row.split()[-1] == "1"
    loaded.run("umount", loaded.where)
    assert {one["type"]: one for one in loaded.json("df")}["Containers"]["active"] == 0


def test_check_and_repair(loaded: Shell, tmp_path: Path) -> None:
    assert loaded.run("check") == []
    for path in loaded.root.glob("layers/sha256/*/layer.idx"):
        path.unlink()
    assert len(loaded.run("check", status=1)) == 2
    assert all(line.endswith("; rebuilt") for line in loaded.run("check", "--repair"))
    assert loaded.run("check") == []
    for path in sorted(loaded.root.glob("layers/sha256/*/layer.tar"))[:1]:
        path.write_bytes(b"#" * 512 + path.read_bytes()[512:])
    lines = loaded.run("check", "--repair", NAME, status=1)
    assert f"quarantined, needed by image {NAME}" in lines[0]
    assert "--repair is only for images of the store" in loaded.cli.error(
        "--root", loaded.root, "check", "--repair", str(tmp_path / "image.tar"), status=2
    )
    loaded.run("load", "-i", tmp_path / "image.tar")
    assert loaded.run("check") == []
    assert loaded.run("check", NAME) == []


# -- stores of others


@pytest.fixture
def read_only(loaded: Shell, tmp_path: Path) -> Iterator[Path]:
    """A store with an image, on a file system that is read-only."""
    where = tmp_path / "read-only"
    where.mkdir()
    subprocess.run(["mount", "--bind", loaded.root, where], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", where], check=True)
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.mark.needs("root")
def test_a_store_on_a_read_only_file_system(
    cli: CommandLine, read_only: Path, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="Read-only"):
        (read_only / "file").touch()
    own, where = tmp_path / "own", tmp_path / "mnt"
    where.mkdir()
    before = ("--root", own, "--additional-store", read_only)
    (image,) = json.loads(cli.run(*before, "images", "--format", "json").stdout)
    assert f"{image['repository']}:{image['tag']}" == NAME
    after = ("--additional-store", read_only, "--root", own)
    assert cli.run("check", *after, NAME).stdout == ""
    assert len(cli.run("layers", "--format", "jsonl", *after, NAME).stdout.splitlines()) == 2
    for options in (("--ro",), ("--name", "mine")):
        cli.run(*before, "mount", *options, NAME, where)
        try:
            assert (where / "etc/motd").read_bytes() == b"hello\n"
        finally:
            cli.run("umount", where)
    environment = CommandLine(environment={"UNIONMOUNT_ADDITIONAL_STORES": str(read_only)})
    assert environment.run("--root", own, "diff", "mine").stdout == ""
    assert "which is read-only" in environment.error("--root", own, "rmi", NAME)
    environment.run("--root", own, "commit", "mine", "made:1")
    environment.run("--root", own, "rmi", "made:1")
    assert layer_names(own) == set()


@pytest.mark.needs("root")
def test_a_store_of_another_user(cli: CommandLine, loaded: Shell, public_tmp: Path) -> None:
    shared = public_tmp / "shared"
    shutil.copytree(loaded.root, shared)
    subprocess.run(["chmod", "-R", "a+rX,a-w", shared], check=True)
    home = public_tmp / "home"
    home.mkdir()
    home.chmod(0o777)
    nobody = CommandLine(
        become_nobody(),
        environment={
            "HOME": str(home),
            "UNIONMOUNT_ROOT": str(home / "store"),
            "UNIONMOUNT_RUNTIME_DIR": str(home / "run"),
            "UNIONMOUNT_ADDITIONAL_STORES": str(shared),
        },
    )
    (image,) = json.loads(nobody.run("images", "--format", "json").stdout)
    assert f"{image['repository']}:{image['tag']}" == NAME
    assert nobody.run("check", NAME).stdout == ""
    assert len(nobody.run("layers", "--format", "jsonl", NAME).stdout.splitlines()) == 2
    nobody.run("tag", NAME, "mine:1")
    assert layer_names(home / "store") == set()
    nobody.run("rmi", "mine:1")
