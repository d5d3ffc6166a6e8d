"""The words that commands read as images and as paths in them."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive

from unionmount.cli import main
from unionmount.cli.operands import by_image, image_and_paths, with_paths
from unionmount.errors import NotFoundError, UsageError


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("nginx", [("nginx", None)]),
        ("nginx:/etc", [("nginx", b"/etc")]),
        ("nginx /etc", [("nginx", b"/etc")]),
        ("nginx /etc /usr/", [("nginx", b"/etc"), ("nginx", b"/usr/")]),
        ("nginx:/etc /usr", [("nginx", b"/etc"), ("nginx", b"/usr")]),
        ("nginx redis", [("nginx", None), ("redis", None)]),
        ("nginx redis /etc", [("nginx", None), ("redis", b"/etc")]),
        ("nginx /etc redis /usr", [("nginx", b"/etc"), ("redis", b"/usr")]),
        ("/home/a.tar", [("/home/a.tar", None)]),
        ("/home/a.tar /etc", [("/home/a.tar", b"/etc")]),
        ("/home/a.tar /home/b.tar:/", [("/home/a.tar", None), ("/home/b.tar", b"/")]),
        ("/home/a.tar:/etc /usr", [("/home/a.tar", b"/etc"), ("/home/a.tar", b"/usr")]),
        ("oci:/dir:tag /etc", [("oci:/dir:tag", b"/etc")]),
        (
            "a docker-archive:/x/b.tar /etc",
            [("a", None), ("docker-archive:/x/b.tar", b"/etc")],
        ),
        ("container:box /etc", [("container:box", b"/etc")]),
        ("./a.tar ../b.tar /", [("./a.tar", None), ("../b.tar", b"/")]),
        ("nginx //", [("nginx", b"//")]),
        ("nginx:/a:/b", [("nginx", b"/a:/b")]),
        ("nginx /caf\udce9", [("nginx", b"/caf\xe9")]),
        ("", []),
    ],
)
def test_words(words: str, wanted: list[tuple[str, bytes | None]]) -> None:
    assert [(one.image, one.path) for one in image_and_paths(words.split())] == wanted


def test_each_image_is_opened_once() -> None:
    found = by_image(image_and_paths(["a", "/x", "/y", "b", "a:/z", "/v"]))
    assert [(image, [one.start for one in group]) for image, group in found] == [
        ("a", [b"/x", b"/y"]),
        ("b", [b"/"]),
        ("a", [b"/z", b"/v"]),
    ]


def test_a_path_is_missing() -> None:
    assert [one.word for one in with_paths(["a", "/x"])] == ["a:/x"]
    with pytest.raises(UsageError, match="'b' has no path; write IMAGE:/PATH or IMAGE /PATH"):
        with_paths(["a:/x", "b"])


def test_a_file_of_the_host_is_explained(tmp_path: Path) -> None:
    there = tmp_path / "b.tar"
    there.touch()
    _, operand = image_and_paths(["a:/", str(there)])
    with pytest.raises(NotFoundError, match=f"write '{there}:/'"), operand.naming():
        raise FileNotFoundError(2, "No such file or directory")
    there.unlink()
    with pytest.raises(FileNotFoundError) as error, operand.naming():
        raise FileNotFoundError(2, "No such file or directory")
    assert error.value.filename == f"a:{there}"


# ---- images that are not there -------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("UNIONMOUNT_ROOT", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    layer = Layer().directory("etc").file("etc/motd", b"hello\n").file("usr/x", b"hello\n")
    return os.fspath(docker_archive(tmp_path / "a.tar", [layer]))


@pytest.mark.parametrize("command", ["ls", "find"])
def test_a_wrong_image_is_told_before_any_output(
    image: str, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([command, image, "etc", "usr"]) == 1
    out, error = capfd.readouterr()
    assert out == ""
    assert error == "unionmount: no image 'etc' in the store; did you mean /etc?\n"
    assert main([command, image, "nowhere"]) == 1
    out, error = capfd.readouterr()
    assert out == ""
    assert "no image 'nowhere' in the store" in error
    assert "did you mean" not in error


def test_cat_writes_nothing_if_an_image_is_wrong(
    image: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["cat", f"{image}:/etc/motd", "nowhere:/etc/motd"]) == 1
    out, error = capfd.readouterr()
    assert out == ""
    assert "no image 'nowhere' in the store" in error


def test_a_directory_of_the_host_may_be_meant_as_a_path(
    image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "etc").mkdir()
    assert main(["ls", image, "etc"]) == 1
    out, error = capfd.readouterr()
    assert out == ""
    assert error.endswith("; did you mean /etc?\n")


def test_grep_tells_first_and_searches_the_others(
    image: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["grep", "-l", "hello", image, "etc"]) == 2
    out, error = capfd.readouterr()
    assert out == f"{image}:/etc/motd\n{image}:/usr/x\n"
    assert error == "unionmount: no image 'etc' in the store; did you mean /etc?\n"
    assert main(["grep", "-q", "hello", image, "etc"]) == 0
    capfd.readouterr()
    assert main(["grep", "-E", "a(", image, "etc"]) == 2
    assert capfd.readouterr().err.startswith("unionmount: grep: Unmatched ( or")


def test_which_does_not_blame_the_image_for_its_output(
    image: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, _text: str, /) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for form in ("table", "json"):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", Full())
            assert main(["which", image, "/etc", "--format", form]) == 1
        assert capsys.readouterr().err == "unionmount: No space left on device\n"
