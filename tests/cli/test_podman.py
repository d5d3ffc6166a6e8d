# ruff: noqa: E501 - lines of scripts
"""``overlay`` as the mount program of podman and buildah, beside fuse-overlayfs.

The same script runs with both, as root and as an ordinary user, with both runtimes: what podman,
the containers and the saved layers say has to be the same, line by line.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.podman import Podman
from support.users import public_place

pytestmark = [
    pytest.mark.needs("root", "fuse", "podman", "fuse-overlayfs", "newuidmap", "busybox"),
    pytest.mark.slow,
]

BUILD = r"""
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /data /tmp /etc /home && chmod 1777 /tmp && chown 1000:1000 /home
RUN echo 'root:x:0:0::/:/bin/sh' >/etc/passwd && echo 'u:x:1000:1000::/home:/bin/sh' >>/etc/passwd
RUN echo 'root:x:0:' >/etc/group
COPY a /data/a
COPY --chown=1000:1000 directory /data/directory
COPY euid /suid
RUN chown 12:34 /data/a && chmod 4755 /suid
RUN mv /data/directory /data/renamed && rm /data/renamed/gone && ln /data/a /data/second
USER 1000
RUN id -u >/home/ids && /suid >>/home/ids && mkdir /home/own && touch /home/own/file
USER 0
"""

# busybox gives up what set-user-ID bits give
EUID = """
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("%d\\n", (int)geteuid()); }
"""

SCRIPT = r"""
cd "$TOP/context"
podman() { command podman --log-level=error "$@"; }
say() { printf '$ podman %s\n' "$*"; podman "$@" 2>&1; echo "= $?"; }
net='--network host @CGROUPS@'
stats='find / -xdev ! -path "/bin/*" -exec stat -c "%n %u:%g %a %F" {} + | sort'
say build -q $net0 --network host --isolation=chroot -t base .
say run --rm $net base sh -c 'exec 2>&1; cat /home/ids; id -u; ls -ln /data | sed "s/ [A-Z][a-z][a-z] .*:..//"'
say run --rm $net base sh -c 'find /data /home /suid -exec stat -c "%n %u:%g %a %h" {} + | sort'
say run --rm $net @KEEP@ base sh -c 'exec 2>&1; id -u; find /data /home /suid -exec stat -c "%n %u:%g %a" {} + | sort; touch /tmp/x; stat -c "%n %u:%g" /tmp/x'
say run --rm $net @MAPS@ base sh -c 'exec 2>&1; find /data /home /suid -exec stat -c "%n %u:%g %a" {} + | sort; touch /n; chown 5:6 /n; stat -c "%n %u:%g" /n'
say run --rm $net --read-only base sh -c 'exec 2>&1; touch /n; echo $?'
mkdir -p "$TOP/tmp/volume"; echo v >"$TOP/tmp/volume/v"
say run --rm $net -v "$TOP/tmp/volume:/data/volume" base sh -c 'exec 2>&1; cat /data/volume/v; touch /data/volume/w; ls /data /data/volume'
say run --rm $net -u 1000 base sh -c 'exec 2>&1; id -u; /suid; touch /data/no; touch /home/yes; ls -n /home | wc -l'
say run $net @KEEP@ -u 0 --name changed base sh -c 'exec 2>&1; mkdir /tmp/d; echo hi >/tmp/d/f; chown 12:34 /tmp/d/f; rm /data/second; mv /data/renamed /data/again; chmod 600 /etc/passwd; mknod /tmp/fifo p; ln -s to /tmp/link; chown -h 5:6 /tmp/link'
podman diff changed | sort
say commit -q changed committed
say run --rm $net committed sh -c 'find /data /tmp /home /etc -exec stat -c "%n %u:%g %a %F" {} + 2>&1 | grep -v -e /etc/hosts -e /etc/resolv.conf -e /etc/hostname -e /etc/mtab | sort'
podman save -q -o "$TOP/tmp/saved.tar" committed
mkdir "$TOP/tmp/saved"
tar -xf "$TOP/tmp/saved.tar" -C "$TOP/tmp/saved"
for layer in $(tr , '\n' <"$TOP/tmp/saved/manifest.json" | grep -o '[0-9a-f]*\.tar'); do
    echo "- a layer"
    tar --numeric-owner -tvf "$TOP/tmp/saved/$layer" | grep -v ' bin/' | awk '{print $1, $2, $6, $7, $8}' | sort -k3
done
@ENTER@ sh -c 'at=$(podman image mount base) && cd "$at" && find data home suid -printf "%p %U:%G %m %y\n" | sort; cd /; podman image umount base >/dev/null; echo $?'
say rm changed
say rmi -af
"""

_HEX = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b")


def script(podman: Podman) -> str:
    """The script for one way to call podman; runc knows no containers without a cgroup."""
    cgroups = "" if podman.runtime == "runc" else "--cgroups=disabled"
    maps = "--uidmap 0:1:1000 --uidmap 1000:0:1 --uidmap 1001:1001:1000"
    if podman.root:
        maps = "--uidmap 0:100000:5000 --gidmap 0:200000:5000"
    keep = maps if podman.root else "--userns=keep-id"
    enter = "" if podman.root else "command podman unshare"
    text = SCRIPT.replace("@CGROUPS@", cgroups).replace("@MAPS@", maps)
    return text.replace("@KEEP@", keep).replace("@ENTER@", enter)


@pytest.fixture
def places() -> Iterator[Path]:
    with ExitStack() as stack:
        made = tempfile.mkdtemp(prefix="unionmount-podman-", dir=public_place())
        stack.callback(shutil.rmtree, made)
        top = Path(made).resolve()
        top.chmod(0o755)
        yield top


def fill(context: Path) -> None:
    """What is built."""
    (context / "directory").mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, context / "busybox")
    command = ["cc", "-static", "-x", "c", "-", "-o", str(context / "euid")]
    subprocess.run(command, input=EUID, text=True, check=True)
    (context / "a").write_text("a\n")
    for name in ("b", "gone"):
        (context / "directory" / name).write_text(name)
    (context / "Containerfile").write_text(BUILD)


@pytest.mark.parametrize(
    "runtime", [pytest.param(x, marks=pytest.mark.needs(x)) for x in ("crun", "runc")]
)
@pytest.mark.parametrize("root", [False, True], ids=["rootless", "root"])
def test_the_same_as_with_fuse_overlayfs(places: Path, root: bool, runtime: str) -> None:
    said = []
    for program in ("fuse-overlayfs", "unionmount"):
        podman = Podman(places / program, root, program, runtime)
        fill(podman.top / "context")
        said.append(_HEX.sub("ID", podman.play(script(podman)).replace(program, "")))
    assert said[1].splitlines() == said[0].splitlines()
    assert "= 0" in said[0]
