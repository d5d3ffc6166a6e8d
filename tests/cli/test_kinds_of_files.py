"""Every kind of file at every path that a user gives: each command ends, and says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.commands import Commands, Result
from support.descriptors import held_paths
from support.image_files import (
    blob_path,
    docker_archive,
    oci_layout,
    small_image,
    write_directory,
    write_tar,
)
from support.mounting import CommandLine
from support.servers import Connection, RawServer
from support.users import NOBODY, become_nobody, call_as, public_place

from unionmount.errors import FormatError, NotRegular, UsageError
from unionmount.store.store import Store
from unionmount.system.files import (
    open_below,
    open_for_writing,
    open_regular,
    open_stream,
    read_document,
    resolved,
)
from unionmount.transfer.image_files import replaced_file
from unionmount.transfer.load import load, open_image

pytestmark = pytest.mark.slow

IMAGE = small_image()
NOWHERE = "127.0.0.1:9/x"  # nobody listens there: a command that gets so far has read its files
QUICK = {"UNIONMOUNT_TIMEOUT": "0.2"}

Make = Callable[[Path], object]


class Kind(NamedTuple):
    """Something that a path may lead to; ``word`` is how messages call it."""

    make: Make
    word: str


def _socket(path: Path) -> None:
    directory = os.open(path.parent, os.O_PATH)  # the whole path may be too long for an address
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)


def _device(kind: int, major: int, minor: int) -> Make:
    return lambda path: os.mknod(path, kind | 0o666, os.makedev(major, minor))


def _linked(make: Make) -> Make:
    def made(path: Path) -> None:
        make(path.with_name("target"))
        path.symlink_to("target")

    return made


def _file_for_directory(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


ODD = {
    "FIFO": Kind(os.mkfifo, "a FIFO"),
    "socket": Kind(_socket, "a socket"),
    "zero": Kind(_device(stat.S_IFCHR, 1, 5), "a character device"),
    "full": Kind(_device(stat.S_IFCHR, 1, 7), "a character device"),
    "terminal": Kind(_device(stat.S_IFCHR, 5, 0), "a character device"),
    "block device": Kind(_device(stat.S_IFBLK, 7, 200), "a block device"),
}
PLAIN = {
    "directory": Kind(Path.mkdir, "irectory"),
    "empty file": Kind(Path.touch, ""),
    "garbage": Kind(lambda path: path.write_bytes(b"\0garbage" * 1000), ""),
    "missing": Kind(lambda _path: None, ""),
    "path through a file": Kind(_file_for_directory, ""),
    "dangling link": Kind(lambda path: path.symlink_to("nowhere"), ""),
    "loop of links": Kind(lambda path: path.symlink_to(path.name), ""),
}
KINDS = (
    ODD
    | {f"link to {name}": Kind(_linked(kind.make), kind.word) for name, kind in ODD.items()}
    | PLAIN
    | {"link to directory": Kind(_linked(Path.mkdir), "irectory")}
)

SOURCES = {
    "load": ["load", "-i", "{}"],
    "load docker-archive": ["load", "-i", "docker-archive:{}"],
    "load oci-archive": ["load", "-i", "oci-archive:{}"],
    "mount": ["mount", "--ro", "{}", "{dir}/mnt"],
    "mount docker-archive": ["mount", "--ro", "docker-archive:{}", "{dir}/mnt"],
    "layers": ["layers", "{}"],
    "check": ["check", "{}"],
    "history": ["history", "docker-archive:{}"],
    "ls": ["ls", "{}:/"],
    "cat": ["cat", "oci-archive:{}:/x"],
    "find": ["find", "docker-archive:{}"],
    "which": ["which", "{}", "/x"],
    "diff": ["diff", "small:1", "oci-archive:{}"],
    "copy": ["copy", "docker-archive:{}", "copied:1"],
    "copy to layout": ["copy", "oci-archive:{}", "oci:{dir}/made"],
}
FILES = {
    "authfile": ["tags", "--authfile", "{}", "{registry}/x"],
    "get-login": ["login", "--get-login", "--authfile", "{}", "registry.example"],
    "logout": ["logout", "--authfile", "{}", "registry.example"],
    "REGISTRY_AUTH_FILE": ["login", "--get-login", "registry.example"],
    "CONTAINERS_REGISTRIES_CONF": ["tags", NOWHERE],
    "SSL_CERT_FILE": ["tags", "registry.invalid/x"],
}
DIRECTORIES = {
    "load oci": ["load", "-i", "oci:{}"],
    "mount oci": ["mount", "--ro", "oci:{}", "{dir}/mnt"],
    "copy oci": ["copy", "oci:{}", "docker-archive:{dir}/made"],
    "root": ["--root", "{}", "images"],
    "additional store": ["--additional-store", "{}", "images"],
    "cert-dir": ["tags", "--cert-dir", "{}", NOWHERE],
    "mount point": ["mount", "--ro", "small:1", "{}"],
    "mount upper": ["mount", "--upper", "{}", "small:1", "{dir}/mnt"],
    "umount": ["umount", "{}"],
    "stats": ["stats", "{}"],
    "diff of a mount": ["diff", "{}"],
    "commit of a mount": ["commit", "{}", "made:1"],
    "lower": ["overlay", "-o", "lowerdir={}", "{dir}/mnt"],
    "upper": ["overlay", "-o", "lowerdir={dir}/low,upperdir={},workdir={dir}/work", "{dir}/mnt"],
    "work": ["overlay", "-o", "lowerdir={dir}/low,upperdir={dir}/up,workdir={}", "{dir}/mnt"],
}
OUTPUTS = {
    "save": ["save", "-o", "{}", "small:1"],
    "save oci-archive": ["save", "--format", "oci-archive", "-o", "{}", "small:1"],
    "copy": ["copy", "small:1", "docker-archive:{}"],
    "copy oci-archive": ["copy", "small:1", "oci-archive:{}"],
}
NEW_DIRECTORIES = {
    "save oci": ["save", "--format", "oci", "-o", "{}", "small:1"],
    "copy to oci": ["copy", "small:1", "oci:{}"],
    "man": ["man", "-o", "{}"],
}


class Home(NamedTuple):
    """A home with a store that has an image, and what runs commands in it."""

    path: Path
    commands: Commands


class Case(NamedTuple):
    """A command line and its environment."""

    words: list[str]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = tmp_path_factory.mktemp("home")
    archive = write_tar(made / "small.tar", docker_archive(small_image(names=("small:1",))))
    load(Store(made / "store"), str(archive))
    own = {"HOME": str(made), "UNIONMOUNT_ROOT": str(made / "store"), **QUICK}
    own |= {"XDG_CONFIG_HOME": str(made / "config"), "XDG_RUNTIME_DIR": str(made / "run")}
    commands = Commands(own)
    yield Home(made, commands)
    commands.close()


def tried(home: Home, cases: list[Case]) -> list[Result]:
    """What became of commands of an ordinary environment."""
    done = []
    for case in cases:
        home.commands.start(*case.words, environment=case.environment)
        done.append(home.commands.wait())
    return done


def laid_out(top: Path, names: dict[str, Kind]) -> Iterator[tuple[str, Path]]:
    """A directory for each kind, in which ``it`` is of that kind."""
    for name, kind in names.items():
        place = top / name.replace(" ", "-") / "in"
        place.mkdir(parents=True)
        kind.make(place / "it")
        for directory in ("mnt", "low", "up", "work"):
            (place.parent / directory).mkdir()
        yield name, place / "it"


def seen(top: Path) -> dict[str, tuple[int, int]]:
    """What lies below a directory, and what it is."""
    found = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            status = (Path(directory) / name).lstat()
            shown = str((Path(directory) / name).relative_to(top))
            found[shown] = (stat.S_IFMT(status.st_mode), status.st_ino)
    return found


def case_of(words: list[str], argument: str, path: Path) -> Case:
    environment = {argument: str(path)} if argument.isupper() else {}
    filled = [
        word.replace("{dir}", str(path.parents[1])).replace("{}", str(path)) for word in words
    ]
    return Case(filled, environment)


def assert_told(ended: Result, what: str) -> None:
    """It ended by itself, with one line."""
    assert not ended.late, f"{what}: did not end"
    assert ended.status in (1, 2), f"{what}: {ended}"
    if what.startswith("check:"):  # it prints what it found
        ended = Result(ended.status, "", ended.stderr or f"unionmount: {ended.stdout}")
    assert ended.stderr.count("\n") == 1, f"{what}: {ended}"
    assert ended.stderr.startswith("unionmount: "), f"{what}: {ended}"
    assert "internal error" not in ended.stderr, f"{what}: {ended}"
    assert "Traceback" not in ended.stderr, f"{what}: {ended}"
    assert "/proc/self" not in ended.stderr, f"{what}: {ended}"


def check(home: Home, top: Path, words: list[str], argument: str, kinds: dict[str, Kind]) -> None:
    places = list(laid_out(top, kinds))
    before = seen(top)
    results = tried(home, [case_of(words, argument, path) for _, path in places])
    for (name, _), ended in zip(places, results, strict=True):
        what = f"{argument}: {name}"
        assert_told(ended, what)
        if argument not in DIRECTORIES and argument not in NEW_DIRECTORIES:
            assert kinds[name].word in ended.stderr + ended.stdout, f"{what}: {ended}"
    assert seen(top) == before
    assert list((home.path / "store/tmp").iterdir()) == []
    assert list((home.path / "store/leases").iterdir()) == []


@pytest.mark.needs("root")
@pytest.mark.parametrize("argument", SOURCES)
def test_sources(home: Home, tmp_path: Path, argument: str) -> None:
    check(home, tmp_path, SOURCES[argument], argument, KINDS)


@pytest.mark.needs("root")
@pytest.mark.parametrize("argument", FILES)
def test_files(home: Home, tmp_path: Path, argument: str) -> None:
    odd = {name: kind for name, kind in KINDS.items() if name not in PLAIN}

    def refuse(connection: Connection) -> None:
        challenge = b"WWW-Authenticate: Basic realm=x\r\n"
        while head := connection.head():
            status = b"200" if head.startswith("GET /v2/ ") else b"401"
            connection.send(b"HTTP/1.1 %b -\r\n%bContent-Length: 0\r\n\r\n" % (status, challenge))

    with RawServer(refuse) as registry:
        words = [word.replace("{registry}", registry.address) for word in FILES[argument]]
        check(home, tmp_path, words, argument, odd)


@pytest.mark.needs("root")
@pytest.mark.parametrize("argument", DIRECTORIES)
def test_directories(home: Home, tmp_path: Path, argument: str) -> None:
    # What may be a directory, or be made, is tried by those that use it.
    kinds = {
        name: kind
        for name, kind in KINDS.items()
        if name not in ("directory", "link to directory", "missing", "dangling link")
    }
    check(home, tmp_path, DIRECTORIES[argument], argument, kinds)


@pytest.mark.needs("root")
@pytest.mark.parametrize("argument", OUTPUTS | NEW_DIRECTORIES)
def test_outputs(home: Home, tmp_path: Path, argument: str) -> None:
    words = (OUTPUTS | NEW_DIRECTORIES)[argument]
    kinds = {name: kind for name, kind in KINDS.items() if name not in PLAIN}
    if argument in NEW_DIRECTORIES:
        del kinds["link to directory"]  # an empty one is as good as none
    else:
        kinds["directory"] = KINDS["directory"]
    kinds |= {name: KINDS[name] for name in ("loop of links", "path through a file")}
    check(home, tmp_path, words, argument, kinds)


WITHIN = {
    "registries.conf": ("config/containers/registries.conf", ["tags", NOWHERE]),
    "drop-in": ("config/containers/registries.conf.d/x.conf", ["tags", NOWHERE]),
    "auth.json": ("config/containers/auth.json", ["login", "--get-login", "registry.example"]),
    "auth.json of the session": ("run/containers/auth.json", ["logout", "registry.example"]),
    "config.json": (".docker/config.json", ["login", "--get-login", "registry.example"]),
    "CA": ("config/containers/certs.d/127.0.0.1:9/x.crt", ["tags", NOWHERE]),
    "certificate": ("config/containers/certs.d/127.0.0.1:9/x.cert", ["tags", NOWHERE]),
    "key": ("config/containers/certs.d/127.0.0.1:9/y.key", ["tags", NOWHERE]),
}


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", WITHIN)
def test_configuration(home: Home, tmp_path: Path, name: str) -> None:
    where, words = WITHIN[name]
    cases = []
    for number, odd in enumerate(ODD.values()):
        user = tmp_path / str(number)
        path = user / where
        path.parent.mkdir(parents=True)
        odd.make(path)
        if path.suffix == ".cert":
            path.with_suffix(".key").touch()
        if path.suffix == ".key":
            path.with_suffix(".cert").touch()
        environment = {
            "HOME": str(user),
            "XDG_CONFIG_HOME": str(user / "config"),
            "XDG_RUNTIME_DIR": str(user / "run"),
            "CONTAINERS_REGISTRIES_CONF": "",
        }
        cases.append(Case(words, environment))
    before = seen(tmp_path)
    for (kind, made), ended in zip(ODD.items(), tried(home, cases), strict=True):
        assert_told(ended, f"{name}: {kind}")
        assert made.word in ended.stderr or "no certificate" in ended.stderr, ended
    assert seen(tmp_path) == before


# -- what lies in a layout

PARTS = ("oci-layout", "index.json", "blobs", "blobs/sha256", blob_path(IMAGE.config))


@pytest.mark.needs("root")
@pytest.mark.parametrize("part", PARTS)
def test_layouts(home: Home, tmp_path: Path, part: str) -> None:
    kinds = {name: kind for name, kind in KINDS.items() if name != "path through a file"}
    cases = []
    for name, kind in kinds.items():
        layout = write_directory(tmp_path / name.replace(" ", "-"), oci_layout(IMAGE))
        (layout / part).rename(tmp_path / f"moved-{name.replace(' ', '-')}")
        kind.make(layout / part)
        cases.append(Case(["load", "-i", f"oci:{layout}"], {}))
    before = seen(tmp_path)
    for name, ended in zip(kinds, tried(home, cases), strict=True):
        assert_told(ended, f"{part}: {name}")
    assert seen(tmp_path) == before


@pytest.mark.parametrize("part", PARTS)
def test_a_link_in_a_layout_is_not_followed(tmp_path: Path, part: str) -> None:
    layout = write_directory(tmp_path / "layout", oci_layout(IMAGE))
    with open_image(Store(tmp_path / "store"), f"oci:{layout}"):
        pass  # it was good
    (layout / part).rename(tmp_path / "moved")
    (layout / part).symlink_to(tmp_path / "moved")
    with pytest.raises(FormatError, match="is a symbolic link, not a regular file"):
        open_image(Store(tmp_path / "store"), f"oci:{layout}")


def test_below_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("x")
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        fd = open_below(root, "a/b/file", "top")
        assert os.read(fd, 9) == b"x"
        os.close(fd)
        for path, wanted in (
            ("a/c/file", FileNotFoundError),
            ("a/b/file/x", NotADirectoryError),
            ("a/b", NotRegular),
        ):
            with pytest.raises(wanted):
                open_below(root, path, "top")
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        os.close(root)


# -- what may be read without being a file

ARCHIVE = docker_archive(IMAGE)


def test_process_substitution_and_dev_null(home: Home, tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", ARCHIVE)
    command = f"{sys.executable} -m unionmount"
    login = json.dumps({"auths": {"r.example": {"auth": "YTpi"}}})
    script = f"""
        set -e
        {command} load -q -i <(cat {archive})
        cat {archive} | {command} load -q
        cat {archive} | {command} load -q -i /dev/stdin
        {command} load -q < {archive}
        {command} layers <(cat {archive}) | head -1
        {command} login --get-login --authfile <(echo '{login}') r.example
        ! {command} login --get-login --authfile /dev/null r.example
        ! CONTAINERS_REGISTRIES_CONF=/dev/null {command} tags {NOWHERE}
        {command} save small:1 -o /dev/null
        {command} save small:1 -o /dev/stdout | tar t | grep -q manifest.json
        {command} save small:1 -o >(cat > {tmp_path}/pipe.tar)
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"HOME": str(home.path), "UNIONMOUNT_ROOT": str(home.path / "store")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "unionmount: not logged in to r.example",
        "unionmount: 127.0.0.1:9/x: tags: 127.0.0.1:9: Connection refused",
    ]


def test_load_reads_a_fifo_that_somebody_writes_to(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", ARCHIVE)
    os.mkfifo(tmp_path / "fifo")
    script = f"cat {archive} > {tmp_path / 'fifo'}"
    with subprocess.Popen(["sh", "-c", script]):
        cli = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "store")})
        assert cli.run("load", "-q", "-i", tmp_path / "fifo").stdout.startswith("sha256:")


def test_waiting_for_a_fifo_can_be_interrupted(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "unionmount", "load", "-i", str(fifo)]
    own = {"UNIONMOUNT_ROOT": str(tmp_path / "store"), "UNIONMOUNT_TIMEOUT": "300"}
    with subprocess.Popen(command, env=os.environ | own, stderr=subprocess.PIPE) as process:
        try:
            while str(fifo) not in held_paths(process.pid):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, error.strip()) == (130, b"")
    assert list((tmp_path / "store/tmp").iterdir()) == []


def test_a_fifo_may_be_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    told: list[int] = []
    opened: list[int] = []

    def waiting() -> None:
        told.append(1)
        if len(told) == 3:
            opened.append(os.open(tmp_path / "fifo", os.O_WRONLY))
            os.write(opened[0], b"hello")

    fd, first = open_stream(tmp_path / "fifo", {}, fifo=True, waiting=waiting)
    assert first + os.read(fd, 4) == b"hello"
    assert os.get_blocking(fd)
    os.close(opened[0])
    os.close(fd)
    with pytest.raises(UsageError, match=r"nothing was written in 0\.2 s \(UNIONMOUNT_TIMEOUT"):
        open_stream(tmp_path / "fifo", QUICK, fifo=True)
    with pytest.raises(UsageError, match=r"nothing was read in 0\.2 s \(UNIONMOUNT_TIMEOUT"):
        open_for_writing(tmp_path / "fifo", QUICK)
    with pytest.raises(NotRegular, match="is a FIFO"):
        read_document(tmp_path / "fifo", 100, QUICK)


def test_a_document_among_many_open_files(tmp_path: Path) -> None:
    """select(2) knows no descriptor beyond 1023."""
    (tmp_path / "file").write_bytes(b"x")
    program = (
        "import os, resource, sys\n"
        "from unionmount.system.files import read_document\n"
        "_, most = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2048), most))\n"
        "others = [os.open('/', os.O_PATH) for _ in range(1100)]\n"
        "assert read_document(sys.argv[1], 1, {}) == b'x'\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "file"], check=True)


def test_a_pipe_that_says_nothing_is_not_read_for_ever() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(UsageError, match=r"nothing was written to it in 0\.2 s"):
            read_document(f"/dev/fd/{reader}", 100, QUICK)
    finally:
        os.close(reader)
        os.close(writer)


def test_waiting_for_a_login_can_be_interrupted(tmp_path: Path) -> None:
    """A registry that wants a login, whose file is what a command has not written so far."""

    def answer(connection: Connection) -> None:
        while connection.head():
            connection.send(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n"
                b"Content-Length: 0\r\n\r\n"
            )

    reader, writer = os.pipe()
    path = f"/proc/{os.getpid()}/fd/{reader}"
    own = {"UNIONMOUNT_ROOT": str(tmp_path / "store"), "UNIONMOUNT_TIMEOUT": "300"}
    try:
        with RawServer(answer) as server:
            command = ("tags", "--authfile", path, f"{server.address}/x")
            with subprocess.Popen(
                [sys.executable, "-m", "unionmount", *command],
                env=os.environ | own,
                stderr=subprocess.PIPE,
            ) as process:
                try:
                    pipe = str(Path(path).readlink())
                    while pipe not in held_paths(process.pid):
                        assert process.poll() is None
                    process.send_signal(signal.SIGINT)
                    process.communicate(timeout=60)
                finally:
                    process.kill()
        assert process.returncode == 130
    finally:
        os.close(reader)
        os.close(writer)


# -- traps of others


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory as /tmp is, in which somebody else has been."""
    with tempfile.TemporaryDirectory(dir=public_place()) as name:
        place = Path(name)
        place.chmod(0o1777)
        (place / "secret").write_text("ours")

        def trap() -> None:
            (place / "link").symlink_to(place / "secret")
            (place / "new").symlink_to(place / "nothing")
            (place / "directory").symlink_to("/")
            os.mkfifo(place / "fifo")
            (place / "fifo").chmod(0o666)

        call_as(NOBODY, trap)
        yield place


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["link", "new", "fifo", "directory/out.tar"])
def test_what_others_put_into_shared_directories_is_not_written_to(
    home: Home, shared: Path, name: str
) -> None:
    before = seen(shared)
    commands = [
        ["save", "-o", str(shared / name), "small:1"],
        ["copy", "small:1", f"oci-archive:{shared / name}"],
        ["copy", "small:1", f"oci:{shared / name}"],
        ["save", "--format", "oci", "-o", str(shared / name), "small:1"],
        ["logout", "--authfile", str(shared / name), "registry.example"],
    ]
    for words, ended in zip(
        commands, tried(home, [Case(one, {}) for one in commands]), strict=True
    ):
        if words[0] == "logout" and name != "link":  # there is nothing to change
            continue
        assert_told(ended, " ".join(words))
    assert seen(shared) == before
    assert (shared / "secret").read_text() == "ours"
    assert not Path("/out.tar").exists()


@pytest.mark.needs("root")
def test_manual_pages_do_not_follow_links_of_others(home: Home, shared: Path) -> None:
    call_as(NOBODY, lambda: (shared / "unionmount.1").symlink_to(shared / "secret"))
    (ended,) = tried(home, [Case(["man", "-o", str(shared)], {})])
    assert_told(ended, "man")
    assert "a symbolic link of another user" in ended.stderr
    assert (shared / "secret").read_text() == "ours"


@pytest.mark.needs("root")
def test_links_of_ones_own_are_followed(shared: Path) -> None:
    (shared / "mine").symlink_to("secret")
    (shared / "more").symlink_to("mine")
    assert resolved(shared / "more") == shared.resolve() / "secret"
    with replaced_file(shared / "more") as fd:
        os.write(fd, b"new")
    assert (shared / "secret").read_text() == "new"
    assert (shared / "more").is_symlink()
    with pytest.raises(PermissionError):
        resolved(shared / "link")

    def own() -> Path:  # who put it there may follow it
        return resolved(shared / "link")

    assert call_as(NOBODY, own) == shared.resolve() / "secret"


@pytest.mark.needs("root")
def test_dev_null_stays_what_it_is(home: Home, tmp_path: Path) -> None:
    null = tmp_path / "null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    words = [["logout", "--authfile", str(null), "r.example"], ["save", "-o", str(null), "small:1"]]
    logout, save = tried(home, [Case(one, {}) for one in words])
    assert_told(logout, "logout")
    assert save.status == 0
    assert stat.S_ISCHR(null.lstat().st_mode)


@pytest.mark.needs("root")
def test_what_may_not_be_read(home: Home) -> None:
    """As an ordinary user: files without permissions, and below a directory without any."""
    with tempfile.TemporaryDirectory(dir=public_place()) as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "closed").mkdir(mode=0)
        (top / "file").touch(mode=0)
        for directory in ("home", "mnt", "low"):
            (top / directory).mkdir()
            os.chown(top / directory, NOBODY, NOBODY)
        own = {"HOME": str(top / "home"), "UNIONMOUNT_ROOT": str(top / "home/store")}
        cli = CommandLine(become_nobody(), own | QUICK | {"XDG_RUNTIME_DIR": str(top / "home")})
        for path in (top / "file", top / "closed", top / "closed/file"):
            for words in (
                ["load", "-i", f"docker-archive:{path}"],
                ["load", "-i", f"oci:{path}"],
                ["tags", "--authfile", path, NOWHERE],
                ["tags", "--cert-dir", path, NOWHERE],
                ["--root", path, "images"],
            ):
                done = subprocess.run(
                    [*cli.prefix, sys.executable, "-m", "unionmount", *map(str, words)],
                    env=cli.environment,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                assert_told(Result(done.returncode, done.stdout, done.stderr), f"{words}")


def test_a_regular_file_is_opened_whatever_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    os.close(open_regular(tmp_path / "link"))
    with pytest.raises(NotRegular, match="is a symbolic link"):
        open_regular(tmp_path / "link", follow=False)
    assert read_document(tmp_path / "link", 1, {}) == b"x"
    with pytest.raises(FormatError, match="larger than 0 bytes"):
        read_document(tmp_path / "link", 0, {})
