"""Mounts of ordinary users in a mount namespace that root has made: how long they last, and why.

Root's daemons leave such a namespace, and so do those in a user namespace of the user's own
(``test_ends``). fusermount3 mounts for an ordinary user without either.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine, Process
from support.users import NOBODY

pytestmark = pytest.mark.needs("fuse", "root", "unshare", "nsenter", "ordinary-user")


@pytest.fixture
def namespace() -> Iterator[subprocess.Popen[bytes]]:
    command = ["unshare", "-m", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def inside(user: CommandLine, namespace: subprocess.Popen[bytes]) -> CommandLine:
    """The command line of the user in the namespace."""
    enter = ("nsenter", "-t", str(namespace.pid), "-m", "--wd=/", "--")
    return CommandLine((*enter, *user.prefix), dict(user.environment))


@pytest.fixture
def where(home: Path) -> Path:
    (home / "mnt").mkdir()
    os.chown(home / "mnt", NOBODY, NOBODY)
    return home / "mnt"


@pytest.fixture
def archive(home: Path) -> Path:
    return docker_archive(home / "image.tar", [Layer().file("etc/motd", b"hello\n")])


def end(namespace: subprocess.Popen[bytes]) -> None:
    namespace.kill()
    namespace.communicate()


def test_it_lasts_until_its_user_ends_it(
    user: CommandLine,
    inside: CommandLine,
    namespace: subprocess.Popen[bytes],
    archive: Path,
    where: Path,
) -> None:
    inside.run("mount", "--ephemeral", archive, where)
    record = inside.record(where)
    daemon = Process(record["pid"])
    end(namespace)
    (left,) = user.records()
    assert left["status"].startswith("detached")
    told = user.run("umount", record["id"]).stderr
    assert f"unionmount umount --kill {record['id']}" in told
    user.run("umount", "--kill", record["id"])
    daemon.wait()
    assert user.records() == []


def test_it_ends_with_a_process(
    user: CommandLine,
    inside: CommandLine,
    namespace: subprocess.Popen[bytes],
    archive: Path,
    where: Path,
) -> None:
    inside.run("mount", "--ephemeral", "--with", str(namespace.pid), archive, where)
    daemon = Process(inside.record(where)["pid"])
    end(namespace)
    daemon.wait()
    assert user.records() == []


LEAVE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
def call(name, *arguments):
    print(name, ctypes.get_errno() if getattr(libc, name)(*arguments) else 0)
call("unshare", 0x10000000 | 0x20000)  # CLONE_NEWUSER, CLONE_NEWNS
call("mount", None, b"/", None, 0x4000 | 0x80000, None)  # MS_REC, MS_SLAVE
call("umount2", sys.argv[1].encode(), 2)  # MNT_DETACH
print("owner", os.stat("/").st_uid)
call("setns", own, 0x20000)
"""


def test_why_its_daemon_stays(
    user: CommandLine, inside: CommandLine, archive: Path, where: Path
) -> None:
    """With a user namespace of its own it could leave, but neither let go nor come back."""
    inside.run("mount", "--ro", archive, where)
    prefix = [*inside.prefix, sys.executable, "-c", LEAVE, str(where)]
    told = subprocess.run(prefix, check=True, capture_output=True, text=True).stdout.splitlines()
    overflow = Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii").strip()
    assert told == [
        "unshare 0",
        "mount 0",
        "umount2 22",  # EINVAL: the mounts of a copy are locked
        f"owner {overflow}",  # the owners of lower directories cannot be told
        "setns 1",  # EPERM: to unmount when it is asked to end
    ]
    inside.run("umount", where)
    assert user.records() == []
