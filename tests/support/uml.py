"""A machine of the test's own: User-mode Linux, a kernel that runs as a program.

It needs neither root nor virtualization, and boots in two seconds. It has the files of this machine
read-only (hostfs), a disk of its own at /mnt, and processes, mounts and control groups that no
other machine has. ``needs("linux.uml")``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SECONDS = 240
_BEGIN, _END = "-- begin", "-- end"
_MEGABYTES = 512
_INIT = """\
#!/bin/sh
export PATH="{bin}:/usr/sbin:/usr/bin:/sbin:/bin" HOME=/root TMPDIR=/mnt
export UNIONMOUNT_ROOT=/mnt/store UNIONMOUNT_RUNTIME_DIR=/run/unionmount
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for place in /run /var/lib /var/cache; do mount -t tmpfs tmpfs $place; done
mkdir -p /dev/pts /dev/shm /var/cache/containers
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t ext4 /dev/ubda /mnt && chmod 1777 /mnt
insmod /usr/lib/uml/modules/*/kernel/fs/fuse/fuse.ko && chmod 666 /dev/fuse
echo '{begin}'
sh -e "{script}" </dev/null 2>&1 | cat
echo '{end}'
busybox poweroff -f
"""


def boot(place: Path, script: str, *options: str) -> list[str]:
    """Run a script as root of such a machine, and return the lines that it prints.

    ``place`` is a directory for the machine's files; ``options`` are those of the kernel.
    """
    place.mkdir()
    disk, init, body = place / "disk", place / "init", place / "script"
    with disk.open("wb") as file:
        file.truncate(_MEGABYTES << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", disk], check=True)
    body.write_text(script)
    words = {"bin": f"{sys.prefix}/bin", "begin": _BEGIN, "end": _END, "script": body}
    init.write_text(_INIT.format(**words))
    init.chmod(0o755)
    command = [
        *("linux.uml", f"ubd0={disk}", "rootfstype=hostfs", "rootflags=/", "ro"),
        *(f"mem={_MEGABYTES}M", f"init={init}", "con=null", "con0=null,fd:1", "quiet", *options),
    ]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"HOME": str(place)},
        start_new_session=True,
    ) as machine:
        try:
            shown, _ = machine.communicate(timeout=_SECONDS)
        except BaseException:
            os.killpg(machine.pid, 9)
            raise
    disk.unlink()
    lines = shown.decode(errors="replace").replace("\r", "").splitlines()
    assert _BEGIN in lines, shown.decode(errors="replace")
    assert _END in lines, shown.decode(errors="replace")
    return lines[lines.index(_BEGIN) + 1 : lines.index(_END)]
