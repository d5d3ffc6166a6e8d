"""Copies of many tags, beside skopeo's, and what is in the target afterwards as others see it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.artifact_tools import ArtifactTools
from support.commands import Commands
from support.mounting import COMMAND, CommandLine
from support.servers import DockerRegistry, FaultProxy
from support.servers.proxy import Reply, Stall
from support.transfers import (
    Sender,
    Skopeo,
    assert_nothing_partial,
    blobs_of,
    command_line,
    image,
    layer,
    manifest_digest,
)

from unionmount.store.store import Store

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "go")

SHARED = layer("synced-base", 50_000)
TAGS = ("1.0", "1.1", "1.2-rc1", "2.0", "latest")
IMAGES = {tag: image(SHARED, layer(f"synced-{tag}")) for tag in TAGS}
MANY = {
    "linux/amd64": image(SHARED, layer("synced-amd64"), architecture="amd64"),
    "linux/arm64": image(SHARED, layer("synced-arm64"), architecture="arm64"),
}


@pytest.fixture
def cli(tmp_path: Path, server: Commands) -> CommandLine:
    return command_line(tmp_path / "store", server)


@pytest.fixture(scope="session")
def source(
    tmp_path_factory: pytest.TempPathFactory, registry: DockerRegistry, skopeo: Skopeo
) -> str:
    """A repository with five images and an index."""
    sender = Sender(tmp_path_factory.mktemp("synced"), skopeo)
    for tag, made in IMAGES.items():
        sender.send(made, registry, f"sync/source:{tag}")
    sender.send_index(MANY, registry, "sync/source:many")
    return f"{registry.address}/sync/source"


@pytest.fixture
def target(start_registry: Callable[..., DockerRegistry]) -> str:
    """A repository of another registry, which does not exist yet."""
    return f"{start_registry().address}/sync/target"


def tags_of(tools: ArtifactTools, repository: str) -> dict[str, str]:
    """The digests of all tags of a repository, as crane finds them."""
    tags = tools.crane("ls", "--insecure", repository).split()
    return {tag: tools.digest(f"{repository}:{tag}") for tag in tags}


def states(text: str) -> dict[str, str]:
    """What a table says of each tag."""
    rows = [re.split(r"  +", line) for line in text.splitlines()]
    return {row[1]: row[0] for row in rows}


def test_all_tags_are_those_of_skopeo(
    cli: CommandLine, source: str, target: str, tools: ArtifactTools, skopeo: Skopeo
) -> None:
    done = cli.run("sync", "--all", f"docker://{source}", f"docker://{target}")
    address = target.partition("/")[0]
    skopeo(
        *("sync", "--all", "--src", "docker", "--dest", "docker"),
        *("--src-tls-verify=false", "--dest-tls-verify=false", source, f"{address}/theirs"),
    )
    found = tags_of(tools, target)
    assert found == tags_of(tools, f"{address}/theirs/source") == tags_of(tools, source)
    assert done.stderr == "6 tags: 6 copied\n"
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert {tag: digest for _, tag, digest in rows} == found
    assert {state for state, _, _ in rows} == {"copied"}


def test_what_is_there_is_not_copied_again(
    cli: CommandLine, source: str, target: str, registry: DockerRegistry
) -> None:
    with FaultProxy(registry.address) as first, FaultProxy(target.partition("/")[0]) as second:
        words = ("sync", "--all", f"{first.address}/sync/source", f"{second.address}/sync/target")
        cli.run(*words, "--jobs", "1")
        blobs = {digest for made in (*IMAGES.values(), *MANY.values()) for digest in blobs_of(made)}
        assert {digest: first.fetched()[digest] for digest in blobs} == dict.fromkeys(blobs, 1)
        for proxy in (first, second):
            proxy.reset()
        done = cli.run(*words)
        assert done.stderr == "6 tags: 6 present\n"
        assert {one.method for one in first.requests("manifest")} == {"HEAD"}
        assert first.requests("blob") == []
        assert second.requests("manifest", "PUT") == second.requests("upload") == []


def test_a_tag_that_has_changed_is_copied(
    cli: CommandLine, source: str, target: str, tools: ArtifactTools
) -> None:
    cli.run("sync", "--include", "1.*", source, target)
    tools.crane("copy", "--insecure", f"{source}:2.0", f"{target}:1.1")
    done = cli.run("sync", "--include", "1.*", source, target)
    assert states(done.stdout) == {"1.0": "present", "1.1": "copied", "1.2-rc1": "present"}
    assert tools.digest(f"{target}:1.1") == manifest_digest(IMAGES["1.1"])


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--include", "1.*"), {"1.0", "1.1", "1.2-rc1"}),
        (("--include", "1.*", "--exclude", "*-rc*"), {"1.0", "1.1"}),
        (("--include", "1.?", "--include", "latest"), {"1.0", "1.1", "latest"}),
        (("--exclude", "[12]*", "--exclude", "many"), {"latest"}),
        (("--regex", "--include", r"\d\.\d"), {"1.0", "1.1", "2.0"}),
        (("--regex", "--include", r"[\d.]+", "--exclude", "1.*"), {"2.0"}),
        (("--include", "none*"), set()),
    ],
)
def test_patterns(words: tuple[str, ...], wanted: set[str], cli: CommandLine, source: str) -> None:
    target = f"{source.partition('/')[0]}/sync/patterns"
    done = cli.run("sync", "--dry-run", *words, source, target)
    assert states(done.stdout) == dict.fromkeys(wanted, "would copy")


def test_a_dry_run_sends_nothing(
    cli: CommandLine, source: str, target: str, registry: DockerRegistry
) -> None:
    with FaultProxy(target.partition("/")[0]) as proxy:
        to = f"{proxy.address}/sync/target"
        cli.run("sync", "--include", "1.0", source, to)
        proxy.reset()
        for words in ((), ("--referrers",)):
            done = cli.run("sync", "--dry-run", "--include", "[12].0", *words, source, to)
            assert states(done.stdout) == {"1.0": "present", "2.0": "would copy"}
            assert done.stderr == "2 tags: 1 present, 1 would copy\n"
        assert {one.method for one in proxy.seen} <= {"GET", "HEAD"}


def test_one_platform_and_some(
    cli: CommandLine, source: str, target: str, tools: ArtifactTools
) -> None:
    words: tuple[str, ...] = ("sync", "--include", "many", "--platform", "linux/arm64")
    for state in ("copied", "present"):
        assert states(cli.run(*words, source, target).stdout) == {"many": state}
        assert tools.digest(f"{target}:many") == manifest_digest(MANY["linux/arm64"])
    words = (*words, "--platform", "linux/amd64")
    for state in ("copied", "present"):
        assert states(cli.run(*words, source, target).stdout) == {"many": state}
        assert tools.digest(f"{target}:many") == tools.digest(f"{source}:many")


def test_a_fault_stops_or_is_counted(
    cli: CommandLine, source: str, target: str, tools: ArtifactTools, registry: DockerRegistry
) -> None:
    with FaultProxy(registry.address) as proxy:
        origin = f"{proxy.address}/sync/source"
        lost = blobs_of(IMAGES["1.1"])[1]
        proxy.fault(Reply(404), kind="blob", reference=lost, times=100)
        words = ("sync", "--include", "1.*", origin, target)
        done = cli.run(*words, status=1)
        (line,) = done.stderr.splitlines()
        assert line.startswith("unionmount: 1.1: ")
        assert lost in line
        done = cli.run(*words, "--keep-going", "--jobs", "1", "--format", "jsonl", status=1)
        rows = {row["tag"]: row for row in map(json.loads, done.stdout.splitlines())}
        assert {tag: row["state"] == "failed" for tag, row in rows.items()} == {
            "1.0": False,
            "1.1": True,
            "1.2-rc1": False,
        }
        assert lost in rows["1.1"]["error"]
        assert done.stderr.splitlines()[0] == f"unionmount: {rows['1.1']['error']}"
        assert "1 failed" in done.stderr.splitlines()[1]
    assert tags_of(tools, target) == {
        tag: manifest_digest(IMAGES[tag]) for tag in ("1.0", "1.2-rc1")
    }


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_target_that_says_nothing_of_a_new_repository(
    status: int, cli: CommandLine, source: str, target: str, tools: ArtifactTools
) -> None:
    with FaultProxy(target.partition("/")[0]) as proxy:
        proxy.fault(Reply(status), kind="manifest", method="HEAD", times=100)
        done = cli.run("sync", "--include", "1.0", source, f"{proxy.address}/sync/target")
    assert states(done.stdout) == {"1.0": "copied"}
    assert tags_of(tools, target) == {"1.0": manifest_digest(IMAGES["1.0"])}


def test_a_list_of_tags_is_not_trusted(
    cli: CommandLine, source: str, target: str, registry: DockerRegistry
) -> None:
    with FaultProxy(registry.address) as proxy:
        body = json.dumps({"tags": ["../../x", "1.0?a=b", "\x1b[2J", "1.0"]}).encode()
        proxy.fault(Reply(200, (), body), kind="tags", times=10)
        words = ("sync", "--keep-going", "--jobs", "1", f"{proxy.address}/sync/source", target)
        done = cli.run(*words, status=1)
        assert states(done.stdout)["1.0"] == "copied"
        *lines, summary = done.stderr.splitlines()
        assert sorted(lines) == [
            "unionmount: ../../x: this is not a valid tag",
            "unionmount: 1.0?a=b: this is not a valid tag",
            r"unionmount: \x1b[2J: this is not a valid tag",
        ]
        assert summary == "4 tags: 1 copied, 3 failed"
        assert {one.reference for one in proxy.requests("manifest")} == {"1.0"}


# ---- layouts


@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_through_a_layout(
    form: str, cli: CommandLine, source: str, target: str, tools: ArtifactTools, tmp_path: Path
) -> None:
    place = f"{form}:{tmp_path / 'out'}"
    done = cli.run("sync", "--all", "--include", "1.*", "--include", "many", source, place)
    assert set(states(done.stdout).values()) == {"copied"}
    if form == "oci":  # what several images share is written once
        blobs = [path.name for path in (tmp_path / "out/blobs/sha256").iterdir()]
        assert len(blobs) == len(set(blobs))
        assert tools.oras("repo", "tags", "--oci-layout", str(tmp_path / "out")).split() == [
            *("1.0", "1.1", "1.2-rc1", "many")
        ]
    done = cli.run("sync", "--all", place, target)
    assert set(states(done.stdout).values()) == {"copied"}
    wanted = {
        tag: digest
        for tag, digest in tags_of(tools, source).items()
        if tag not in ("2.0", "latest")
    }
    assert tags_of(tools, target) == wanted
    assert set(states(cli.run("sync", "--all", place, target).stdout).values()) == {"present"}
    assert_nothing_partial(Store(tmp_path / "store"), set())


def test_a_tag_of_two_images_is_no_answer(
    cli: CommandLine, target: str, tools: ArtifactTools, skopeo: Skopeo, tmp_path: Path
) -> None:
    """Skopeo's layout names images in full: the same tag may be that of several repositories."""
    sender, place = Sender(tmp_path, skopeo), f"oci:{tmp_path / 'both'}"
    named = {"a:x": "1.0", "b:x": "1.1", "a:y": "2.0", "b:y": "2.0", "a:z": "latest"}
    for name, tag in named.items():
        skopeo("copy", sender.layout(IMAGES[tag]), f"{place}:example.com/{name}")
    for more in (("--dry-run",), ()):
        (line,) = cli.run("sync", *more, place, target, status=1).stderr.splitlines()
        assert line == (
            f"unionmount: x: different images of {tmp_path / 'both'} have this tag "
            "(example.com/a:x, example.com/b:x); use copy"
        )
    done = cli.run("sync", "--keep-going", place, target, status=1)
    assert states(done.stdout) == {"x": "failed", "y": "copied", "z": "copied"}
    wanted = {"y": manifest_digest(IMAGES["2.0"]), "z": manifest_digest(IMAGES["latest"])}
    assert tags_of(tools, target) == wanted


def test_a_fault_leaves_no_layout(
    cli: CommandLine, source: str, registry: DockerRegistry, tmp_path: Path
) -> None:
    with FaultProxy(registry.address) as proxy:
        lost = blobs_of(IMAGES["1.1"])[1]
        proxy.fault(Reply(404), kind="blob", reference=lost, times=100)
        for form in ("oci", "oci-archive"):
            target = f"{form}:{tmp_path / 'out'}"
            done = cli.run(
                "sync", "--include", "1.*", f"{proxy.address}/sync/source", target, status=1
            )
            assert lost in done.stderr
            assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if ".unionmount" in path.name] == []


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker"])
def test_an_interrupt_leaves_nothing_behind(
    form: str,
    source: str,
    registry: DockerRegistry,
    target: str,
    tools: ArtifactTools,
    tmp_path: Path,
) -> None:
    own = command_line(tmp_path / "store")
    place = target if form == "docker" else f"{form}:{tmp_path / 'out'}"
    with FaultProxy(registry.address) as proxy:
        stall = Stall(100, threading.Event())
        proxy.fault(stall, kind="blob", reference=blobs_of(IMAGES["1.1"])[1])
        words = ("sync", "--jobs", "1", "--include", "1.*", f"{proxy.address}/sync/source", place)
        process = subprocess.Popen(
            [*COMMAND, *words],
            env=own.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert stall.reached.wait(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        stall.released.set()
        assert process.returncode == 130, err
        assert states(out) == {"1.0": "copied"}
        assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if ".unionmount" in path.name] == []
    assert list((tmp_path / "store/tmp").iterdir()) == []
    if form == "docker":
        assert tags_of(tools, target) == {"1.0": manifest_digest(IMAGES["1.0"])}


# ---- referrers


def test_referrers_come_along_and_are_kept_up_to_date(
    cli: CommandLine,
    registry: DockerRegistry,
    sender: Sender,
    tools: ArtifactTools,
    target: str,
    tmp_path: Path,
) -> None:
    text = tmp_path / "text"
    text.write_text("said\n")
    repository = f"{registry.address}/sync/signed"
    about = set()
    for tag in ("1.0", "2.0"):
        sender.send(IMAGES[tag], registry, f"sync/signed:{tag}")
        digest = manifest_digest(IMAGES[tag])
        about.add((digest, tools.attach(f"{repository}:{tag}", "application/x.first", text)))
    old = f"{manifest_digest(IMAGES['1.0']).replace(':', '-')}.sig"
    tools.oras(
        *("push", "--plain-http", "--disable-path-validation", f"{repository}:{old}"),
        f"{text}:text/plain",
    )

    def found() -> set[tuple[str, str]]:
        digests = [manifest_digest(IMAGES[tag]) for tag in ("1.0", "2.0")]
        return {pair for one in digests for pair in tools.discover_plain(target, one)}

    assert states(cli.run("sync", repository, target).stdout) == dict.fromkeys(
        ("1.0", "2.0"), "copied"
    )
    assert set(tools.crane("ls", "--insecure", target).split()) == {"1.0", "2.0"}
    words = ("sync", "--referrers", repository, target)
    assert states(cli.run(*words).stdout) == dict.fromkeys(("1.0", "2.0"), "copied")
    assert found() == about
    assert tools.digest(f"{target}:{old}") == tools.digest(f"{repository}:{old}")
    assert states(cli.run(*words).stdout) == dict.fromkeys(("1.0", "2.0"), "present")
    digest = manifest_digest(IMAGES["2.0"])
    about.add((digest, tools.attach(f"{repository}:2.0", "application/x.second", text)))
    assert states(cli.run(*words).stdout) == {"1.0": "present", "2.0": "copied"}
    assert found() == about
    tools.crane("delete", "--insecure", f"{target}@{tools.digest(f'{target}:{fallback(digest)}')}")
    assert found() != about  # a list that was lost is written again
    assert states(cli.run(*words).stdout) == dict.fromkeys(("1.0", "2.0"), "present")
    assert found() == about


def fallback(digest: str) -> str:
    return digest.replace(":", "-")


# ---- usage


def test_no_registry_is_asked_for_a_file(
    cli: CommandLine, proxy: FaultProxy, tmp_path: Path
) -> None:
    target = f"{proxy.address}/sync/target"
    for word, status in (("./none.tar", 1), (f"{tmp_path}/none", 1), ("none.tar", 1)):
        assert "no such file" in cli.error("sync", word, target, status=status)
    assert "needs a transport" in cli.error("sync", target, "./none.tar", status=2)
    assert "no such file" in cli.error("sync", target, "none.tar")
    assert proxy.seen == []


def test_what_makes_no_sense(cli: CommandLine, source: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    layout = f"oci:{tmp_path / 'x'}"
    for words, text in (
        ((f"{source}@sha256:{'0' * 64}", target), "has a digest; use copy"),
        ((source, f"{target}:1"), "has a tag or digest; give the repository alone"),
        ((source, f"docker-archive:{tmp_path / 'x'}"), "neither a repository nor an OCI layout"),
        ((source, f"dir:{tmp_path / 'x'}"), "neither a repository nor an OCI layout"),
        (("docker-daemon:app:1", target), "neither a repository nor an OCI layout"),
        ((source, f"{layout}:one"), "has a REF; each image gets its tag"),
        ((source, f"oci:{tmp_path / 'full'}"), "exists and is not an empty directory"),
        (("--keep-going", source, layout), "a layout is written whole"),
        (("--regex", "--include", "(", source, target), "'(' is not a regular expression"),
        (("--all", "--platform", "linux/amd64", source, target), "leave --all or --platform out"),
        (("--artifact-type", "a/b", source, target), "add --referrers"),
        (("--jobs", "0", source, target), "--jobs"),
        (("--src-creds", "a:b", f"oci:{tmp_path}", target), "SRC is none"),
    ):
        assert text in cli.error("sync", *words, status=2)
    assert "no tag to copy into" in cli.error("sync", "--include", "none", source, layout)
    assert "404" in cli.error("sync", f"{source}-none", target)
    assert not (tmp_path / "x").exists()
    done = cli.run("sync", "--include", "none", source, target)
    assert (done.stdout, done.stderr) == ("", "no tag to copy\n")
    done = cli.run("sync", "-q", "--dry-run", "--format", "json", f"{source}:1.0", target)
    digest = manifest_digest(IMAGES["1.0"])
    assert json.loads(done.stdout) == [
        {"tag": "1.0", "state": "would copy", "digest": digest, "error": ""}
    ]
    assert done.stderr == ""
