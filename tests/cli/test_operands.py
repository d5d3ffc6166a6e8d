"""The words that commands read as images and as paths in them."""

from __future__ import annotations

from pathlib import Path

import pytest

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
