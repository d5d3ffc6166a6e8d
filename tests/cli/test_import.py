"""``import`` of a root file system, and mounting one in place, beside tar, podman and umoci."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive, posix_acl
from support.backing import backing
from support.compare import Snapshot, differences, snapshot
from support.image_files import zstd_frame
from support.mounting import CommandLine, is_mounted, own_places
from support.programs import run
from support.servers import Authority, Connection, RawServer
from support.users import NOBODY, become_nobody

Compress = Callable[[bytes], bytes]


def plain(data: bytes) -> bytes:
    return data


COMPRESSED: dict[str, Compress] = {
    "plain": plain,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstd_frame,
}


def root_files() -> Layer:
    """What a small root file system has, as "docker export" spells it."""
    made = (
        Layer()
        .directory("./", mode=0o755)
        .directory("./etc")
        .directory("./usr")
        .directory("./usr/bin")
    )
    made.file("./etc/motd", b"hello\n", mode=0o640, owner=(1000, 1001))
    made.file("./usr/bin/su", b"#!/bin/sh\n" * 999, mode=0o4755).symlink("./bin", "usr/bin")
    made.hard_link("./etc/issue", "./etc/motd").add("./fifo", tarfile.FIFOTYPE, mode=0o600)
    made.directory("./tmp", mode=0o1777).file("./" + "n" * 200, b"", mode=0o600)
    return made


def tar_of_root(*, odd: bool = False) -> bytes:
    made = root_files()
    if odd:
        made.file("./etc/\udcff\n", b"odd", xattrs={"user.x": b"a\0\xff"})
        made.add("./null", tarfile.CHRTYPE, device=(1, 3), mode=0o666)
        made.add("./sda", tarfile.BLKTYPE, device=(8, 0), mode=0o660, owner=(0, 6))
    return made.data()


@pytest.fixture
def own(tmp_path: Path) -> CommandLine:
    """A command line with a store of its own."""
    return CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def inspected(cli: CommandLine, image: str) -> dict[str, object]:
    (found,) = json.loads(cli.run("inspect", image).stdout)
    assert isinstance(found, dict)
    return found


def diff_ids(cli: CommandLine, image: str) -> list[str]:
    words = ["inspect", "--format", '{{join .RootFS.Layers " "}}', image]
    return cli.run(*words).stdout.split()


def state(root: Path) -> dict[str, list[str]]:
    """What a store holds; empty where there is none."""
    places = ("layers/sha256", "blobs/sha256", "tmp", "leases", "images.json")
    found = {}
    for place in places:
        path = root / place
        if path.is_dir():
            found[place] = sorted(one.name for one in path.iterdir())
        elif path.exists():
            found[place] = [path.read_text()]
    return {place: names for place, names in found.items() if names}


@contextmanager
def mounted(cli: CommandLine, *words: str | Path, where: Path) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    cli.run("mount", *words, where)
    try:
        yield where
    finally:
        if is_mounted(where):
            cli.run("umount", where)


def extracted(tar: Path, where: Path) -> Snapshot:
    """What GNU tar makes of a tar."""
    where.mkdir()
    options = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--delay-directory-restore")
    run("tar", "-xpf", tar, "-C", where, *options)
    return snapshot(where)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("stream", [False, True], ids=["file", "stdin"])
def test_the_tar_is_the_layer(own: CommandLine, tmp_path: Path, kind: str, stream: bool) -> None:
    data = tar_of_root()
    path = tmp_path / "rootfs"
    path.write_bytes(COMPRESSED[kind](data))
    if stream:
        with path.open("rb") as file:
            image_id = own.run("import", "-", "app:1", stdin=file).stdout.strip()
    else:
        image_id = own.run("import", path, "app:1").stdout.strip()
    assert diff_ids(own, "app:1") == [sha256(data)]
    (layer,) = (tmp_path / "root/layers/sha256").iterdir()
    assert (layer / "layer.tar").read_bytes() == data
    raw = (tmp_path / "root/blobs/sha256" / image_id.removeprefix("sha256:")).read_bytes()
    config = json.loads(raw)
    assert sha256(raw) == image_id
    assert config["history"] == [{"created": config["created"], "comment": "Imported from -"}]
    assert config["comment"] == "Imported from -"
    assert (config["os"], config["config"]) == ("linux", {})
    assert own.run("check").stdout == ""


@pytest.mark.needs("root", "fuse", "tar")
@pytest.mark.parametrize("kind", COMPRESSED)
def test_it_shows_what_tar_extracts(own: CommandLine, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of_root(odd=True))
    wanted = extracted(path, tmp_path / "wanted")
    path.write_bytes(COMPRESSED[kind](tar_of_root(odd=True)))
    own.run("import", path, "app:1")
    with mounted(own, "--ro", "app:1", where=tmp_path / "mnt") as top:
        assert differences(wanted, snapshot(top)) == []
    with mounted(own, "--ro", path, where=tmp_path / "mnt") as top:
        assert differences(wanted, snapshot(top)) == []


@pytest.fixture
def short_place() -> Iterator[Path]:
    """A directory for podman, which takes paths of at most 50 bytes."""
    with tempfile.TemporaryDirectory(prefix="p", dir="/tmp") as place:
        yield Path(place)


@pytest.mark.needs("podman", "root")
def test_podman_makes_the_same_of_it(own: CommandLine, tmp_path: Path, short_place: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of_root())
    changes = (
        *('CMD ["/bin/sh", "-c", "true"]', "ENV A=b", "USER 1000", "WORKDIR /tmp"),
        *("EXPOSE 80/tcp", "LABEL a=b", "VOLUME /data", 'ENTRYPOINT ["/x"]', "STOPSIGNAL 9"),
    )
    words = [word for change in changes for word in ("-c", change)]
    places = ("--root", str(tmp_path / "p"), "--runroot", str(short_place))
    podman = ("podman", *places, "--storage-driver", "vfs")
    run(*podman, "import", "-q", *words, path, "app:1")
    (theirs,) = json.loads(run(*podman, "image", "inspect", "app:1"))
    own.run("import", *words, "-m", "a message", path, "app:1")
    (ours,) = json.loads(own.run("inspect", "app:1").stdout)
    assert ours["RootFS"] == theirs["RootFS"]
    assert (ours["Architecture"], ours["Os"]) == (theirs["Architecture"], theirs["Os"])
    assert {key: ours["Config"][key] for key in theirs["Config"]} == theirs["Config"]
    assert ours["Comment"] == "a message"
    # and what podman exports of its container comes back
    container = run(*podman, "create", "app:1", "x").strip().splitlines()[-1]
    run(*podman, "export", "-o", tmp_path / "export.tar", container)
    own.run("import", tmp_path / "export.tar", "again:1")
    listing = own.run("find", "app:1", "-path", "/etc/*", "-type", "f").stdout
    assert listing in own.run("find", "again:1", "-path", "/etc/*", "-type", "f").stdout
    assert own.run("cat", "again:1:/etc/motd").stdout == "hello\n"


@pytest.mark.needs("skopeo", "umoci", "root")
def test_other_tools_take_it(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of_root(odd=True))
    wanted = extracted(path, tmp_path / "wanted")
    own.run("import", path, "app:1")
    own.run("copy", "app:1", f"oci:{tmp_path}/oci:app")
    run("skopeo", "copy", "-q", f"oci:{tmp_path}/oci:app", f"oci:{tmp_path}/oci2:app")
    run("umoci", "unpack", "--image", f"{tmp_path}/oci2:app", tmp_path / "bundle")
    found = snapshot(tmp_path / "bundle/rootfs")

    def excuse(path: bytes, field: str, expected: object, found: object) -> bool:
        """Umoci does not set the times of directories again after it has filled them."""
        del expected, found
        return field == "mtime_ns" and stat.S_ISDIR(wanted[path].kind)

    assert differences(wanted, found, excuse) == []


def test_the_image_is_as_told(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of_root())
    own.environment["SOURCE_DATE_EPOCH"] = "1600000000"
    first = own.run("import", "--platform", "linux/arm/v7", path).stdout
    assert own.run("import", "--platform", "linux/arm/v7", path, "app").stdout == first
    found = inspected(own, "app")
    assert (found["Architecture"], found["Variant"], found["Os"]) == ("arm", "v7", "linux")
    assert found["Created"] == "2020-09-13T12:26:40Z"
    assert found["RepoTags"] == ["app:latest"]
    assert own.run("history", "--format", "{{.Comment}}", "app").stdout == "Imported from -\n"


def test_wrong_words_are_refused_before_anything_is_read(own: CommandLine, tmp_path: Path) -> None:
    missing = tmp_path / "missing.tar"
    assert "no such file" in own.error("import", missing)
    assert "instruction" in own.error("import", "-c", "NONSENSE x", missing, status=2)
    assert "has a digest" in own.error("import", missing, f"a@{sha256(b'')}", status=2)
    assert "--checksum" in own.error("import", "--checksum", "sha256:1", missing)
    assert "--checksum" in own.error("import", "--checksum", sha256(b""), tmp_path, status=2)
    assert "for URLs" in own.error("import", "--tls-verify", "yes", missing, status=2)
    assert "empty" in own.error("import", "", status=2)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        assert "is a socket" in own.error("import", tmp_path / "socket", status=2)
    assert state(tmp_path / "root") == {}


# ---- what is no root file system -----------------------------------------------------------------


def test_an_archive_of_images_is_none(own: CommandLine, tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "image.tar", [root_files()], "a:1")
    own.run("load", "-i", archive)
    own.run("save", "-o", tmp_path / "oci.tar", "--format", "oci-archive", "a:1")
    before = state(tmp_path / "root")
    for path in (archive, tmp_path / "oci.tar"):
        message = own.error("import", path)
        assert "use 'unionmount load', or --flat" in message
        assert state(tmp_path / "root") == before
    with archive.open("rb") as file:
        done = own.run("import", "-", stdin=file, status=1)
    assert "standard input: is an archive of images" in done.stderr
    own.run("import", "--flat", archive, "flat:1")
    assert "/manifest.json" in own.run("find", "flat:1").stdout


@pytest.mark.parametrize(
    "files",
    [
        {"manifest.json": b'{"name": "an app", "icons": []}', "index.html": b""},
        {"index.json": b'{"posts": []}', "bin/x": b""},
        {"manifest.json/x": b"", "repositories/x": b"", "index.json/y": b""},
    ],
    ids=["manifest", "index", "directories"],
)
def test_files_with_such_names_make_no_image(
    own: CommandLine, tmp_path: Path, files: dict[str, bytes]
) -> None:
    made = Layer()
    for name, content in files.items():
        made.file(name, content)
    path = tmp_path / "app.tar"
    path.write_bytes(made.data())
    own.run("import", path, "app:1")
    listing = own.run("find", "app:1").stdout
    assert own.run("find", path).stdout == listing
    assert all(f"/{name}\n" in listing for name in files)


def test_load_and_import_name_each_other(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of_root())
    assert "'unionmount import' makes an image" in own.error("load", "-i", path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (bytes(10240), "empty"),
        (b"hello\n", "ends within a header"),
        (os.urandom(2048), "checksum"),
        (tar_of_root()[:9000], "ends within"),
        (gzip.compress(tar_of_root())[:-20], "truncated gzip"),
        (lzma.compress(tar_of_root())[:-20], "truncated xz"),
        (bz2.compress(tar_of_root())[:-20], "truncated bzip2"),
        (b"\x04\x22\x4d\x18" + bytes(100), "lz4"),
        (gzip.compress(tar_of_root()) + b"garbage", "no member begins here"),
    ],
)
def test_what_is_broken_leaves_nothing(
    own: CommandLine, tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "broken.tar"
    path.write_bytes(data)
    assert reason in own.error("import", path, "x:1")
    assert state(tmp_path / "root") == {}
    assert reason in own.error("ls", path)
    assert state(tmp_path / "root") == {}


def test_names_that_lead_out_stay_inside(own: CommandLine, tmp_path: Path) -> None:
    hostile = Layer().file("../../escape", b"1").file("/absolute", b"2").symlink("out", "/etc")
    hostile.file("out/passwd", b"3").symlink("up", "../..").file("up/above", b"4")
    hostile.hard_link("link", "../../escape").hard_link("shadow", "/etc/shadow")
    path = tmp_path / "hostile.tar"
    hostile.symlink("loop", "loop").file("loop/file", b"5")
    path.write_bytes(hostile.data())
    warnings = own.run("import", path, "x:1").stderr
    assert "1 entries left out, since symlinks" in warnings
    assert "'shadow' left out, a hard link to 'etc/shadow', which is not there" in warnings
    assert warnings.count("\n") == 2
    wanted = ["/", "/above", "/absolute", "/escape", "/etc", "/etc/passwd", "/link"]
    wanted += ["/loop", "/out", "/up"]
    assert own.run("find", "x:1").stdout.splitlines() == wanted
    assert own.run("find", path).stdout.splitlines() == wanted


# ---- names that are whiteouts in a layer ---------------------------------------------------------


def marked() -> bytes:
    made = root_files().file("./etc/.wh.motd", b"a file").file("./.wh..wh..opq", b"another")
    return made.directory("./.wh.d").file("./.wh.d/below", b"below").file("./.wh.", b"bare").data()


@pytest.mark.needs("tar")
@pytest.mark.parametrize("kind", ["plain", "gz"])
def test_no_image_has_such_names(own: CommandLine, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(COMPRESSED[kind](marked()))
    (tmp_path / "mnt").mkdir()
    commands: list[list[str | Path]] = [["import", path], ["mount", path, tmp_path / "mnt"]]
    for words in commands:
        message = own.error(*words)
        assert "./etc/.wh.motd" in message
        assert "--ro" in message
    assert "layers/sha256" not in state(tmp_path / "root")
    # the same bytes as a layer are another thing
    own.run("load", "-i", docker_archive(tmp_path / "i.tar", [as_layer(marked_layer())], "a:1"))
    assert ".wh." not in own.run("find", "a:1").stdout
    path.write_bytes(COMPRESSED[kind](marked_layer()))
    assert "./etc/.wh.motd" in own.error("import", path)


def marked_layer() -> bytes:
    return root_files().file("./etc/.wh.motd", b"a file").data()


def as_layer(data: bytes) -> Layer:
    class Made(Layer):
        def data(self) -> bytes:
            return data

    return Made()


@pytest.mark.needs("fuse", "root", "tar")
def test_a_mount_in_place_shows_them(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(marked())
    wanted = extracted(path, tmp_path / "wanted")
    for _ in range(2):
        with mounted(own, "--ro", path, where=tmp_path / "mnt") as top:
            assert differences(wanted, snapshot(top)) == []
    assert own.run("cat", f"{path}:/etc/.wh.motd").stdout == "a file"
    for option in (["--ephemeral"], ["--upper", str(tmp_path / "upper")]):
        message = own.error("mount", *option, path, tmp_path / "mnt", status=2)
        assert "mount it with --ro" in message
    assert not (tmp_path / "upper").exists()
    assert state(tmp_path / "root").keys() <= {"images.json"}


def test_a_device_that_marks_a_deletion(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(Layer().add("gone", tarfile.CHRTYPE, device=(0, 0)).file("x").data())
    assert "'gone'" in own.error("import", path)
    assert own.run("find", path, "-type", "c").stdout == "/gone\n"


# ---- in place ------------------------------------------------------------------------------------


def test_a_tar_in_place_is_indexed_once_and_not_copied(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of_root())
    listing = own.run("find", path).stdout
    assert "/etc/motd\n" in listing
    indexes = sorted((tmp_path / "root/inplace").iterdir())
    times = [one.stat().st_mtime_ns for one in indexes]
    assert len(indexes) == 2
    assert state(tmp_path / "root") == {}
    assert own.run("ls", "-l", f"{path}:/etc/motd").stdout.startswith("-rw-r----- 2 1000 1001 6")
    assert diff_ids(own, str(path)) == [sha256(tar_of_root())]
    assert [one.stat().st_mtime_ns for one in indexes] == times
    assert own.run("check").stdout == ""
    path.write_bytes(root_files().file("./new", b"1").data())
    assert "/new\n" in own.run("find", path).stdout
    assert len(list((tmp_path / "root/inplace").iterdir())) == 4
    own.run("prune")
    assert len(list((tmp_path / "root/inplace").iterdir())) == 2


def test_a_damaged_record_of_a_tar_is_made_again(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of_root())
    listing = own.run("find", path).stdout
    index, record = sorted((tmp_path / "root/inplace").iterdir())
    sound = record.read_bytes()
    wrong = [
        *(b"", b"{}", b"[]", sound[:-20], sound.replace(b"sha256:", b"sha255:")),
        *(sound.replace(b'"marks": 0', b'"marks": []'), sound.replace(b"rootfs", b"\xff")),
        sound.replace(b'"names": []', b'"names": ["\\u1234"]'),
    ]
    for data in wrong:
        assert data != sound
        record.write_bytes(data)
        assert own.run("find", path).stdout == listing
        assert record.read_bytes() == sound
    index.write_bytes(index.read_bytes()[:-1])
    assert own.run("find", path).stdout == listing
    assert own.run("check").stdout == ""


@pytest.mark.needs("fuse")
def test_a_writable_mount_keeps_the_tar_as_an_image(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of_root())
    with mounted(own, "--name", "box", path, where=tmp_path / "mnt") as top:
        (top / "etc/new").write_text("new")
    assert own.run("diff", "box").stdout == "C /etc\nA /etc/new\n"
    own.run("commit", "box", "made:1")
    assert diff_ids(own, "made:1")[0] == sha256(tar_of_root())
    with mounted(own, "--ephemeral", path, where=tmp_path / "mnt") as top:
        (top / "etc/new").write_text("newer")
        own.run("commit", top, "made:2")
    assert own.run("cat", "made:2:/etc/new").stdout == "newer"
    assert diff_ids(own, "made:2")[0] == sha256(tar_of_root())


# ---- the checksum, interruptions, a full disk ----------------------------------------------------


def test_the_checksum_is_that_of_the_file(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar.gz"
    data = gzip.compress(tar_of_root())
    path.write_bytes(data)
    sha512 = f"sha512:{hashlib.sha512(data).hexdigest()}"
    for wrong in (sha256(tar_of_root()), sha256(b""), "sha512:" + "0" * 128):
        assert "digest is" in own.error("import", "--checksum", wrong, path, "x:1")
        assert state(tmp_path / "root") == {}
    own.run("import", "--checksum", sha256(data), path, "x:1")
    own.run("import", "--checksum", sha512, path, "y:1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(
    own: CommandLine, tmp_path: Path, number: signal.Signals
) -> None:
    words = [sys.executable, "-m", "unionmount", "import", "-", "x:1"]
    with subprocess.Popen(
        words,
        env=own.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(Layer().file("big", os.urandom(4 << 20)).data()[:-20000])
        process.stdin.flush()
        while not list((tmp_path / "root/tmp").glob("*/layer.tar")):
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait() != 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    own.run("prune")  # a killed process has left its lease
    assert state(tmp_path / "root") == {}


@pytest.mark.needs("root", "backing-tmpfs")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "big.tar"
    path.write_bytes(Layer().file("big", os.urandom(9 << 20)).data())
    with backing("tmpfs", megabytes=6) as disk:
        cli = CommandLine(environment={"UNIONMOUNT_ROOT": str(disk / "root")})
        assert "No space left" in cli.error("import", path, "x:1")
        assert state(disk / "root") == {}
        shutil.rmtree(disk / "root")


# ---- URLs ----------------------------------------------------------------------------------------


class Site:
    """A web server with one file, which can break off and change."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.headers = 'ETag: "1"\r\nAccept-Ranges: bytes\r\n'
        self.breaks: list[int] = []  # bytes after which the next answers end
        self.asked: list[str] = []
        self.status = ""
        self.honest = True

    def __call__(self, connection: Connection) -> None:
        head = connection.head()
        self.asked.append(head)
        if self.status:
            connection.send(f"HTTP/1.1 {self.status}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        lines = [line for line in head.splitlines() if line.lower().startswith("range:")]
        start = int(lines[0].partition("bytes=")[2].rstrip("-")) if lines and self.honest else 0
        status = "206 Partial Content" if start else "200 OK"
        body = self.data[start:]
        fields = f"Content-Length: {len(body)}\r\n{self.headers}Connection: close\r\n"
        if start:
            fields += f"Content-Range: bytes {start}-{len(self.data) - 1}/{len(self.data)}\r\n"
        stop = self.breaks.pop(0) if self.breaks else len(body)
        connection.send(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + body[:stop])


def test_a_url_is_imported(own: CommandLine, tmp_path: Path) -> None:
    data = lzma.compress(tar_of_root())
    site = Site(data)
    with RawServer(site) as server:
        url = f"http://user:s3cret@{server.address}/rootfs.tar.xz?token=s3cret"
        own.run("import", "--checksum", sha256(data), url, "web:1")
        assert diff_ids(own, "web:1") == [sha256(tar_of_root())]
        comment = own.run("history", "--format", "{{.Comment}}", "web:1").stdout
        assert comment.startswith(f"Imported from http://{server.address}/rootfs.tar.xz")
        assert "s3cret" not in comment
        own.run("rmi", "web:1")
        before = state(tmp_path / "root")
        wrong = own.error("import", "--checksum", sha256(b""), url, "web:1")
        assert "digest is" in wrong
        assert "s3cret" not in wrong
        assert state(tmp_path / "root") == before
        site.status = "404 Not Found"
        assert "answers 404" in own.error("import", url)
        assert state(tmp_path / "root") == before


def test_a_broken_download_is_resumed(own: CommandLine) -> None:
    data = tar_of_root()
    site = Site(data)
    with RawServer(site) as server:
        site.breaks = [5000, 7000, 0]
        own.run("import", f"http://{server.address}/x.tar", "web:1")
        assert diff_ids(own, "web:1") == [sha256(data)]
        assert "bytes=5000-" in site.asked[1]
        assert "bytes=12000-" in site.asked[2]
        assert 'if-range: "1"' in site.asked[2].lower()


def test_a_redirect_leads_to_no_unprotected_bytes(own: CommandLine) -> None:
    site = Site(tar_of_root())
    site.status = "302 Found\r\nLocation: http://192.0.2.1/x.tar"  # nobody has this address
    with RawServer(site) as server:
        message = own.error("import", f"http://{server.address}/x.tar", "web:1")
        assert "redirects to http://192.0.2.1/x.tar, where nothing protects" in message
        near = Site(tar_of_root())
        with RawServer(near) as other:
            site.status = f"302 Found\r\nLocation: http://{other.address}/x.tar"
            own.run("import", f"http://{server.address}/x.tar", "web:1")
    assert near.asked
    assert diff_ids(own, "web:1") == [sha256(tar_of_root())]


def test_bytes_of_two_versions_are_never_joined(own: CommandLine, tmp_path: Path) -> None:
    site = Site(tar_of_root())
    with RawServer(site) as server:
        site.breaks, site.honest = [5000], False  # the next answer is a whole file
        message = own.error("import", f"http://{server.address}/x.tar", "web:1")
        assert "broke off after 5000 bytes" in message
        site.breaks, site.headers = [5000], ""  # nothing says which version it is
        message = own.error("import", f"http://{server.address}/x.tar", "web:1")
        assert "ends" in message or "closed" in message or "peer" in message
        assert len(site.asked) == 3
    assert state(tmp_path / "root") == {}


def test_an_interrupted_download_leaves_nothing(own: CommandLine, tmp_path: Path) -> None:
    data = Layer().file("big", os.urandom(4 << 20)).data()

    def stalling(connection: Connection) -> None:
        connection.head()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        connection.send(head + data[: 3 << 20])
        connection.stall()

    with RawServer(stalling) as server:
        words = [sys.executable, "-m", "unionmount", "import", f"http://{server.address}/x", "x:1"]
        with subprocess.Popen(words, env=own.environment, stderr=subprocess.PIPE) as process:
            while not list((tmp_path / "root/tmp").glob("*/layer.tar")):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
    assert state(tmp_path / "root") == {}


@pytest.mark.needs("umoci", "root", "tar")
def test_other_commands_take_such_a_tar(own: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of_root())
    for word in (path, f"{path}.gz"):
        Path(f"{path}.gz").write_bytes(gzip.compress(tar_of_root()))
        target = tmp_path / f"oci{len(str(word))}"
        own.run("copy", word, f"oci:{target}:app")
        run("umoci", "unpack", "--image", f"{target}:app", f"{target}.unpacked")
        assert (tmp_path / f"{target}.unpacked/rootfs/etc/motd").read_bytes() == b"hello\n"
        own.run("copy", "--squash", word, "app:1")
        assert own.run("diff", word, "app:1").stdout == ""
        assert len(own.run("layers", word).stdout.splitlines()) == 4
        assert " added " in own.run("which", word, "/etc/motd").stdout
        assert own.run("check", word).stdout == ""


@pytest.mark.needs("openssl")
def test_tls_is_required_and_verified(own: CommandLine, tmp_path: Path) -> None:
    pair = Authority(tmp_path / "ca").sign("web")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    site = Site(tar_of_root())

    def secure(connection: Connection) -> None:
        connection.socket = context.wrap_socket(connection.socket, server_side=True)
        site(connection)
        connection.socket.close()

    certificates = tmp_path / "certs"
    certificates.mkdir()
    shutil.copy(tmp_path / "ca/ca.crt", certificates)
    with RawServer(secure) as server:
        url = f"https://{server.address}/x.tar"
        assert "certificate" in own.error("import", url, "web:1")
        own.run("import", "--cert-dir", certificates, url, "web:1")
        own.run("import", "--tls-verify", "no", url, "web:2")
    plain = "http://192.0.2.1/x.tar"  # an address for documentation, which nobody has
    assert "--checksum" in own.error("import", plain, status=2)
    message = own.error("import", "--tls-verify", "yes", "--checksum", sha256(b""), plain, status=2)
    assert "plain HTTP" in message
    assert "not a URL" in own.error("import", "http://", status=2)


def test_a_proxy_is_used(own: CommandLine) -> None:
    site = Site(tar_of_root())
    with RawServer(site) as proxy:
        own.environment["HTTP_PROXY"] = f"http://{proxy.address}"
        url = "http://files.example/x.tar"
        own.run("import", "--checksum", sha256(tar_of_root()), url, "web:1")
        assert site.asked[0].startswith(f"GET {url} HTTP/1.1")


# ---- directories ---------------------------------------------------------------------------------


def make_directory(top: Path, *, as_root: bool) -> None:
    """All kinds of files in a directory."""
    (top / "etc").mkdir(parents=True)
    (top / "etc/motd").write_bytes(b"hello\n")
    (top / "etc/motd").chmod(0o4640)
    os.link(top / "etc/motd", top / "zz-link")
    (top / "empty").mkdir(mode=0o1777)
    (top / "empty").chmod(0o1777)
    (top / "bin").symlink_to("usr/bin")
    os.mkfifo(top / "fifo", 0o600)
    (top / ("n" * 255)).write_bytes(b"long")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\n")).write_bytes(b"not UTF-8")
    with (top / "holes").open("wb") as file:
        file.truncate(100_000)
        file.seek(50_000)
        file.write(b"data")
    os.utime(top / "etc/motd", ns=(1, 1_600_000_000_123_456_789))
    os.utime(top / "bin", ns=(1, 1_500_000_000_987_654_321), follow_symlinks=False)
    if as_root:
        os.chown(top / "etc/motd", 1000, 3_000_000_000)
        os.chown(top / "bin", 5, 6, follow_symlinks=False)
        os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 300_000))
        os.setxattr(top / "bin", "trusted.link", b"of a link", follow_symlinks=False)
        os.setxattr(
            top / "holes",
            "security.capability",
            bytes.fromhex("0100000200200000000000000000000000000000"),
        )
        os.setxattr(
            top / "etc",
            "system.posix_acl_default",
            posix_acl(
                (0x01, 7, 0xFFFFFFFF),
                (0x02, 5, 1000),
                (0x04, 5, 0xFFFFFFFF),
                (0x10, 5, 0xFFFFFFFF),
                (0x20, 0, 0xFFFFFFFF),
            ),
        )
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(top / "sock"))


@pytest.mark.needs("root", "fuse", "tar")
def test_a_directory_is_what_tar_takes_of_it(own: CommandLine, tmp_path: Path) -> None:
    top = tmp_path / "rootfs"
    make_directory(top, as_root=True)
    (top / "mnt/inner").mkdir(parents=True)
    run("mount", "-t", "tmpfs", "tmpfs", top / "mnt")
    try:
        (top / "mnt/elsewhere").write_bytes(b"of another file system")
        done = own.run("import", top, "tree:1")
        assert "sock: left out" in done.stderr
        assert done.stderr.count("\n") == 1
        options = ("--xattrs", "--xattrs-include=*", "--one-file-system", "--format=posix")
        run("tar", *options, "--exclude=./sock", "-cf", tmp_path / "t.tar", "-C", top, ".")
    finally:
        run("umount", top / "mnt")
    assert own.run("find", "tree:1", "-name", "elsewhere").stdout == ""
    wanted = extracted(tmp_path / "t.tar", tmp_path / "wanted")
    with mounted(own, "--ro", "tree:1", where=tmp_path / "mnt") as found:
        assert differences(wanted, snapshot(found)) == []
    epoch = {"SOURCE_DATE_EPOCH": "1550000000"}
    own.environment |= epoch
    first = own.run("import", "-q", top, "tree:2").stdout
    os.utime(top / "etc/motd", ns=(1, 1_700_000_000_000_000_000))
    assert own.run("import", "-q", top, "tree:3").stdout == first
    assert own.run("find", "tree:3", "-newer", "/bin", "-name", "motd").stdout == "/etc/motd\n"


def test_a_directory_of_an_ordinary_user(own: CommandLine, public_tmp: Path) -> None:
    top = public_tmp / "rootfs"
    public_tmp.chmod(0o777)
    prefix = become_nobody()
    user = CommandLine(prefix, {**own.environment, **own_places(public_tmp)})
    code = (
        "import os,pathlib,sys; top=pathlib.Path(sys.argv[1]); top.mkdir(); "
        "(top/'a').write_bytes(b'a'); (top/'d').mkdir(mode=0o750); (top/'c').write_bytes(b''); "
        "os.setxattr(top/'a','user.containers.override_stat',b'0:42:4755'); "
        "os.setxattr(top/'c','user.containers.override_stat',b'0:0:0666:char-1-3'); "
        "(top/'w').write_bytes(b''); (top/'w').chmod(0o666); "
        "os.setxattr(top/'w','user.containers.override_stat',b'0:0:4755')"
    )
    subprocess.run([*prefix, sys.executable, "-c", code, top], check=True)
    user.run("import", top, "tree:1")
    listing = user.run("ls", "-la", "tree:1:/").stdout.splitlines()[1:]
    shown = {line.split()[-1]: line.split()[:4] for line in listing}
    me = [str(NOBODY), str(NOBODY)] if os.geteuid() == 0 else [str(os.getuid()), str(os.getgid())]
    assert shown["a"] == ["-rwsr-xr-x", "1", "0", "42"]
    assert shown["c"] == ["crw-rw-rw-", "1", "0", "0"]
    assert shown["d"] == ["drwxr-x---", "2", *me]
    assert shown["w"] == ["-rw-rw-rw-", "1", *me]  # others may have set its attribute
    assert "override_stat" not in user.run("find", "tree:1").stdout
    if os.geteuid() == 0:
        (top / "secret").write_bytes(b"")
        (top / "secret").chmod(0)
        if prefix[-1].startswith("--ambient"):
            return  # this user can read everything
        assert "Permission denied" in user.error("import", top, "tree:2")
        assert user.run("images", "-q", "tree:2").stdout == ""


def test_the_same_directory_is_the_same_layer(own: CommandLine, tmp_path: Path) -> None:
    make_directory(tmp_path / "a", as_root=False)
    own.run("import", "-q", tmp_path / "a", "a:1")
    own.run("import", "-q", tmp_path / "a/.", "a:2")
    assert diff_ids(own, "a:1") == diff_ids(own, "a:2")
    own.run("import", "-q", os.path.relpath(tmp_path / "a"), "a:3")
    assert diff_ids(own, "a:1") == diff_ids(own, "a:3")


def test_the_store_is_not_part_of_the_image(tmp_path: Path) -> None:
    cli = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "top/root")})
    (tmp_path / "top").mkdir()
    (tmp_path / "top/file").write_bytes(b"1")
    done = cli.run("import", tmp_path / "top", "x:1")
    assert "is the store itself" in done.stderr
    assert cli.run("find", "x:1").stdout == "/\n/file\n/root\n"


def test_marks_and_images_in_a_directory_are_refused(own: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert "is empty" in own.error("import", tmp_path / "d")
    (tmp_path / "d/.wh.x").write_bytes(b"")
    assert "'.wh.x'" in own.error("import", tmp_path / "d")
    own.run("load", "-i", docker_archive(tmp_path / "i.tar", [root_files()], "a:1"))
    own.run("copy", "a:1", f"oci:{tmp_path}/oci")
    assert "is an archive of images" in own.error("import", tmp_path / "oci")


@pytest.mark.needs("tar")
def test_many_entries(own: CommandLine, tmp_path: Path) -> None:
    """A hundred thousand: a million takes longer, and nothing else."""
    count = 100_000
    made = Layer()
    for number in range(count):
        made.file(f"d{number % 1000}/f{number}", b"x" * (number % 3))
    path = tmp_path / "many.tar"
    path.write_bytes(made.data())
    own.run("import", path, "many:1")
    assert own.run("find", "many:1", "-type", "f").stdout.count("\n") == count
    assert own.run("find", path, "-type", "f").stdout.count("\n") == count
