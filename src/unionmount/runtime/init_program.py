"""A program of the host as the first process, which reaps orphans and passes signals on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from unionmount.errors import NotFoundError
from unionmount.runtime.mounts import Mount, bind

_PROGRAMS = ("catatonit", "tini-static", "tini", "dumb-init", "docker-init")
_DIRECTORIES = ("/usr/libexec/podman", "/usr/lib/podman", "/usr/bin", "/usr/sbin", "/bin")
_INIT = "/run/unionmount/init"


def init_mount() -> Mount:
    """Return the mount of an init program that this host has."""
    where = os.pathsep.join((os.environ.get("PATH", os.defpath), *_DIRECTORIES))
    for name in _PROGRAMS:
        if (found := shutil.which(name, path=where)) is not None:
            return bind(os.path.realpath(found), _INIT, "ro", "nosuid")
    raise NotFoundError(
        "--init needs catatonit, tini or dumb-init on this host; install one of these packages"
    )


def behind_init(args: Sequence[str]) -> tuple[str, ...]:
    """Return a command line with the init program in front."""
    return (_INIT, "--", *args)
