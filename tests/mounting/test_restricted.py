"""Where something is missing: the device, its mode, the capability, fusermount3; in containers."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.containers import Podman, podman
from support.mount8 import open_python
from support.mounting import CommandLine
from support.users import BECOME, NOBODY, become_nobody

from unionmount.mounting.advice import container_flags

FLAGS = "--device /dev/fuse --cap-add SYS_ADMIN"


@pytest.fixture
def image(public_tmp: Path) -> Path:
    return docker_archive(
        public_tmp / "image.tar", [Layer().file("etc/motd", b"hello\n", owner=(12, 0))]
    )


@pytest.fixture
def where(public_tmp: Path) -> Path:
    (public_tmp / "mnt").mkdir()
    os.chown(public_tmp / "mnt", NOBODY, NOBODY)
    return public_tmp / "mnt"


def line(public_tmp: Path, *prefix: str) -> CommandLine:
    """The command line with a store of its own, behind programs that take something away."""
    places = {}
    for name in ("UNIONMOUNT_ROOT", "UNIONMOUNT_RUNTIME_DIR"):
        place = public_tmp / name.lower()
        place.mkdir(exist_ok=True)
        places[name] = str(place)
        if any("setpriv" in word for word in prefix) and "--reuid=65534" in prefix:
            os.chown(place, NOBODY, NOBODY)
    return CommandLine(prefix, places)


def changed(script: str) -> tuple[str, ...]:
    """In a mount namespace that a script changed."""
    return ("unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh")


NO_CAPABILITY = ("setpriv", "--bounding-set=-sys_admin")
OPEN = (
    "mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229 && "
    "mount --bind /mnt/fuse /dev/fuse"
)


# ---- one line that says what is missing ----------------------------------------------------------


@pytest.mark.needs("root", "unshare", "ordinary-user")
def test_a_device_that_is_closed_to_the_user(public_tmp: Path, image: Path, where: Path) -> None:
    script = OPEN.replace("666", "600")
    user = line(public_tmp, *changed(script), *become_nobody())
    told = user.error("mount", "--ro", image, where)
    assert told.startswith("/dev/fuse: Permission denied (its mode is 0600; root can open it: ")
    # what the line says can be run, and helps
    _, _, advice = told.partition("root can open it: ")
    now, _, forever = advice.rstrip(")").partition(", and for good: ")
    assert forever == """echo 'KERNEL=="fuse", MODE="0666"' >/etc/udev/rules.d/99-fuse.rules"""
    rule = forever.replace("/etc/udev/rules.d/99-fuse.rules", str(public_tmp / "99-fuse.rules"))
    subprocess.run(["sh", "-c", rule], check=True)
    assert (public_tmp / "99-fuse.rules").read_text() == 'KERNEL=="fuse", MODE="0666"\n'
    opened = line(public_tmp, *changed(f"{script} && {now}"), *become_nobody())
    assert opened.run("mount", "--ro", image, where, "--", "cat", where / "etc/motd").stdout


@pytest.mark.needs("root", "unshare", "ordinary-user")
def test_a_fusermount3_that_gains_nothing(public_tmp: Path, image: Path, where: Path) -> None:
    copy = "cp /usr/bin/fusermount3 /mnt/ && chmod 755 /mnt/fusermount3"
    bind = "mount --bind /mnt/fusermount3 /usr/bin/fusermount3"
    user = line(public_tmp, *changed(f"{OPEN} && {copy} && {bind}"), *become_nobody())
    message = user.error("mount", "--ro", image, where)
    assert "fusermount3 is not set-user-ID root; as root: chown root /" in message
    user = line(public_tmp, *changed(OPEN), "setpriv", "--no-new-privs", *become_nobody())
    message = user.error("mount", "--ro", image, where)
    assert "was started with no_new_privs" in message


@pytest.mark.needs("root", "unshare", "ordinary-user")
def test_without_fusermount3(public_tmp: Path, image: Path, where: Path) -> None:
    without = ("/usr/bin/env", f"PATH={public_tmp}")
    script = f"{OPEN} && {open_python(public_tmp)}"
    user = line(public_tmp, *changed(script), *BECOME, *without)
    message = user.error("mount", "--ro", image, where)
    assert message.startswith("fusermount3 is not installed")
    assert "as root: apt-get install fuse3" in message
    assert "unshare -Urm unionmount mount … -- COMMAND" in message
    # which is tried here, too
    words = ("mount", "--ro", image, where, "--", "/bin/cat", where / "etc/motd")
    root = line(public_tmp, *changed(script), *BECOME, "unshare", "-Urm", *without)
    assert root.run(*words).stdout == "hello\n"


@pytest.mark.parametrize(
    ("files", "environment", "told"),
    [
        (("run/.containerenv",), {}, f"podman run {FLAGS}"),
        ((".dockerenv",), {}, f"docker run {FLAGS} --security-opt apparmor=unconfined"),
        ((), {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "securityContext: {privileged: true}"),
        (("var/run/secrets/kubernetes.io/x",), {}, "securityContext: {privileged: true}"),
        ((".dockerenv",), {"GITLAB_CI": "true"}, 'devices = ["/dev/fuse"]'),
        ((".dockerenv",), {"GITHUB_ACTIONS": "true"}, f"container: {{options: {FLAGS}"),
        ((), {"GITHUB_ACTIONS": "true"}, ""),
        ((), {}, ""),
    ],
)
def test_every_kind_of_container_has_its_flags(
    tmp_path: Path, files: tuple[str, ...], environment: dict[str, str], told: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    flags = container_flags(environment, tmp_path)
    assert told in flags
    assert bool(told) == bool(flags)


# ---- in a user namespace -------------------------------------------------------------------------


@pytest.mark.needs("fuse", "root", "setpriv", "unshare")
def test_root_without_the_capability_mounts_for_a_command(
    public_tmp: Path, image: Path, where: Path
) -> None:
    root = line(public_tmp, *NO_CAPABILITY)
    message = root.error("mount", "--ro", image, where)
    assert "CAP_SYS_ADMIN" in message
    assert "unionmount mount … -- COMMAND" in message
    script = f"stat -c '%u %U' {where}/etc/motd; cat {where}/etc/motd; echo new >{where}/made"
    done = root.run("mount", "--name", "web", image, where, "--", "sh", "-c", script)
    assert done.stdout.split()[0] == "12"  # users are what they are
    assert done.stdout.endswith("\nhello\n")
    assert root.run("diff", "web").stdout == "A /made\n"
    assert not os.path.ismount(where)
    assert root.records() == []


@pytest.mark.needs("fuse", "root", "setpriv", "unshare")
def test_root_that_may_map_nobody_else(public_tmp: Path, image: Path, where: Path) -> None:
    root = line(public_tmp, "setpriv", "--bounding-set=-sys_admin,-setuid,-setgid")
    words = ("--", "cat", where / "etc/motd", "/proc/self/uid_map")
    done = root.run("mount", "--ephemeral", image, where, *words)
    assert done.stdout.split() == ["hello", "0", "0", "1"]


@pytest.mark.needs("fuse", "root", "setpriv", "unshare")
def test_where_user_namespaces_are_forbidden(public_tmp: Path, image: Path, where: Path) -> None:
    limit = "echo 0 >/proc/sys/user/max_mnt_namespaces"
    # the limit is one of the user namespace in which it is set
    prefix = ("unshare", "-Ur", "sh", "-c", f'{limit} && exec "$@"', "sh", *NO_CAPABILITY)
    message = line(public_tmp, *prefix).error("mount", "--ro", image, where, "--", "true")
    assert "CAP_SYS_ADMIN" in message
    assert "COMMAND" not in message


# ---- in containers of podman ---------------------------------------------------------------------


@pytest.fixture
def containers(public_tmp: Path) -> Iterator[Podman]:
    with podman(public_tmp / "podman") as made:
        yield made


MOUNT = "unionmount mount --ro {image} /mnt && cat /mnt/etc/motd && unionmount umount /mnt"
WITH_COMMAND = "unionmount mount --ephemeral {image} /mnt -- cat /mnt/etc/motd"


@pytest.mark.needs("fuse", "root", "podman", "runc")
def test_in_a_container(containers: Podman, image: Path) -> None:
    path = containers.put(image)
    mount, with_command = MOUNT.format(image=path), WITH_COMMAND.format(image=path)
    told = containers.run(mount, status=1).stderr
    expected = "/dev/fuse: No such file or directory (start the container with: podman run"
    assert expected in told
    assert told.rstrip(")\n").endswith(FLAGS)
    device = ("--device", "/dev/fuse")
    told = containers.run(mount, *device, status=1).stderr
    assert f"podman run {FLAGS}; or mount for one command only" in told
    assert containers.run(with_command, *device).stdout == "hello\n"
    # exactly what the message says
    assert containers.run(mount, *FLAGS.split()).stdout == "/mnt\nhello\n"
    assert containers.run(with_command, *FLAGS.split()).stdout == "hello\n"
    assert stat.S_ISCHR(os.stat("/dev/fuse").st_mode)
