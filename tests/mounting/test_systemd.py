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

FSTAB = """\
/work/image.tar /srv/site unionmount nofail 0 0
/work/image.tar /srv/kept unionmount upper=/srv/upper 0 0
/work/image.tar /srv/auto unionmount noauto,x-systemd.automount,x-systemd.idle-timeout=1s 0 0
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
    assert told("findmnt -n -o SOURCE,FSTYPE /srv/site") == ["/work/image.tar fuse.unionmount"]
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
    assert told("systemctl list-units --failed --plain --no-legend 'srv-*'") == []
