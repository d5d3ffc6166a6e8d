"""The program that a container starts: whether this machine can run it.

The kernel refuses a program of another processor only when the container exists, and the runtime
then says no more than "Exec format error".
"""

from __future__ import annotations

import os
import posixpath
import stat
from typing import TYPE_CHECKING

from unionmount.browse.paths import follow
from unionmount.errors import UnionmountError
from unionmount.images.platform import Platform
from unionmount.system.emulation import ADVICE, architecture_of, kernel_runs
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from unionmount.core import BrowsableTree
    from unionmount.runtime.parameters import Parameters

_BEGIN = 256  # bytes of a file that the kernel looks at
_MAX_SCRIPTS = 5  # the kernel's limit: scripts that are run by scripts
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NotExecutable(UnionmountError):
    """The program of a container is one that this machine cannot run."""

    exit_code = 126


def check_program(
    files: BrowsableTree, parameters: Parameters, covered: Collection[str], host: Platform
) -> None:
    """Raise NotExecutable if the program, or its interpreter, is for another processor.

    ``covered`` are the paths that something is mounted on. A program below one of them is not
    checked, and neither is one that cannot be found: the runtime finds that out.
    """
    program = parameters.args[0]
    for _ in range(_MAX_SCRIPTS):
        path, begin = next(_places(files, program, parameters, covered), ("", b""))
        interpreter = begin[2:].partition(b"\n")[0].split() if begin.startswith(b"#!") else []
        if not interpreter:
            break
        program = os.fsdecode(interpreter[0])
    architecture = architecture_of(begin)
    if architecture is None or not host.is_foreign(Platform("linux", architecture)):
        return
    if kernel_runs(architecture) is False:
        raise NotExecutable(
            f"{printable(path)} is a program for linux/{architecture} and this machine is {host}; "
            f"{ADVICE}"
        )


def _places(
    files: BrowsableTree, program: str, parameters: Parameters, covered: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield the paths of a program, as execvp(3) tries them, and the first bytes there."""
    directories = [""]
    if "/" not in program:
        values = dict(one.partition("=")[::2] for one in parameters.env)
        directories = values.get("PATH", _DEFAULT_PATH).split(":")
    for directory in directories:
        path = posixpath.normpath(posixpath.join("/", parameters.cwd, directory, program))
        if any(path == one or path.startswith(one.rstrip("/") + "/") for one in covered):
            yield path, b""
        try:
            found = follow(files, os.fsencode(path)).attributes
        except OSError:
            continue
        if stat.S_ISREG(found.mode) and found.mode & 0o111:
            yield path, files.read(found.node, 0, min(_BEGIN, found.size))
