"""Seccomp profiles of containers/common and Docker, converted to the form of the runtime spec.

A profile of theirs has conditions (``includes``, ``excludes``) and a map of architectures; a
runtime takes a flat list. The conversion follows ``pkg/seccomp/seccomp_linux.go`` of
containers/common. A profile that cannot be converted is an error: a container without its filter
would have more rights than anybody asked for.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from unionmount.errors import FormatError
from unionmount.images.json_fields import Fields, parse_object

_MAX_ROWS = 4096
_MAX_NAMES = 4096
_MAX_NUMBER = 2**64 - 1

# Machine names of uname(2), as Go and as libseccomp call them.
_ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
}


@dataclass(frozen=True, slots=True)
class Conditions:
    """The facts that conditions of a profile are about."""

    machine: str  # as uname(2) names it
    capabilities: Collection[str]  # of the bounding set
    kernel: tuple[int, int] = (0, 0)

    @classmethod
    def of_host(cls, capabilities: Collection[str]) -> Conditions:
        """Return the conditions on this machine."""
        host = os.uname()
        found = re.match(r"(\d+)\.(\d+)", host.release)
        kernel = (int(found[1]), int(found[2])) if found else (0, 0)
        return cls(host.machine, capabilities, kernel)

    @property
    def architecture(self) -> str:
        """The name that profiles use in conditions."""
        return _ARCHITECTURES.get(self.machine, (self.machine, ""))[0]

    @property
    def native(self) -> str:
        """The name of libseccomp; empty if it is unknown here."""
        return _ARCHITECTURES.get(self.machine, ("", ""))[1]


def convert(raw: bytes, what: str, conditions: Conditions) -> dict[str, Any] | None:
    """Return ``linux.seccomp`` of the runtime spec; None if the profile filters nothing.

    ``what`` names the profile in messages. Raise FormatError if it is damaged or contradictory.
    """
    profile = parse_object(raw, what)
    default = profile.string("defaultAction", "")
    rows = profile.objects("syscalls", _MAX_ROWS, optional=True)
    if not default and not rows:
        return None
    if not default:
        raise profile.error("defaultAction", "missing")
    found: dict[str, Any] = {"defaultAction": default}
    _copy_errno(profile, found, "defaultErrnoRet", "defaultErrno")
    if architectures := _architectures(profile, conditions):
        found["architectures"] = architectures
    flags = profile.strings("flags", _MAX_NAMES)
    if flags:
        found["flags"] = list(flags)
    found["syscalls"] = [_row(row) for row in rows if _applies(row, conditions)]
    return found


def _architectures(profile: Fields, conditions: Conditions) -> list[str]:
    listed = profile.strings("architectures", _MAX_NAMES)
    mapped = profile.objects("archMap", _MAX_NAMES, optional=True)
    if listed and mapped:
        raise profile.error("archMap", "cannot be combined with 'architectures'")
    if listed:
        return list(listed)
    for one in mapped:
        if conditions.native and one.string("architecture") == conditions.native:
            return [conditions.native, *one.strings("subArchitectures", _MAX_NAMES)]
    return []


def _applies(row: Fields, conditions: Conditions) -> bool:
    """Return whether a row of the profile is meant for this machine and these capabilities."""
    includes, excludes = (row.object(name, optional=True) for name in ("includes", "excludes"))
    if conditions.architecture in excludes.strings("arches", _MAX_NAMES):
        return False
    if set(excludes.strings("caps", _MAX_NAMES)) & set(conditions.capabilities):
        return False
    arches = includes.strings("arches", _MAX_NAMES)
    if arches and conditions.architecture not in arches:
        return False
    if not set(includes.strings("caps", _MAX_NAMES)) <= set(conditions.capabilities):
        return False
    if _at_least(excludes, conditions, absent=False):
        return False
    return _at_least(includes, conditions, absent=True)


def _at_least(condition: Fields, conditions: Conditions, *, absent: bool) -> bool:
    """Return whether the kernel is as new as the condition says; ``absent`` if it says nothing."""
    text = condition.string("minKernel", "")
    if not text:
        return absent
    found = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", text)
    if found is None:
        raise condition.error("minKernel", "is not VERSION.PATCHLEVEL")
    return conditions.kernel >= (int(found[1]), int(found[2]))


def _row(row: Fields) -> dict[str, Any]:
    name, names = row.string("name", ""), list(row.strings("names", _MAX_NAMES))
    if name and names:
        raise row.error("name", "cannot be combined with 'names'")
    converted: dict[str, Any] = {
        "names": [name] if name else names,
        "action": row.string("action"),
    }
    _copy_errno(row, converted, "errnoRet", "errno")
    arguments = row.objects("args", _MAX_NAMES, optional=True)
    if arguments:
        converted["args"] = [_argument(one) for one in arguments]
    return converted


def _argument(fields: Fields) -> dict[str, Any]:
    argument = {"index": _number(fields, "index"), "value": _number(fields, "value")}
    second = _number(fields, "valueTwo")
    return argument | ({"valueTwo": second} if second else {}) | {"op": fields.string("op")}


def _copy_errno(fields: Fields, converted: dict[str, Any], number: str, name: str) -> None:
    """Copy the error of refused calls, which profiles give as a number, a name, or both."""
    value = fields.values.get(number)
    text = fields.string(name, "")
    by_name = _errno(fields, name, text) if text else None
    if value is None:
        value = by_name
    else:
        value = _number(fields, number)
        if by_name not in (None, value):
            raise fields.error(name, f"'{text}' is not error {value}, which '{number}' says")
    if value is not None:
        converted[number] = value


def _errno(fields: Fields, name: str, text: str) -> int:
    found = getattr(errno, text, None)
    if not isinstance(found, int):
        raise fields.error(name, f"'{text}' is not the name of an error")
    return found


def _number(fields: Fields, name: str) -> int:
    value = fields.values.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_NUMBER:
        raise fields.error(name, "is not a number of 64 bits")
    return value


def check_native(conditions: Conditions, what: str) -> None:
    """Raise FormatError on a machine whose architecture has no name here."""
    if not conditions.native:
        raise FormatError(f"{what}: the architecture {conditions.machine} is not known to profiles")
