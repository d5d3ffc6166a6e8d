"""``run`` with control groups of each version, on machines of the test's own."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from support.archives import Layer
from support.rootless import ordinary_user
from support.running import RUNTIMES, program_image, running
from support.uml import boot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("busybox", "linux.uml", "insmod", "mkfs.ext4", *RUNTIMES),
    pytest.mark.timeout(400),
]

V1 = """
mount -t tmpfs tmpfs /sys/fs/cgroup
for one in memory cpu pids devices freezer; do
    mkdir /sys/fs/cgroup/$one; mount -t cgroup -o $one cgroup /sys/fs/cgroup/$one
done
"""
MOUNTS = {
    "1": V1,
    "hybrid": V1 + "mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
    "2": "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
}
LIMITS = "-m 64m --cpus 0.5 --pids-limit 20"
READ = """
cd /sys/fs/cgroup
if [ -e memory.max ]; then cat memory.max cpu.max pids.max
else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us pids/pids.max; fi
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a device that is nobody's business."""
    layer = Layer().add("device", tarfile.CHRTYPE, device=(1, 11), mode=0o666)
    return program_image(tmp_path_factory.mktemp("image") / "image.tar", layer)


@pytest.mark.parametrize("version", MOUNTS)
def test_limits_of_each_version(image: Path, tmp_path: Path, version: str) -> None:
    script = f"""
    {MOUNTS[version]}
    cp {image} /mnt/image.tar
    for runtime in {" ".join(RUNTIMES)}; do
        run="unionmount run --rm --runtime $runtime"
        $run /mnt/image.tar echo $runtime
        $run {LIMITS} /mnt/image.tar sh -c '{READ}'
        $run /mnt/image.tar cat /device || echo closed
    done
    find /sys/fs/cgroup -name 'unionmount-*'
    """
    shown = boot(tmp_path / "machine", script)
    expected = []
    for runtime in RUNTIMES:
        expected += [runtime, str(64 << 20), "50000", "100000", "20", "closed"]
    values = [word for line in shown if not line.startswith("cat: ") for word in line.split()]
    assert values == expected


@pytest.mark.needs("podman")
def test_version_2_is_as_with_podman(image: Path, tmp_path: Path) -> None:
    """What a container sees of its control groups, and what it can do to them."""
    look = f"""
    cat /proc/self/cgroup; {READ} ls /sys/fs/cgroup | sort; grep cgroup /proc/self/mounts
    echo 30 >/sys/fs/cgroup/pids.max && cat /sys/fs/cgroup/pids.max; true
    """
    script = f"""
    {MOUNTS["2"]}
    cp {image} /mnt/image.tar
    podman="podman --root /mnt/podman --runroot /run/podman --storage-driver vfs"
    $podman load -qi /mnt/image.tar >/dev/null
    id=$($podman images -q)
    for runtime in {" ".join(RUNTIMES)}; do for more in "" --privileged; do
        given="--rm {LIMITS} $more"
        echo == unionmount $runtime $more
        unionmount run --runtime $runtime $given /mnt/image.tar sh -c '{look}'
        echo == podman $runtime $more
        $podman --cgroup-manager cgroupfs --runtime $runtime run --network host $given $id \\
            sh -c '{look}'
    done; done
    """
    shown = "".join(f"{line}\n" for line in boot(tmp_path / "machine", script))
    parts = [part.partition("\n") for part in shown.split("== ")[1:]]
    assert len(parts) == 4 * len(RUNTIMES)
    for (ours, _, our_text), (theirs, _, their_text) in zip(parts[::2], parts[1::2], strict=True):
        assert ours.replace("unionmount", "podman") == theirs
        assert our_text == their_text
        assert our_text.startswith(f"0::/\n{64 << 20}\n50000 100000\n20\n")


def test_a_controller_that_is_missing(image: Path, tmp_path: Path) -> None:
    """What cannot be limited is named, and the rest works."""
    script = f"""
    {MOUNTS["2"]}
    cp {image} /mnt/image.tar
    run="unionmount run --rm"
    $run --pids-limit 20 /mnt/image.tar cat /sys/fs/cgroup/pids.max
    $run -m 64m /mnt/image.tar true || echo $?
    $run /mnt/image.tar echo without
    umount /sys/fs/cgroup
    $run /mnt/image.tar true || echo $?
    unionmount ps -aq
    """
    shown = boot(tmp_path / "machine", script, "cgroup_disable=memory")
    why = "this machine has no controller '{}' that can be written to"
    assert shown == [
        "20",
        f"unionmount: --memory cannot be set: {why.format('memory')}",
        *("125", "without"),
        "unionmount: control groups are not mounted, and a runtime of root needs them: 'mount -t "
        "cgroup2 cgroup2 /sys/fs/cgroup'",
        "125",
    ]


@pytest.mark.needs("root", "newuidmap", "setpriv")
def test_an_ordinary_user_with_version_2(image: Path, tmp_path: Path) -> None:
    script = f"""
    {MOUNTS["2"]}
    cp {image} /mnt/image.tar; mkdir /mnt/home; chown 5555:5555 /mnt/home
    echo tester:200000:65536 >/mnt/subids
    (cat /etc/passwd; echo tester:x:5555:5555::/mnt/home:/bin/sh) >/mnt/passwd
    mount --bind /mnt/passwd /etc/passwd
    for one in subuid subgid; do mount --bind /mnt/subids /etc/$one; done
    chmod 755 /mnt /run
    export HOME=/mnt/home UNIONMOUNT_ROOT=/mnt/home/store UNIONMOUNT_RUNTIME_DIR=/mnt/home/run
    for runtime in {" ".join(RUNTIMES)}; do
        run="setpriv --reuid=5555 --regid=5555 --clear-groups unionmount run --rm"
        $run --runtime $runtime /mnt/image.tar sh -c 'id -u; cat /proc/self/cgroup'
        $run --runtime $runtime -m 64m /mnt/image.tar true || echo $?
    done
    """
    shown = boot(tmp_path / "machine", script)
    message = (
        "unionmount: --memory cannot be set: an ordinary user has no control groups of its own"
    )
    assert shown == ["0", "0::/", message, "125"] * len(RUNTIMES)


@pytest.mark.needs("root", "fuse", "ordinary-user", "unshare", "nsenter", "newuidmap")
def test_limits_that_an_ordinary_user_cannot_set(public_tmp: Path) -> None:
    image = program_image(public_tmp / "image.tar")
    image.chmod(0o644)
    with ordinary_user(public_tmp, ranges=True) as line, running(line):
        for option, value in ("--memory", "64m"), ("--cpus", "1"), ("--pids-limit", "9"):
            told = line.error("run", "--rm", option, value, image, "true", status=125)
            why = "an ordinary user has no control groups of its own"
            assert told == f"{option} cannot be set: {why}"
        assert line.output("ps", "-aq") == ""
