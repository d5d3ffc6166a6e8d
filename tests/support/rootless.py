"""A mount namespace in which an ordinary user has what running containers takes.

/dev/fuse is open, /etc/passwd has the user, /etc/subuid and /etc/subgid have the ranges of a test,
and Python can be reached. Everything ends with the namespace.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.mount8 import LEAVE_MOUNTS, open_python
from support.running import Runner

UID = 5555
FIRST, COUNT = 200_000, 65_536
_PREPARE = """
set -e
mknod -m 666 "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
for name in subuid subgid passwd; do mount --bind "$1/$name" "/etc/$name"; done
"""


@contextmanager
def ordinary_user(place: Path, *, ranges: bool, alone: bool = False) -> Iterator[Runner]:
    """Yield the command line of an ordinary user, with a home, in a namespace of its own.

    ``alone``: without the hierarchy of cgroups version 2, beside which runtimes do not start.
    """
    lines = f"tester:{FIRST}:{COUNT}\n" if ranges else ""
    for name in ("subuid", "subgid"):
        (place / name).write_text(lines)
    passwd = Path("/etc/passwd").read_text(encoding="utf-8")
    home = place / "home"
    (place / "passwd").write_text(f"{passwd}tester:x:{UID}:{UID}::{home}:/bin/sh\n")
    home.mkdir()
    subprocess.run(["chown", f"{UID}:{UID}", str(home)], check=True)
    without = "umount -l /sys/fs/cgroup/unified 2>/dev/null || true" if alone else ""
    script = f"{LEAVE_MOUNTS}\n{_PREPARE}\n{without}\n{open_python(place)}\necho\ncat"
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"\n"
        prefix = (
            *("nsenter", "-t", str(process.pid), "-m", f"--wd={home}", "--"),
            *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
        )
        try:
            yield Runner(home, prefix=prefix, environment={"HOME": str(home), "USER": "tester"})
        finally:
            process.stdin.close()
            process.wait()
