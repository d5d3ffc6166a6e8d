"""Images of a docker daemon, and of podman's service, which speaks the same API."""

from __future__ import annotations

import grp
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import Layer, docker_archive
from support.commands import Commands, ForkedCommandLine
from support.effort import amount
from support.engines import Engine, KillingRelay, Kind, TlsRelay
from support.image_files import (
    SMALL_TREE,
    Compress,
    MadeImage,
    blob_path,
    gzipped,
    link,
    manifest_of,
    oci_layout,
    plain,
    sha256,
    small_image,
    tar,
    tree_of,
)
from support.image_files import docker_archive as docker_archive_members
from support.mounting import COMMAND, CommandLine, own_places
from support.servers import Authority, Connection, RawServer
from support.transfers import assert_nothing_partial
from support.users import NOBODY, become_nobody

from unionmount.errors import UnionmountError, UsageError
from unionmount.sources import Location
from unionmount.store.store import Store
from unionmount.transfer.check_image import check_image
from unionmount.transfer.load import load, open_image

pytestmark = pytest.mark.needs("root")

NAME = "app:1"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, of which one does not fit into one read."""
    layers = [
        Layer().directory("etc").file("etc/one", b"1" * 3_000_000),
        Layer().file("etc/two", b"two"),
    ]
    path = tmp_path_factory.mktemp("archive") / "a.tar"
    return docker_archive(path, layers, NAME)


@pytest.fixture(scope="module", params=["docker", "podman"])
def engine(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    require: Callable[..., None],
    archive: Path,
) -> Iterator[Engine]:
    kind: Kind = request.param
    require(*(("dockerd", "containerd") if kind == "docker" else ("podman",)))
    with Engine(kind, tmp_path_factory.mktemp(kind)) as running:
        running.load(archive)
        yield running


def name_in(engine: Engine) -> str:
    """The full name that the image gets: podman does not take a short name for docker.io's."""
    return f"docker.io/library/{NAME}" if engine.kind == "docker" else f"localhost/{NAME}"


Command = Callable[..., CommandLine]
"""A command line with a store of its own, for the daemon at an address."""


@pytest.fixture
def command(server: Commands, tmp_path: Path) -> Command:
    def make(host: str, top: Path = tmp_path, **more: str) -> CommandLine:
        return ForkedCommandLine(server, _environment(top, host) | more)

    return make


def _environment(tmp_path: Path, host: str) -> dict[str, str]:
    for place in own_places(tmp_path).values():
        Path(place).mkdir(parents=True, exist_ok=True)
    environment = {"DOCKER_HOST": host, "HOME": str(tmp_path), "DOCKER_CONFIG": ""}
    return own_places(tmp_path) | environment


@pytest.fixture
def cli(command: Command, engine: Engine) -> CommandLine:
    return command(engine.host)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_an_image_by_its_name(cli: CommandLine, store: Store, engine: Engine) -> None:
    described = engine.describe(NAME)
    assert cli.run("load", f"docker-daemon:{NAME}").stdout == f"Loaded image: {name_in(engine)}\n"
    (stored,) = store.list_images()
    assert (str(stored.id), stored.names) == (described["Id"], (name_in(engine),))
    diff_ids = described["RootFS"]["Layers"]
    assert [str(one) for one in store.read_image(stored).diff_ids] == diff_ids
    assert_nothing_partial(store, set(diff_ids))
    assert cli.run("ls", f"docker-daemon:{NAME}:/etc").stdout == "one\ntwo\n"
    assert cli.run("cat", f"docker-daemon:{NAME}:/etc/two").stdout == "two"


def test_an_image_by_its_id(cli: CommandLine, store: Store, engine: Engine) -> None:
    image_id = engine.describe(NAME)["Id"]
    for word in (image_id, image_id.removeprefix("sha256:")[:12]):
        details = json.loads(cli.run("inspect", f"docker-daemon:{word}").stdout)
        assert details[0]["Id"] == image_id
    (stored,) = store.list_images()
    assert stored.names == ()


@pytest.mark.needs("fuse")
@pytest.mark.parametrize("how", [["--ro"], ["--name", "box"]])
def test_a_mount(cli: CommandLine, tmp_path: Path, how: list[str]) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    cli.run("mount", *how, f"docker-daemon:{NAME}", mountpoint)
    try:
        assert (mountpoint / "etc/two").read_text() == "two"
        assert cli.record(mountpoint)["image"].endswith(NAME)
    finally:
        cli.run("umount", mountpoint)


@pytest.mark.needs("skopeo")
def test_a_copy_is_what_skopeo_copies(
    cli: CommandLine, store: Store, engine: Engine, tmp_path: Path
) -> None:
    cli.run("copy", f"docker-daemon:{NAME}", f"dir:{tmp_path}/ours")
    words = ("--src-daemon-host", engine.host, f"docker-daemon:{name_in(engine)}")
    theirs = f"dir:{tmp_path}/theirs"
    skopeo = ["skopeo", "--insecure-policy", "copy", "-q", *words, theirs]
    subprocess.run(skopeo, check=True, timeout=120)
    blobs = {path.name for path in (tmp_path / "theirs").iterdir() if len(path.name) == 64}
    ours = {path.name for path in (tmp_path / "ours").iterdir() if len(path.name) == 64}
    assert ours == blobs
    assert store.list_images() == []
    assert_nothing_partial(store, set())


def _policy(tmp_path: Path, **transports: dict[str, str]) -> Path:
    """A policy of the user that rejects all but ``transports``; ``_`` in a name is ``-``."""
    kinds = {"accept": [{"type": "insecureAcceptAnything"}], "reject": [{"type": "reject"}]}
    scopes = {
        transport.replace("_", "-"): {scope: kinds[what] for scope, what in rules.items()}
        for transport, rules in transports.items()
    }
    path = tmp_path / ".config/containers/policy.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"default": kinds["reject"], "transports": scopes}))
    return path


@pytest.mark.needs("skopeo")
def test_a_policy_decides_as_with_skopeo(
    cli: CommandLine, store: Store, engine: Engine, tmp_path: Path
) -> None:
    name = name_in(engine)
    repository, host = name.removesuffix(":1"), name.partition("/")[0]
    image_id = engine.describe(NAME)["Id"]
    policies: list[dict[str, dict[str, str]]] = [
        {},
        {"docker": {"": "accept"}},
        {"docker_daemon": {"": "accept"}},
        {"docker_daemon": {"": "accept", host: "reject"}},
        {"docker_daemon": {name: "accept"}},
        {"docker_daemon": {repository: "accept", name: "reject"}},
        {"docker_daemon": {repository: "accept"}},
        {"docker_daemon": {f"{repository}:2": "accept"}},
    ]
    answers = set()
    for number, transports in enumerate(policies):
        policy = _policy(tmp_path, **transports)
        for word in (name, image_id):
            source, target = f"docker-daemon:{word}", f"{number}-{word[:6]}"
            words = ("--src-daemon-host", engine.host, source, f"dir:{tmp_path}/theirs-{target}")
            skopeo = ["skopeo", "--policy", str(policy), "copy", "-q", *words]
            done = subprocess.run(skopeo, check=False, timeout=120, capture_output=True, text=True)
            assert done.returncode == 0 or "rejected" in done.stderr, done.stderr
            answers.add((word == name, done.returncode))
            ours = ("copy", "-q", source, f"dir:{tmp_path}/ours-{target}")
            if done.returncode == 0:
                cli.run(*ours)
            else:
                assert cli.error(*ours).startswith(f"{source}: refused by {policy} (")
    assert answers == {(True, 0), (True, 1), (False, 0), (False, 1)}
    assert store.list_images() == []


def test_what_a_policy_rejects_does_not_come_into_the_store(
    cli: CommandLine, store: Store, engine: Engine, tmp_path: Path
) -> None:
    """Not even to be shown: a mount of what the store has asks no policy."""
    policy = _policy(tmp_path, docker_daemon={})
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    source = f"docker-daemon:{NAME}"
    commands: list[tuple[str | Path, ...]] = [
        ("load", source),
        ("copy", source, "mine:1"),
        ("copy", "--squash", source, "mine:1"),
        ("copy", source, f"oci:{tmp_path}/layout"),
        ("ls", f"{source}:/"),
        ("history", source),
        ("mount", "--ro", source, mountpoint),
    ]
    for words in commands:
        message = cli.error(*words)
        assert message == f"{source}: refused by {policy} (default): the policy rejects it"
    assert store.list_images() == []
    assert not (tmp_path / "layout").exists()
    _policy(tmp_path, docker_daemon={"": "accept"})
    cli.run("load", source)
    _policy(tmp_path, docker_daemon={})
    for words in commands:  # the daemon's image is refused, although the store has the same
        assert "the policy rejects it" in cli.error(*words)
    cli.run("ls", f"{NAME if engine.kind == 'docker' else name_in(engine)}:/")


def test_what_may_be_an_id_has_to_be_accepted_as_one(
    cli: CommandLine, engine: Engine, tmp_path: Path
) -> None:
    """The daemon takes the beginning of an ID for the image, whose name may be rejected."""
    word = engine.describe(NAME)["Id"].removeprefix("sha256:")[:12]
    _policy(tmp_path, docker_daemon={"docker.io": "accept"})
    assert "(default): the policy rejects it" in cli.error("history", f"docker-daemon:{word}")
    _policy(tmp_path, docker_daemon={"": "accept"})
    cli.run("history", f"docker-daemon:{word}")


@pytest.mark.parametrize("through", ["store", "archive", "squash"])
def test_an_image_for_the_daemon(
    command: Command,
    cli: CommandLine,
    store: Store,
    engine: Engine,
    archive: Path,
    tmp_path: Path,
    through: str,
) -> None:
    """The daemon tells the same of the image as the config does, and gives it back."""
    name = f"sent-{through}:1"
    local = f"docker.io/library/{name}" if engine.kind == "docker" else f"localhost/{name}"
    cli.run("load", archive)
    words = ("--squash",) if through == "squash" else ()
    cli.run("copy", *words, NAME if through == "store" else archive, f"docker-daemon:{name}")
    described = engine.describe(name)
    assert local.removeprefix("docker.io/library/") in described["RepoTags"]
    assert len(described["RootFS"]["Layers"]) == (1 if through == "squash" else 2)
    if through != "squash":
        assert described["Id"] == str(store.find_image(NAME).id)
    back = tmp_path / "back"
    command(engine.host, back).run("load", f"docker-daemon:{name}")
    (stored,) = Store(back / "store").list_images()
    assert (str(stored.id), stored.names) == (described["Id"], (local,))


def test_what_breaks_off_leaves_nothing_in_the_daemon(
    cli: CommandLine, store: Store, engine: Engine, archive: Path
) -> None:
    cli.run("load", archive)
    (first, _) = store.read_image(store.find_image(NAME)).diff_ids
    path = store.root / "layers/sha256" / first.hex / "layer.tar"
    path.chmod(0o600)
    with path.open("r+b") as file:  # which is only noticed when all of it has been sent
        file.seek(2_000_000)
        file.write(b"spoiled")
    assert first.hex in cli.error("copy", NAME, "docker-daemon:spoiled:1")
    assert engine.request("GET", "/images/spoiled:1/json")[0] == 404


def test_what_the_daemon_does_not_have(cli: CommandLine, store: Store, engine: Engine) -> None:
    said = cli.error("ls", "docker-daemon:ap:1:/")
    assert said.startswith(f"docker-daemon:ap:1: {engine.host} has no such image")
    assert said.endswith("did you mean app:1?")
    missing = f"sha256:{'0' * 64}"
    assert "has no such image" in cli.error("load", f"docker-daemon:{missing}")
    assert store.list_images() == []


def test_a_name_of_another_image_is_only_moved_by_load(
    cli: CommandLine, store: Store, engine: Engine, tmp_path: Path
) -> None:
    name = name_in(engine)
    other = docker_archive(tmp_path / "b.tar", [Layer().file("other")], name)
    cli.run("load", other)
    before = store.find_image(name).id
    cli.run("ls", f"docker-daemon:{NAME}:/")
    assert store.find_image(name).id == before
    cli.run("load", f"docker-daemon:{NAME}")
    assert str(store.find_image(name).id) == engine.describe(NAME)["Id"]


def test_a_wrong_platform(cli: CommandLine, store: Store) -> None:
    said = cli.error("load", "--platform", "linux/s390x", f"docker-daemon:{NAME}")
    assert "linux/amd64, not linux/s390x" in said
    assert store.list_images() == []


# -- servers that do not do as they should


class Recorded:
    """The answers of a real server, which a test sends again, perhaps spoiled."""

    def __init__(self, description: bytes, archive: bytes) -> None:
        self.description = description
        self.archive = archive
        self.asked: list[str] = []

    def serve(self, archive: bytes | None = None, *, cut: bool = False) -> RawServer:
        """Answer with the description, and with another archive or a part of it."""
        data = self.archive if archive is None else archive

        def behave(connection: Connection) -> None:
            while line := connection.head().partition("\r\n")[0]:
                path = line.split(" ")[1]
                self.asked.append(path)
                if path.endswith("/json"):
                    connection.send(_answer(self.description))
                    continue
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                connection.send(head + b"%x\r\n" % len(data) + data + b"\r\n")
                if cut:
                    return
                connection.send(b"0\r\n\r\n")

        return RawServer(behave)


def _answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    return head + body


@pytest.fixture(scope="module")
def recorded(engine: Engine) -> Recorded:
    return Recorded(
        engine.request("GET", f"/images/{NAME}/json")[1],
        engine.request("GET", f"/images/{NAME}/get")[1],
    )


def test_what_the_store_has_is_not_fetched(
    command: Command, recorded: Recorded, store: Store, tmp_path: Path
) -> None:
    recorded.asked.clear()
    with recorded.serve() as server:
        cli = command(f"tcp://{server.address}")
        for _ in range(3):
            cli.run("ls", f"docker-daemon:{NAME}:/")
        cli.run("copy", f"docker-daemon:{NAME}", f"dir:{tmp_path}/copy")
    asked = [path.rpartition("/")[2] for path in recorded.asked]
    assert asked == ["json", "get", "json", "json", "json"]
    assert len(store.list_images()) == 1


def test_a_daemon_that_ends_in_the_middle(
    command: Command, recorded: Recorded, store: Store
) -> None:
    whole = len(recorded.archive)
    for end in (0, 100, 600, 5000, whole // 2, whole - 10_500, whole - 1):
        with recorded.serve(recorded.archive[:end], cut=True) as server:
            cli = command(f"tcp://{server.address}")
            said = cli.error("load", f"docker-daemon:{NAME}")
        assert said.startswith(f"docker-daemon:{NAME}: ")
        assert store.list_images() == []
        assert_nothing_partial(store)


@pytest.mark.needs("podman")
def test_a_daemon_that_is_killed_in_the_middle(
    command: Command, store: Store, tmp_path: Path, archive: Path
) -> None:
    """The archive has three megabytes, of which sockets hold a small part."""
    (tmp_path / "engine").mkdir()
    with Engine("podman", tmp_path / "engine") as engine:
        engine.load(archive)
        with KillingRelay(engine, 500_000) as relay:
            said = command(f"tcp://{relay.address}").error("load", f"docker-daemon:{NAME}")
    assert said.startswith(f"docker-daemon:{NAME}: tcp://{relay.address}: ")
    assert store.list_images() == []
    assert_nothing_partial(store)


def test_an_archive_that_is_cut_but_ends_well(
    command: Command, recorded: Recorded, store: Store
) -> None:
    """As a server sends whose own disk has failed it."""
    for end in (0, 512, 5120, len(recorded.archive) // 2):
        with recorded.serve(recorded.archive[:end]) as server:
            cli = command(f"tcp://{server.address}")
            cli.error("load", f"docker-daemon:{NAME}")
        assert store.list_images() == []
        assert_nothing_partial(store)


Change = Callable[[str, bytes], bytes | None]
"""The new content of a member; None leaves it out."""


def changed(archive: bytes, change: Change) -> bytes:
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as old,
        tarfile.open(fileobj=out, mode="w") as new,
    ):
        for member in old:
            file = old.extractfile(member) if member.isreg() else None
            data = change(member.name, b"" if file is None else file.read())
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    return out.getvalue()


def without_large(_: str, data: bytes) -> bytes | None:
    return None if len(data) > 1_000_000 else data


def with_other_bytes(_: str, data: bytes) -> bytes:
    return data.replace(b"1" * 1000, b"2" * 1000)


def with_list(content: bytes | None) -> Change:
    return lambda name, data: content if name == "manifest.json" else data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_list(None), "not supported"),  # as Docker had it before 1.10
        (with_list(b"[]"), "contains no image"),
        (with_list(b"x" * 5_000_000), "more than 4194304"),
        (without_large, "is missing"),
        (with_other_bytes, "is no layer of the image|digest is .*, expected"),
    ],
)
def test_an_archive_that_is_not_the_image(
    command: Command, recorded: Recorded, store: Store, change: Change, message: str
) -> None:
    with recorded.serve(changed(recorded.archive, change)) as server:
        said = command(f"tcp://{server.address}").error("load", f"docker-daemon:{NAME}")
    assert said.startswith(f"docker-daemon:{NAME}")
    assert re.search(message, said)
    assert store.list_images() == []
    assert_nothing_partial(store)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        _answer(b""),
        _answer(b"[]"),
        _answer(b"{}"),
        _answer(b'{"Id": "x", "RootFS": {}}'),
        _answer(b'{"Id": 1, "RootFS": []}'),
        _answer(b'{"Id": "sha256:%s", "RootFS": {"Layers": [1]}}' % (b"0" * 64)),
        _answer(b"[" * 100_000),
        _answer(b"{" + b" " * 5_000_000 + b"}"),
        _answer(b"\xff\xfe"),
        _answer(b'{"message": "out of \\u001b[31mcheese"}', b"500 No"),
        b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_garbage_answer(command: Command, tmp_path: Path, answer: bytes) -> None:
    def behave(connection: Connection) -> None:
        connection.head()
        connection.send(answer)

    with RawServer(behave) as server:
        cli = command(f"tcp://{server.address}")
        said = cli.error("load", f"docker-daemon:{NAME}")
    assert said.startswith(f"docker-daemon:{NAME}: ") or "redirects" in said
    assert said.isprintable()
    assert Store(tmp_path / "store").list_images() == []


def test_a_daemon_that_says_nothing(command: Command) -> None:
    with RawServer(Connection.stall) as server:
        cli = command(f"tcp://{server.address}", UNIONMOUNT_TIMEOUT="0.1")
        said = cli.error("load", f"docker-daemon:{NAME}")
    assert said == (
        f"docker-daemon:{NAME}: {server.address} sent nothing for 0.1 s "
        "(UNIONMOUNT_TIMEOUT changes it)"
    )


def test_a_daemon_that_sends_byte_by_byte(command: Command, recorded: Recorded) -> None:
    def behave(connection: Connection) -> None:
        while connection.head().startswith(f"GET /images/{NAME}/json"):
            connection.send(_answer(recorded.description))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        connection.drip(recorded.archive[:10_000], 0.02)

    with RawServer(behave) as server:
        cli = command(f"tcp://{server.address}", UNIONMOUNT_TIMEOUT="0.1")
        said = cli.error("load", f"docker-daemon:{NAME}")
    assert "is too slow" in said
    assert "UNIONMOUNT_TIMEOUT" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(
    recorded: Recorded, store: Store, tmp_path: Path, number: signal.Signals
) -> None:
    sent = threading.Event()

    def behave(connection: Connection) -> None:
        while connection.head().startswith(f"GET /images/{NAME}/json"):
            connection.send(_answer(recorded.description))
        half = recorded.archive[: len(recorded.archive) // 2]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(recorded.archive)
        connection.send(head + half)
        sent.set()
        connection.stall()

    with RawServer(behave) as server:
        environment = os.environ | _environment(tmp_path, f"tcp://{server.address}")
        with subprocess.Popen(
            [*COMMAND, "load", f"docker-daemon:{NAME}"], env=environment, stderr=subprocess.PIPE
        ) as running:
            assert sent.wait(60)
            running.send_signal(number)
            _, said = running.communicate(timeout=60)
    assert b"Traceback" not in said
    assert running.returncode == (130 if number is signal.SIGINT else -number)
    assert store.list_images() == []
    if number is signal.SIGINT:
        assert_nothing_partial(store)


# -- the forms that newer daemons send, which Debian has not got


@pytest.mark.parametrize("compress", [plain, gzipped])
@pytest.mark.parametrize("containerd", [False, True])
def test_the_form_of_newer_dockers(
    command: Command, store: Store, compress: Compress, containerd: bool
) -> None:
    """An OCI layout with a manifest.json; containerd's store has compressed layers, too."""
    image = small_image(names=("new:1",))
    manifest = manifest_of(image, compress)
    item = {
        "Config": blob_path(image.config),
        "RepoTags": ["new:1"],
        "Layers": [blob_path(compress(layer)) for layer in image.layers],
    }
    members = oci_layout(image, compress=compress)
    members["manifest.json"] = json.dumps([item]).encode()
    description = {
        "Id": sha256(manifest) if containerd else image.id,
        "RepoTags": ["new:1"],
        "RootFS": {"Type": "layers", "Layers": image.diff_ids},
    }
    recorded = Recorded(json.dumps(description).encode(), tar(dict(sorted(members.items()))))
    with recorded.serve() as server:
        cli = command(f"tcp://{server.address}")
        for _ in range(2):
            cli.run("load", "docker-daemon:new:1")
    assert [path.rpartition("/")[2] for path in recorded.asked] == ["json", "get", "json"]
    (stored,) = store.list_images()
    assert (str(stored.id), stored.names) == (image.id, ("docker.io/library/new:1",))
    assert store.read_image(stored).manifest.raw == manifest
    with open_image(store, "new:1", verify=True) as opened:
        assert tree_of(opened) == SMALL_TREE


SMALL = small_image(names=("small:1",))
SAVED = tar(docker_archive_members(SMALL))


@settings(max_examples=amount(60, 2000))
@given(at=st.integers(0, len(SAVED) - 1), bit=st.integers(0, 7), end=st.integers(0, len(SAVED)))
def test_damage_is_an_error_or_harmless(at: int, bit: int, end: int) -> None:
    """Whatever bit is wrong, and wherever it ends: what appears is the image, or nothing does."""
    spoiled = bytearray(SAVED if end > len(SAVED) // 2 else SAVED[:end])
    if at < len(spoiled):
        spoiled[at] ^= 1 << bit
    description = {"Id": SMALL.id, "RepoTags": None, "RootFS": {"Layers": SMALL.diff_ids}}
    with (
        tempfile.TemporaryDirectory() as directory,
        Recorded(json.dumps(description).encode(), bytes(spoiled)).serve() as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DOCKER_HOST", f"tcp://{server.address}")
        store = Store(Path(directory))
        said = ""
        try:
            load(store, f"docker-daemon:{SMALL.id}")
        except UnionmountError as error:
            said = str(error)
        if said:
            assert said.isprintable()
            assert store.list_images() == []
        else:
            assert [str(one.id) for one in store.list_images()] == [SMALL.id]
            assert list(check_image(store, SMALL.id)) == []
        assert_nothing_partial(store)


LAYER = tar({"file": b"content"})


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([("x/layer.tar", "../real/layer.tar", tarfile.SYMTYPE)], ""),
        ([("x/layer.tar", "/real/layer.tar", tarfile.SYMTYPE)], ""),
        ([("x/layer.tar", "../../../real/layer.tar", tarfile.SYMTYPE)], ""),
        ([("x/layer.tar", "real/layer.tar", tarfile.LNKTYPE)], ""),
        ([("x", "real", tarfile.SYMTYPE)], ""),
        ([("x/layer.tar", "y", tarfile.SYMTYPE), ("x/y", "real/layer.tar", tarfile.LNKTYPE)], ""),
        ([("x/layer.tar", "layer.tar", tarfile.SYMTYPE)], "too many links"),
        ([("x/layer.tar", "../none", tarfile.SYMTYPE)], "is missing"),
        ([("x/layer.tar", "/etc/passwd", tarfile.SYMTYPE)], "is missing"),
        ([("x/layer.tar", "", tarfile.FIFOTYPE)], "is neither file nor link"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_layers_that_are_links(
    command: Command, store: Store, links: list[tuple[str, str, bytes]], message: str, first: bool
) -> None:
    """As older dockers have written them; the link may come before what it leads to."""
    image = MadeImage((LAYER,), ("old:1",))
    config = image.id.partition(":")[2] + ".json"
    items = [{"Config": config, "RepoTags": ["old:1"], "Layers": ["x/layer.tar"]}]
    made = [link(*one) for one in links]
    layer = [("real/layer.tar", LAYER)]
    documents = [(config, image.config), ("manifest.json", json.dumps(items).encode())]
    members: list[tarfile.TarInfo | tuple[str, bytes]] = [*layer, *documents]
    members[0 if first else 1 : 0 if first else 1] = made
    description = {"Id": image.id, "RepoTags": None, "RootFS": {"Layers": image.diff_ids}}
    with Recorded(json.dumps(description).encode(), tar(members)).serve() as server:
        cli = command(f"tcp://{server.address}")
        if message:
            assert message in cli.error("load", f"docker-daemon:{image.id}")
            assert store.list_images() == []
        else:
            cli.run("load", f"docker-daemon:{image.id}")
            with open_image(store, image.id) as opened:
                assert tree_of(opened) == {b"file": b"content"}
    assert_nothing_partial(store)


# -- from Python


def test_within_an_event_loop(engine: Engine, tmp_path: Path) -> None:
    """A program that runs trio or asyncio opens images as any other does."""
    script = (
        "import asyncio, sys, trio, warnings; from unionmount import open_image\n"
        "warnings.simplefilter('error')\n"
        "def show():\n"
        "    with open_image(sys.argv[1]) as image: print(image.tree.read('/etc/two').decode())\n"
        "async def main(): show()\n"
        "show(); trio.run(main); asyncio.run(main())\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, f"docker-daemon:{NAME}"],
        env=os.environ | _environment(tmp_path, engine.host),
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout == "two\n" * 3


# -- where the daemon is


def test_no_socket(command: Command, tmp_path: Path) -> None:
    cli = command(f"unix://{tmp_path}/none.sock")
    said = cli.error("ls", f"docker-daemon:{NAME}:/")
    assert f"{tmp_path}/none.sock: no such socket" in said
    (tmp_path / "file").touch()
    said = command(f"unix://{tmp_path}/file").error("ls", f"docker-daemon:{NAME}:/")
    assert "nothing listens there" in said


@pytest.mark.needs("setpriv")
def test_no_permission(public_tmp: Path) -> None:
    """The message names the group of the socket, whose members may connect."""
    path = public_tmp / "docker.sock"
    group = grp.getgrnam("games")
    for place in ("store", "run"):
        (public_tmp / place).mkdir()
        os.chown(public_tmp / place, NOBODY, NOBODY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        os.chown(path, 0, group.gr_gid)
        path.chmod(0o660)
        environment = own_places(public_tmp) | {"DOCKER_HOST": f"unix://{path}"}
        cli = CommandLine(become_nobody(), environment | {"HOME": str(public_tmp)})
        assert cli.error("load", f"docker-daemon:{NAME}") == (
            f"docker-daemon:{NAME}: {path}: permission denied; root and members of the group "
            "'games' may use the daemon"
        )


@pytest.fixture
def certificates(tmp_path: Path, authority: Authority) -> Path:
    """The files of a user's DOCKER_CERT_PATH."""
    directory = tmp_path / "certificates"
    directory.mkdir()
    pair = authority.sign("user")
    for name, path in (
        ("ca.pem", authority.own.certificate),
        ("cert.pem", pair.certificate),
        ("key.pem", pair.key),
    ):
        shutil.copy(path, directory / name)
    return directory


def test_over_tls(
    command: Command, engine: Engine, authority: Authority, certificates: Path
) -> None:
    with TlsRelay(engine, authority) as relay:
        host = f"tcp://{relay.address}"
        known = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)}
        cli = command(host, **known)
        assert cli.run("ls", f"docker-daemon:{NAME}:/etc").stdout == "one\ntwo\n"
        cli.run("copy", NAME, "docker-daemon:over-tls:1")
        assert engine.describe("over-tls:1")["Id"] == engine.describe(NAME)["Id"]
        for spoil, message in (
            ("ca.pem", "certificate"),  # the daemon is not trusted
            ("cert.pem", "may want a client certificate|certificate required"),
        ):
            (certificates / spoil).rename(certificates / "away")
            assert re.search(message, cli.error("load", f"docker-daemon:{NAME}"))
            (certificates / "away").rename(certificates / spoil)
        (certificates / "key.pem").unlink()
        assert "the key is missing" in cli.error("load", f"docker-daemon:{NAME}")
        (certificates / "key.pem").write_text("no key")
        assert str(certificates) in cli.error("load", f"docker-daemon:{NAME}")


@pytest.mark.needs("docker")
def test_contexts_of_docker(
    command: Command, engine: Engine, authority: Authority, tmp_path: Path, certificates: Path
) -> None:
    """Docker's own client writes them, and says which counts."""
    config = {"DOCKER_CONFIG": str(tmp_path / "config")}
    none = f"unix://{tmp_path}/none.sock"
    with TlsRelay(engine, authority) as relay:
        files = ("ca=ca.pem", "cert=cert.pem", "key=key.pem")
        tls = ",".join(one.replace("=", f"={certificates}/") for one in files)
        for name, endpoint in {
            "socket": f"host={engine.host}",
            "secure": f"host=tcp://{relay.address},{tls}",
            "nowhere": f"host={none}",
        }.items():
            docker(config, "context", "create", name, "--docker", endpoint)
        for name, chosen in (("socket", True), ("secure", True), ("nowhere", False)):
            docker(config, "context", "use", name)
            cli = command("", **config)
            if chosen:
                cli.run("load", f"docker-daemon:{NAME}")
            else:
                assert f"{tmp_path}/none.sock" in cli.error("load", f"docker-daemon:{NAME}")
        by_name = config | {"DOCKER_CONTEXT": "socket"}
        command("", **by_name).run("load", f"docker-daemon:{NAME}")
        said = command(none, **by_name).error("load", f"docker-daemon:{NAME}")
        assert f"{tmp_path}/none.sock" in said  # DOCKER_HOST comes first
        missing = config | {"DOCKER_CONTEXT": "missing"}
        said = command("", **missing).error("load", f"docker-daemon:{NAME}")
        assert said.startswith("docker context 'missing': does not exist")


def docker(environment: dict[str, str], *words: str) -> None:
    command = ["docker", *words]
    subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)


def test_a_damaged_configuration_of_docker(command: Command, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[")
    cli = command("", DOCKER_CONFIG=str(tmp_path))
    assert f"{tmp_path}/config.json" in cli.error("load", f"docker-daemon:{NAME}")


@pytest.mark.parametrize(
    "host",
    [
        "unix://relative",
        "unix://",
        f"unix:///{'x' * 200}",
        "ssh://somewhere",
        "npipe:////./pipe/docker_engine",
        "tcp://",
        "tcp://host/path",
        "tcp://user@host",
        "tcp://host:port",
        "docker.sock",
    ],
)
def test_an_address_that_is_none(command: Command, host: str) -> None:
    said = command(host).error("ls", f"docker-daemon:{NAME}:/", status=2)
    assert said.startswith("DOCKER_HOST: ")


@pytest.mark.parametrize("word", ["", "A", "sha256:12", "a:b:c"])
def test_a_word_that_names_no_image(command: Command, tmp_path: Path, word: str) -> None:
    cli = command(f"unix://{tmp_path}/none.sock")
    status = 1 if word else 2
    assert "none.sock" not in cli.error("load", f"docker-daemon:{word}", status=status)


def test_commands_for_registries_name_the_right_one(command: Command) -> None:
    cli = command("")
    said = cli.error("pull", f"docker-daemon:{NAME}", status=2)
    assert f"'unionmount load docker-daemon:{NAME}'" in said
    done = cli.run("inspect", "--remote", f"docker-daemon:{NAME}", status=1)
    assert "is an image of a daemon" in done.stderr


def test_a_source_means_the_same_elsewhere() -> None:
    for text in ("docker-daemon:app:1", f"docker-daemon:sha256:{'0' * 64}"):
        location = Location.parse(text)
        assert (location.kind, str(location), location.absolute()) == ("docker-daemon", text, text)
    with pytest.raises(UsageError):
        Location.parse("docker-daemon:")
