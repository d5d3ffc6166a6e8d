"""The spelling of whiteouts in layers, and patterns of shells."""

from __future__ import annotations

from unionmount._core import ffi, lib


def matches(pattern: bytes, name: bytes, *, fold_case: bool = False) -> bool:
    """Return whether a name matches a pattern of the shell; ``*`` matches slashes, too."""
    return bool(lib.um_match(pattern, name, fold_case))


def whiteout_name(hidden: bytes) -> bytes:
    """Return the name in a layer that hides a name in lower layers."""
    return bytes(ffi.string(lib.um_whiteout_prefix())) + hidden


def opaque_name() -> bytes:
    """Return the name in a layer that hides all entries of its directory in lower layers."""
    return bytes(ffi.string(lib.um_whiteout_opaque()))
