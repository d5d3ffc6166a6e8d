"""The fsspec file system: fsspec's own one of local files is the oracle, over the same tree."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests
from support.archives import Layer, docker_archive
from support.path_tree import DIRECTORIES, FILES, LINKS, layer_of
from support.programs import run

import unionmount
from unionmount.api.file_system import UnionmountFileSystem, split_url
from unionmount.errors import NotFoundError, UsageError

NAMES = ("/", *(f"/{name}" for name in (*DIRECTORIES, *FILES, *LINKS)), "/nowhere", "/a/../top.txt")


@pytest.fixture(scope="module")
def fs(archive: Path) -> Iterator[UnionmountFileSystem]:
    """The file system of the tree."""
    with fsspec.filesystem("unionmount", image=str(archive), root=archive.parent / "root") as made:
        yield made


class LocalBelow(LocalFileSystem):  # type: ignore[misc]
    """fsspec's file system of local files, with a directory as its root."""

    def __init__(self, top: Path) -> None:
        super().__init__()
        self.top = str(top)

    def ask(self, question: str, path: str, **options: Any) -> Any:
        """Answer as if the directory was the root; an error is its number."""
        answer = outcome(lambda: getattr(self, question)(self.top + path.rstrip("/"), **options))
        return self.moved(answer)

    def moved(self, answer: Any) -> Any:
        """Take the directory away from all names in an answer."""
        if isinstance(answer, str):
            return answer.removeprefix(self.top) or "/" if answer.startswith(self.top) else answer
        if isinstance(answer, list):
            return [self.moved(one) for one in answer]
        if isinstance(answer, dict):
            return {self.moved(key): self.moved(value) for key, value in answer.items()}
        return answer


@pytest.fixture(scope="module")
def local(disk: Path) -> LocalBelow:
    """The oracle."""
    return LocalBelow(disk)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the number of its error."""
    try:
        return call()
    except OSError as error:
        return error.errno


def plain(answer: Any) -> Any:
    """An answer without what differs between a disk and an image, sorted, and without the FIFO."""
    if isinstance(answer, list):
        rows = [plain(one) for one in answer if "/fifo" not in (one, *_name_of(one))]
        return sorted(rows, key=lambda row: row["name"] if isinstance(row, dict) else row)
    if isinstance(answer, dict) and "name" in answer:
        of_disk = {"ino", "created", "layer"}
        if answer["type"] == "directory":
            of_disk |= {"size", "nlink"}
        if answer.get("islink"):  # the size of a directory that a symlink leads to
            of_disk |= {"nlink", "size"} if answer["destination"] in ("..", "a/b") else set()
        return {key: value for key, value in answer.items() if key not in of_disk}
    if isinstance(answer, dict):
        return {key: plain(value) for key, value in answer.items() if key != "/fifo"}
    return answer


def _name_of(row: Any) -> list[str]:
    return [row["name"]] if isinstance(row, dict) else []


@pytest.mark.parametrize("path", NAMES)
@pytest.mark.parametrize(
    "question", ["info", "exists", "lexists", "isfile", "isdir", "cat_file", "du", "size"]
)
def test_questions(fs: Any, local: LocalBelow, path: str, question: str) -> None:
    if question in ("du", "size") and fs.isdir(path):
        return  # of directories, it is that of the disk
    ours = outcome(lambda: getattr(fs, question)(path))
    theirs = local.ask(question, path)
    assert plain(ours) == plain(theirs)


@pytest.mark.parametrize("path", NAMES)
@pytest.mark.parametrize("detail", [True, False])
def test_lists(fs: Any, local: LocalBelow, path: str, detail: bool) -> None:
    for question in ("ls", "find"):
        ours = outcome(lambda: getattr(fs, question)(path, detail=detail))  # noqa: B023
        theirs = local.ask(question, path, detail=detail)
        assert plain(ours) == plain(theirs)


@pytest.mark.parametrize("options", [{}, {"withdirs": True}, {"maxdepth": 2}])
def test_find(fs: Any, local: LocalBelow, options: dict[str, Any]) -> None:
    assert plain(fs.find("/", **options)) == plain(local.ask("find", "/", **options))


PATTERNS = ("/*", "/*.txt", "/a/*/*", "/**/one.txt", "/**", "/a/**/*.py", "/[at]*", "/?op.txt")


@pytest.mark.parametrize("pattern", [*PATTERNS, "/a/**", "/link/*", "/nowhere/*", "/a/**/", "/*/"])
def test_glob(fs: Any, local: LocalBelow, pattern: str) -> None:
    theirs = local.moved(local.glob(local.top + pattern))
    assert plain(fs.glob(pattern)) == plain([name.rstrip("/") or "/" for name in theirs])


def test_walk(fs: Any, local: LocalBelow) -> None:
    ours = {place: (set(below), set(files) - {"fifo"}) for place, below, files in fs.walk("/")}
    theirs = {
        local.moved(place.rstrip("/")): (set(below), set(files))
        for place, below, files in local.walk(local.top)
    }
    assert ours == theirs


@pytest.mark.parametrize("start", [None, 0, 2, -2, 100, -100])
@pytest.mark.parametrize("end", [None, 0, 3, -1, 100, -100])
def test_parts_of_files(fs: Any, start: int | None, end: int | None) -> None:
    assert fs.cat_file("/a/b/c/deep.py", start, end) == b"x = 1\n"[start:end]


def test_reading(fs: Any, local: LocalBelow) -> None:
    assert fs.cat(["/top.txt", "/link/one.txt"]) == {
        "/top.txt": "töp\n".encode(),
        "/link/one.txt": b"1",
    }
    assert fs.cat("/*.txt") == {"/top.txt": "töp\n".encode()}
    assert fs.head("/a/one.txt", 2) == b"on"
    assert fs.tail("/a/one.txt", 2) == b"e\n"
    assert fs.read_block("/a/b/c/deep.py", 2, 3) == b"= 1"
    with fs.open("/top.txt", "r", encoding="utf-8") as file:
        assert file.readlines() == ["töp\n"]
    with pytest.raises(FileNotFoundError, match="'/nowhere'"):
        fs.open("/nowhere")
    with pytest.raises(IsADirectoryError, match="'/a'"):
        fs.open("/a")
    changed = (Path(local.top) / "top.txt").stat().st_mtime
    assert fs.modified("/top.txt").timestamp() == pytest.approx(changed, abs=1e-6)


# ---- URLs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "image", "path"),
    [
        ("unionmount://nginx:1.25/etc/os-release", "nginx:1.25", "/etc/os-release"),
        ("unionmount://nginx:1.25", "nginx:1.25", "/"),
        ("unionmount://nginx:1.25/", "nginx:1.25", "/"),
        ("unionmount://nginx:1.25!/etc", "nginx:1.25", "/etc"),
        ("unionmount://nginx:1.25!", "nginx:1.25", "/"),
        ("unionmount://nginx:1.25!/a!/b", "nginx:1.25", "/a!/b"),
        (
            "unionmount://reg.example:5000/team/app:1!/etc/x",
            "reg.example:5000/team/app:1",
            "/etc/x",
        ),
        ("unionmount://./sample.tar!/etc", "./sample.tar", "/etc"),
        ("unionmount:///etc/x", "", "/etc/x"),
        ("unionmount:///a!/b", "", "/a!/b"),
        ("unionmount://", "", "/"),
        ("/a!/b", "", "/a!/b"),
    ],
)
def test_the_rule_of_urls(url: str, image: str, path: str) -> None:
    assert split_url(url)[0] == image
    assert UnionmountFileSystem._strip_protocol(url) == path
    assert UnionmountFileSystem._get_kwargs_from_urls(url) == ({"image": image} if image else {})


def test_urls(archive: Path, place: Path) -> None:
    run(sys.executable, "-m", "unionmount", "load", "-i", str(archive))
    (place / "here.tar").symlink_to(archive)
    urls = [
        ("unionmount://test:latest/top.txt", {}),
        ("unionmount://docker.io/library/test:latest!/top.txt", {}),
        ("unionmount://./here.tar!/top.txt", {}),
        (f"unionmount://docker-archive:{archive}!/top.txt", {}),
        ("unionmount:///top.txt", {"image": str(archive)}),
        ("unionmount:///top.txt", {"image": "test:latest"}),
        ("unionmount:///top.txt::file://here.tar", {}),
        (f"unionmount:///top.txt::simplecache::file://{archive}", {}),
    ]
    for url, options in urls:
        with fsspec.open(url, "rt", encoding="utf-8", **options) as file:
            assert file.read() == "töp\n"
        fs, path = fsspec.url_to_fs(url, **options)
        with fsspec.open(fs.unstrip_protocol(path), "rt", encoding="utf-8") as file:
            assert file.read() == "töp\n"
    files = fsspec.open_files("unionmount://test:latest/a/**/one.txt")
    assert [file.path for file in files] == ["/a/b/one.txt", "/a/one.txt"]


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("unionmount://nothing/etc", NotFoundError, "no image 'nothing'.*IMAGE!/PATH if"),
        ("unionmount:///etc", UsageError, "no image: write unionmount://IMAGE/PATH"),
        ("unionmount://x/etc::file://i.tar", UsageError, "both 'x' and '.*i.tar' name an image"),
        ("unionmount:///etc::memory://i.tar", UsageError, "simplecache::memory:///i.tar$"),
        ("unionmount:///etc::file://i.tar", NotFoundError, "i.tar: no such file"),
    ],
)
def test_urls_that_are_wrong(place: Path, url: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fsspec.open(url)


def test_it_is_imported_when_it_is_used() -> None:
    code = "import fsspec, sys; print('unionmount' in sys.modules); "
    code += "fsspec.get_filesystem_class('unionmount'); print('trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


# ---- instances -----------------------------------------------------------------------------------


def test_instances_are_kept(archive: Path, place: Path) -> None:
    one = UnionmountFileSystem(str(archive))
    assert UnionmountFileSystem(str(archive)) is one
    assert UnionmountFileSystem(str(archive), skip_instance_cache=True) is not one
    assert UnionmountFileSystem(str(archive), layer=0) is not one
    assert one.exists("/fifo")
    assert not UnionmountFileSystem(str(archive), layer=0).exists("/fifo")
    assert one.fsid == UnionmountFileSystem(str(archive), skip_instance_cache=True).fsid
    file = one.open("/top.txt")
    one.close()
    one.close()
    with pytest.raises(ValueError, match="closed"):
        one.ls("/")
    with pytest.raises(ValueError, match="closed"):
        file.read()
    assert UnionmountFileSystem(str(archive)).exists("/top.txt")


def test_nothing_stays_open(archive: Path, place: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with UnionmountFileSystem(str(archive), skip_instance_cache=True) as fs:
        fs.cat("/top.txt")
    made = UnionmountFileSystem(str(archive), skip_instance_cache=True)
    assert os.listdir("/proc/self/fd") != before
    del made  # without closing it
    assert os.listdir("/proc/self/fd") == before


def test_pickling(archive: Path, place: Path) -> None:
    fs = UnionmountFileSystem(str(archive), layer=0)
    assert pickle.loads(pickle.dumps(fs)) is fs
    with fs.open("/a/one.txt") as file:
        file.read(1)
        code = "import pickle, sys; fs, file, later = pickle.load(sys.stdin.buffer); "
        code += "print(fs.cat('/a/one.txt'), fs.exists('/fifo'), file.read(), later.open().read())"
        data = pickle.dumps(
            (fs, file, fsspec.open(f"unionmount:///top.txt::file://{archive}", "rb"))
        )
    done = subprocess.run([sys.executable, "-c", code], input=data, check=True, capture_output=True)
    wanted = f"{b'one'!r} ".replace("one", "one\\n") + f"False {b'ne'!r} ".replace("ne", "ne\\n")
    assert done.stdout.decode().strip() == wanted + repr("töp\n".encode())


def two_images(place: Path) -> None:
    """Archives with the same name in two directories, and one more."""
    for directory in ("one", "two"):
        (place / directory).mkdir()
        layer = Layer().file("f", directory.encode())
        docker_archive(place / directory / "image.tar", [layer])
        docker_archive(place / f"{directory}.tar", [layer])


@pytest.mark.parametrize("name", ["image.tar", "./image.tar"])
def test_a_relative_path_in_another_directory(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_images(place)
    monkeypatch.chdir(place / "one")
    fs = UnionmountFileSystem(name)
    assert UnionmountFileSystem(name) is fs
    with fs.open("/f") as file:
        pickled = pickle.dumps((fs, file))
    monkeypatch.chdir(place / "two")
    assert UnionmountFileSystem(name).cat("/f") == b"two"
    with fsspec.open(f"unionmount://{name}!/f") as file:
        assert file.read() == b"two"
    assert fs.cat("/f") == b"one"
    again, file = pickle.loads(pickled)
    assert (again.cat("/f"), file.read()) == (b"one", b"one")


def test_a_working_directory_that_was_removed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_images(place)
    (place / "gone").mkdir()
    monkeypatch.chdir(place / "gone")
    (place / "gone").rmdir()
    assert UnionmountFileSystem(str(place / "one.tar")).cat("/f") == b"one"


def test_urls_of_several_images(place: Path) -> None:
    # The library opens the file system of the first one for all.
    two_images(place)
    urls = [f"unionmount://./{name}.tar!/f" for name in ("one", "two")]
    assert [fsspec.open(url).open().read() for url in urls] == [b"one", b"two"]
    message = (
        r"^this file system shows the image '\./one\.tar' or '/.*/one\.tar', but the URL names "
        r"'\./two\.tar'; open each image with"
    )
    files = pickle.loads(pickle.dumps(fsspec.open_files(urls)))
    with pytest.raises(UsageError, match=message), files as opened:
        pytest.fail(f"{[file.read() for file in opened]}")
    with fsspec.open_files([urls[0], urls[0]]) as opened:
        assert [file.read() for file in opened] == [b"one", b"one"]
    fs = fsspec.filesystem("unionmount", image="./one.tar")
    assert fs.cat([urls[0], "/f", "unionmount:///f"]) == {"/f": b"one"}
    for call in (fs.cat, fs.info, fs.ls, fs.exists, fs.open, fs.find, fs.cat_file, fs.ukey):
        with pytest.raises(UsageError, match="the URL names"):
            call(urls[1])


@pytest.mark.needs("fuse")
def test_threads_share_a_container(archive: Path, place: Path) -> None:
    run(sys.executable, "-m", "unionmount", "load", "-i", str(archive))
    with unionmount.mount("test:latest", name="box") as mounted:
        (mounted.path / "top.txt").write_text(FILES["top.txt"], encoding="utf-8")
    fs = UnionmountFileSystem("container:box")
    wanted = {name: FILES[name[1:]].encode() for name in fs.find("/") if name[1:] in FILES}
    assert len(wanted) == len(FILES)
    failures: list[Any] = []

    def read() -> None:
        for _ in range(20):
            found = {name: fs.cat_file(name) for name in fs.find("/") if name[1:] in FILES}
            if found != wanted:
                failures.append(found)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fs.close()
    assert not failures


# ---- nothing is changed --------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Any], Any]] = {
    "mkdir": lambda fs: fs.mkdir("/new"),
    "makedirs": lambda fs: fs.makedirs("/new/er", exist_ok=True),
    "rmdir": lambda fs: fs.rmdir("/empty"),
    "rm": lambda fs: fs.rm("/a", recursive=True),
    "rm_file": lambda fs: fs.rm_file("/top.txt"),
    "delete": lambda fs: fs.delete("/top.txt"),
    "touch": lambda fs: fs.touch("/top.txt"),
    "pipe": lambda fs: fs.pipe("/top.txt", b"x"),
    "put": lambda fs: fs.put_file(__file__, "/top.txt"),
    "upload": lambda fs: fs.upload(__file__, "/top.txt"),
    "copy": lambda fs: fs.copy("/top.txt", "/other.txt"),
    "move": lambda fs: fs.move("/top.txt", "/other.txt"),
    "write": lambda fs: fs.open("/top.txt", "wb"),
    "append": lambda fs: fs.open("/top.txt", "a"),
    "write_text": lambda fs: fs.write_text("/top.txt", "x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_refused(fs: Any, change: str) -> None:
    with pytest.raises(OSError, match="Read-only file system") as error:
        CHANGES[change](fs)
    assert error.value.errno == errno.EROFS
    assert error.value.filename


# ---- fsspec's own tests of reading ---------------------------------------------------------------


class Prepared(UnionmountFileSystem):
    """A file system that has already what one of fsspec's tests makes in it."""

    def mkdir(self, path: str, **_options: Any) -> None:  # type: ignore[override]
        assert self.isdir(path)

    def touch(self, path: str, **_options: Any) -> None:  # type: ignore[override]
        assert self.isfile(path)


class TestGet(AbstractFixtures, AbstractGetTests):  # type: ignore[misc]
    """fsspec's tests of ``get``; its trees are made on disk, and put into one image."""

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """An archive with all trees."""
        scenarios = cls()
        top = tmp_path_factory.mktemp("trees")
        local = LocalFileSystem(auto_mkdir=True)
        for name in ("bulk", "glob", "prefix", "hashed", "empty"):
            (top / name).mkdir()
        (top / "src").mkdir()
        (top / "src/file").touch()
        scenarios._bulk_operations_scenario_0(local, os.path.join, str(top / "bulk"))
        scenarios._glob_edge_cases_files(local, os.path.join, str(top / "glob"))
        scenarios._dir_and_file_with_same_name_prefix(local, os.path.join, str(top / "prefix"))
        scenarios._10_files_with_hashed_names(local, os.path.join, str(top / "hashed"))
        return docker_archive(tmp_path_factory.mktemp("made") / "made.tar", [layer_of(top)])

    @pytest.fixture
    def fs(self, made: Path, place: Path) -> Iterator[UnionmountFileSystem]:  # noqa: ARG002
        with Prepared(str(made)) as fs:
            yield fs

    @pytest.fixture
    def fs_path(self) -> str:
        return "/"

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self) -> str:
        return "/bulk/source"

    @pytest.fixture
    def fs_glob_edge_cases_files(self) -> str:
        return "/glob/source"

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self) -> str:
        return "/prefix/source"

    @pytest.fixture
    def fs_10_files_with_hashed_names(self) -> str:
        return "/hashed/source"
