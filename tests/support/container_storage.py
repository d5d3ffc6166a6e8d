"""A store of podman's own for tests, with an image of every kind of file and mark."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.mounting import unmounting
from support.rootless import UID, ordinary_user
from support.running import Runner

_STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{top}/g"
runroot = "{top}/r"
"""
_OF_USER = ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")

# Every kind of file, owners, attributes and links; then what hides each kind of lower file.
_BUILD = r"""
set -e
umask 022
first=$(buildah from scratch); root=$(buildah mount "$first")
mkdir -p "$root/etc" "$root/gone/deep" "$root/opaque" "$root/closed" "$root/usr/bin"
echo base > "$root/etc/base"; echo old > "$root/etc/changed"; echo away > "$root/gone/deep/file"
echo below > "$root/opaque/below"; echo secret > "$root/closed/secret"; echo x > "$root/file-to-dir"
echo kept > "$root/links"; ln "$root/links" "$root/etc/linked"
ln -s ../etc/base "$root/usr/symlink"; mkfifo "$root/fifo"
truncate -s 1M "$root/sparse"; chmod 4755 "$root/links"
setfattr -n user.note -v below "$root/etc/base"
chown 33:44 "$root/closed" "$root/closed/secret"; chmod 700 "$root/closed"
chmod 600 "$root/closed/secret"; chown -h 1000:1000 "$root/usr/symlink"; chown 7:8 "$root"
buildah umount "$first" >/dev/null; buildah commit -q "$first" localhost/first >/dev/null
buildah rm "$first" >/dev/null
second=$(buildah from --pull-never localhost/first); root=$(buildah mount "$second")
echo new > "$root/etc/changed"; chown 5:6 "$root/etc/changed"; rm -r "$root/gone"
rm -r "$root/opaque"; mkdir "$root/opaque"; echo above > "$root/opaque/above"
rm "$root/file-to-dir"; mkdir "$root/file-to-dir"; echo in > "$root/file-to-dir/in"
setfattr -n user.note -v above "$root/etc/base"; echo more > "$root/closed/more"
ln "$root/etc/changed" "$root/etc/again"
buildah umount "$second" >/dev/null
buildah config --cmd /bin/true "$second"
buildah commit -q "$second" localhost/second >/dev/null
buildah rm "$second" >/dev/null
"""

# What find says of each file: type, mode, owner, time, and where directories do not differ in every
# file system, links, size and target; and what getfattr says.
FIND = (
    r"find . -printf '%P %y %m %U:%G %T@' \( -type d -o -printf ' %n %s %l' \) -printf '\n' "
    "| sort; getfattr -Rhd -m - . | sed '/^$/d'"
)


@dataclass(frozen=True, slots=True)
class PodmanStore:
    """A store, and how its user runs programs; ``enter`` is what enters the user's namespace."""

    top: Path
    prefix: tuple[str, ...] = ()
    enter: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that choose the store."""
        return dict(self.variables)

    def call(self, *words: str, inside: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a program to any end, perhaps inside of the user's namespace."""
        return subprocess.run(
            [*self.prefix, *(self.enter if inside else ()), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=os.environ | self.environment,
            check=False,
            timeout=120,
        )

    def run(self, *words: str, inside: bool = False) -> str:
        """Run a program that succeeds, and return its output."""
        done = self.call(*words, inside=inside)
        assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
        return done.stdout

    def build(self) -> None:
        """Build the images ``localhost/first`` and ``localhost/second``."""
        self.run("bash", "-c", _BUILD, inside=True)

    def listed(self, image: str) -> str:
        """Return what find and getfattr say of podman's own mount of an image."""
        script = f'cd "$(podman image mount {image})" && {FIND}; cd /; podman image umount {image}'
        lines = self.run("bash", "-c", script, inside=True).splitlines()
        return "\n".join(lines[:-1])

    def containers(self) -> list[str]:
        """Return the names of all containers, also those of buildah."""
        return self.run("podman", "ps", "-a", "--external", "--format", "{{.Names}}").split()


@contextmanager
def rootless_store() -> Iterator[tuple[PodmanStore, Runner]]:
    """Yield the empty store of an ordinary user, at its usual place, and that user's commands."""
    with _place() as top, ordinary_user(top, ranges=True, alone=True) as user:
        home = top / "home"
        run = home / "r"
        run.mkdir(mode=0o700)
        os.chown(run, UID, UID)
        own = {name: str(home / name[4:8]) for name in _OF_USER}
        own |= {"HOME": str(home), "USER": "tester", "XDG_RUNTIME_DIR": str(run), "TMPDIR": "/tmp"}
        user.environment |= own
        store = PodmanStore(top, user.prefix, ("buildah", "unshare"), own)
        try:
            with unmounting(user):
                yield store, user
        finally:
            store.run("podman", "system", "migrate")  # ends the process that podman leaves


@contextmanager
def podman_store(driver: str = "overlay") -> Iterator[PodmanStore]:
    """Yield an empty store of root's; it is removed with its mounts at the end."""
    with _place() as top:
        (top / "storage.conf").write_text(_STORAGE.format(driver=driver, top=top))
        yield PodmanStore(top, variables={"CONTAINERS_STORAGE_CONF": str(top / "storage.conf")})


@contextmanager
def _place() -> Iterator[Path]:
    top = Path(tempfile.mkdtemp(prefix="p", dir="/tmp"))  # podman takes 50 bytes at most
    top.chmod(0o755)
    try:
        yield top
    finally:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        for point in reversed([line.split()[4] for line in table]):
            if point.startswith(f"{top}/"):
                subprocess.run(["umount", "-l", point], check=True)
        shutil.rmtree(top)
