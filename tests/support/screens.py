"""Images that are open for the screen of ``browse``, and trees that are listed completely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.archives import Layer, docker_archive
from unionmount.browse.open import open_view
from unionmount.core import Tree
from unionmount.screen.loader import Loader
from unionmount.screen.sides import Folder, Sides, State
from unionmount.screen.stacks import Stacks
from unionmount.store.store import Store

PATIENCE = 60.0  # seconds


@contextmanager
def stacks_of(top: Path, layers: Sequence[Layer], history: Sequence[str] = ()) -> Iterator[Stacks]:
    """An image of these layers, as the screen has it."""
    archive = docker_archive(top / "image.tar", layers, history=history)
    with open_view(Store(top / "store"), str(archive)) as view, Stacks(view, "image.tar") as stacks:
        yield stacks


@contextmanager
def loaded(before: Tree | None, after: Tree, first: int) -> Iterator[Loader]:
    """Two trees that are compared; layers from ``first`` on are the newer ones."""
    loader = Loader(Sides(before, after, first, after.top))
    loader.start()
    try:
        wait_for(loader)
        yield loader
    finally:
        loader.stop()


def wait_for(loader: Loader) -> None:
    """Wait until everything is listed."""
    steps = -1
    while not loader.done:
        steps = loader.wait(steps, PATIENCE)
    if loader.failure is not None:
        raise loader.failure


def folders(loader: Loader) -> Iterator[Folder]:
    """All directories, depth first."""
    pending = [loader.root]
    while pending:
        folder = pending.pop()
        yield folder
        pending += reversed(folder.below.values())


def states(loader: Loader) -> dict[bytes, State]:
    """The state of each path."""
    return {
        folder.path_of(index): State(kind & 3)
        for folder in folders(loader)
        for index, kind in enumerate(folder.kinds)
    }
