"""The operands of commands that look into images: ``IMAGE[:PATH]`` or ``IMAGE PATH…``.

The rule depends on the words alone, never on the files of the host:

- ``IMAGE:/PATH`` names an image and a path in it.
- A word that begins with ``/`` and stands behind an image is a path in that image.
- Every other word is an image. So is the first one: ``/home/me/app.tar`` is an archive there.

A second archive that is given by an absolute path therefore needs a path or a transport:
``/home/me/other.tar:/`` or ``docker-archive:/home/me/other.tar``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from unionmount.browse.paths import split_operand
from unionmount.errors import NotFoundError, UsageError
from unionmount.system.os_errors import naming
from unionmount.system.text import printable


@dataclass(frozen=True, slots=True)
class Operand:
    """An image, and a path in it; ``path`` is None if the image was given without one.

    ``word`` is the text that messages and headings show.
    """

    image: str
    path: bytes | None
    word: str
    is_split: bool = False  # the path was a word of its own

    @property
    def start(self) -> bytes:
        """The path, or that of the root directory."""
        return b"/" if self.path is None else self.path

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Make an OSError in the block name the operand.

        If a word was taken as a path that the image lacks, and the host has such a file, the error
        tells how to name the file.
        """
        try:
            with naming(printable(self.word)):
                yield
        except FileNotFoundError as error:
            host = os.fsdecode(self.path or b"")
            if not (self.is_split and Path(host).exists()):
                raise
            raise NotFoundError(
                f"{printable(self.word)}: {error.strerror}; write '{printable(host)}:/' "
                "for the archive or layout of this name on the host"
            ) from error


def image_and_paths(words: Sequence[str]) -> list[Operand]:
    """Return the operands that words stand for, in their order.

    An image without a path is one operand, and its path is None. An image with paths behind it is
    one operand for each path.
    """
    found: list[Operand] = []
    for word in words:
        image, path = split_operand(word)
        if path is None and found and word.startswith("/"):
            _add_path(found, word)
        else:
            found.append(Operand(image, path, word))
    return found


def _add_path(found: list[Operand], word: str) -> None:
    last = found[-1]
    if last.path is None:  # the image was waiting for its first path
        found.pop()
    whole = f"{last.image}:{word}"
    found.append(Operand(last.image, os.fsencode(word), whole, is_split=True))


def with_paths(words: Sequence[str]) -> list[Operand]:
    """Return the operands, each of which must have a path."""
    operands = image_and_paths(words)
    for operand in operands:
        if operand.path is None:
            raise UsageError(
                f"'{printable(operand.word)}' has no path; write IMAGE:/PATH or IMAGE /PATH"
            )
    return operands


def by_image(operands: Sequence[Operand]) -> Iterator[tuple[str, list[Operand]]]:
    """Yield neighbours of the same image together, so that each image is opened once."""
    for image, group in groupby(operands, key=lambda operand: operand.image):
        yield image, list(group)
