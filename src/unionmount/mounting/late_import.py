"""Importing Python's part of a server after the mount (``python_server``), with trio and pyfuse3.

What is imported was opened before the mount (``held_modules``). Some modules also look for programs
and files while they are imported. A path may lead into the mount by then, so they are kept from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unionmount.mounting.held_modules import CannotHold, HeldModules

if TYPE_CHECKING:
    from unionmount.mounting.facts import ShownFiles
    from unionmount.mounting.live_mount import Serving

    ServePython = Callable[[int, ShownFiles, Serving], None]

_PACKAGES = (
    *("trio", "pyfuse3", "attr", "attrs", "idna", "outcome", "sniffio", "sortedcontainers"),
    *("unionmount.mounting.python_server", "unionmount.mounting.read_operations"),
    *("unionmount.mounting.write_operations", "unionmount.mounting.statistics"),
)
# What these import of the standard library; no version of Python has all.
_STANDARD = (
    *("__future__", "_bisect", "_blake2", "_bz2", "_colorize", "_compat_pickle", "_compression"),
    *("_contextvars", "_csv", "_ctypes", "_datetime", "_heapq", "_json", "_lzma", "_opcode"),
    *("_opcode_metadata", "_pickle", "_posixsubprocess", "_queue", "_random", "_sha2", "_sha512"),
    *("_socket", "_ssl", "_struct", "_typing", "_weakrefset", "annotationlib", "array", "ast"),
    *("base64", "binascii", "bisect", "bz2", "calendar", "compression", "contextlib"),
    *("contextvars", "copy", "copyreg", "csv", "ctypes", "datetime", "dis", "email", "enum"),
    *("fcntl", "fnmatch", "functools", "glob", "grp", "heapq", "importlib", "inspect"),
    *("ipaddress", "json", "keyword", "linecache", "locale", "logging", "lzma", "math"),
    *("opcode", "operator", "pathlib", "pickle", "platform", "queue", "quopri", "random"),
    *("re", "reprlib", "select", "selectors", "shutil", "signal", "socket", "ssl", "string"),
    *("struct", "subprocess", "tempfile", "textwrap", "threading", "token", "tokenize"),
    *("traceback", "types", "typing", "unicodedata", "urllib", "warnings", "weakref"),
    *("zipfile", "zlib"),
)


def hold_python() -> HeldModules | None:
    """Prepare the import, before the mount; None if it has to be done before the mount."""
    held = HeldModules()
    try:
        held.hold(_PACKAGES, needed=True)
        held.hold(_STANDARD, needed=False)
    except CannotHold:
        return None
    return held


def import_python() -> ServePython:
    """Import what serves requests that Python answers."""
    with _nothing_searched():
        from unionmount.mounting.python_server import serve  # noqa: PLC0415 - that is the point
    return serve


@contextmanager
def _nothing_searched() -> Iterator[None]:
    """Keep imports from running programs and from reading files that are found by path.

    trio looks for the C library, by running ldconfig; it is loaded already, by this name. OpenSSL
    reads its configuration, which may name libraries to load. pyfuse3 looks for its own version.
    """
    import ctypes.util  # noqa: PLC0415
    import importlib.metadata  # noqa: PLC0415

    find_library, version = ctypes.util.find_library, importlib.metadata.version
    configuration = os.environ.get("OPENSSL_CONF")
    ctypes.util.find_library = _c_library
    importlib.metadata.version = _no_version
    os.environ["OPENSSL_CONF"] = os.devnull
    try:
        yield
    finally:
        ctypes.util.find_library, importlib.metadata.version = find_library, version
        if configuration is None:
            del os.environ["OPENSSL_CONF"]
        else:
            os.environ["OPENSSL_CONF"] = configuration


def _c_library(name: str) -> str | None:  # noqa: ARG001
    return "libc.so.6"


def _no_version(distribution_name: str) -> str:
    import importlib.metadata  # noqa: PLC0415

    raise importlib.metadata.PackageNotFoundError(distribution_name)
