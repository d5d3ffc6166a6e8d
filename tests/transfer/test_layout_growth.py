"""Images that are added to an OCI layout: other tools find the old ones and the new ones."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.artifact_tools import ArtifactTools
from support.commands import Commands
from support.image_files import blob_path, sha256
from support.mounting import COMMAND, CommandLine
from support.servers import DockerRegistry, FaultProxy
from support.servers.proxy import Reply
from support.transfers import (
    Sender,
    Skopeo,
    blobs_of,
    command_line,
    image,
    layer,
    manifest,
    manifest_digest,
)

from unionmount.transfer.layout_growth import merged_rows

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "go")

SHARED = layer("growth-base", 50_000)
IMAGES = {name: image(SHARED, layer(f"growth-{name}")) for name in ("one", "two", "three")}
REF = "org.opencontainers.image.ref.name"
FULL = "io.containerd.image.name"


@pytest.fixture
def cli(tmp_path: Path, server: Commands) -> CommandLine:
    return command_line(tmp_path / "store", server)


@pytest.fixture
def layout(tmp_path: Path, skopeo: Skopeo) -> Path:
    """A layout of skopeo's with the image "one"."""
    top = tmp_path / "layout"
    skopeo("copy", Sender(tmp_path, skopeo).layout(IMAGES["one"]), f"oci:{top}:one")
    return top


@pytest.fixture
def places(tmp_path: Path, skopeo: Skopeo) -> dict[str, str]:
    """Layouts with one image each, as sources."""
    (tmp_path / "sources").mkdir()
    sender = Sender(tmp_path / "sources", skopeo)
    return {name: sender.layout(made) for name, made in IMAGES.items()}


def digest_in(skopeo: Skopeo, layout: Path, name: str) -> str:
    """What skopeo finds under a name, with all its blobs."""
    target = layout.with_name(
        f"check-{name.replace('/', '-').replace(':', '-')}-{os.urandom(4).hex()}"
    )
    skopeo("copy", f"oci:{layout}:{name}", f"dir:{target}")
    return sha256((target / "manifest.json").read_bytes())


def rows_of(layout: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((layout / "index.json").read_bytes())["manifests"]
    return rows


def test_others_find_old_and_new_images(
    cli: CommandLine, layout: Path, places: dict[str, str], skopeo: Skopeo, tools: ArtifactTools
) -> None:
    marker = layout / "blobs/sha256" / blobs_of(IMAGES["one"])[0].partition(":")[2]
    inode = marker.stat().st_ino
    cli.run("copy", places["two"], f"oci:{layout}:two")
    cli.run("copy", places["three"], f"oci:{layout}:example.com/app:3")
    assert marker.stat().st_ino == inode  # a blob that is there is not written again
    names = {"one": "one", "two": "two", "example.com/app:3": "three"}
    assert set(tools.oras("repo", "tags", "--oci-layout", str(layout)).split()) == set(names)
    for name, made in names.items():
        assert digest_in(skopeo, layout, name) == manifest_digest(IMAGES[made])
    skopeo("copy", places["one"], f"oci:{layout}:again")  # and skopeo adds to it in turn
    assert cli.run("inspect", "-f", "{{.Id}}", f"oci:{layout}:two").stdout.strip() == sha256(
        IMAGES["two"].config
    )


def test_a_name_moves_as_with_skopeo(
    cli: CommandLine, layout: Path, places: dict[str, str], skopeo: Skopeo, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    skopeo("copy", places["one"], f"oci:{theirs}:one")
    skopeo("copy", places["two"], f"oci:{theirs}:one")
    cli.run("copy", places["two"], f"oci:{layout}:one")
    for top in (layout, theirs):
        assert digest_in(skopeo, top, "one") == manifest_digest(IMAGES["two"])
        named = {row["digest"]: row.get("annotations", {}).get(REF) for row in rows_of(top)}
        assert named == {
            manifest_digest(IMAGES["one"]): None,
            manifest_digest(IMAGES["two"]): "one",
        }
    cli.run("copy", places["one"], f"oci:{layout}:old")  # which was there without a name
    assert len(rows_of(layout)) == 2
    before = (layout / "index.json").stat()
    cli.run("copy", places["one"], f"oci:{layout}:old")
    after = (layout / "index.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_save_adds_images_whose_tags_are_the_same(
    cli: CommandLine, layout: Path, places: dict[str, str], skopeo: Skopeo
) -> None:
    for name in ("two", "three"):
        cli.run("copy", places[name], f"example.com/{name}:1")
        cli.run("save", "--format", "oci", "-o", layout, f"example.com/{name}:1")
    assert digest_in(skopeo, layout, "one") == manifest_digest(IMAGES["one"])
    for name in ("two", "three"):
        (found,) = [
            row
            for row in rows_of(layout)
            if row["annotations"].get(FULL) == f"example.com/{name}:1"
        ]
        assert digest_in(skopeo, layout, found["annotations"][REF]) == found["digest"]
        words = ("inspect", "-f", "{{.Id}}", f"oci:{layout}:example.com/{name}:1")
        assert cli.run(*words).stdout.strip() == sha256(IMAGES[name].config)


def test_sync_adds_what_is_missing(
    cli: CommandLine, layout: Path, registry: DockerRegistry, sender: Sender, skopeo: Skopeo
) -> None:
    for name, made in IMAGES.items():
        source = sender.send(made, registry, f"growth/source:{name}").rpartition(":")[0]
    place = f"oci:{layout}"
    with FaultProxy(registry.address) as proxy:
        behind = f"{proxy.address}/growth/source"
        for more in (("--dry-run",), ()):
            done = cli.run("sync", *more, "--format", "jsonl", behind, place)
            found = {row["tag"]: row["state"] for row in map(json.loads, done.stdout.splitlines())}
            new = "would copy" if more else "copied"
            assert found == {"one": "present", "two": new, "three": new}
        fetched = {one.reference for one in proxy.requests("blob")}
        assert not fetched & set(blobs_of(IMAGES["one"]))  # what the layout has is not fetched
    done = cli.run("sync", "--format", "jsonl", source, place)
    assert {json.loads(line)["state"] for line in done.stdout.splitlines()} == {"present"}
    for name, made in IMAGES.items():
        assert digest_in(skopeo, layout, name) == manifest_digest(made)


def test_an_error_changes_no_list(
    cli: CommandLine, layout: Path, registry: DockerRegistry, sender: Sender
) -> None:
    sender.send(IMAGES["two"], registry, "growth/fault:1")
    before = (layout / "index.json").read_bytes()
    lost = blobs_of(IMAGES["two"])[1]
    with FaultProxy(registry.address) as proxy:
        proxy.fault(Reply(404), kind="blob", reference=lost, times=100)
        assert lost in cli.error(
            "copy", f"docker://{proxy.address}/growth/fault:1", f"oci:{layout}"
        )
    assert (layout / "index.json").read_bytes() == before
    assert [one.name for one in layout.iterdir() if ".unionmount" in one.name] == []


def test_a_damaged_blob_is_mended(
    cli: CommandLine, layout: Path, places: dict[str, str], skopeo: Skopeo
) -> None:
    blob = layout / "blobs/sha256" / blobs_of(IMAGES["one"])[0].partition(":")[2]
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.write_bytes(data)
    cli.run("copy", places["two"], f"oci:{layout}:two")
    for name in ("one", "two"):
        assert digest_in(skopeo, layout, name) == manifest_digest(IMAGES[name])


def test_several_at_once_are_all_listed(
    cli: CommandLine, layout: Path, places: dict[str, str], skopeo: Skopeo, tmp_path: Path
) -> None:
    running = [
        subprocess.Popen(
            [*COMMAND, "copy", "-q", places[made], f"oci:{layout}:{made}{number}"],
            env=cli.environment | {"UNIONMOUNT_ROOT": str(tmp_path / "store")},
        )
        for number in range(3)
        for made in ("two", "three")
    ]
    assert [one.wait(120) for one in running] == [0] * len(running)
    for number in range(3):
        for made in ("two", "three"):
            assert digest_in(skopeo, layout, f"{made}{number}") == manifest_digest(IMAGES[made])
    assert digest_in(skopeo, layout, "one") == manifest_digest(IMAGES["one"])


def test_a_lock_of_somebody_else_ends_in_a_message(
    cli: CommandLine, layout: Path, places: dict[str, str]
) -> None:
    top = os.open(layout, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(top, fcntl.LOCK_EX)
        cli.environment["UNIONMOUNT_TIMEOUT"] = "0.5"
        message = cli.error("copy", places["two"], f"oci:{layout}:two")
        assert f"{layout}: another process has locked it for 0.5 s" in message
        fcntl.flock(top, fcntl.LOCK_UN)
        cli.run("copy", places["two"], f"oci:{layout}:two")
    finally:
        os.close(top)


def sleeps(pid: int) -> bool:
    """Whether a thread of a process waits for a time to pass, as between two looks at a lock."""
    waits = (task / "wchan" for task in Path(f"/proc/{pid}/task").iterdir())
    return any("nanosleep" in wait.read_text() for wait in waits)


@pytest.mark.needs("root")  # to see where a process waits
@pytest.mark.parametrize("command", ["copy", "sync", "save"])
def test_waiting_for_a_lock_can_be_interrupted(
    command: str, cli: CommandLine, layout: Path, places: dict[str, str], tmp_path: Path
) -> None:
    config = layout / "blobs" / IMAGES["two"].id.replace(":", "/")
    if command == "save":
        cli.run("copy", places["two"], "two:1")
    words = {
        "copy": ["copy", places["two"], f"oci:{layout}:two"],
        "sync": ["sync", "--all", places["two"].rpartition(":")[0], f"oci:{layout}"],
        "save": ["save", "--format", "oci", "-o", str(layout), "two:1"],
    }[command]
    before = (layout / "index.json").read_bytes()
    environment = cli.environment | {
        "UNIONMOUNT_ROOT": str(tmp_path / "store"),
        "UNIONMOUNT_TIMEOUT": "100000",
    }
    top = os.open(layout, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(top, fcntl.LOCK_EX)
        with subprocess.Popen(
            [*COMMAND, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as running:
            while not (config.exists() and sleeps(running.pid)):
                assert running.poll() is None
                os.sched_yield()
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=60)
    finally:
        os.close(top)
    assert running.returncode in (130, -signal.SIGINT)
    assert b"Traceback" not in said
    assert (layout / "index.json").read_bytes() == before


@pytest.mark.parametrize("path", ["blobs", "blobs/sha256", "index.json", "a blob"])
def test_no_symlink_leads_out(
    path: str, cli: CommandLine, layout: Path, places: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    victim = layout / (blob_path(manifest(IMAGES["two"])) if path == "a blob" else path)
    if victim.exists():
        victim.rename(elsewhere)
    else:
        elsewhere.touch()
    victim.symlink_to(elsewhere)
    before = sorted(one.name for one in elsewhere.rglob("*"))
    cli.error("copy", places["two"], f"oci:{layout}:two")
    assert victim.is_symlink()
    assert sorted(one.name for one in elsewhere.rglob("*")) == before
    assert path != "a blob" or elsewhere.read_bytes() == b""


@pytest.mark.parametrize(
    ("name", "content"),
    [("oci-layout", b'{"imageLayoutVersion": "2.0"}'), ("index.json", b"{"), ("index.json", b"[]")],
)
def test_what_is_no_layout_is_left_alone(
    name: str, content: bytes, cli: CommandLine, layout: Path, places: dict[str, str]
) -> None:
    (layout / name).write_bytes(content)
    assert str(layout) in cli.error("copy", places["two"], f"oci:{layout}:two")
    assert (layout / name).read_bytes() == content
    (layout / "oci-layout").unlink()
    assert "exists and is not an empty directory" in cli.error(
        "copy", places["two"], f"oci:{layout}:two", status=2
    )


def test_what_is_not_known_stays() -> None:
    kept = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": sha256(b"kept"),
        "size": 4,
        "urls": ["https://example.com"],
        "annotations": {REF: "kept", "other": "yes"},
    }
    known = {"schemaVersion": 2, "manifests": [kept], "x-field": [1], "annotations": {"a": "b"}}
    added = kept | {"digest": sha256(b"new"), "annotations": {REF: "kept"}}
    del added["urls"]
    raw = merged_rows(json.dumps(known).encode(), json.dumps({"manifests": [added]}).encode(), "x")
    assert json.loads(raw) == known | {
        "manifests": [kept | {"annotations": {"other": "yes"}}, added]
    }
