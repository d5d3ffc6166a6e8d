"""Mounting what is in a registry: pulled when it is missing, and equal to what umoci unpacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compare import differences, snapshot
from images.build import TOOLS, RealImage, real_image
from mounting import CommandLine, is_mounted

from registry.servers import DockerRegistry, FaultProxy
from registry.transfers import Sender, Skopeo, command_line, image, layer, remote_digest

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "fuse")

SMALL = image(layer("mount", 50_000), layer("mount2"))


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return command_line(tmp_path / "store")


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
    assert sorted(os.listdir(mountpoint / "files")) == ["mount", "mount2"]  # noqa: PTH208
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


def test_an_image_that_is_nowhere(
    cli: CommandLine, registry: DockerRegistry, mountpoint: Path
) -> None:
    name = f"{registry.address}/mount/none:1"
    error = cli.error("mount", name, mountpoint)
    assert error.startswith(f"no image '{name}' in the store; {name}: ")


def test_other_commands_say_how_to_get_it(cli: CommandLine, registry: DockerRegistry) -> None:
    assert "unionmount pull" in cli.error("layers", f"docker://{registry.address}/a:1", status=2)


@pytest.fixture(scope="module")
def real(require: Callable[..., None], request: pytest.FixtureRequest) -> RealImage:
    require("fuse", "root", *TOOLS)
    assert request.config.cache is not None
    cache = os.environ.get("UNIONMOUNT_TEST_IMAGES") or request.config.cache.mkdir("images")
    return real_image(Path(cache))


@pytest.mark.needs("root", *TOOLS)
@pytest.mark.timeout(1800)  # the first run builds the image
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
