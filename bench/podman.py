"""podman with fuse-overlayfs and with unionmount as its mount program: a build, and a container.

Both have a store of their own on the same disk, and take turns within one pair of namespaces
(tests/support/podman.py). ``unionmount run`` and, as root, the runtime alone with a bundle that is
ready take turns with the container.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.podman import Podman, our_program

_STEPS = 10
_RUNTIMES = {False: "crun", True: "runc"}  # by root; both run without a service manager
# What is in front of a row's name, and what mounts, by the name in the script.
_SUBJECTS = {
    "fuse-overlayfs": ("podman", "fuse-overlayfs"),
    "unionmount": ("podman", "unionmount overlay"),
    "own": ("unionmount", ""),
    "runtime": ("the runtime alone,", ""),
}
_TAKEN = re.compile(r"^taken: (\S+) (.*) (\d+\.\d+)$", re.MULTILINE)

_SCRIPT = r"""
exec 2>&1
set -e
cd "$HOME/../context"
declare -A program=([fuse-overlayfs]="$THEIRS" [unionmount]="$OURS")
TIMEFORMAT=%R
engine() {
    store=$HOME/$1
    shift
    podman --root "$store" --runroot "$store/run" --storage-driver overlay \
        --storage-opt "overlay.mount_program=${program[${store##*/}]}" "$@" >log 2>&1 ||
        { cat log; exit 1; }
}
clock() {
    exec 3>&1
    seconds=$( { time engine "$1" "${@:3}" >&3; } 2>&1)
    echo "taken: $1 $2 $seconds"
}
clocked() {
    exec 3>&1
    seconds=$( { time "${@:3}" >log 2>&1 || { cat log >&3; exit 1; }; } 2>&1)
    echo "taken: $1 $2 $seconds"
}
own() { clocked own run "$UNIONMOUNT" run --rm --runtime "$RUNTIME" --pull never ten true; }
alone() {
    if [ "$AS_ROOT" = 1 ]; then
        clocked runtime run "$RUNTIME" run --bundle "$HOME/bundle" alone
    fi
}
build() { clock "$1" build build --no-cache --network host --isolation=chroot -t ten .; }
run() { clock "$1" run run --rm --network host $CGROUPS ten true; }
names="fuse-overlayfs unionmount"
for name in $names; do
    build "$name" >first
    run "$name" >first
done
engine unionmount save -q -o "$HOME/ten.tar" ten
"$UNIONMOUNT" load -i "$HOME/ten.tar" >/dev/null
own >first
if [ "$AS_ROOT" = 1 ]; then
    "$UNIONMOUNT" bundle --ephemeral ten "$HOME/bundle" -- true
    alone >first
fi
for round in $(seq "$ROUNDS"); do
    for name in $names; do
        build "$name"
    done
    for turn in 1 2 3; do
        for name in $names; do
            run "$name"
        done
        own
        alone
    done
    set -- $names
    names="$2 $1"
done
[ "$AS_ROOT" = 0 ] || "$UNIONMOUNT" bundle --remove "$HOME/bundle"
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """The seconds of one kind of work with one program."""

    what: str
    subject: str
    seconds: Sequence[float]


def measure(work: Path, *, quick: bool) -> Iterator[Taken]:
    """All numbers of the part ``podman``."""
    work.chmod(0o755)
    for root in (False, True):
        top = work / f"podman-{int(root)}"
        _fill(top / "context")
        taken = defaultdict(list)
        for name, what, seconds in _TAKEN.findall(_podman(top, root, rounds=1 if quick else 5)):
            taken[what, name].append(float(seconds))
        user = "root" if root else "rootless"
        names = {"build": f"build of {_STEPS} steps", "run": "run --rm IMAGE true"}
        for (what, name), seconds in taken.items():
            engine, subject = _SUBJECTS[name]
            yield Taken(f"{engine} {names[what]}, {user}", subject, seconds)
        shutil.rmtree(top)


def _podman(top: Path, root: bool, rounds: int) -> str:
    theirs = shutil.which("fuse-overlayfs")
    if theirs is None:
        raise RuntimeError("fuse-overlayfs is not installed")
    settings = {
        "THEIRS": theirs,
        "OURS": str(our_program()),
        "ROUNDS": str(rounds),
        "CGROUPS": "" if root else "--cgroups=disabled",
        "RUNTIME": _RUNTIMES[root],
        "UNIONMOUNT": str(our_program().with_name("unionmount")),
    }
    return Podman(top, root, our_program(), _RUNTIMES[root], settings=settings).play(_SCRIPT)


def _fill(context: Path) -> None:
    """Write a build of ten steps, each of which mounts and changes a little."""
    context.mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise RuntimeError("busybox is not installed")
    shutil.copy(busybox, context / "busybox")
    lines = [
        "FROM scratch",
        "COPY busybox /bin/busybox",
        'RUN ["/bin/busybox", "--install", "-s", "/bin"]',
        *(f"RUN mkdir /d{n} && echo {n} >/d{n}/file && rm -f /d{n - 1}/file" for n in range(8)),
    ]
    assert len(lines) == _STEPS + 1
    (context / "Containerfile").write_text("\n".join([*lines, ""]))
