"""podman with a store and a mount program of the test's own, as root or as an ordinary user.

A script runs in mount and PID namespaces of its own, so that nothing of it outlives it: mounts,
servers of mounts, the pause process of rootless podman. The ordinary user has subordinate IDs, a
home and a runtime directory, and finds this Python and these sources where it can read them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import unionmount

USER = 4321
_FIRST, _COUNT = 200000, 65536  # subordinate IDs

_ENTER = r"""
set -eu
mount --make-rprivate /
# crun refuses version 1 of cgroups where version 2 is mounted beside it
umount /sys/fs/cgroup/unified 2>/dev/null || true
cd "$TOP"
for name in passwd group; do
    cp "/etc/$name" "etc/$name"
    case $name in
    passwd) echo "rootless:x:$USER_ID:$USER_ID::$TOP/home:/bin/sh" ;;
    group) echo "rootless:x:$USER_ID:" ;;
    esac >>"etc/$name"
    mount --bind "etc/$name" "/etc/$name"
done
for name in subuid subgid; do
    printf '%s:%s\n' rootless "$SUBORDINATE" containers 300000:65536 >"etc/$name"
    [ -e "/etc/$name" ] || : >"/etc/$name"
    mount --bind "etc/$name" "/etc/$name"
done
cp -a /dev/fuse fuse
chmod 666 fuse
mount --bind fuse /dev/fuse
mount --bind "$SOURCES" sources
mount --bind "$LIBRARIES" libraries
mount --bind "$PYTHON" python
export HOME="$TOP/home" XDG_RUNTIME_DIR="$TOP/run" TMPDIR="$TOP/tmp"
[ "$AS_ROOT" = 1 ] && exec bash script
chown -R "$USER_ID:$USER_ID" home run tmp context
exec setpriv --reuid="$USER_ID" --regid="$USER_ID" --clear-groups bash script
"""

_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{top}/home/store"
runroot = "{top}/run/store"
[storage.options.overlay]
mount_program = "{program}"
"""

_CONTAINERS = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{runtime}"
"""


@dataclass(frozen=True, slots=True)
class Podman:
    """One way to call podman: who calls it, what mounts, what runs."""

    top: Path  # a directory of its own that every user may enter
    root: bool
    program: str  # "fuse-overlayfs", or "unionmount"
    runtime: str

    def play(self, script: str) -> str:
        """Run a script of bash, with ``context/`` beside it; what it says, in one stream."""
        for name in ("etc", "home", "run", "tmp", "sources", "libraries", "python"):
            (self.top / name).mkdir(exist_ok=True)
        (self.top / "run").chmod(0o700)
        (self.top / "context").mkdir(exist_ok=True)
        (self.top / "script").write_text(script)
        (self.top / "enter").write_text(_ENTER)
        self._configure()
        command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "bash", "enter"]
        done = subprocess.run(
            command,
            cwd=self.top,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        settings = self.top / "home/.config/containers"
        return kept | {
            "TOP": str(self.top),
            "AS_ROOT": str(int(self.root)),
            "USER_ID": str(USER),
            "SUBORDINATE": f"{_FIRST}:{_COUNT}",
            "SOURCES": str(Path(unionmount.__file__).parents[1]),
            "LIBRARIES": sysconfig.get_path("purelib"),
            "PYTHON": sys.base_prefix,
            "CONTAINERS_STORAGE_CONF": str(settings / "storage.conf"),
            "CONTAINERS_CONF": str(settings / "containers.conf"),
        }

    def _configure(self) -> None:
        settings = self.top / "home/.config/containers"
        settings.mkdir(parents=True, exist_ok=True)
        program = shutil.which(self.program) or str(self._script())
        (settings / "storage.conf").write_text(_STORAGE.format(top=self.top, program=program))
        runtime = _CONTAINERS.format(runtime=self.runtime)
        (settings / "containers.conf").write_text(runtime)
        policy = '{"default": [{"type": "insecureAcceptAnything"}]}'
        (settings / "policy.json").write_text(policy)

    def _script(self) -> Path:
        """The mount program: this Python, at places that the user can read."""
        script = self.top / "mount-program"
        name = Path(sys.executable).resolve().name
        script.write_text(
            f"#!/bin/sh\nexport PYTHONHOME={self.top}/python\n"
            f"export LD_LIBRARY_PATH={self.top}/python/lib\n"
            f"export PYTHONPATH={self.top}/sources:{self.top}/libraries\n"
            f'exec {self.top}/python/bin/{name} -m unionmount overlay "$@"\n'
        )
        script.chmod(0o755)
        return script
