"""``config.json`` of an OCI bundle (runtime-spec 1.0 and later), from parts that are decided.

Everything here is a function of its arguments. Field names and their order are those of the
specification; what a field is set to where it leaves a choice is what podman sets
(docs/explanation/running.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from unionmount.errors import UsageError
from unionmount.runtime.mounts import MASKED_PATHS, READ_ONLY_PATHS, Mount
from unionmount.runtime.parameters import Parameters, merged_env
from unionmount.runtime.users import User
from unionmount.system.id_map import IdRange

Network = Literal["host", "none"]

VERSION = "1.0.2"
"""The version of the runtime specification by default: every runtime in use accepts it."""
_VERSION = re.compile(r"1\.[0-9]{1,3}\.[0-9]{1,3}(-[a-z0-9.]{1,32})?")
_UMASK = 0o022
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """The maps of a user namespace that the runtime is to create.

    IDs of the container are those that are stored, IDs of the host those that are shown.
    """

    users: tuple[IdRange, ...]
    groups: tuple[IdRange, ...]


@dataclass(frozen=True, slots=True)
class Isolation:
    """What a container does not share with the host, and what it may do."""

    capabilities: tuple[str, ...]
    added: tuple[str, ...]  # those of them that users other than root have as well
    seccomp: Mapping[str, Any] | None
    network: Network = "host"
    hostname: str = "localhost"  # in a UTS namespace of its own
    privileged: bool = False
    read_only: bool = False
    user_namespace: UserNamespace | None = None
    cgroup_path: str = ""
    cgroup_namespace: bool = False
    resources: Mapping[str, Any] = field(default_factory=dict)
    devices: bool = True  # whether the runtime can restrict devices: root only
    host_devices: tuple[Mapping[str, Any], ...] = ()  # besides those that all containers have
    groups: bool = True  # whether there may be supplementary groups


@dataclass(frozen=True, slots=True)
class Terminal:
    """Whether the process has a terminal, and its size at the start (0: unknown)."""

    wanted: bool = False
    rows: int = 0
    columns: int = 0


def build(
    root: str,
    parameters: Parameters,
    user: User,
    mounts: Sequence[Mount],
    isolation: Isolation,
    terminal: Terminal = Terminal(),
    *,
    version: str = VERSION,
) -> dict[str, Any]:
    """Return the document; ``root`` is the absolute path of the root directory."""
    if _VERSION.fullmatch(version) is None:
        raise UsageError(f"'{version}' is not a version of the runtime specification, as {VERSION}")
    document: dict[str, Any] = {
        "ociVersion": version,
        "process": _process(parameters, user, isolation, terminal),
        "root": {"path": root} | ({"readonly": True} if isolation.read_only else {}),
    }
    document["hostname"] = isolation.hostname
    document["mounts"] = [mount.row() for mount in mounts]
    if parameters.annotations:
        document["annotations"] = dict(parameters.annotations)
    document["linux"] = _linux(isolation)
    return document


def _process(
    parameters: Parameters, user: User, isolation: Isolation, terminal: Terminal
) -> dict[str, Any]:
    process: dict[str, Any] = {}
    if terminal.wanted:
        process["terminal"] = True
        if terminal.rows and terminal.columns:
            process["consoleSize"] = {"height": terminal.rows, "width": terminal.columns}
    process["user"] = _user(user, groups=isolation.groups)
    process["args"] = list(parameters.args)
    process["env"] = list(_environment(parameters, user, isolation))
    process["cwd"] = parameters.cwd
    process["capabilities"] = _capabilities(isolation.capabilities, isolation.added, user)
    return process


def as_user(process: Mapping[str, Any], user: User) -> dict[str, Any]:
    """Return the process's part of config.json for another user, with the same bounding set."""
    changed = dict(process)
    groups = "additionalGids" in process["user"]
    changed["user"] = _user(user, groups=groups)
    changed["capabilities"] = _capabilities(process["capabilities"]["bounding"], (), user)
    changed["env"] = [pair for pair in process["env"] if not pair.startswith("HOME=")]
    changed["env"].append(f"HOME={user.home}")
    return changed


def _user(user: User, *, groups: bool) -> dict[str, Any]:
    """Return a user; ``groups``: there may be supplementary groups."""
    row: dict[str, Any] = {"uid": user.uid, "gid": user.gid, "umask": _UMASK}
    if groups:
        row["additionalGids"] = list(dict.fromkeys((user.gid, *user.groups)))
    return row


def _environment(parameters: Parameters, user: User, isolation: Isolation) -> tuple[str, ...]:
    """Return the environment, with the variables that engines add unless they are given."""
    added = ["TERM=xterm", f"HOME={user.home}", f"HOSTNAME={isolation.hostname}"]
    given = {pair.partition("=")[0] for pair in parameters.env}
    added = [pair for pair in added if pair.partition("=")[0] not in given]
    return merged_env([_PATH, "container=oci"], parameters.env, added)


def _capabilities(names: Sequence[str], added: Sequence[str], user: User) -> dict[str, list[str]]:
    """Return the sets: a user other than root has those that were added, and no others."""
    sets = {"bounding": list(names)}
    if user.uid == 0:
        sets |= {"effective": list(names), "permitted": list(names)}
    elif added:
        kinds = ("effective", "inheritable", "permitted", "ambient")
        sets |= {kind: list(added) for kind in kinds}
    return sets


def _linux(isolation: Isolation) -> dict[str, Any]:
    linux: dict[str, Any] = {}
    if isolation.user_namespace is not None:
        linux["uidMappings"] = _map_rows(isolation.user_namespace.users)
        linux["gidMappings"] = _map_rows(isolation.user_namespace.groups)
    if isolation.host_devices:
        linux["devices"] = list(isolation.host_devices)
    if isolation.network != "host":
        linux["sysctl"] = {"net.ipv4.ping_group_range": "0 0"}
    if isolation.cgroup_path:
        linux["cgroupsPath"] = isolation.cgroup_path
    resources = dict(isolation.resources)
    if isolation.devices:
        resources["devices"] = [{"allow": isolation.privileged, "access": "rwm"}]
    if resources:
        linux["resources"] = resources
    linux["namespaces"] = [{"type": kind} for kind in _namespaces(isolation)]
    if isolation.seccomp is not None and not isolation.privileged:
        linux["seccomp"] = dict(isolation.seccomp)
    if not isolation.privileged:
        linux["maskedPaths"] = list(MASKED_PATHS)
        linux["readonlyPaths"] = list(READ_ONLY_PATHS)
    return linux


def _map_rows(ranges: Sequence[IdRange]) -> list[dict[str, int]]:
    return [{"containerID": one.stored, "hostID": one.shown, "size": one.size} for one in ranges]


def _namespaces(isolation: Isolation) -> list[str]:
    kinds = ["pid"]
    if isolation.network != "host":
        kinds.append("network")
    kinds += ["ipc", "uts", "mount"]
    if isolation.cgroup_namespace:
        kinds.append("cgroup")
    if isolation.user_namespace is not None:
        kinds.append("user")
    return kinds
