"""``docker-overlay2:NAME``: images of a real docker daemon, mounted where they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.container_storage import FIND
from support.docker_daemon import DockerDaemon, docker_daemon
from support.mounting import unmounting
from support.rootless import ordinary_user
from support.running import Runner

pytestmark = pytest.mark.needs("root", "fuse", "dockerd", "docker", "overlayfs", "backing-tmpfs")


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerDaemon]:
    lower = Layer().directory("etc").file("etc/changed", b"old\n").file("etc/gone", b"x")
    lower.directory("closed", mode=0o700, owner=(33, 44)).file(
        "closed/secret", b"s\n", owner=(33, 44)
    )
    lower.directory("hidden").file("hidden/below", b"b").file("etc/kept", b"k")
    lower.hard_link("etc/again", "etc/kept")
    upper = Layer().file("etc/changed", b"new\n", mode=0o4755).file("etc/.wh.gone", b"")
    upper.directory("hidden").file("hidden/.wh..wh..opq", b"").file("hidden/above", b"a\n")
    archive = docker_archive(tmp_path_factory.mktemp("docker") / "image.tar", [lower, upper])
    with docker_daemon() as made:
        made.run("load", "-q", "-i", str(archive))
        yield made


@pytest.fixture
def line(docker: DockerDaemon, tmp_path: Path) -> Iterator[Runner]:
    made = Runner(tmp_path, environment=docker.environment)
    with unmounting(made):
        yield made
        for record in made.records():  # ends also where a namespace of others has the mount, too
            if record["status"] == "live":
                made.run("umount", "--kill", record["id"])
    assert docker.containers() == []


@pytest.fixture
def image(docker: DockerDaemon) -> str:
    (name,) = docker.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    return f"docker-overlay2:[{docker.data}]{name}"


def test_files_are_those_of_docker(
    docker: DockerDaemon, line: Runner, image: str, tmp_path: Path
) -> None:
    """The oracle is the kernel's overlayfs of the directories that docker names, in its order."""
    line.output("mount", "--ro", "--mkdir", image, tmp_path / "mnt")
    name = image.rpartition("]")[2]
    graph = json.loads(docker.run("image", "inspect", name))[0]["GraphDriver"]["Data"]
    lowers = ":".join([graph["UpperDir"], graph["LowerDir"]])
    (tmp_path / "kernel").mkdir()
    overlay = f"mount -t overlay -o ro,lowerdir={lowers} overlay kernel; cd kernel; {FIND}"
    oracle = ["unshare", "-m", "bash", "-c", overlay]
    theirs = subprocess.run(oracle, cwd=tmp_path, capture_output=True, check=True).stdout
    ours = subprocess.run(
        ["bash", "-c", FIND], cwd=tmp_path / "mnt", capture_output=True, check=True
    ).stdout
    assert b"closed/secret f" in ours
    assert ours.splitlines() == theirs.splitlines()


def test_docker_keeps_what_is_mounted(
    docker: DockerDaemon, line: Runner, image: str, tmp_path: Path
) -> None:
    place, name = tmp_path / "mnt", image.rpartition("]")[2]
    line.output("mount", "--name", "work", "--mkdir", image, place)
    (hold,) = docker.containers()
    assert line.record(place)["hold"] == f"docker container {hold}"
    refused = docker.call("rmi", name)
    assert refused.returncode
    assert "is using its referenced image" in refused.stderr
    docker.run("image", "prune", "-af")
    (place / "etc/changed").write_text("mine\n")
    line.output("umount", place)
    assert docker.containers() == []
    assert line.output("cat", "work:/etc/changed") == "mine\n"


def test_names_and_ids(docker: DockerDaemon, line: Runner, image: str) -> None:
    begin, _, name = image.rpartition("]")
    known = json.loads(docker.run("image", "inspect", name))[0]
    for word in (name, known["Id"], known["Id"].removeprefix("sha256:")[:12]):
        (shown,) = json.loads(line.output("inspect", f"{begin}]{word}"))
        assert shown["Id"] == known["Id"]
        assert shown["RootFS"]["Layers"] == known["RootFS"]["Layers"]
    assert "no such image" in line.error("ls", f"{begin}]nothing")


def test_it_is_loaded(docker: DockerDaemon, line: Runner, image: str) -> None:
    """The layers are made again: the image has docker's ID, and the digests that docker has."""
    name = image.rpartition("]")[2]
    known = json.loads(docker.run("image", "inspect", name))[0]
    line.output("load", image)
    (shown,) = json.loads(line.output("inspect", name))
    assert (shown["Id"], shown["RootFS"]) == (known["Id"], known["RootFS"])
    assert line.output("which", name, "/etc/changed").splitlines()
    assert line.output("check") == ""


def test_mapped_owners_are_not_shown(line: Runner, image: str, tmp_path: Path) -> None:
    """Docker keeps images in a directory ``UID.GID`` if it maps their owners (userns-remap)."""
    begin, _, name = image.rpartition("]")
    (tmp_path / "100000.100000").symlink_to(begin.partition("[")[2])
    word = f"docker-overlay2:[{tmp_path}/100000.100000]{name}"
    assert "owners" in line.error("ls", word)
    line.output("load", word)
    assert line.output("find", name, "-uid", "33", "-name", "closed") == "/closed\n"


def test_another_daemon_holds_nothing(line: Runner, image: str, tmp_path: Path) -> None:
    line.environment["DOCKER_HOST"] = f"unix://{tmp_path}/socket"
    done = line.run("mount", "--ro", "--mkdir", image, tmp_path / "mnt")
    assert "no docker is installed that reaches the daemon" in done.stderr
    assert line.record(tmp_path / "mnt")["hold"] == ""


def test_containerds_store_is_recognised(line: Runner, tmp_path: Path) -> None:
    root = tmp_path / "docker"
    store = root / "containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots"
    (store / "1").mkdir(parents=True)
    message = line.error("ls", f"docker-overlay2:[{root}]nginx")
    assert "containerd" in message
    assert "unionmount load docker-daemon:" in message
    assert os.listdir(root) == ["containerd"]


@pytest.mark.needs("ordinary-user")
def test_what_only_root_may_look_into_is_no_reason(public_tmp: Path) -> None:
    """The message is about the image, not about containerd's directory."""
    with ordinary_user(public_tmp, ranges=False) as user:
        root = public_tmp / "home/docker"
        closed = root / "containerd/daemon/io.containerd.snapshotter.v1.overlayfs"
        closed.mkdir(parents=True)
        closed.chmod(0o700)
        message = user.error("ls", f"docker-overlay2:[{root}]nginx")
        assert "repositories.json: does not exist" in message
