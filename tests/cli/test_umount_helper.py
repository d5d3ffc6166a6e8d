"""umount(8) with our helper: it waits for the daemon, names holders, and is as strong as without.

umount(8) asks for the type of a file system in different ways. Only the table of mounts tells it
that of ours, which it reads with ``-c`` (as systemd has it), ``-l`` or ``-a``, for a user, and if
the mount has options of user space.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mount8 import System, own_system
from support.mounting import COMMAND, Process
from support.users import BECOME

pytestmark = pytest.mark.needs("fuse", "root", "unshare", "findmnt", "nsenter")


@pytest.fixture
def here(public_tmp: Path) -> Iterator[System]:
    with own_system(public_tmp) as made:
        yield made


@pytest.fixture
def image(public_tmp: Path) -> Path:
    return docker_archive(public_tmp / "image.tar", [Layer().file("etc/motd", b"hello\n")])


@pytest.fixture
def where(public_tmp: Path) -> Path:
    (public_tmp / "mnt").mkdir()
    return public_tmp / "mnt"


def mount(here: System, image: Path, where: Path, options: str = "ro") -> int:
    """Mount, and return the number of the daemon."""
    here.silent("mount", "-t", "unionmount", image, where, "-o", options)
    return daemon(here)


def daemon(here: System, as_user: tuple[str, ...] = ()) -> int:
    return int(here.run(*COMMAND, "ps", "--format", "{{.Pid}}", as_user=as_user).stdout)


def ended(process: int) -> bool:
    """Whether the process of a pidfd has ended by now."""
    return bool(select.select([process], [], [], 0)[0])


@pytest.mark.parametrize("flag", ["-c", "-r", "-n"])
def test_the_daemon_has_ended_when_umount_returns(
    here: System, image: Path, where: Path, flag: str
) -> None:
    """So that the disk below can be unmounted next."""
    disk = where.parent / "disk"
    disk.mkdir()
    here.run("mount", "-t", "tmpfs", "none", disk)
    process = os.pidfd_open(mount(here, image, where, f"upper={disk}/upper,x-any"))
    here.run("dd", "if=/dev/zero", f"of={where}/big", "bs=1M", "count=64")
    here.silent("umount", flag, where)
    assert ended(process)
    os.close(process)
    here.silent("umount", disk)


def test_a_busy_mount_names_who_uses_it(here: System, image: Path, where: Path) -> None:
    pid = mount(here, image, where)
    script = 'cat "$1/etc/motd" && exec 9<"$1/etc/motd" && echo $$ && exec sleep 60'
    words = [*here.prefix, "sh", "-c", script, "sh", str(where)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        user = [process.stdout.readline() for _ in range(2)][1].strip()
        done = here.run("umount", "-c", where, status=32)
        assert done.stderr.splitlines() == [
            f"umount: {where}: target is busy.",
            f"umount.fuse.unionmount: {where} is in use by sleep (process {user}) at "
            f"{where}/etc/motd",
        ]
        assert here.mounted(where)
        here.silent("umount", "-l", where)  # without waiting for the user
        assert not here.mounted(where)
        left = Process(pid)
        process.kill()
    left.wait()


def test_a_mount_that_is_left_elsewhere_is_not_waited_for(
    here: System, image: Path, where: Path
) -> None:
    other = where.parent / "other"
    other.mkdir()
    process = os.pidfd_open(mount(here, image, where))
    here.silent("mount", "--bind", where, other)
    here.silent("umount", "-c", where)
    assert here.run("cat", other / "etc/motd").stdout == "hello\n"
    words = [*here.prefix, "unshare", "-m", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as namespace:
        assert namespace.stdout is not None
        namespace.stdout.readline()
        here.run("umount", "-c", other)
        assert not ended(process)
        namespace.communicate()
    assert select.select([process], [], [], 30)[0]
    os.close(process)


def test_a_daemon_that_is_stopped_is_named(here: System, image: Path, where: Path) -> None:
    pid = mount(here, image, where)
    process = Process(pid)
    os.kill(pid, signal.SIGSTOP)
    told = here.run("umount", "-c", where).stderr
    assert f"{where} is unmounted, but process {pid} is stopped" in told
    assert f"kill -CONT {pid}" in told
    os.kill(pid, signal.SIGCONT)
    process.wait()


def test_a_dead_mount_leaves_no_record(here: System, image: Path, where: Path) -> None:
    pid = mount(here, image, where, "name=web")
    process = Process(pid)
    os.kill(pid, signal.SIGKILL)
    process.wait()
    here.silent("umount", "-c", where)
    assert here.run(*COMMAND, "ps", "-q").stdout == ""
    mount(here, image, where, "name=web")
    here.silent("umount", "-c", where)


def test_everything_of_a_type(here: System, image: Path, where: Path) -> None:
    second = where.parent / "second"
    second.mkdir()
    process = os.pidfd_open(mount(here, image, where))
    here.silent("mount", "-t", "unionmount", image, second)
    here.silent("umount", "-a", "-t", "fuse.unionmount")
    assert not here.mounted(where)
    assert not here.mounted(second)
    assert ended(process)
    os.close(process)


def test_flags_and_exit_statuses(here: System, image: Path, where: Path) -> None:
    mount(here, image, where)
    told = here.run("umount", "-cv", where).stderr
    assert told.startswith(f"umount: {where} ")
    assert told.endswith(" unmounted\n")
    helper = "/sbin/umount.fuse.unionmount"
    here.run(helper, status=1)
    here.run(helper, where, "-x", status=1)
    for command in (("umount", "-c", where), (helper, where)):
        assert here.run(*command, status=32).stderr == f"umount: {where}: not mounted.\n"
    process = os.pidfd_open(mount(here, image, where))
    here.silent("umount", "-f", where)
    assert ended(process)
    os.close(process)
    mount(here, image, where)
    (pid,) = (word for word in here.prefix if word.isdecimal())
    here.prefix, inner = (), here.prefix
    here.silent("umount", "-c", "-N", pid, where)
    here.prefix = inner
    assert not here.mounted(where)


@pytest.mark.needs("ordinary-user")
def test_users_may_unmount_what_they_may_without(here: System, image: Path, where: Path) -> None:
    of_root = dict(here.environment)
    here.give(where)
    lines = {option: f"{image} {where} unionmount {option},noauto 0 0\n" for option in USERS}
    for option, status in USERS.items():
        here.fstab.write_text(lines[option], encoding="ascii")
        here.silent("mount", where, as_user=BECOME)
        process = os.pidfd_open(daemon(here, BECOME))
        here.silent("umount", where, as_user=BECOME)
        assert ended(process)
        os.close(process)
        # what root has mounted, only 'users' lets others unmount
        here.environment, own = of_root, here.environment
        here.silent("mount", where)
        here.run("umount", where, as_user=BECOME, status=status)
        if status:
            assert here.mounted(where)
            here.silent("umount", where)
        here.environment = own
    here.environment = of_root


USERS = {"user": 32, "users": 0}
