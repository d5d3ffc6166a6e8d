"""Importing Python's part of a server after the mount (``python_server``), with trio and pyfuse3.

What is imported was opened before the mount (``held_modules``). Some modules also look for programs
and files while they are imported. A path may lead into the mount by then, so they are kept from it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from unionmount.mounting.held_modules import CannotHold, HeldModules

if TYPE_CHECKING:
    from unionmount.mounting.facts import ShownFiles
    from unionmount.mounting.live_mount import Serving

    ServePython = Callable[[int, ShownFiles, Serving], None]

T = TypeVar("T")

_PACKAGES = (
    *("trio", "pyfuse3", "attr", "attrs", "idna", "outcome", "sniffio", "sortedcontainers"),
    *("unionmount.mounting.python_server", "unionmount.mounting.read_operations"),
    *("unionmount.mounting.write_operations", "unionmount.mounting.statistics"),
)
# The versions of Python for which the next list is known to be complete.
_TRIED = ((3, 11), (3, 12), (3, 13))
# What these import of the standard library; no version of Python has all.
_STANDARD = (  # noqa: SIM905 - a list has a line for each name
    "__future__ _bisect _blake2 _bz2 _colorize _compat_pickle _compression _contextvars "
    "_ctypes _datetime _hashlib _heapq _hmac _json _lzma _md5 _opcode _opcode_metadata "
    "_pickle _posixsubprocess _py_warnings _pydatetime _queue _random _sha1 _sha2 _sha256 "
    "_sha3 _sha512 _socket _ssl _struct _typing _weakrefset _zstd annotationlib array ast "
    "base64 binascii bisect bz2 compression contextlib contextvars copy copyreg ctypes "
    "datetime dis enum fcntl fnmatch functools glob grp hashlib heapq hmac importlib inspect "
    "ipaddress json keyword linecache locale logging lzma math opcode operator pathlib "
    "pickle platform queue random re reprlib select selectors shutil signal socket ssl "
    "string struct subprocess tempfile textwrap threading token tokenize traceback types "
    "typing unicodedata urllib warnings weakref zlib"
).split()


def hold_python() -> HeldModules | None:
    """Prepare the import, before the mount; None if it has to be done before the mount."""
    if sys.version_info[:2] not in _TRIED:
        return None
    try:
        held = HeldModules()
    except CannotHold:
        return None
    try:
        held.hold(_PACKAGES, needed=True)
        held.hold(_STANDARD, needed=False)
        held.check_room()
    except CannotHold:
        held.close()
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

    trio looks for the C library by running ldconfig; it is loaded already, under this name. OpenSSL
    reads its configuration, which may name libraries to load. pyfuse3 looks for its own version,
    and does without; for that it needs less than the module that would look for it.
    """
    import ctypes.util  # noqa: PLC0415

    find_library, configuration = ctypes.util.find_library, os.environ.get("OPENSSL_CONF")
    metadata = sys.modules.get("importlib.metadata")
    ctypes.util.find_library = _c_library
    os.environ["OPENSSL_CONF"] = os.devnull
    sys.modules["importlib.metadata"] = _no_metadata()
    try:
        yield
    finally:
        ctypes.util.find_library = find_library
        _restore(sys.modules, "importlib.metadata", metadata)
        _restore(os.environ, "OPENSSL_CONF", configuration)


def _restore(mapping: MutableMapping[str, T], key: str, value: T | None) -> None:
    if value is None:
        del mapping[key]
    else:
        mapping[key] = value


def _c_library(name: str) -> str | None:  # noqa: ARG001
    return "libc.so.6"


def _no_metadata() -> ModuleType:
    """Return the part of ``importlib.metadata`` that knows no package."""

    class PackageNotFoundError(ModuleNotFoundError):
        pass

    def version(distribution_name: str) -> str:
        raise PackageNotFoundError(distribution_name)

    module = ModuleType("importlib.metadata")
    module.__dict__.update(PackageNotFoundError=PackageNotFoundError, version=version)
    return module
