"""Platforms: parsing, normalising and comparing the names that images use."""

from __future__ import annotations

import platform as host_platform
from dataclasses import dataclass, replace
from typing import Self

from unionmount.errors import UsageError
from unionmount.system.text import printable

_OS_NAMES = {"macos": "darwin"}
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "riscv64": ("riscv64", ""),
}
_COMPATIBLE = {"amd64": "386"}  # every such machine runs these, too
_DEFAULT_VARIANTS = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """The operating system and processor that an image is for (``linux/arm/v7``)."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``OS/ARCH[/VARIANT]``; raise UsageError if it is not of that form."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(part.isprintable() and part for part in parts):
            raise UsageError(
                f"'{printable(text)}' is not a platform; write OS/ARCH[/VARIANT], "
                "for example linux/arm64"
            )
        return cls(*parts).normalised()

    @classmethod
    def host(cls) -> Self:
        """Return the platform of this machine."""
        return cls("linux", host_platform.machine()).normalised()

    def normalised(self) -> Self:
        """Return the same platform in Go's spelling, without the default variant."""
        system = _OS_NAMES.get(self.os.lower(), self.os.lower())
        machine = self.architecture.lower()
        architecture, implied = _ARCHITECTURES.get(machine, (machine, ""))
        variant = self.variant.lower() or implied
        if variant.isdigit():
            variant = f"v{variant}"
        if architecture == "arm":
            variant = variant or "v7"
        elif variant == _DEFAULT_VARIANTS.get(architecture):
            variant = ""
        return replace(self, os=system, architecture=architecture, variant=variant)

    def distance(self, offered: Platform) -> int | None:
        """Return the distance of ``offered`` from this platform: 0 if equal, None if unusable.

        A lower variant of the same architecture is usable, and the nearest one is best (``arm/v7``
        runs v6 and v5); a higher one is not.
        """
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return None
        if self.variant == offered.variant:
            return 0
        mine, theirs = self._level(), offered._level()
        if mine is None or theirs is None or theirs > mine:
            return None
        return mine - theirs

    def is_like(self, other: Platform) -> bool:
        """Return whether one of the two platforms runs images for the other."""
        return self.distance(other) is not None or other.distance(self) is not None

    def is_foreign(self, offered: Platform) -> bool:
        """Return whether a machine of this platform probably cannot run images for ``offered``.

        A variant that machines do not report (``amd64/v3``) is not foreign, and neither is an image
        that does not name its platform.
        """
        if not offered.os or not offered.architecture:
            return False
        theirs = _COMPATIBLE.get(self.architecture, self.architecture), self.architecture
        if self.os != offered.os or offered.architecture not in theirs:
            return True
        return self.architecture == "arm" and self.distance(offered) is None

    def _level(self) -> int | None:
        variant = self.variant or _DEFAULT_VARIANTS.get(self.architecture, "")
        return int(variant[1:]) if variant[:1] == "v" and variant[1:].isdecimal() else None

    def __str__(self) -> str:
        parts = [self.os, self.architecture, *([self.variant] if self.variant else [])]
        return printable("/".join(parts))
