"""Package URLs, by the specification of package-url: ``pkg:deb/debian/curl@7.88.1?arch=amd64``."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from unionmount.browse.packages.model import Distribution, Package

_TYPES = {"deb": "deb", "apk": "apk", "rpm": "rpm", "python": "pypi", "npm": "npm"}
_VENDORS = {"deb": "debian", "apk": "alpine", "rpm": ""}  # where an image does not tell


def purl_of(package: Package, distribution: Distribution) -> str:
    """Return the package URL of a package."""
    kind = _TYPES[package.kind]
    namespace, name, version = "", package.name, package.version
    qualifiers: dict[str, str] = {}
    if package.kind in _VENDORS:
        namespace = distribution.id or _VENDORS[package.kind]
        name = name if package.kind == "rpm" else name.lower()
        qualifiers = {"arch": package.architecture, "distro": _distro(distribution)}
    if package.kind == "rpm" and ":" in version:
        qualifiers["epoch"], _, version = version.partition(":")
    elif package.kind == "npm":
        namespace, _, name = name.lower().rpartition("/")
    elif package.kind == "python":
        name = name.replace("_", "-").lower()
    parts = [kind, *(_quoted(part) for part in namespace.split("/") if part), _quoted(name)]
    asked = "&".join(
        f"{key}={_quoted(qualifiers[key])}" for key in sorted(qualifiers) if qualifiers[key]
    )
    return f"pkg:{'/'.join(parts)}@{_quoted(version)}{'?' + asked if asked else ''}"


def _distro(distribution: Distribution) -> str:
    return "-".join(filter(None, (distribution.id, distribution.version)))


def _quoted(text: str) -> str:
    return quote(text, safe="").replace("%3A", ":")
