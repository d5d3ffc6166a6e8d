"""A container before it runs: everything that config.json says, from an image and a command line.

``Assembly`` looks up users and mount points in the files of the container, before these are
mounted; ``document`` then needs only the path of the mount.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unionmount.browse.paths import Found, follow
from unionmount.core import BrowsableTree
from unionmount.errors import MountError
from unionmount.images.config import Config
from unionmount.images.platform import Platform
from unionmount.runtime import capabilities
from unionmount.runtime.devices import device_mounts, devices
from unionmount.runtime.host import HostFile, check_hostname, host_files, seccomp_profile
from unionmount.runtime.init_program import behind_init, init_mount
from unionmount.runtime.limits import ResourceLimits, is_unified
from unionmount.runtime.mounts import Mount, cgroup_mount, host_file_mount, mode_of, standard_mounts
from unionmount.runtime.parameters import Changes, ImageParameters, combined, without_labels
from unionmount.runtime.program import check_program
from unionmount.runtime.scaffold import Place
from unionmount.runtime.spec import VERSION, Isolation, Network, Terminal, UserNamespace, build
from unionmount.runtime.users import MAX_FILE, User, find_user

_TERMINAL_GROUP = 5
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of a container."""

    changes: Changes = field(default_factory=Changes)
    network: Network = "host"
    hostname: str = ""
    read_only: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()  # the user's, in their order
    terminal: Terminal = field(default_factory=Terminal)
    init: bool = False  # whether an init program of the host is the first process
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    version: str = VERSION


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Facts about the place where the runtime will be called."""

    rootless: bool = False  # it cannot restrict devices, nor mount sysfs of the host's network
    user_namespace: UserNamespace | None = None  # to be created by the runtime
    groups: int = 1 << 32  # the number of group IDs that there are in the container
    unknown_runtime: bool = False  # it may obey any annotation


class Assembly:
    """All decisions about a container except for the path of its root directory."""

    def __init__(
        self,
        config: Config,
        what: str,
        files: BrowsableTree,
        wanted: Wanted,
        around: Surroundings = Surroundings(),
    ) -> None:
        """Decide; ``files`` shows the container as it is now, ``what`` names it in messages."""
        if wanted.hostname:
            check_hostname(wanted.hostname)
        self.wanted = wanted
        self._around = around
        self.parameters = combined(ImageParameters.of(config, what), wanted.changes, what)
        if around.unknown_runtime:
            self.parameters = without_labels(self.parameters)
        self._started = self.parameters  # what an init program starts
        self._init: list[Mount] = []
        if wanted.init:
            args = behind_init(self.parameters.args)
            self.parameters = replace(self.parameters, args=args)
            self._init.append(init_mount())
        self.user = user_of(files, self.parameters.user)
        self._hostname = wanted.hostname or os.uname().nodename
        self._capabilities, self._added = _capabilities(wanted, around)
        self.host_files = self._host_files()
        if around.groups == 1 and self.user.uid:
            raise MountError(
                f"{what} runs as user {self.user.uid}, and here there is only root; run it with "
                "--user 0, or let an administrator add a range to /etc/subuid and /etc/subgid"
            )

    def leave_out_hidden(self, files: BrowsableTree) -> None:
        """Leave out the host's files that have no mount point in ``files``, the container.

        Its changes hide the scaffold: what it has deleted stays deleted.
        """
        covered = [mount.destination for mount in self.wanted.mounts]
        self.host_files = [
            one
            for one in self.host_files
            if _is_below(one.path, covered) or is_there(files, one.path)
        ]

    def check_program(self, files: BrowsableTree) -> None:
        """Raise NotExecutable if this machine cannot run the program of the container."""
        covered = [mount.destination for mount in self.wanted.mounts]
        check_program(files, self._started, covered, Platform.host())

    @property
    def rootless(self) -> bool:
        """Whether the runtime is called by an ordinary user."""
        return self._around.rootless

    def _host_files(self) -> list[HostFile]:
        own_network = self.wanted.network != "host"
        covered = [mount.destination for mount in self.wanted.mounts]
        bound = [mount.destination for mount in self.wanted.mounts if mount.type == "bind"]
        files = host_files(self._hostname, own_network=own_network)
        return [  # none would be made in a directory of the host
            file for file in files if file.path not in covered and not _is_below(file.path, bound)
        ]

    def mounts(self, bundle: Path) -> list[Mount]:
        """Return the mounts, those above before those below; the host's files are in ``bundle``."""
        wanted = self.wanted
        base = standard_mounts(
            own_network=wanted.network != "host",
            rootless=self._around.rootless,
            terminal_group=self._around.groups > _TERMINAL_GROUP,
            privileged=wanted.privileged,
        )
        if not self._around.rootless:
            base.append(cgroup_mount(privileged=wanted.privileged))
        base += [
            host_file_mount(str(bundle / one.name), one.path, read_only=wanted.read_only)
            for one in self.host_files
        ]
        base += self._init
        if wanted.privileged and self._around.rootless:
            covered = [mount.destination for mount in wanted.mounts]
            base += [one for one in device_mounts() if not _is_below(one.destination, covered)]
        own = {mount.destination for mount in wanted.mounts}
        found = [mount for mount in base if mount.destination not in own] + list(wanted.mounts)
        return sorted(found, key=lambda mount: mount.destination.count("/"))

    def places(self, bundle: Path) -> Iterator[Place]:
        """Yield what the root directory has to have: mount points, volumes, working directory."""
        mounts = self.mounts(bundle)
        covered = [mount.destination for mount in mounts]
        files = {one.path for one in self.host_files}
        for mount in mounts:
            if not _is_below(mount.destination, covered):
                is_file = mount.destination in files or _is_file(mount)
                path = os.fsencode(mount.destination)
                yield Place(path, directory=not is_file, mode=mode_of(mount))
        for directory in (*self.parameters.volumes, self.parameters.cwd):
            if directory not in covered and not _is_below(directory, covered):
                yield Place(os.fsencode(directory))

    def document(self, root: str, bundle: Path, cgroup: str = "") -> dict[str, Any]:
        """Return config.json for a container whose root directory is ``root``.

        ``cgroup`` is the path of its control group, below that of each controller.
        """
        wanted, around = self.wanted, self._around
        isolation = Isolation(
            capabilities=self._capabilities,
            added=self._added,
            seccomp=None if wanted.privileged else seccomp_profile(self._capabilities),
            network=wanted.network,
            hostname=self._hostname,
            privileged=wanted.privileged,
            read_only=wanted.read_only,
            user_namespace=around.user_namespace,
            cgroup_path=cgroup,
            cgroup_namespace=is_unified(),  # else the container sees those of the host
            resources=wanted.limits.resources,
            devices=not around.rootless,
            host_devices=devices() if wanted.privileged and not around.rootless else (),
            # runc sets none without root outside of the namespace
            groups=around.groups > 1 and around.user_namespace is None,
        )
        return build(
            *(root, self.parameters, self.user, self.mounts(bundle), isolation, wanted.terminal),
            version=wanted.version,
        )


def _capabilities(wanted: Wanted, around: Surroundings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the capabilities of root, and those that other users have as well."""
    possible = capabilities.KNOWN if around.rootless else capabilities.bounding_set()
    names = capabilities.merged(wanted.cap_add, wanted.cap_drop, possible)
    added = capabilities.merged(wanted.cap_add, wanted.cap_drop, possible, default=())
    return (tuple(sorted(possible)), ()) if wanted.privileged else (names, added)


def user_of(files: BrowsableTree, text: str) -> User:
    """Return the user ``USER[:GROUP]`` of a container; ``find_user`` has the rules."""
    return find_user(text, _content(files, b"etc/passwd"), _content(files, b"etc/group"))


def _is_file(mount: Mount) -> bool:
    return mount.type == "bind" and not stat.S_ISDIR(Path(mount.source).stat().st_mode)


def _is_below(path: str, others: Sequence[str]) -> bool:
    """Return whether something is mounted on a directory above ``path``."""
    above = posixpath.dirname(path)
    while above != "/":
        if above in others:
            return True
        above = posixpath.dirname(above)
    return False


def _content(files: BrowsableTree, path: bytes) -> bytes:
    """Return the beginning of a file of the container; empty if there is none to read."""
    found = _find(files, path)
    if found is None or not stat.S_ISREG(found.attributes.mode):
        return b""
    size = min(found.attributes.size, MAX_FILE)
    data = b""
    while len(data) < size:
        part = files.read(found.attributes.node, len(data), size - len(data))
        if not part:
            break
        data += part
    return data


def is_there(files: BrowsableTree, path: str) -> bool:
    """Return whether a container has something at a path, whose symlinks are followed."""
    return _find(files, os.fsencode(path)) is not None


def _find(files: BrowsableTree, path: bytes) -> Found | None:
    """Return the file at a path, whose symlinks are followed; None if there is none."""
    try:
        return follow(files, path)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
