"""What names an image, container or mount in a call of the API."""

from __future__ import annotations

import os


def operand_of(ref: str | os.PathLike[str]) -> str:
    """Return ``ref`` as a word of the command line; raise TypeError if it is no text.

    A path object always means a file: a relative one gets ``./`` before it, so that it cannot name
    an image of the store.
    """
    if isinstance(ref, str):
        return ref
    path = os.fspath(ref)
    if not isinstance(path, str):
        raise TypeError(f"an image is named by str or a path object, not by {type(ref).__name__}")
    return path if path.startswith("/") else f"./{path}"
