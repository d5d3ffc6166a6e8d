"""Limits of a container's resources, by control groups where the host and the runtime have them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unionmount.errors import MountError, UsageError
from unionmount.system.mountinfo import mounts
from unionmount.system.text import printable

_CGROUPS = Path("/sys/fs/cgroup")
_UNIFIED = _CGROUPS / "cgroup.controllers"
_PERIOD = 100_000  # microseconds; what Docker and podman divide --cpus into
_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_LEAST_MEMORY = 6 << 20  # bytes; Docker's minimum, below which no container starts
_SIZE = re.compile(r"([0-9]{1,15})(b|k|m|g|t)?[b]?", re.IGNORECASE)
_CPUS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """The most that a container may use; 0: no limit."""

    memory: int = 0  # bytes
    cpu_quota: int = 0  # microseconds of processor time in each period of 0.1 s
    processes: int = 0

    @property
    def resources(self) -> Mapping[str, Any]:
        """``linux.resources`` of config.json."""
        found: dict[str, Any] = {}
        if self.memory:
            found["memory"] = {"limit": self.memory}
        if self.cpu_quota:
            found["cpu"] = {"quota": self.cpu_quota, "period": _PERIOD}
        if self.processes:
            found["pids"] = {"limit": self.processes}
        return found

    def controllers(self) -> dict[str, str]:
        """Return the controllers that are needed, and the options that need them."""
        needed = {"memory": "--memory"} if self.memory else {}
        needed |= {"cpu": "--cpus"} if self.cpu_quota else {}
        return needed | ({"pids": "--pids-limit"} if self.processes else {})


def parse_limits(memory: str | None, cpus: str | None, processes: int | None) -> ResourceLimits:
    """Return limits in Docker's words: ``512m``, ``1.5``, 100."""
    return ResourceLimits(
        _memory(memory) if memory else 0, _quota(cpus) if cpus else 0, max(processes or 0, 0)
    )


def check(limits: ResourceLimits, *, rootless: bool) -> None:
    """Raise MountError if a limit cannot be set here, with the reason."""
    for controller, option in limits.controllers().items():
        if rootless:
            why = "an ordinary user has no control groups of its own"
        elif not _has(controller):
            why = f"this machine has no controller '{controller}' that can be written to"
        else:
            continue
        raise MountError(f"{option} cannot be set: {why}")


def check_mounted() -> None:
    """Raise MountError if root's runtimes find no control groups, which each container gets."""
    if is_unified() or (_CGROUPS / "devices").exists():
        return
    if not any(one.file_system in ("cgroup", "cgroup2") for one in mounts()):
        raise MountError(
            "control groups are not mounted, and a runtime of root needs them: 'mount -t cgroup2 "
            f"cgroup2 {_CGROUPS}'"
        )


def is_unified() -> bool:
    """Return whether this machine has control groups of version 2 alone."""
    return _UNIFIED.exists()


def _has(controller: str) -> bool:
    if is_unified():
        return controller in _UNIFIED.read_text(encoding="ascii").split()
    return os.access(_CGROUPS / controller, os.W_OK)


def _memory(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f"--memory {printable(text)}: write a size such as 512m or 2g")
    size = int(found[1]) << _UNITS[(found[2] or "").lower()]
    if not _LEAST_MEMORY <= size < 1 << 63:
        raise UsageError(f"--memory {printable(text)}: at least {_LEAST_MEMORY >> 20}m are needed")
    return size


def _quota(text: str) -> int:
    if _CPUS.fullmatch(text) is None or not float(text):
        raise UsageError(f"--cpus {printable(text)}: write a number such as 0.5 or 2")
    return max(1000, round(float(text) * _PERIOD))
