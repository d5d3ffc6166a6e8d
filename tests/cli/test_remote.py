"""inspect, history, layers and tags of images in a registry: by manifest and config alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from registry.test_authorization import certs
from support.commands import Commands
from support.image_files import MadeImage, tar
from support.mounting import COMMAND, CommandLine
from support.registry_fixtures import PASSWORD, USER
from support.servers import Authority, DockerRegistry, FaultProxy, TokenServer
from support.servers.proxy import Reply
from support.terminal import Terminal
from support.transfers import Sender, blobs_of, command_line, image, layer, manifest

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "htpasswd", "openssl")

Skopeo = Callable[..., str]
_COMMANDS = ("inspect", "history", "layers")
_GET = re.compile(r"http\.request\.method=GET .*?http\.request\.uri=\"?([^\s\"]+)")


@pytest.fixture
def own(tmp_path: Path, server: Commands) -> CommandLine:
    return command_line(tmp_path / "store", server)


def made() -> MadeImage:
    return image(layer("one", 5000), layer("two", 3000))


def complaint(own: CommandLine, command: str, *words: str | Path, status: int = 1) -> str:
    """The one line that a command says when it fails; inspect prints an empty list, as docker."""
    done = own.run(command, *words, status=status)
    assert done.stdout == ("[]\n" if command == "inspect" else "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def nothing_was_pulled(tmp_path: Path) -> bool:
    store = tmp_path / "store"
    return not [path for path in store.rglob("*") if path.is_file() and path.stat().st_size > 2000]


def test_no_layer_is_requested(
    start_registry: Callable[..., DockerRegistry], sender: Sender, own: CommandLine, tmp_path: Path
) -> None:
    """By the access log of the registry itself; pull is the control."""
    running = start_registry()
    name = sender.send(made(), running, "look/app:1")
    for command in _COMMANDS:
        own.run(command, f"docker://{name}", "--tls-verify", "false")
        own.run(command, "--remote", name, "--tls-verify", "false")
    own.run("inspect", "--raw", f"docker://{name}")
    own.run("inspect", "--config", f"docker://{name}")
    own.run("tags", f"docker://{name.rpartition(':')[0]}")
    assert nothing_was_pulled(tmp_path)
    other = sender.send(image(layer("three", 4000)), running, "look/control:1")
    own.run("pull", other)
    running.stop()  # the log is complete then
    asked = _GET.findall(running.log())
    assert sum("/manifests/1" in one for one in asked) >= 8
    assert sum("/blobs/" in one for one in asked) >= 8  # configs
    for digest in blobs_of(made()):
        assert not [one for one in asked if digest in one]
    assert [one for one in asked if blobs_of(image(layer("three", 4000)))[0] in one]


def test_what_is_shown_is_what_a_pull_shows(
    registry: DockerRegistry, sender: Sender, own: CommandLine
) -> None:
    name = sender.send(made(), registry, "look/same:1")
    (remote,) = json.loads(own.run("inspect", f"docker://{name}").stdout)
    raw = own.run("inspect", "--raw", f"docker://{name}").stdout
    steps = json.loads(own.run("history", "--remote", name, "--format", "json").stdout)
    rows = json.loads(own.run("layers", "--remote", name, "--format", "json").stdout)
    own.run("pull", name)
    (local,) = json.loads(own.run("inspect", name).stdout)
    different = {key for key in local if local[key] != remote[key]}
    assert different <= {"Size", "Layers", "Metadata"}
    assert list(remote) == list(local)
    assert raw == own.run("inspect", "--raw", name).stdout == manifest(made()).decode()
    described = json.loads(raw)["layers"]
    assert remote["Size"] == sum(one["size"] for one in described)
    assert [one["Digest"] for one in remote["Layers"]] == [one["digest"] for one in described]
    assert [one["digest"] for one in rows] == [one["digest"] for one in described]
    assert [one["compressed_size"] for one in rows] == [one["size"] for one in described]
    pulled = json.loads(own.run("layers", name, "--format", "json").stdout)
    for far, near in zip(rows, pulled, strict=True):
        assert far.keys() > near.keys()
        for key in ("layer", "diff_id", "created", "created_by"):
            assert far[key] == near[key]
        assert far["wasted"] is None
    near_steps = json.loads(own.run("history", name, "--format", "json").stdout)
    assert [one | {"size": 0} for one in steps] == [one | {"size": 0} for one in near_steps]


def test_the_table_of_layers_says_what_it_does_not_know(
    registry: DockerRegistry, sender: Sender, own: CommandLine
) -> None:
    name = sender.send(made(), registry, "look/table:1")
    header, *rows = own.run("layers", f"docker://{name}").stdout.splitlines()
    assert header.split()[:4] == ["LAYER", "DIGEST", "SIZE", "ADDED"]
    for number, (row, digest) in enumerate(zip(rows, blobs_of(made()), strict=True)):
        words = row.split()
        assert words[:2] == [str(number), digest.removeprefix("sha256:")[:12]]
        assert words[3:7] == ["-"] * 4
    full = own.run("layers", "--no-trunc", f"docker://{name}").stdout
    assert all(digest in full for digest in blobs_of(made()))
    words = [*own.prefix, *COMMAND, "layers", "--no-trunc", f"docker://{name}"]
    terminal = Terminal(words, own.environment | {"COLUMNS": "40"})
    assert terminal.wait() == 0
    assert all(digest.encode() in terminal.shown for digest in blobs_of(made()))


def test_platforms(registry: DockerRegistry, sender: Sender, own: CommandLine) -> None:
    """Skopeo tells the config of each platform."""
    images = {
        "linux/amd64": MadeImage((layer("intel"),), names=("one",)),
        "linux/arm64/v8": MadeImage((layer("arm"),), names=("one",), architecture="arm64"),
    }
    digest = sender.send_index(images, registry, "look/many:1")
    name = f"docker://{registry.address}/look/many:1"
    for platform, wanted in images.items():
        (found,) = json.loads(own.run("inspect", "--platform", platform, name).stdout)
        assert found["Id"] == wanted.id
        assert found["RepoDigests"] == [f"{registry.address}/look/many@{digest}"]
        (row,) = json.loads(own.run("layers", "--platform", platform, name, "--format=json").stdout)
        assert row["diff_id"] == wanted.diff_ids[0]
        own.run("history", "--platform", platform, name)
    by_digest = f"docker://{registry.address}/look/many@{digest}"
    (found,) = json.loads(own.run("inspect", "--platform", "linux/arm64", by_digest).stdout)
    assert found["RepoTags"] == []
    for command in _COMMANDS:
        error = complaint(own, command, "--platform", "linux/s390x", name)
        assert "no image for platform linux/s390x (it has linux/amd64, linux/arm64)" in error


def test_authorization(
    tls_registry: DockerRegistry,
    authority: Authority,
    own: CommandLine,
    tmp_path: Path,
    skopeo: Skopeo,
    sender: Sender,
) -> None:
    name = f"{tls_registry.address}/look/secret:1"
    trusted = certs(tmp_path / "certs", authority)
    creds = f"{USER}:{PASSWORD}"
    layout = sender.layout(made())
    skopeo("copy", "--dest-creds", creds, "--dest-cert-dir", trusted, layout, f"docker://{name}")
    for command in _COMMANDS:
        assert "401" in complaint(own, command, "--cert-dir", trusted, f"docker://{name}")
        own.run(command, "--cert-dir", trusted, "--creds", creds, f"docker://{name}")
        wrong = complaint(own, command, "--cert-dir", trusted, "--creds", "a:b", f"docker://{name}")
        assert "b" not in wrong.split()
        assert "certificate" in complaint(own, command, "--creds", creds, f"docker://{name}")


def test_tokens(
    token_registry: DockerRegistry,
    token_server: TokenServer,
    own: CommandLine,
    skopeo: Skopeo,
    sender: Sender,
) -> None:
    name, creds = f"docker://{token_registry.address}/look/token:1", f"{USER}:{PASSWORD}"
    layout = sender.layout(made())
    skopeo("copy", "--dest-creds", creds, "--dest-tls-verify=false", layout, name)
    for command in _COMMANDS:
        own.run(command, "--creds", creds, name)


def test_what_is_not_there(registry: DockerRegistry, own: CommandLine) -> None:
    for command in _COMMANDS:
        assert "404" in complaint(own, command, f"docker://{registry.address}/look/none:1")
        assert "127.0.0.1:9" in complaint(own, command, "docker://127.0.0.1:9/none:1")
        assert "is not an image name" in complaint(own, command, "docker://UPPER")


@pytest.mark.parametrize("command", _COMMANDS)
def test_wrong_usage(command: str, own: CommandLine, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar({"x": b"x"}))
    words = ["--remote", f"docker-archive:{archive}"]
    assert "takes a name of a registry" in complaint(own, command, *words, status=usage(command))
    assert "add --remote" in complaint(
        own, command, "--creds", "a:b", "app:1", status=usage(command)
    )


@pytest.mark.parametrize("command", _COMMANDS)
def test_names_of_files_are_not_sent(
    command: str, own: CommandLine, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A path that was mistyped is nobody's business; a plain name is the control."""
    registries = tmp_path / "registries.conf"
    registries.write_text(f'unqualified-search-registries = ["{proxy.address}"]\n')
    own.environment["CONTAINERS_REGISTRIES_CONF"] = str(registries)
    for word in ("./nowhere.tar", "secret.tar", "../a/b.tar.gz", "/home/x/y"):
        done = own.run(command, "--remote", word, status=_status(command, word))
        assert word in done.stderr
    assert proxy.seen == []
    complaint(own, command, "--remote", "plain/name:1")
    assert len(proxy.requests("manifest")) >= 1


def _status(command: str, word: str) -> int:
    return 1 if command == "inspect" or not word.startswith((".", "/")) else usage(command)


def usage(command: str) -> int:
    return 1 if command == "inspect" else 2  # which goes on with the next of its words


def test_layers_cannot_be_looked_into(own: CommandLine) -> None:
    name = "docker://127.0.0.1:9/a:1"
    for words in (["1"], ["--top", "3"], ["--max-wasted", "5%"], ["--min-efficiency", "0.9"]):
        assert "pull the image" in own.error("layers", name, *words, status=2)
    assert "only for images" in own.error(
        "inspect", "--remote", "--type", "container", name, status=2
    )
    error = own.run("inspect", "--type", "container", name, status=1).stderr
    assert f"'{name}' is an image of a registry, and no container" in error


def test_several_images_and_one_that_fails(
    registry: DockerRegistry, sender: Sender, own: CommandLine
) -> None:
    name = sender.send(made(), registry, "look/several:1")
    bad = f"docker://{registry.address}/look/none:1"
    done = own.run("inspect", f"docker://{name}", bad, "-f", "{{.Id}}", status=1)
    assert done.stdout.strip() == made().id
    assert "404" in done.stderr


def test_documents_that_lie(proxy: FaultProxy, sender: Sender, own: CommandLine) -> None:
    name = sender.send(made(), proxy, "look/lies:1")
    for body in (b"", b"[]", b'{"schemaVersion": 2}', b"\xff" * 100):
        proxy.fault(Reply(200, body=body), kind="manifest", times=1)
        assert own.error("layers", f"docker://{name}")
    proxy.fault(Reply(200, body=b"{}"), kind="blob", times=9)
    assert complaint(own, "inspect", f"docker://{name}")


def test_the_tag_is_hinted_at(registry: DockerRegistry, sender: Sender, own: CommandLine) -> None:
    name = sender.send(made(), registry, "look/hint:latest").removesuffix(":latest")
    assert "no tag was given" in own.run("history", f"docker://{name}").stderr
