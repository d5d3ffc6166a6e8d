"""How layers spell whiteouts, and how shells spell patterns."""

from __future__ import annotations

from unionmount._core import ffi, lib


def matches(pattern: bytes, name: bytes, *, fold_case: bool = False) -> bool:
    """Return whether a name fits a pattern of the shell; ``*`` stands for slashes, too."""
    return bool(lib.um_match(pattern, name, fold_case))


def whiteout_name(hidden: bytes) -> bytes:
    """Return the name in a layer that hides a name of the layers below."""
    return bytes(ffi.string(lib.um_whiteout_prefix())) + hidden


def opaque_name() -> bytes:
    """Return the name in a layer that hides all that its directory has in the layers below."""
    return bytes(ffi.string(lib.um_whiteout_opaque()))
