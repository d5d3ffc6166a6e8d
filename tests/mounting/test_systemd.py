"""Lines of fstab in a machine that systemd boots: mount units, an automount, idle time-outs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.containers import Podman, podman

pytestmark = [
    pytest.mark.needs("fuse", "root", "podman", "runc", "/lib/systemd/systemd"),
    pytest.mark.slow,
]

AFTER_DISK = "x-systemd.requires-mounts-for=/srv/disk"
FSTAB = f"""\
/shared/image.tar /srv/site unionmount nofail 0 0
/shared/image.tar /srv/kept unionmount upper=/srv/upper 0 0
/shared/image.tar /srv/brief unionmount ephemeral,store=/srv/store 0 0
tmpfs /srv/disk tmpfs mode=755 0 0
/shared/image.tar /srv/above unionmount upper=/srv/disk/upper,{AFTER_DISK} 0 0
/shared/image.tar /srv/auto unionmount noauto,x-systemd.automount,x-systemd.idle-timeout=1s 0 0
"""


@pytest.fixture
def machine(public_tmp: Path) -> Iterator[Podman]:
    with podman(public_tmp / "podman") as made:
        image = docker_archive(public_tmp / "image.tar", [Layer().file("etc/motd", b"hello\n")])
        made.put(image)
        try:
            made.boot(Path(sys.executable).parent, FSTAB)
            yield made
        finally:
            made.halt()


def test_units_of_fstab(machine: Podman) -> None:
    def told(script: str) -> list[str]:
        return machine.inside(script).stdout.splitlines()

    active = told("systemctl is-active srv-site.mount srv-kept.mount srv-auto.automount")
    assert active == ["active"] * 3
    assert told("cat /srv/site/etc/motd") == ["hello"]
    assert told("findmnt -n -o SOURCE,FSTYPE /srv/site") == ["/shared/image.tar fuse.unionmount"]
    # an automount, and its end when it is not used
    wait = "findmnt --poll=umount --first-only --timeout 30000 /srv/auto >/dev/null"
    assert told(f"cat /srv/auto/etc/motd; {wait}; systemctl is-active srv-auto.mount || true") == [
        "hello",
        "inactive",
    ]
    assert told("cat /srv/auto/etc/motd") == ["hello"]
    # a restart finds what was changed
    machine.inside("echo new >/srv/kept/made; systemctl stop srv-kept.mount")
    assert told("ls /srv/kept; cat /srv/upper/made; systemctl start srv-kept.mount") == ["new"]
    assert told("cat /srv/kept/made") == ["new"]
    # a disk is unmounted after the mount whose changes it takes
    machine.inside("head -c 64M /dev/zero >/srv/above/big; systemctl stop srv-disk.mount")
    assert told("findmnt -n -o TARGET /srv/disk /srv/above; ls /srv/disk") == []
    assert told("systemctl list-units --failed --plain --no-legend 'srv-*'") == []
    # when the stop of a unit returns, the daemon has ended, which removes what is ephemeral
    containers = machine.rootfs / "srv/store/containers"
    assert len(list(containers.iterdir())) == 1
    machine.inside("echo new >/srv/brief/made; systemctl stop srv-brief.mount")
    assert list(containers.iterdir()) == []
    # SIGTERM, as at the end of a machine where not everything can be unmounted
    pids = told("cat /run/unionmount/mounts/*.json | sed -n 's/^ \"pid\": \\([0-9]*\\),/\\1/p'")
    assert len(pids) == 2  # of /srv/site and /srv/kept
    waiting = " ".join(f"tail --pid={pid} -f /dev/null;" for pid in pids)
    machine.inside(f"kill {' '.join(pids)}; {waiting}")
    assert told("findmnt -n -o TARGET -t fuse.unionmount || true") == []
    assert told("systemctl list-units --failed --plain --no-legend 'srv-*'") == []
