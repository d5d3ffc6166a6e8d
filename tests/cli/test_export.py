"""``export``: its tar against the mount of the same image, unpacked by programs of others."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.backing import backing
from support.compare import Snapshot, differences, snapshot
from support.exported import LONG, archive_of_all_kinds
from support.mounting import COMMAND, CommandLine, is_mounted
from support.real_images import RealImage
from support.terminal import Terminal

GNU_TAR = ("tar", "--xattrs", "--xattrs-include=*", "-xpf")
BSD_TAR = ("bsdtar", "--numeric-owner", "-xpf")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of_all_kinds(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture
def exported(cli: CommandLine, source: Path, tmp_path: Path) -> Path:
    cli.run("export", "-o", tmp_path / "out.tar", source)
    return tmp_path / "out.tar"


def output(*words: str | Path, status: int = 0) -> bytes:
    """What a command writes to a pipe."""
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    return done.stdout


def unpacked(how: tuple[str, ...], tar: Path, where: Path) -> Snapshot:
    """The tree that a program makes of a tar."""
    where.mkdir()
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    subprocess.run([*how, str(tar), "-C", str(where)], check=True, env=environment)
    return snapshot(where)


# ---- oracles -------------------------------------------------------------------------------------


@pytest.mark.needs("fuse", "root", "tar")
def test_gnu_tar_unpacks_what_the_mount_shows(
    source: Path, exported: Path, tmp_path: Path, mount: Callable[..., Path]
) -> None:
    wanted = snapshot(mount(source))
    assert b"home/tool" in wanted
    assert wanted[b"home/tool"].names == (b"home/again", b"home/tool", b"tool")
    assert differences(wanted, unpacked(GNU_TAR, exported, tmp_path / "x")) == []


@pytest.mark.needs("fuse", "root", "bsdtar")
def test_bsdtar_unpacks_what_the_mount_shows(
    source: Path, exported: Path, tmp_path: Path, mount: Callable[..., Path]
) -> None:
    found = unpacked(BSD_TAR, exported, tmp_path / "x")

    def excuse(path: bytes, field: str, expected: object, got: object) -> bool:
        """It takes ACLs from records of its own, leaves the top alone, and rounds before 1970."""
        return (path, field) in {
            *((b"acl", "xattrs"), (b"", "mtime_ns"), (b"times/old", "mtime_ns")),
        }

    assert differences(snapshot(mount(source)), found, excuse) == []


@pytest.mark.needs("fuse", "root", "tar")
def test_gnu_tar_finds_no_difference(
    source: Path, exported: Path, mount: Callable[..., Path]
) -> None:
    compare = ["tar", "--xattrs", "-df", str(exported), "-C", str(mount(source))]
    done = subprocess.run(compare, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.needs("fuse", "root", "tar")
def test_a_real_image(
    cli: CommandLine, real: RealImage, tmp_path: Path, mount: Callable[..., Path]
) -> None:
    image = str(real.sources()["docker-archive"]).partition(":")[2]
    cli.run("export", "-o", tmp_path / "out.tar", image)
    found = unpacked(GNU_TAR, tmp_path / "out.tar", tmp_path / "x")
    assert len(found) > 5000
    assert differences(snapshot(mount(Path(image))), found) == []


def test_python_reads_every_field(exported: Path) -> None:
    with tarfile.open(exported, errors="surrogateescape") as tar:
        found = {member.name: member for member in tar}
    assert found["."].isdir()
    tool, again = found["home/tool"], found["tool"]
    assert {again.islnk(), tool.islnk(), found["home/again"].islnk()} == {True, False}
    first = next(one for one in (tool, again, found["home/again"]) if not one.islnk())
    assert (first.mode, first.uid, first.gid) == (0o4755, 1000, 7)
    assert os.fsencode(first.pax_headers["SCHILY.xattr.user.note"]) == b"\x00\xff="
    assert found["times/old"].pax_headers["mtime"] == "-1.000000005"
    assert found["etc/motd"].pax_headers["mtime"] == "1000000000.000000007"
    assert (found["dev/sda"].devmajor, found["dev/sda"].devminor) == (8, 255)
    assert (found["owner"].uid, found["owner"].gid) == (2**21, 2**31)
    assert f"{LONG}/file" in found
    assert not [name for name in found if ".wh." in name or name in ("gone", "etc/secret")]


@pytest.fixture(scope="module")
def podman() -> Iterator[Callable[..., bytes]]:
    top = tempfile.mkdtemp(prefix="p", dir="/tmp")  # podman takes paths of at most 50 bytes
    place = ["--root", f"{top}/root", "--runroot", f"{top}/run", "--tmpdir", f"{top}/tmp"]

    def call(*words: str | Path) -> bytes:
        command = ["podman", *place, "--storage-driver", "vfs", *map(str, words)]
        return subprocess.run(command, capture_output=True, check=True).stdout

    yield call
    call("system", "reset", "--force")
    shutil.rmtree(top)


@pytest.mark.needs("root", "podman", "tar")
def test_podman_exports_the_same_tree(
    source: Path, exported: Path, tmp_path: Path, podman: Callable[..., bytes]
) -> None:
    podman("load", "-i", source)
    podman("create", "--name", "one", "kinds:1", "sh")
    (tmp_path / "podman.tar").write_bytes(podman("export", "one"))
    wanted = unpacked(GNU_TAR, tmp_path / "podman.tar", tmp_path / "theirs")
    found = unpacked(GNU_TAR, exported, tmp_path / "ours")

    def excuse(path: bytes, field: str, expected: object, got: object) -> bool:
        """Podman's tar has whole seconds and no ACLs; it makes /etc anew, and implied directories.

        The owner of a hard-linked file is to podman the one in the header of its last link.
        """
        if path in (b"home/tool", b"home/again", b"tool") and field in ("mode", "uid", "gid"):
            return True
        if (path, field) in {(b"", "mtime_ns"), (b"etc", "mtime_ns"), (b"acl", "xattrs")}:
            return True
        if field == "mtime_ns" and not path.startswith(implied):
            return expected == int(str(got)) // 10**9 * 10**9
        return path.startswith(implied) and field in ("mtime_ns", "mode")

    implied = (b"times", b"sizes", b"odd", b"dev", b"deep")
    assert differences(wanted, found, excuse) == []


# ---- what is exported ----------------------------------------------------------------------------


def test_the_bytes_depend_on_the_layers_alone(
    cli: CommandLine, source: Path, exported: Path, tmp_path: Path
) -> None:
    wanted = exported.read_bytes()
    assert output("export", source) == wanted
    root = ("--root", tmp_path / "store")
    cli.run(*root, "load", "-i", source)
    assert output(*root, "export", "kinds:1") == wanted
    layout = f"oci:{tmp_path}/layout"
    cli.run(*root, "copy", "--compress", "zstd", "kinds:1", layout)
    assert output("--root", tmp_path / "other", "export", layout) == wanted


def test_cp_to_a_stream_has_the_same_bytes(source: Path, exported: Path) -> None:
    """``cp`` has an item for each file, ``export`` has none for plain files of an image."""
    assert output("cp", f"{source}:/", "-") == exported.read_bytes()


@pytest.mark.needs("fuse", "root")
def test_a_container_without_changes_has_the_bytes_of_its_image(
    cli: CommandLine, source: Path, exported: Path, tmp_path: Path
) -> None:
    """Its files are read one by one, since they may change."""
    root, top = ("--root", tmp_path / "store"), tmp_path / "mnt"
    top.mkdir()
    cli.run(*root, "mount", "--name", "web", source, top)
    cli.run("umount", top)
    assert output(*root, "export", "web") == exported.read_bytes()


def names(data: bytes, tmp_path: Path) -> list[str]:
    (tmp_path / "some.tar").write_bytes(data)
    with tarfile.open(tmp_path / "some.tar") as tar:
        return tar.getnames()


def test_paths(source: Path, tmp_path: Path) -> None:
    wanted = [".", "link", "motd", "new", "out"]
    assert names(output("export", f"{source}:/etc"), tmp_path) == wanted
    assert names(output("export", f"{source}:/to-etc"), tmp_path) == wanted
    assert names(output("export", f"{source}:/absolute"), tmp_path) == ["motd"]
    far = names(output("export", f"{source}:/far/"), tmp_path)
    assert far == [".", "file"]


def test_a_path_as_a_word_of_its_own(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    assert output("export", source, "/etc") == output("export", f"{source}:/etc")
    assert cli.error("export", source, "/nope") == f"{source}:/nope: No such file or directory"
    message = cli.error("export", source, "/etc", "/home", status=2)
    assert message.startswith("a tar has the files of one path")
    message = cli.error("export", source, "out.tar", status=2)
    assert message.startswith("'out.tar' is no path inside the image")
    assert "-o" in message


def test_a_layer(source: Path, tmp_path: Path) -> None:
    assert "secret" in names(output("export", "--layer", "0", f"{source}:/etc"), tmp_path)


@pytest.mark.needs("fuse", "root", "tar")
def test_a_container_in_use(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    root, top = ("--root", tmp_path / "store"), tmp_path / "mnt"
    top.mkdir()
    cli.run(*root, "mount", "--name", "web", source, top)
    try:
        (top / "etc/motd").write_bytes(b"mine\n")
        (top / "etc/new").unlink()
        (top / "hole").touch()
        os.truncate(top / "hole", 3 << 20)
        os.link(top / "big", top / "second")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(top / "socket"))
            done = cli.run(*root, "export", "-o", tmp_path / "out.tar", "web")
        assert done.stderr == "unionmount: socket: left out, since a tar cannot hold a socket\n"
        (top / "socket").unlink()
        found = unpacked(GNU_TAR, tmp_path / "out.tar", tmp_path / "x")
        root_time = {b""}  # the socket was removed from it

        def excuse(path: bytes, field: str, expected: object, got: object) -> bool:
            return path in root_time and field == "mtime_ns"

        assert differences(snapshot(top), found, excuse) == []
        assert found[b"second"].names == (b"big", b"second")
    finally:
        if is_mounted(top):
            cli.run("umount", top)


# ---- manners -------------------------------------------------------------------------------------


def test_a_terminal_is_refused(source: Path) -> None:
    terminal = Terminal([*COMMAND, "export", str(source)], os.environ)
    try:
        assert terminal.wait() == 2
        assert b"standard output is a terminal; name a file with -o" in terminal.shown
    finally:
        terminal.close()


def test_what_is_not_there(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    assert cli.error("export", "-o", out, f"{source}:/nope") == (
        f"{source}:/nope: No such file or directory"
    )
    assert cli.error("export", "-o", tmp_path / "no/out.tar", source).startswith(f"{tmp_path}/no/")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_seen_enough(source: Path) -> None:
    command = [*COMMAND, "export", str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(512)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.needs("backing-tmpfs")
def test_a_full_disk_leaves_the_old_file(cli: CommandLine, source: Path) -> None:
    with backing("tmpfs", megabytes=2) as disk:
        out = disk / "out.tar"
        out.write_bytes(b"old")
        assert cli.error("export", "-o", out, source) == f"{out}: No space left on device"
        assert out.read_bytes() == b"old"
        assert list(disk.iterdir()) == [out]


def test_an_interruption_leaves_the_old_file(source: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle, and a file that may not be that large."""
    out = tmp_path / "out.tar"
    out.write_bytes(b"old")

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    program = (
        "import signal, sys; from unionmount.cli import main\n"
        "import unionmount.extract.tar_target as t\n"
        "write = t.TarTarget.put\n"
        "def put(self, item):\n"
        "    if item.path == b'etc': signal.raise_signal(signal.SIGINT)\n"
        "    write(self, item)\n"
        "t.TarTarget.put = put\n"
        f"sys.exit(main(['export', '-o', {str(out)!r}, {str(source)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert (done.returncode, done.stderr.strip()) == (130, b"")
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]
    limited = subprocess.run(
        [*COMMAND, "export", "-o", str(out), str(source)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (limited.returncode, limited.stderr) == (1, f"unionmount: {out}: File too large\n")
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_an_interruption_while_nobody_reads(source: Path) -> None:
    """The tar is larger than a pipe, so that the command waits until the signal comes."""
    command = [*COMMAND, "export", str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(512)) == 512
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert b"Traceback" not in process.stderr.read()


def test_128_layers(tmp_path: Path) -> None:
    """Each layer adds a file, and removes that of the layer before."""
    layers = [
        Layer().file(f"at/{number}", b"x").file("last", b"%d" % number) for number in range(128)
    ]
    for number, layer in enumerate(layers[1:]):
        layer.file(f"at/.wh.{number}")
    image = docker_archive(tmp_path / "image.tar", layers)
    data = output("export", image)
    assert sorted(names(data, tmp_path)) == [".", "at", "at/127", "last"]
    with tarfile.open(tmp_path / "some.tar") as tar:
        last = tar.extractfile("last")
        assert last is not None
        assert last.read() == b"127"
    assert sorted(names(output("export", "--layer", "5", image), tmp_path)) == [
        *(".", "at", "at/5", "last"),
    ]
