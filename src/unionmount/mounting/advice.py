"""What is missing where FUSE can't be used, and the exact flags or line that help.

Containers hide /dev/fuse and take capabilities away; each kind of container gives them back in a
way of its own. A message names the way of the container that this process is in.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from unionmount.system.trust import is_admin
from unionmount.system.user_namespace import can_make_one

DEVICE = Path("/dev/fuse")

_FLAGS = "--device /dev/fuse --cap-add SYS_ADMIN"
_UNCONFINED = f"{_FLAGS} --security-opt apparmor=unconfined"
_UDEV = """echo 'KERNEL=="fuse", MODE="0666"' >/etc/udev/rules.d/99-fuse.rules"""


def container_flags(environment: Mapping[str, str], root: Path = Path("/")) -> str:
    """How the container that this process is in is started so that FUSE works; empty in none."""
    if environment.get("GITHUB_ACTIONS") and _in_container(root):
        return f"give the job 'container: {{options: {_UNCONFINED}}}'"
    if environment.get("GITLAB_CI") and _in_container(root):
        return (
            'set in [runners.docker] of the runner: devices = ["/dev/fuse"], cap_add = '
            '["SYS_ADMIN"], security_opt = ["apparmor:unconfined"]'
        )
    if "KUBERNETES_SERVICE_HOST" in environment or (root / _KUBERNETES).exists():
        return "set in the container of the pod: securityContext: {privileged: true}"
    if (root / _PODMAN).exists():
        return f"start the container with: podman run {_FLAGS}"
    if (root / _DOCKER).exists():
        return f"start the container with: docker run {_UNCONFINED}"
    return ""


_PODMAN = "run/.containerenv"
_DOCKER = ".dockerenv"
_KUBERNETES = "var/run/secrets/kubernetes.io"


def _in_container(root: Path) -> bool:
    """A runner may have jobs on a machine, too."""
    return (root / _PODMAN).exists() or (root / _DOCKER).exists()


def about_device(error: OSError) -> str:
    """What to do where /dev/fuse can't be opened, to stand behind the error; may be empty."""
    flags = container_flags(os.environ)
    if isinstance(error, FileNotFoundError):
        return flags or "load the module as root: modprobe fuse"
    if isinstance(error, PermissionError):
        if os.geteuid() == 0:
            return flags or "the cgroup of this process may not use the device"
        return f"{_mode()}; root can open it: chmod 666 {DEVICE}, and for good: {_UDEV}"
    return "is the kernel module 'fuse' there? As root: modprobe fuse"


def _mode() -> str:
    try:
        return f"its mode is {stat.S_IMODE(DEVICE.stat().st_mode):04o}"
    except OSError:
        return "it is closed to this user"


def about_mount() -> str:
    """What to do where mount(2) is not permitted to root."""
    flags = container_flags(os.environ)
    if is_admin():
        return flags or "a security module, or the sandbox of this process, forbids it"
    ways = ["mounting needs CAP_SYS_ADMIN, which root does not have here"]
    ways += [flags] if flags else []
    if can_make_one():
        ways.append("or mount for one command only: unionmount mount … -- COMMAND")
    return "; ".join(ways)


def about_fusermount(program: str | None) -> str:
    """Why fusermount3 can't mount, where that can be told; may be empty."""
    if program is None:
        instead = (
            "; or, for one command only: unshare -Urm unionmount mount … -- COMMAND"
            if can_make_one()
            else ""
        )
        return f"as root: apt-get install fuse3 (or dnf install fuse3){instead}"
    if _no_new_privileges():
        return (
            "this process was started with no_new_privs, so a set-user-ID program gains nothing: "
            "start the container without --security-opt no-new-privileges "
            "(Kubernetes: allowPrivilegeEscalation: true)"
        )
    status = Path(program).stat()
    if status.st_uid or not status.st_mode & stat.S_ISUID:
        return (
            f"{program} is not set-user-ID root; as root: chown root {program}; "
            f"chmod 4755 {program}"
        )
    flags = container_flags(os.environ)
    return flags and f"in a container it needs more: {flags}"


def _no_new_privileges() -> bool:
    try:
        lines = Path("/proc/self/status").read_bytes().splitlines()
    except OSError:
        return False
    return any(line.split() == [b"NoNewPrivs:", b"1"] for line in lines)
