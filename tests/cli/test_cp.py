"""``cp``: with podman cp as the oracle, and a mount as the oracle of what becomes of an upper."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.backing import backing
from support.compare import differences, snapshot
from support.exported import ODD_NAMES, archive_of_all_kinds
from support.mounting import COMMAND, CommandLine, is_mounted
from support.users import NOBODY

from unionmount.cli.copy_files import CopyRequest, copy_files, parse_operand
from unionmount.cli.settings import Settings
from unionmount.system import files as files_of_system
from unionmount.system.files import resolved


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of_all_kinds(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture
def users_source(home: Path) -> Path:
    """The same where an ordinary user can read it."""
    return archive_of_all_kinds(home / "image.tar")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files of the host to bring in."""
    top = tmp_path / "files"
    (top / "tree/below").mkdir(parents=True)
    (top / "file").write_bytes(b"file\n")
    (top / "tree/one").write_bytes(b"one\n")
    (top / "tree/below/two").write_bytes(b"two\n")
    (top / "tree/link").symlink_to("one")
    (top / "to-tree").symlink_to("tree")
    (top / "to-file").symlink_to("file")
    return top


@pytest.fixture
def web(cli: CommandLine, source: Path, tmp_path: Path) -> Iterator[CommandLine]:
    """A command line whose store has the containers web and other, which are not mounted."""
    line = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "store")})
    (tmp_path / "mnt").mkdir()
    for name in ("web", "other"):
        line.run("mount", "--name", name, source, tmp_path / "mnt")
        line.run("umount", name)
    yield line
    if is_mounted(tmp_path / "mnt"):
        line.run("umount", "--lazy", tmp_path / "mnt")


def shown(top: Path) -> dict[str, str]:
    """Each path below a directory with its type, and the content of files."""
    found = {}
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode
        text = path.read_text() if stat.S_ISREG(mode) else ""
        text = os.readlink(path) if stat.S_ISLNK(mode) else text
        found[str(path.relative_to(top))] = f"{stat.filemode(mode)} {text}"
    return found


# ---- out: the whole image, and what is kept ------------------------------------------------------


@pytest.mark.needs("fuse", "root")
def test_a_whole_image_is_what_the_mount_shows(
    cli: CommandLine, source: Path, tmp_path: Path, mount: Callable[..., Path]
) -> None:
    cli.run("cp", "-a", f"{source}:/", tmp_path / "out")
    assert differences(snapshot(mount(source)), snapshot(tmp_path / "out")) == []


@pytest.mark.needs("root")
def test_without_a_nothing_has_power(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    done = cli.run("cp", f"{source}:/", tmp_path / "out")
    assert done.stderr.splitlines() == [
        f"unionmount: {tmp_path}/out/dev/{name}: left out, since it is a device; -a copies it"
        for name in ("null", "sda")
    ]
    found = snapshot(tmp_path / "out")
    assert {(item.uid, item.gid) for item in found.values()} == {(0, 0)}
    assert not [path for path, item in found.items() if item.mode & 0o6000]
    assert not [path for path, item in found.items() if item.xattrs]
    assert found[b"home/tool"].mode == 0o755
    assert found[b"tmp"].mode == 0o1777
    assert found[b"etc/motd"].mtime_ns == 10**18 + 7
    assert found[b"home/tool"].names == (b"home/again", b"home/tool", b"tool")
    assert {path.rpartition(b"/")[2] for path in found if path.startswith(b"odd/")} == {
        os.fsencode(name) for name in ODD_NAMES
    }


def test_an_ordinary_user_keeps_what_users_may(
    user: CommandLine, users_source: Path, home: Path
) -> None:
    done = user.run("cp", "-a", f"{users_source}:/", home / "out")
    told = "left out, since it is a device; only root can make it, with -a"
    assert done.stderr.splitlines() == [
        f"unionmount: {home}/out/dev/{name}: {told}" for name in ("null", "sda")
    ]
    found = snapshot(home / "out")
    assert {(item.uid, item.gid) for item in found.values()} == {(NOBODY, NOBODY)}
    assert not [path for path, item in found.items() if item.mode & 0o6000]
    assert found[b"closed"].mode == 0o500
    assert found[b"closed/inside"].mode == 0o400
    assert dict(found[b"home/tool"].xattrs) == {b"user.note": b"\x00\xff="}


def test_what_a_later_layer_removed(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "secret"
    message = cli.error("cp", f"{source}:/etc/secret", out)
    assert message == f"{source}:/etc/secret: No such file or directory"
    assert not out.exists()
    cli.run("cp", "--layer", "0", f"{source}:/etc/secret", out)
    assert out.read_bytes() == b"token\n"
    cli.run("cp", "--layer", "1", f"{source}:/etc/motd", out)
    assert out.read_bytes() == b"hello\n"


@pytest.mark.needs("root")
def test_devices_and_pipes_of_the_host_stay(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "away").symlink_to("null")
    word = cli.run("find", source, "-type", "f", "-print", "-quit").stdout.strip()
    for name, kind in (("pipe", "a FIFO"), ("away", "a character device")):
        message = cli.error("cp", f"{source}:{word}", tmp_path / name)
        assert f"is {kind}, which is not replaced" in message
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "null").is_char_device()


def test_links_at_the_end(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    for name in ("etc/link", "etc/out", "to-etc", "dangling"):
        cli.run("cp", f"{source}:/{name}", tmp_path)
    assert (tmp_path / "link").readlink() == Path("motd")
    assert (tmp_path / "to-etc").readlink() == Path("etc")
    cli.run("cp", "-L", f"{source}:/etc/out", tmp_path / "followed")
    assert (tmp_path / "followed").read_bytes() == b"changed\n"
    cli.run("cp", f"{source}:/to-etc/", tmp_path / "etc")
    assert sorted(os.listdir(tmp_path / "etc")) == ["link", "motd", "new", "out"]
    assert "No such file" in cli.error("cp", "-L", f"{source}:/dangling", tmp_path)


@pytest.mark.needs("tar")
def test_a_tar_out_is_that_of_docker(source: Path, tmp_path: Path) -> None:
    def names(path: str) -> list[str]:
        words = [*COMMAND, "cp", f"{source}:{path}", "-"]
        data = subprocess.run(words, capture_output=True, check=True).stdout
        listed = subprocess.run(["tar", "-t"], input=data, capture_output=True, check=True).stdout
        return sorted(listed.decode().splitlines())

    assert names("/etc/motd") == ["motd"]
    assert names("/etc") == ["etc/", "etc/link", "etc/motd", "etc/new", "etc/out"]
    assert names("/etc/.") == ["./", "link", "motd", "new", "out"]
    assert names("/to-etc/")[0] == "to-etc/"


# ---- in: podman's rules --------------------------------------------------------------------------

SOURCES = ("file", "tree", "tree/.", "no")
DESTS = ("/empty", "/empty/", "/new", "/new/", "/there", "/there/", "/full", "/no/new", "/to-dir")
# Docker makes a directory that does not exist, also where its name ends with a slash; podman does
# not. Podman always follows a symlink at the end of SOURCE, and names the copy like its target;
# docker does so with -L, and keeps the name.
NOT_LIKE_PODMAN = "/new/"


class Oracle:
    """podman, with containers that are never started."""

    def __init__(self, top: Path) -> None:
        self._place = ["--root", f"{top}/root", "--runroot", f"{top}/run", "--tmpdir", f"{top}/tmp"]

    def call(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        command = ["podman", *self._place, "--storage-driver", "vfs", *map(str, words)]
        return subprocess.run(command, capture_output=True, check=check)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with tempfile.TemporaryDirectory(prefix="p", dir="/tmp") as place:  # 50 bytes at most
        made = Oracle(Path(place))
        yield made
        made.call("system", "reset", "--force")


def small_image(path: Path) -> Path:
    layer = Layer().directory("empty").file("there", b"there\n").directory("full")
    layer.file("full/file", b"old\n").directory("full/below").symlink("to-dir", "/empty")
    return docker_archive(path, [layer], name="small:1")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.needs("root", "podman", "fuse")
def test_places_in_a_container_are_those_of_podman(
    oracle: Oracle, files: Path, tmp_path: Path
) -> None:
    image = small_image(tmp_path / "small.tar")
    oracle.call("load", "-i", image)
    line = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "store")})
    line.run("load", "-i", image)
    wrong = []
    for number, (one, other) in enumerate((one, other) for one in SOURCES for other in DESTS):
        if other == NOT_LIKE_PODMAN and one not in ("file", "no"):
            continue
        name = f"c{number}"
        oracle.call("create", "--name", name, "small:1", "sh")
        theirs = oracle.call("cp", f"{files}/{one}", f"{name}:{other}", check=False)
        mounted = Path(oracle.call("mount", name).stdout.decode().strip())
        wanted = {key: text for key, text in shown(mounted).items() if key not in PODMANS_OWN}
        oracle.call("umount", name)
        oracle.call("rm", name)
        status, found = ours_in(line, name, f"{files}/{one}", other, tmp_path / "mnt")
        if (theirs.returncode == 0) != (status == 0) or wanted != found:
            wrong.append((one, other, theirs.stderr, status, found.keys() ^ wanted.keys()))
    assert wrong == []


PODMANS_OWN = {"etc", "etc/mtab", "run", "run/.containerenv", "dev", "proc", "sys"}


def ours_in(
    line: CommandLine, name: str, what: str, where: str, top: Path
) -> tuple[int, dict[str, str]]:
    """Make a container, copy into it while it is not mounted, and see what is in it."""
    top.mkdir(exist_ok=True)
    line.run("mount", "--name", name, "small:1", top)
    line.run("umount", name)
    words = [*COMMAND, "cp", what, f"{name}:{where}"]
    done = subprocess.run(
        words, env=line.environment, capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    line.run("cp", f"{name}:/.", top)
    found = shown(top)
    shutil.rmtree(top)
    return done.returncode, found


@pytest.mark.parametrize("path", ["/full", "/full/", "/full/.", "/full/file", "/no"])
@pytest.mark.needs("root", "podman")
def test_places_on_the_host_are_those_of_podman(
    oracle: Oracle, cli: CommandLine, tmp_path: Path, path: str
) -> None:
    image = small_image(tmp_path / "small.tar")
    oracle.call("load", "-i", image)
    oracle.call("create", "--replace", "--name", "out", "small:1", "sh")
    wrong = []
    dests = ["empty", "empty/", "new", "new/", "there", "there/", "no/new"]
    if path != "/full/file":
        dests.remove(NOT_LIKE_PODMAN.strip("/") + "/")
    for number, name in enumerate(dests):
        results = []
        for kind in ("theirs", "ours"):
            top = tmp_path / f"{kind}{number}"
            (top / "empty").mkdir(parents=True)
            (top / "there").write_text("there\n")
            if kind == "theirs":
                status = oracle.call("cp", f"out:{path}", f"{top}/{name}", check=False).returncode
            else:
                words = [*COMMAND, "cp", "-L", f"{image}:{path}", f"{top}/{name}"]
                status = subprocess.run(words, capture_output=True, check=False).returncode
            results.append((status != 0, shown(top)))
        if results[0] != results[1]:
            wrong.append((name, *results))
    assert wrong == []


# ---- in: what becomes of an upper ----------------------------------------------------------------


@pytest.mark.needs("fuse", "root")
@pytest.mark.parametrize("options", [(), ("-a",)])
def test_the_upper_is_what_a_mount_makes_of_it(
    web: CommandLine, files: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    os.chown(files / "tree/one", 1000, 7)
    (files / "tree/one").chmod(0o4751)
    os.setxattr(files / "tree/one", "user.note", b"n")
    os.link(files / "tree/one", files / "tree/second")
    os.mkfifo(files / "tree/fifo")
    (files / "tree/below").chmod(0o2570)
    copies: list[tuple[str | Path, str]] = [
        (files / "tree", "/srv"),
        (f"{files}/tree/.", "/etc"),
        (files / "file", "/etc/motd"),
    ]
    copies += [(files / "file", "/dev/fifo"), (files / "to-file", "/home/again")]
    for what, where in copies:
        web.run("cp", *options, what, f"web:{where}")
    web.run("mount", "other", tmp_path / "mnt")
    for what, where in copies:
        web.run("cp", *options, what, f"other:{where}")
    ours = snapshot(tmp_path / "mnt")
    web.run("umount", "other")
    web.run("mount", "web", tmp_path / "mnt")
    assert differences(ours, snapshot(tmp_path / "mnt"), times_of_copying) == []
    web.run("umount", "web")
    theirs, mine = [
        snapshot(tmp_path / f"store/containers/{name}/upper") for name in ("other", "web")
    ]
    assert differences(theirs, mine, times_of_copying) == []
    one = theirs[b"srv/tree/one"]
    kept = ((1000, 7), 0o4751) if options else ((0, 0), 0o751)
    assert ((one.uid, one.gid), one.mode) == kept


def times_of_copying(path: bytes, field: str, expected: object, found: object) -> bool:
    """Directories that something was copied into."""
    return field == "mtime_ns" and path in (b"", b"srv", b"etc", b"dev", b"home")


@pytest.mark.needs("fuse")
def test_an_ordinary_user_keeps_owners_in_a_container(
    user: CommandLine, users_source: Path, home: Path
) -> None:
    (home / "mnt").mkdir()
    if os.geteuid() == 0:
        os.chown(home / "mnt", NOBODY, NOBODY)
    user.run("mount", "--name", "web", users_source, home / "mnt")
    user.run("umount", "web")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as made:
        info = tarfile.TarInfo("program")
        info.uid, info.gid, info.mode = 33, 34, 0o4755
        made.addfile(info)
        device = tarfile.TarInfo("device")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        made.addfile(device)
    (home / "in.tar").write_bytes(tar.getvalue())
    for name, options in (("/srv", ["-a"]), ("/opt-is-not-there", [])):
        with (home / "in.tar").open("rb") as stream:
            status = 0 if options else 1
            user.run("cp", *options, "-", f"web:{name}", status=status, stdin=stream)
    (row,) = user.run("ls", "-n", "web:/srv/program").stdout.splitlines()
    assert row.split()[:4] == ["-rwsr-xr-x", "1", "33", "34"]
    assert user.run("ls", "-n", "web:/srv/device").stdout.startswith("crw-r--r-- 1 0 0 1, 3")
    with (home / "in.tar").open("wb") as file, tarfile.open(fileobj=file, mode="w") as made:
        made.addfile(tarfile.TarInfo("above/it"))
    with (home / "in.tar").open("rb") as stream:
        user.run("cp", "-a", "-", "web:/srv", stdin=stream)
    assert " 0 0 " in user.run("ls", "-nd", "web:/srv/above").stdout
    user.run("cp", home / "in.tar", "web:/srv")
    assert user.run("ls", "-n", "web:/srv/in.tar").stdout.split()[2:4] == ["0", "0"]


@pytest.mark.needs("fuse")
def test_a_mount_sees_it_at_once(web: CommandLine, files: Path, tmp_path: Path) -> None:
    top = tmp_path / "mnt"
    web.run("mount", "web", top)
    assert (top / "etc/motd").read_bytes() == b"changed\n"
    web.run("cp", files / "file", "web:/etc/motd")
    assert (top / "etc/motd").read_bytes() == b"file\n"
    web.run("cp", "web:/etc/motd", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == b"file\n"
    mount_id = web.record(top)["id"]
    web.run("cp", files / "file", f"{mount_id}:/etc/other")
    assert (top / "etc/other").read_bytes() == b"file\n"
    web.run("umount", "web")
    web.run("mount", "--ro", "web", top)
    assert "is mounted read-only" in web.error("cp", files / "file", "web:/etc/motd")


@pytest.mark.needs("root", "fuse")
def test_another_directory_at_the_mount_point(
    web: CommandLine, files: Path, tmp_path: Path
) -> None:
    """Somebody else has put a directory of the same mount there, or one of the host."""
    top = tmp_path / "mnt"
    web.run("mount", "web", top)
    for source in (top / "etc", files):
        subprocess.run(["mount", "--bind", source, top], check=True)
        try:
            message = web.error("cp", files / "file", "web:/brought")
            assert f"is no longer at {top}" in message
        finally:
            subprocess.run(["umount", top], check=True)
    assert "brought" not in web.run("ls", "web:/etc").stdout.split()
    web.run("cp", files / "file", "web:/brought")
    assert (top / "brought").read_bytes() == b"file\n"


def test_relative_paths_and_ids(web: CommandLine, files: Path, tmp_path: Path) -> None:
    web.run("cp", files / "file", "web:etc/motd")
    assert web.run("cat", "container:web:/etc/motd").stdout == "file\n"
    web.run("cp", "container:web:etc/motd", tmp_path / "out")
    web.run("cp", "web:/etc/motd", "other:/etc/new")
    assert web.run("cat", "other:/etc/new").stdout == "file\n"
    assert web.run("diff", "--format", "json", "other").stdout.count('"path"') == 2


def test_links_of_the_container_lead_nowhere_else(
    web: CommandLine, files: Path, tmp_path: Path
) -> None:
    """/absolute is a link to /etc/motd, which is the container's, and etc/out leads to its root."""
    web.run("cp", files / "file", "web:/absolute")
    assert web.run("cat", "web:/etc/motd").stdout == "file\n"
    web.run("cp", files / "tree/one", "web:/etc/out")
    assert web.run("cat", "web:/etc/motd").stdout == "one\n"
    web.run("cp", files / "file", "web:/to-etc/../../../../new")
    assert web.run("cat", "web:/new").stdout == "file\n"
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(files / "tree/one", "to-etc/through")
    with (tmp_path / "in.tar").open("rb") as stream:
        web.run("cp", "-", "web:/", stdin=stream)
    assert web.run("cat", "web:/etc/through").stdout == "one\n"


@pytest.mark.needs("root")
def test_a_link_that_another_user_planted(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    """DEST leads through it in a directory that everybody can write to, such as /tmp."""
    shared, own = tmp_path / "shared", tmp_path / "own"
    for path in (shared, own):
        path.mkdir()
    shared.chmod(0o1777)
    (shared / "trap").symlink_to(own)
    (shared / "file").symlink_to(own / "file")
    for name in ("trap", "file"):
        os.chown(shared / name, NOBODY, NOBODY, follow_symlinks=False)
    for dest in ("trap", "trap/", "trap/new", "file"):
        message = cli.error("cp", f"{source}:/etc/motd", f"{shared}/{dest}")
        assert "a symbolic link of another user" in message
    assert not list(own.iterdir())


@pytest.mark.parametrize(
    ("dest", "calls"), [("d/e/", 1), ("d/e/new", 1), ("d/e/new", 2), ("d/e/old", 1)]
)
def test_a_link_that_is_planted_meanwhile(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dest: str, calls: int
) -> None:
    """The owner of a directory above DEST renames it just after its path was resolved."""
    for name in ("d/e", "victim/e"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "old").write_bytes(b"old")
    done: list[Path] = []

    def resolved_then_swapped(path: Path) -> Path:
        real = resolved(path)
        done.append(path)
        if len(done) == calls:
            (tmp_path / "d").rename(tmp_path / "away")
            (tmp_path / "d").symlink_to("victim")
        return real

    monkeypatch.setattr(files_of_system, "resolved", resolved_then_swapped)
    settings = Settings()
    settings.root = str(tmp_path / "store")
    request = CopyRequest(
        parse_operand(settings, f"{source}:/etc/motd"),
        parse_operand(settings, f"{tmp_path}/{dest}"),
        *(False, False, None, None),
    )
    with suppress(OSError):
        copy_files(settings, request)
    assert shown(tmp_path / "victim") == {"e": "drwxr-xr-x ", "e/old": "-rw-r--r-- old"}


# ---- into itself ---------------------------------------------------------------------------------


@pytest.mark.needs("fuse")
@pytest.mark.parametrize("mounted", [False, True])
def test_a_directory_of_a_container_into_itself(
    web: CommandLine, files: Path, tmp_path: Path, mounted: bool
) -> None:
    mnt = tmp_path / "mnt"
    web.run("cp", files / "tree", "web:/a")
    if mounted:
        web.run("mount", "web", mnt)
    for source, dest, at in (
        ("a", "a", "a/a"),
        ("a", "a/new", "a/new"),
        ("a", "a/below", "a/below/a"),
        ("a/.", "a/below", "a/below"),
        ("", "a", "a"),
    ):
        message = web.error("cp", f"web:/{source}", f"container:web:/{dest}")
        assert message == (
            f"cannot copy a directory, 'web:/{source}', into itself, 'container:web:/{at}'"
        )
    assert web.run("find", "web:/a").stdout.split() == [
        f"/a{rest}" for rest in ("", "/below", "/below/two", "/link", "/one")
    ]
    web.run("cp", "web:/a", "web:/ab")
    assert "ab" in web.run("ls", "web:/").stdout.split()
    if mounted:
        message = f"'{mnt}/a' is in 'web' itself; write web:/PATH for a place in it"
        assert web.error("cp", "web:/a", mnt / "a") == message
        assert web.error("cp", mnt / "a", "web:/a") == message
        web.run("cp", "web:/a/one", mnt / "a/three")
        assert (mnt / "a/three").read_bytes() == b"one\n"


@pytest.mark.needs("fuse")
@pytest.mark.parametrize("mounted", [False, True])
def test_a_directory_that_holds_the_container(
    web: CommandLine, files: Path, tmp_path: Path, mounted: bool
) -> None:
    """Its mount is below the source, and so is the directory that takes its changes."""
    if mounted:
        web.run("mount", "web", tmp_path / "mnt")
    done = web.run("cp", tmp_path, "web:/in")
    upper = tmp_path / "store/containers/web/upper"
    left = [tmp_path / "mnt"] if mounted else []
    assert done.stderr.splitlines() == [
        f"unionmount: {path}: left out, since it is what is copied into" for path in [*left, upper]
    ]
    assert web.run("cat", "web:/in/files/file").stdout == "file\n"
    assert web.run("ls", "web:/in/store/containers/web").stdout.split().count("upper") == 0


@pytest.mark.needs("root", "fuse")
def test_a_directory_that_is_mounted_in_the_container(
    web: CommandLine, files: Path, tmp_path: Path
) -> None:
    mnt = tmp_path / "mnt"
    web.run("mount", "web", mnt)
    subprocess.run(["mount", "--bind", files, mnt / "etc"], check=True)
    try:
        done = web.run("cp", files, "web:/etc")
        assert "/files/files: left out, since it is what is copied into" in done.stderr
        assert (files / "files/tree/below/two").read_bytes() == b"two\n"
        assert not (files / "files/files").exists()
    finally:
        subprocess.run(["umount", mnt / "etc"], check=True)


# ---- nothing partial -----------------------------------------------------------------------------


@pytest.mark.needs("backing-tmpfs")
def test_a_full_disk(cli: CommandLine, source: Path) -> None:
    with backing("tmpfs", megabytes=1) as disk:
        message = cli.error("cp", f"{source}:/big", disk)
        assert message == f"{disk}/big: No space left on device"
        assert list(disk.iterdir()) == []
        (disk / "big").write_bytes(b"old")
        cli.error("cp", f"{source}:/big", disk)
        assert (disk / "big").read_bytes() == b"old"
        assert list(disk.iterdir()) == [disk / "big"]


KILLED = """
import os, signal, sys
from unionmount.cli import main
import unionmount.extract.{module} as m
make, count = m.{name}._dress, 0
def dress(self, *words):
    global count
    count += 1
    if count == {at}: signal.raise_signal({signal})
    make(self, *words)
m.{name}._dress = dress
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [2, 9])  # Ctrl-C and kill -9
def test_an_end_in_the_middle(cli: CommandLine, source: Path, tmp_path: Path, number: int) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/big").write_bytes(b"old")
    for at in (1, 2, 3):
        program = KILLED.format(module="host_target", name="HostTarget", at=at, signal=number)
        words = [sys.executable, "-c", program, "cp", f"{source}:/.", str(tmp_path / "out")]
        done = subprocess.run(words, capture_output=True, check=False)
        assert done.returncode == (130 if number == 2 else -9)
        assert b"Traceback" not in done.stderr
        for path in (tmp_path / "out").iterdir():
            assert not path.name.startswith(".unionmount")
    assert (tmp_path / "out/acl").read_bytes() == b"a"
    assert (tmp_path / "out/big").read_bytes() in (b"old", bytes(range(256)) * 8000)


@pytest.mark.needs("fuse")
@pytest.mark.parametrize("number", [2, 9])
def test_an_end_in_the_middle_of_a_container(
    web: CommandLine, files: Path, tmp_path: Path, number: int
) -> None:
    program = KILLED.format(module="upper_target", name="UpperTarget", at=2, signal=number)
    words = [sys.executable, "-c", program, "cp", f"{files}/tree/.", "web:/etc"]
    done = subprocess.run(words, env=web.environment, capture_output=True, check=False)
    assert done.returncode == (130 if number == 2 else -9)
    names = web.run("ls", "-A", "-1", "web:/etc").stdout.splitlines()
    whole = {name for name in names if not name.startswith(".unionmount-")}
    assert {"motd", "link"} <= whole
    if number == 2:
        assert len(whole) == len(names)
    web.run("cp", f"{files}/tree/.", "web:/etc")
    assert web.run("cat", "web:/etc/one").stdout == "one\n"


# ---- manners -------------------------------------------------------------------------------------


def test_a_time_far_in_the_future(web: CommandLine, tmp_path: Path) -> None:
    info = tarfile.TarInfo("late")
    info.mtime = 99999999999
    with (tmp_path / "in.tar").open("w+b") as file:
        with tarfile.open(fileobj=file, mode="w") as made:
            made.addfile(info)
        file.seek(0)
        web.run("cp", "-", "web:/etc", stdin=file)
    assert "late" in web.run("ls", "web:/etc").stdout.split()


def test_paths_as_words_of_their_own(web: CommandLine, source: Path, tmp_path: Path) -> None:
    """As ``ls`` and ``find`` take them."""
    web.run("cp", source, "/etc/motd", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"changed\n"
    (tmp_path / "mine").write_bytes(b"mine\n")
    web.run("cp", tmp_path / "mine", "web", "/etc/motd")
    web.run("cp", "web", "/etc/motd", "other", "/etc/other")
    web.run("cp", "web:/etc/motd", "container:other", "/etc/again")
    for name in ("other", "again"):
        assert web.run("cat", f"other:/etc/{name}").stdout == "mine\n"
    for words in (("web:/a", "web:/b", "out"), ("web", "/a", "/b", "/c"), ("a", "b", "web:/")):
        assert web.error("cp", *words, status=2).startswith("there is one SOURCE and one DEST")
    assert web.error("cp", "web:/etc", status=2).startswith("DEST is missing")


def test_what_cannot_be_copied(web: CommandLine, files: Path, source: Path, tmp_path: Path) -> None:
    def error(*words: str | Path, status: int = 1) -> str:
        return web.error("cp", *words, status=status)

    assert error(files / "file", tmp_path, status=2).startswith("neither path is in an image")
    assert error("-", "-", status=2).startswith("neither path")
    assert "is not a container" in error(files / "file", f"{source}:/etc", status=2)
    assert error(files / "tree", "web:/etc/motd") == (
        "'/etc/motd' is not a directory, so no directory can be copied to it"
    )
    assert error(files / "file", "web:/no/") == "'/no/' does not exist; make the directory first"
    assert error(f"{source}:/etc/motd/", tmp_path).endswith("Not a directory")
    (tmp_path / "out/etc/motd").mkdir(parents=True)
    message = f"{tmp_path}/out/etc/motd: is a directory, which no other file can replace"
    assert error(f"{source}:/etc", tmp_path / "out") == message
    (tmp_path / "out/home").write_bytes(b"")
    assert "exists and is not a directory" in error(f"{source}:/home", tmp_path / "out")
    assert error("--layer", "0", files / "file", "web:/etc", status=2).startswith("--layer is for")
    assert "'nobody' is not a container" in error("web:/etc/motd", "nobody:/etc", status=2)
    assert json.loads(web.run("diff", "--format", "json", "web").stdout) == []
