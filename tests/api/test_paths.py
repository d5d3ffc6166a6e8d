"""Path objects: pathlib, over the same files on disk, says what they do."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.path_tree import DIRECTORIES, FILES, LINKS

import unionmount


@pytest.fixture(scope="module")
def image(archive: Path) -> Iterator[unionmount.Image]:
    """The tree as an image."""
    with unionmount.open_image(str(archive), root=archive.parent / "root") as opened:
        yield opened


NAMES = (
    *("", *DIRECTORIES, *FILES, *LINKS, "nowhere", "top.txt/x", "link/up/one.txt", "link/c"),
    *("a/../top.txt", "link/../one.txt", "n" * 300, "round/x", "broken/x"),
)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the number of its error."""
    try:
        return call()
    except OSError as error:
        return error.errno


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("question", ["exists", "is_file", "is_dir", "is_symlink", "is_fifo"])
def test_questions(image: unionmount.Image, disk: Path, name: str, question: str) -> None:
    if len(name) > 255:
        with pytest.raises(OSError, match="too long"):
            (disk / name).stat()
        assert getattr(image.path(name), question)() is False  # pathlib raises before 3.14
        return
    assert getattr(image.path(name), question)() == getattr(disk / name, question)()


@pytest.mark.parametrize("name", NAMES)
def test_contents(image: unionmount.Image, disk: Path, name: str) -> None:
    ours, theirs = image.path(name), disk / name
    assert outcome(ours.read_bytes) == outcome(theirs.read_bytes)
    for newline in (None, ""):
        read = outcome(lambda: theirs.open(newline=newline, encoding="utf-8").close())  # noqa: B023
        assert outcome(lambda: ours.open(newline=newline, encoding="utf-8").close()) == read  # noqa: B023
    assert outcome(
        lambda: sorted(one.name for one in ours.iterdir() if one.name != "fifo")
    ) == outcome(lambda: sorted(one.name for one in theirs.iterdir()))
    assert outcome(ours.readlink) == outcome(lambda: PurePosixPath(theirs.readlink()))
    assert outcome(lambda: str(ours.resolve())) == outcome(
        lambda: "/" + os.path.relpath(os.path.realpath(theirs, strict=True), disk).removeprefix(".")
    )


@pytest.mark.parametrize("name", ["a", "top.txt", "link", "file", "broken"])
@pytest.mark.parametrize("follow", [True, False])
def test_attributes(image: unionmount.Image, disk: Path, name: str, follow: bool) -> None:
    ours = outcome(lambda: image.path(name).stat(follow_symlinks=follow))
    theirs = outcome(lambda: (disk / name).stat(follow_symlinks=follow))
    if isinstance(theirs, int):
        assert ours == theirs
        return
    same = ["st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_mtime", "st_rdev"]
    if not stat.S_ISDIR(theirs.st_mode):
        same += ["st_size", "st_nlink"]
    assert {one: getattr(ours, one) for one in same} == {one: getattr(theirs, one) for one in same}
    assert ours[stat.ST_MTIME] == theirs[stat.ST_MTIME]
    assert ours.st_ino == image.tree.lookup(name, follow_symlinks=follow).attributes.node


PURE: dict[str, Callable[[Any], Any]] = {
    "name": lambda path: path.name,
    "stem": lambda path: path.stem,
    "suffix": lambda path: path.suffix,
    "suffixes": lambda path: path.suffixes,
    "parts": lambda path: path.parts,
    "parent": lambda path: str(path.parent),
    "parents": lambda path: [str(one) for one in path.parents],
    "joinpath": lambda path: str(path.joinpath("x", "../y", PurePosixPath("z"))),
    "absolute": lambda path: str(path / "/etc" / "x"),
    "with_name": lambda path: str(path.with_name("other")),
    "with_stem": lambda path: str(path.with_stem("other")),
    "with_suffix": lambda path: str(path.with_suffix(".py")),
    "relative_to": lambda path: path.relative_to("/a"),
    "is_relative_to": lambda path: path.is_relative_to("/a"),
    "match": lambda path: (path.match("*.txt"), path.match("a/*"), path.match("/a/one.txt")),
    "str": str,
    "bytes": bytes,
    "as_posix": lambda path: path.as_posix(),
}


@pytest.mark.parametrize("question", PURE)
def test_paths_themselves(image: unionmount.Image, question: str) -> None:
    def answer(path: Any) -> Any:
        try:
            return PURE[question](path)
        except ValueError:
            return ValueError

    for text in ("/", "/a", "/a/one.txt", "/a/two.tar.gz", "/a/.hidden", "/a/b/../x", "/a//b/"):
        assert answer(image.path(text)) == answer(PurePosixPath(text))


PATTERNS = (
    *("*", "*.txt", "a/*", "a/*/*", "*/one.txt", "**/one.txt", "**/*.txt", "**/*", "a/**/*.py"),
    *("link/*", "*/up", "*/up/one.txt", "**/up/*", "?op.txt", "[at]*", "x[[]1]/*", "nowhere/*"),
    *("a/../top.txt", "../disk/top.txt", "broken/x", "**/c/", "*/", "./a/*", "a//b"),
    *("file/*", "**/**/one.txt", "**/.hidden/*", ".*", "a/.*", "top.txt/", "**/", "a/**/"),
)
SINCE_313 = ("**", "a/**", "link/**", "**.txt", "a/**x/*", "broken", "round")


@pytest.mark.parametrize("pattern", PATTERNS + (SINCE_313 if sys.version_info >= (3, 13) else ()))
def test_patterns(image: unionmount.Image, disk: Path, pattern: str) -> None:
    if pattern.startswith("../disk"):  # the root of an image has itself above
        assert list(image.path().glob("../top.txt")) == [image.path("/../top.txt")]
        return
    theirs = {str(one.relative_to(disk)) for one in disk.glob(pattern)}
    ours = [str(one)[1:] or "." for one in image.path().glob(pattern)]
    assert len(ours) == len(set(ours))
    assert set(ours) - {"fifo"} == theirs
    recursive = {str(one)[1:] or "." for one in image.path().rglob(pattern)} - {"fifo"}
    assert recursive == {str(one.relative_to(disk)) for one in disk.rglob(pattern)}


@pytest.mark.parametrize("start", ["nowhere", "top.txt", "broken", "file"])
@pytest.mark.parametrize("pattern", ["**", "**/", "**/**", "**/*", "*", "*/"])
def test_patterns_below_no_directory(
    image: unionmount.Image, disk: Path, start: str, pattern: str
) -> None:
    assert list(image.path(start).glob(pattern)) == []
    if sys.version_info >= (3, 13):  # "**" had other rules before
        assert list((disk / start).glob(pattern)) == []


@pytest.mark.parametrize("method", ["glob", "rglob"])
@pytest.mark.parametrize("pattern", ["", "/a", "/", ".", "./."])
def test_patterns_that_are_none(
    image: unionmount.Image, disk: Path, pattern: str, method: str
) -> None:
    def outcome(path: Any) -> Any:
        try:
            return list(getattr(path, method)(pattern)) != []
        except (ValueError, NotImplementedError) as error:
            return type(error)
        except IndexError:  # Python 3.11 at "."
            return ValueError

    assert outcome(image.path()) == outcome(disk)


def test_walk(image: unionmount.Image, disk: Path) -> None:
    theirs = {
        os.path.relpath(place, disk): (set(directories), set(files))
        for place, directories, files in os.walk(disk)
    }
    found = {
        str(place)[1:] or ".": (set(directories), set(files) - {"fifo"})
        for place, directories, files in image.path().walk()
    }
    # os.walk lists a symlink to a directory among the directories, pathlib among the others
    links = {name for name in LINKS if (disk / name).is_dir()}
    for place, (directories, files) in theirs.items():
        moved = {one for one in directories if os.path.normpath(f"{place}/{one}") in links}
        assert found.pop(place) == (directories - moved, files | moved)
    assert not found


@pytest.mark.parametrize("name", ["nowhere", "top.txt", "broken", "link"])
def test_walk_of_something_else(image: unionmount.Image, disk: Path, name: str) -> None:
    assert len(list(image.path(name).walk())) == len(list(os.walk(disk / name)))


def test_names_removed_from_the_list_are_not_entered(image: unionmount.Image) -> None:
    seen = []
    for place, directories, _ in image.path("/a").walk():
        seen.append(str(place))
        directories[:] = [name for name in directories if name != "b"]
    assert seen == ["/a", "/a/.hidden"]


def test_it_is_traversable(image: unionmount.Image) -> None:
    found: Traversable = image.path("/a")
    assert isinstance(found, Traversable)
    assert (found / "one.txt").read_text(encoding="utf-8") == "one\n"
    assert found.joinpath("b", "one.txt").read_bytes() == b"1"
    assert sorted(one.name for one in found.iterdir() if one.is_file())[0] == "caf\udce9.txt"


def test_symlinks_stay_inside(place: Path) -> None:
    (place / "secret").write_text("of the host\n")
    layer = Layer().file("secret", b"of the image\n").directory("d")
    layer.symlink("d/out", f"../../../../..{place}/secret").symlink("d/abs", "/secret")
    archive = docker_archive(place / "image.tar", [layer])
    with unionmount.open_image(str(archive)) as image:
        assert image.path("/d/abs").read_bytes() == b"of the image\n"
        assert not image.path("/d/out").exists()
        assert image.path("/../../secret").read_bytes() == b"of the image\n"
        assert str(image.path("/d/abs").resolve()) == "/secret"
        with pytest.raises(TypeError):
            open(image.path("/secret")).close()  # type: ignore[call-overload]


@pytest.mark.parametrize("mode", ["w", "a", "x", "r+", "wb"])
def test_writing_is_refused(image: unionmount.Image, mode: str) -> None:
    with pytest.raises(OSError, match=r"Read-only file system: '/top\.txt'"):
        image.path("/top.txt").open(mode)


def test_a_wrong_mode(image: unionmount.Image, disk: Path) -> None:
    for path in (disk / "top.txt", image.path("/top.txt")):
        with pytest.raises(ValueError, match="mode"):
            path.open("q").close()


def test_comparison(image: unionmount.Image) -> None:
    assert image.path("/a") == image.path("/") / "a" == image.path("a")
    assert len({image.path("/a"), image.path("/a"), image.path("/b")}) == 2
    assert image.path("/a") != PurePosixPath("/a")
    assert sorted([image.path("/b"), image.path("/a")])[0].name == "a"
    assert image.path("/link/one.txt").samefile("/a/b/one.txt")
    assert not image.path("/link").samefile(image.path("/a"))
    assert repr(image.path("/a")) == "ImagePath('/a')"


def test_after_the_image_was_closed(archive: Path, place: Path) -> None:
    with unionmount.open_image(str(archive)) as image:
        path = image.path("/a")
    for call in (path.exists, path.read_bytes, lambda: list(path.iterdir()), path.stat):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert path.name == "a"
