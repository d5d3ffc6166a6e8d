"""An image that threads use while another one closes it, and one that nobody closes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unionmount

_PROGRAM = """
import sys, threading, unionmount
USES = (
    lambda image: image.tree.read("/d/f"),
    lambda image: list(image.tree.walk()),
    lambda image: list(image.tree.list("/d")),
    lambda image: image.tree.xattrs("/d/f"),
    lambda image: list(image.layers[0].changes()),
    lambda image: image.usage(),
)
ends = []
def work(image, use, started):
    try:
        while True:
            use(image)
            started.set()
    except Exception as error:
        ends.append(repr(error))
for _ in range(100):
    image = unionmount.open_image(sys.argv[1])
    begun = [threading.Event() for _ in USES]
    threads = [
        threading.Thread(target=work, args=(image, use, event))
        for use, event in zip(USES, begun)
    ]
    for thread in threads:
        thread.start()
    for event in begun:
        event.wait()
    image.close()
    for thread in threads:
        thread.join()
print(len(ends), *set(ends))
"""


def test_closing_while_threads_use_it(source: Path) -> None:
    """A program of its own, since a read of closed files would end this one by a signal."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(source)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "600 ValueError('the image is closed')\n"


AFTERWARDS: dict[str, Callable[[unionmount.Image], Any]] = {
    "lookup": lambda image: image.tree.lookup("/"),
    "exists": lambda image: image.path("/d").exists(),
    "xattrs": lambda image: image.tree.xattrs("/d/f"),
    "changes": lambda image: next(image.layers[0].changes()),
    "usage": lambda image: image.usage(),
}


@pytest.mark.parametrize("use", AFTERWARDS)
def test_after_the_end(image: unionmount.Image, use: str) -> None:
    image.close()
    with pytest.raises(ValueError, match=r"^the image is closed$"):
        AFTERWARDS[use](image)


def test_the_end_in_the_middle_of_an_iterator(image: unionmount.Image) -> None:
    iterators = (image.tree.walk(), image.layers[0].changes())
    for iterator in iterators:
        next(iterator)
    image.close()
    for iterator in iterators:
        with pytest.raises(ValueError, match=r"^the image is closed$"):
            list(iterator)


def test_what_is_known_stays_known(image: unionmount.Image) -> None:
    known = (image.id, image.config, image.history, [layer.diff_id for layer in image.layers])
    image.close()
    assert known == (image.id, image.config, image.history, [one.diff_id for one in image.layers])


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_an_image_that_nobody_closes(source: Path) -> None:
    before = descriptors()
    for _ in range(10):
        assert unionmount.open_image(str(source)).id.algorithm == "sha256"
    assert descriptors() == before


def test_a_part_of_an_image_keeps_it_open(source: Path) -> None:
    before = descriptors()
    tree = unionmount.open_image(str(source)).tree
    path = unionmount.open_image(str(source)).path("/d/new")
    layer = unionmount.open_image(str(source)).layers[1]
    file = unionmount.open_image(str(source)).tree.open("/d/new")
    assert tree.read("/d/new") == path.read_bytes() == file.read() == b"new"
    assert [change.path for change in layer.changes()] == [b"/d/new"]
    del tree, path, layer, file
    assert descriptors() == before
