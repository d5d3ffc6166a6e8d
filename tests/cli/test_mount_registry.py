"""Mounting what is in a registry: pulled when it is missing, and equal to what umoci unpacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import Commands
from support.compare import differences, snapshot
from support.image_files import MadeImage
from support.mounting import CommandLine, is_mounted
from support.real_images import RealImage
from support.servers import DockerRegistry, FaultProxy
from support.transfers import (
    Sender,
    Skopeo,
    command_line,
    image,
    layer,
    manifest_digest,
    remote_digest,
)

from unionmount.images.platform import Platform

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "fuse")

SMALL = image(layer("mount", 50_000), layer("mount2"))


@pytest.fixture
def cli(tmp_path: Path, server: Commands) -> CommandLine:
    return command_line(tmp_path / "store", server)


@pytest.fixture
def mountpoint(cli: CommandLine, tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "mnt"
    where.mkdir()
    yield where
    if is_mounted(where):
        cli.run("umount", "--lazy", where)


def test_a_missing_image_is_pulled(
    cli: CommandLine, proxy: FaultProxy, sender: Sender, mountpoint: Path
) -> None:
    name = sender.send(SMALL, proxy, "mount/small:1")
    error = cli.error("mount", "--ro", "--pull", "never", name, mountpoint)
    assert error == f"no image '{name}' in the store"
    proxy.reset()
    done = cli.run("mount", "--ro", name, mountpoint)
    assert (done.stdout, done.stderr) == (f"{mountpoint}\n", "")
    assert sorted(os.listdir(mountpoint / "files")) == ["mount", "mount2"]
    assert cli.record(mountpoint)["image"] == name
    cli.run("umount", mountpoint)
    proxy.reset()
    cli.run("mount", "--ro", name, mountpoint)
    cli.run("umount", mountpoint)
    assert proxy.seen == []
    cli.run("mount", "--pull", "always", "--name", "box", f"docker://{name}", mountpoint)
    assert [one.kind for one in proxy.seen if one.kind in ("manifest", "blob")] == ["manifest"]
    cli.run("umount", mountpoint)
    proxy.reset()
    cli.run("mount", "box", mountpoint)
    assert proxy.seen == []


HOST = Platform.host().architecture
FOREIGN = "s390x" if HOST != "s390x" else "riscv64"


def versions(number: str) -> dict[str, MadeImage]:
    """An image for this machine and for another one."""
    return {
        f"linux/{one}": image(layer(f"{one}-{number}"), architecture=one) for one in (HOST, FOREIGN)
    }


def meaning(cli: CommandLine, name: str) -> str:
    """The ID of the image that a name means in the store."""
    return cli.run("inspect", "-f", "{{.Id}}", name).stdout.strip()


def test_looking_at_another_platform_moves_no_name(
    cli: CommandLine,
    registry: DockerRegistry,
    proxy: FaultProxy,
    sender: Sender,
    mountpoint: Path,
) -> None:
    old, foreign = versions("old"), ("--platform", f"linux/{FOREIGN}")
    sender.send_index(old, registry, "mount/many:1")
    name = f"{proxy.address}/mount/many:1"
    assert cli.run("mount", "--ro", name, mountpoint).stderr == ""
    cli.run("umount", mountpoint)

    def look(*options: str, made: dict[str, MadeImage], number: str) -> None:
        done = cli.run("mount", *options, *foreign, name, mountpoint)
        assert done.stderr.count(f"linux/{FOREIGN} and this machine is linux/{HOST}") == 1
        assert done.stderr.count("warning") == 1
        assert os.listdir(mountpoint / "files") == [f"{FOREIGN}-{number}"]
        source = cli.record(mountpoint)["source"]
        assert source == made[f"linux/{FOREIGN}"].id
        cli.run("umount", mountpoint)
        assert meaning(cli, name) == old[f"linux/{HOST}"].id

    look("--ro", made=old, number="old")
    proxy.reset()
    # it is of the index that the name came from, so it is the same version
    look("--ro", "--pull", "never", made=old, number="old")
    look("--ephemeral", made=old, number="old")
    listed = cli.run("ls", *foreign, f"{name}:/files").stdout
    assert listed == f"{FOREIGN}-old\n"
    assert proxy.seen == []
    new = versions("new")
    sender.send_index(new, registry, "mount/many:1")
    look("--ro", "--pull", "always", made=new, number="new")
    look("--name", "box", "--pull", "always", made=new, number="new")
    done = cli.run("mount", "box", mountpoint)
    assert done.stderr.count("warning") == 1
    cli.run("umount", mountpoint)
    assert cli.run("mount", "--ro", name, mountpoint).stderr == ""
    assert os.listdir(mountpoint / "files") == [f"{HOST}-old"]


def test_a_name_that_means_nothing_yet_is_given(
    cli: CommandLine, registry: DockerRegistry, sender: Sender, mountpoint: Path
) -> None:
    made = versions("first")
    sender.send_index(made, registry, "mount/first:1")
    name, foreign = f"{registry.address}/mount/first:1", f"linux/{FOREIGN}"
    cli.run("mount", "--ro", "--platform", foreign, name, mountpoint)
    cli.run("umount", mountpoint)
    assert meaning(cli, name) == made[foreign].id
    # pull is what moves names, and says what is foreign, too
    cli.run("pull", name)
    assert meaning(cli, name) == made[f"linux/{HOST}"].id
    done = cli.run("pull", "--platform", foreign, name)
    assert (done.stdout, done.stderr.count("warning")) == (f"{made[foreign].id}\n", 1)
    assert meaning(cli, name) == made[foreign].id
    assert cli.run("pull", "-q", "--platform", foreign, name).stderr == ""


def test_a_digest_of_one_platform_is_not_another(
    cli: CommandLine, registry: DockerRegistry, sender: Sender, mountpoint: Path
) -> None:
    made = versions("digest")
    sender.send_index(made, registry, "mount/digest:1")
    for platform in made:
        cli.run("pull", "--platform", platform, f"{registry.address}/mount/digest:1")
    digest = manifest_digest(made[f"linux/{HOST}"])
    name = f"{registry.address}/mount/digest@{digest}"
    cli.run("pull", name)
    error = cli.error("ls", "--platform", f"linux/{FOREIGN}", name)
    assert error == f"image '{name}' is for linux/{HOST}, not linux/{FOREIGN}"
    error = cli.error("ls", "--platform", f"linux/{FOREIGN}", made[f"linux/{HOST}"].id)
    assert error.endswith(f"is for linux/{HOST}, not linux/{FOREIGN}")


def test_an_image_that_is_nowhere(
    cli: CommandLine, registry: DockerRegistry, mountpoint: Path
) -> None:
    name = f"{registry.address}/mount/none:1"
    error = cli.error("mount", name, mountpoint)
    assert error.startswith(f"no image '{name}' in the store; {name}: ")


def test_other_commands_say_how_to_get_it(cli: CommandLine, registry: DockerRegistry) -> None:
    assert "unionmount pull" in cli.error("ls", f"docker://{registry.address}/a:1", status=2)


@pytest.mark.parametrize("form", ["oci-gzip", "oci-zstd"])
def test_a_real_image_is_what_umoci_unpacked(
    form: str,
    cli: CommandLine,
    real: RealImage,
    registry: DockerRegistry,
    skopeo: Skopeo,
    mountpoint: Path,
) -> None:
    name = f"{registry.address}/mount/{form}:1"
    skopeo("copy", "--dest-tls-verify=false", real.sources()[form], f"docker://{name}")
    cli.run("mount", "--ro", name, mountpoint)
    wanted = snapshot(real.reference(form))
    assert len(wanted) > 5000
    assert differences(wanted, snapshot(mountpoint)) == []
    cli.run("umount", mountpoint)
    back = f"{registry.address}/mount/{form}-back:1"
    assert cli.run("push", name, back).stdout == f"{remote_digest(skopeo, name)}\n"
    assert remote_digest(skopeo, back) == remote_digest(skopeo, name)
