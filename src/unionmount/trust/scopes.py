"""The scopes of policy.json and registries.d: which entries apply to an image, and in what order.

containers-policy.json(5) has the rules. The names are those of containers/image; a scope that can
never apply is an error there, and here.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from unionmount.errors import InvalidReference
from unionmount.images.reference import Digest
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.images.reference import Reference

_PATHS = frozenset({"dir", "oci", "oci-archive", "sif"})
_DEFAULT_ONLY = frozenset({"docker-archive", "tarball"})
_STORE = r"\[(?:[^@\]]+@)?/[^@\]]*\]"
_ID = "[0-9a-f]{64}"
_ATOMIC = "[^/]*(?:/[^:/]*(?:/[^:/]*(?::[^:/]*)?)?)?"


class ImageScopes:
    """The scopes that an image is in: the most specific first; the default is left out."""

    def __init__(self, transport: str, names: tuple[str, ...]) -> None:
        self.transport = transport
        self.names = names


def as_identified(ref: Reference) -> Reference:
    """Return the name by which an image is looked up and signed: a digest makes a tag useless."""
    ref = ref.with_default_tag()
    return replace(ref, tag=None) if ref.digest is not None else ref


def scopes_of_reference(ref: Reference, transport: str = "docker") -> ImageScopes:
    """Return the scopes of an image of a registry: its name, and what that begins with."""
    ref = as_identified(ref)
    names = [str(ref)]
    parts = ref.name.split("/")
    names += ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    host = ref.registry.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        names.append(f"*.{host}")
    return ImageScopes(transport, tuple(names))


def scopes_of_path(transport: str, path: str) -> ImageScopes:
    """Return the scopes of an image in a file or directory: its path, and those above."""
    if transport in _DEFAULT_ONLY or path == "-":  # a stream has no path
        return ImageScopes(transport, ())
    real = os.path.realpath(path)
    names = []
    while real != "/":
        names.append(real)
        real = os.path.dirname(real)  # noqa: PTH120 - pathlib would parse it at each step
    return ImageScopes(transport, tuple(names))


def scopes_of_stored(driver: str, root: str, name: Reference | None, image_id: str) -> ImageScopes:
    """Return the scopes of an image of containers/storage: its store with its name, or with its ID.

    ``image_id`` counts if there is no name.
    """
    store = f"[{driver}@{root}]"
    if name is None:
        names = [f"{store}@{image_id}"]
    else:
        parts = name.name.split("/")
        names = [f"{store}{as_identified(name)}"]
        names += [store + "/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return ImageScopes("containers-storage", (*names, store, f"[{root}]"))


def problem_with_scope(transport: str, scope: str) -> str:
    """Return why a scope cannot be one of ``transport``; empty if it can, or is the default.

    The scopes of a transport that is not known are not checked.
    """
    if not scope:
        return ""
    if transport in _DEFAULT_ONLY:
        return 'this transport has no scope but ""'
    if transport in _PATHS:
        return _problem_with_path(scope)
    if transport == "docker-daemon":
        return "an ID of an image is no scope" if _is_digest(scope) else ""
    if transport == "containers-storage":
        return "" if _is_stored(scope) else "is not [DRIVER@/ROOT]NAME"
    if transport == "atomic":
        return "" if re.fullmatch(_ATOMIC, scope) else "is not HOST[/NAMESPACE[/STREAM[:TAG]]]"
    return ""


def _problem_with_path(scope: str) -> str:
    if not scope.startswith("/"):
        return "is not an absolute path"
    if scope == "/":
        return 'write "" for all of them'
    clean = os.path.normpath(re.sub("/+", "/", scope))
    return "" if clean == scope else f"write {printable(clean)}"


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except InvalidReference:
        return False
    return True


def _is_stored(scope: str) -> bool:
    """Return whether a scope of containers-storage has a store, and valid digests and IDs."""
    match = re.match(_STORE, scope)
    if match is None:
        return False
    fields = scope[match.end() :].split("@", 2)
    if len(fields) == 2:
        return bool(re.fullmatch(_ID, fields[1])) or _is_digest(fields[1])
    return len(fields) == 1 or (_is_digest(fields[1]) and bool(re.fullmatch(_ID, fields[2])))
