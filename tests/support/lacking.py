"""Prefixes of command lines behind which a machine lacks something."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.mount8 import LEAVE_MOUNTS
from support.running import Runner

_HIDE = """
for one in "$@"; do
    for place in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
        ! [ -e "$place/$one" ] || mount --bind "$NOTHING" "$place/$one"
    done
done
"""
_NO_NAMESPACES = """
import ctypes, os, sys
asked, answered, pid = os.pipe(), os.pipe(), os.getpid()
if os.fork() == 0:
    os.read(asked[0], 1)
    for kind in "uid_map", "gid_map":
        with open(f"/proc/{pid}/{kind}", "w") as file:
            file.write("0 0 65536")
    os.write(answered[1], b"x")
    os._exit(0)
assert ctypes.CDLL(None).unshare(0x10000000) == 0
os.write(asked[1], b"x")
os.read(answered[0], 1)
os.wait()
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
os.execvp(sys.argv[1], sys.argv[1:])
"""
# Load the number of the system call; unshare(2) returns EPERM, everything else is permitted.
_FILTER = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
number = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
rows = (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rows), ctypes.addressof(code)))
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def without_programs(line: Runner, place: Path, *names: str) -> Iterator[Runner]:
    """Yield root's command line in a mount namespace in which programs cannot be executed."""
    nothing = place / "nothing"
    nothing.touch(0o644)
    script = f"{LEAVE_MOUNTS}\n{_HIDE}\necho\ncat"
    command = ["unshare", "-m", "sh", "-ec", script, "sh", *names]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**line.environment, "NOTHING": str(nothing)},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield _behind(line, ("nsenter", "-t", str(process.pid), "-m", "--"))
        finally:
            process.stdin.close()
            process.wait()


def without_user_namespaces(line: Runner) -> Runner:
    """Return an ordinary user's command line where user.max_user_namespaces is 0."""
    return _before_user(line, (sys.executable, "-c", _NO_NAMESPACES))


def with_filter(line: Runner) -> Runner:
    """Return an ordinary user's command line where a seccomp filter forbids unshare(2)."""
    return _behind(line, (sys.executable, "-c", _FILTER))


def with_path(line: Runner, *directories: Path) -> Runner:
    """Return a command line that looks for programs in these directories."""
    return _behind(line, ("env", f"PATH={':'.join(map(str, directories))}"))


def _before_user(line: Runner, words: tuple[str, ...]) -> Runner:
    """Insert words in front of the change of the user."""
    at = line.prefix.index("setpriv")
    return _with_prefix(line, (*line.prefix[:at], *words, *line.prefix[at:]))


def _behind(line: Runner, words: tuple[str, ...]) -> Runner:
    return _with_prefix(line, (*line.prefix, *words))


def _with_prefix(line: Runner, prefix: tuple[str, ...]) -> Runner:
    made = copy.copy(line)
    made.prefix = prefix
    return made
