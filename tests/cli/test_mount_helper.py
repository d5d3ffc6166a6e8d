"""mount(8), umount(8) and findmnt(8) with our helpers, and lines of fstab."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mount8 import System, own_system
from support.mounting import COMMAND
from support.users import BECOME

pytestmark = pytest.mark.needs("fuse", "root", "unshare", "findmnt", "nsenter")


PLACES = ("UNIONMOUNT_ROOT", "UNIONMOUNT_RUNTIME_DIR")


@pytest.fixture
def here(public_tmp: Path) -> Iterator[System]:
    with own_system(public_tmp) as made:
        yield made


@pytest.fixture
def image(public_tmp: Path) -> Path:
    layers = [Layer().file("etc/motd", b"hello\n"), Layer().file("etc/new", b"new\n")]
    return docker_archive(public_tmp / "image.tar", layers)


@pytest.fixture
def where(public_tmp: Path) -> Path:
    (public_tmp / "mnt").mkdir()
    return public_tmp / "mnt"


def loaded(here: System, image: Path) -> str:
    """The image in the store, by its name."""
    here.run(*COMMAND, "load", "-q", "-i", image)
    here.run(*COMMAND, "tag", image_id(here), "site:1")
    return "site:1"


def image_id(here: System) -> str:
    return here.run(*COMMAND, "images", "-q").stdout.split()[0]


def motd(here: System, where: Path) -> str:
    return here.run("cat", where / "etc/motd").stdout


@pytest.mark.parametrize("kind", ["unionmount", "fuse.unionmount"])
def test_an_image_is_mounted_read_only(here: System, image: Path, where: Path, kind: str) -> None:
    here.silent("mount", "-t", kind, image, where)
    found = here.mounted(where)
    assert (found["SOURCE"], found["FSTYPE"]) == (str(image), "fuse.unionmount")
    assert {"ro", "nosuid", "nodev"} <= set(found["VFS-OPTIONS"].split(","))
    assert motd(here, where) == "hello\n"
    here.run("touch", where / "made", status=1)
    here.silent("umount", where)
    assert not here.mounted(where)
    assert here.run(*COMMAND, "ps", "-aq").stdout == ""  # no container was made


def test_a_container_is_made_once_and_mounted_again(here: System, image: Path, where: Path) -> None:
    name = loaded(here, image)
    here.fstab.write_text(f"{name} {where} unionmount name=www,pull=never 0 0\n", encoding="ascii")
    here.silent("mount", "-a", "-T", here.fstab)
    here.run("cp", "/dev/null", where / "kept")
    here.silent("umount", where)
    here.silent("mount", "-a", "-T", here.fstab)
    here.run("test", "-e", where / "kept")
    here.silent("umount", where)
    told = here.run("mount", "-t", "unionmount", image, where, "-o", "name=www", status=32).stderr
    assert f"container www is not one of {image}: its image is site:1" in told


def test_everything_of_fstab_is_mounted_once(here: System, image: Path, where: Path) -> None:
    name = loaded(here, image)
    second, bad = where.parent / "second", where.parent / "bad"
    second.mkdir()
    bad.mkdir()
    lines = [
        f"{name} {where} unionmount defaults,nofail,_netdev,users,x-systemd.automount 0 0",
        f"{name} {bad} unionmount rw,naem=x 0 0",
        f"{image} {second} fuse.unionmount ro,layer=0,noatime 0 2",
        f"{name} /nowhere unionmount noauto 0 0",
    ]
    here.fstab.write_text("\n".join(lines) + "\n", encoding="ascii")
    told = here.run("mount", "-a", "-T", here.fstab, status=64).stderr  # some succeeded
    assert told == "mount.unionmount: unknown option naem=x; did you mean name=?\n"
    assert here.mounted(where)["SOURCE"] == name
    assert not here.mounted(bad)
    assert here.mounted(second)["SOURCE"] == str(image)
    here.run("test", "-e", where / "etc/new")
    here.run("test", "-e", second / "etc/new", status=1)
    daemons = here.run(*COMMAND, "ps", "-q").stdout
    assert daemons.count("\n") == 2
    here.run("findmnt", "--verify", "--tab-file", here.fstab)  # warnings alone
    here.run("mount", "-a", "-T", here.fstab, status=32)  # the bad line alone was tried
    assert here.run(*COMMAND, "ps", "-q").stdout == daemons


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        ("ephemeral,uper=/x", 1, "unknown option uper=/x; did you mean upper=?"),
        ("pull=allways", 1, "'allways' is none of always, missing, never; did you mean always?"),
        ("layer=top", 1, "option layer: 'top' is no number"),
        ("name=", 1, "option name needs a value"),
        ("qwertyuiop", 1, "unknown option qwertyuiop (see unionmount mount --help)"),
        ("strictatime", 1, "option strictatime is refused: reads that the kernel answers"),
        ("ro,name=web", 1, "name= cannot be combined with ro: "),
        ("volatile", 1, "volatile needs a place for changes: name=, upper= or ephemeral"),
        ("layer=0,ephemeral", 1, "ephemeral cannot be combined with layer=, which mounts"),
        ("name=web,upper=/x", 1, "name= cannot be combined with upper=, which keeps"),
        ("upper_open", 1, "upper_open needs upper="),
        ("upper=/usr", 32, "or accept it with upper_open"),
        ("layer=99", 32, "the image has 2 layers, 0 to 1"),
        ("platform=linux/amd46", 32, "is for linux/amd64, not linux/amd46"),
        ("platform=linux-amd64", 1, "write OS/ARCH[/VARIANT]"),
        ("layer=7", 32, "7"),
        ("store=/dev/null/x", 32, "/dev/null"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_mounted(
    here: System, image: Path, where: Path, options: str, status: int, told: str
) -> None:
    done = here.run("mount", "-t", "unionmount", image, where, "-o", options, status=status)
    assert told in done.stderr
    assert done.stderr.startswith("mount.unionmount: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not here.mounted(where)
    assert here.run(*COMMAND, "ps", "-aq").stdout == ""


def test_changes_go_where_the_options_say(here: System, image: Path, where: Path) -> None:
    upper, store = where.parent / "up,per", where.parent / "another"
    options = f'upper="{upper}",volatile,store={store}'
    here.silent("mount", "-t", "unionmount", image, where, "-o", options)
    here.run("touch", where / "made")
    here.silent("umount", where)
    assert (upper / "made").exists()
    here.silent("mount", "-t", "unionmount", image, where, "-o", "ephemeral,allow_suid,allow_dev")
    assert not {"nosuid", "nodev"} & set(here.mounted(where)["VFS-OPTIONS"].split(","))
    here.run("touch", where / "made")
    here.silent("umount", where)


def test_flags_of_the_helper(here: System, image: Path, where: Path) -> None:
    command = ("mount", "-t", "unionmount", image, where)
    here.run(*command, "-f")
    assert not here.mounted(where)
    here.run(*command, "-f", "-o", "naem=x", status=1)
    here.silent(*command, "-s", "-n", "-o", "naem=x")
    here.silent("umount", where)
    assert f"{image} mounted on {where}" in here.run(*command, "-v").stdout
    here.silent("umount", where)
    (pid,) = (word for word in here.prefix if word.isdecimal())
    helper = Path("/sbin/mount.unionmount")
    outside = here.run("readlink", "-f", helper).stdout.strip()
    here.prefix, inner = (), here.prefix
    here.silent(outside, image, where, "-N", pid)
    here.prefix = inner
    assert here.mounted(where)
    assert not os.path.ismount(where)
    here.run(helper, image, status=1)
    here.run(helper, image, where, "-t", "ext4", status=1)


def modes(here: System, where: Path) -> list[str]:
    """The modes that commands print."""
    (listed,) = json.loads(here.run(*COMMAND, "ps", "--format", "json").stdout)
    (told,) = json.loads(here.run(*COMMAND, "inspect", where).stdout)
    shown = here.run(*COMMAND, "ps", "--format", "{{.Mode}}").stdout.strip()
    return [listed["mode"], told["State"]["Mode"], shown]


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_with_hardly_any_environment(
    here: System, image: Path, where: Path, tmp_path: Path, closed: str
) -> None:
    """As systemd starts it: without HOME, and here without PATH and standard streams."""
    words = ["env", "-i", "PATH="]
    words += [f"{name}={here.environment[name]}" for name in PLACES]
    script = f'exec "$@" {closed}'
    mount = [*words, "/bin/mount", "-t", "unionmount", str(image), str(where)]
    here.run("sh", "-c", script, "sh", *mount, "-o", f"upper={tmp_path}/upper")
    assert motd(here, where) == "hello\n"
    here.run("sh", "-c", script, "sh", *words, "/bin/umount", "-c", where)
    assert not here.mounted(where)
    here.run("sh", "-c", script, "sh", *mount, "-o", "naem=x", status=1)


def test_a_store_on_a_read_only_disk(
    here: System, image: Path, where: Path, tmp_path: Path
) -> None:
    name = loaded(here, image)
    store = here.environment["UNIONMOUNT_ROOT"]
    here.run("mount", "--bind", store, store)
    here.run("mount", "-o", "remount,bind,ro", store)
    mount = ("mount", "-t", "unionmount", name, where)
    told = here.run(*mount, status=32).stderr
    assert f"{store}/lock: Read-only file system; choose another store" in told
    here.environment["UNIONMOUNT_ADDITIONAL_STORES"] = store
    here.silent(*mount, "-o", f"ephemeral,store={tmp_path}/store")
    assert motd(here, where) == "hello\n"
    here.silent("umount", "-c", where)
    here.run("umount", store)


def test_a_remount_is_done_or_refused(here: System, image: Path, where: Path) -> None:
    name = loaded(here, image)
    here.fstab.write_text(f"{name} {where} unionmount name=www,noexec 0 0\n", encoding="ascii")
    here.silent("mount", "-T", here.fstab, where)
    remount = ("mount", "-T", here.fstab, where, "-o")
    here.silent(*remount, "remount,ro")
    assert {"ro", "noexec", "nosuid"} <= set(here.mounted(where)["VFS-OPTIONS"].split(","))
    assert "ro" in here.mounted(where)["FS-OPTIONS"].split(",")
    here.run("touch", where / "made", status=1)
    assert modes(here, where) == ["ro"] * 3
    here.silent(*remount, "remount,rw,exec")
    assert modes(here, where) == ["rw"] * 3
    found = here.mounted(where)["VFS-OPTIONS"].split(",")
    assert {"rw", "nosuid", "nodev"} <= set(found)
    assert "noexec" not in found
    here.run("touch", where / "made")
    holder = here.run(
        "sh", "-c", f"exec 9>{where}/open; mount {where} -o remount,ro 2>&1", status=32
    )
    assert "open for writing" in holder.stdout
    for wrong in ("relatime", "volatile", "upper=/x", "dirsync", "naem=x"):
        told = here.run("mount", "-o", f"remount,{wrong}", where, status=32).stderr
        assert f"{wrong} can't change" in told
    here.run("touch", where / "made")
    part = where.parent / "part"
    part.mkdir()
    here.silent("mount", "--bind", where / "etc", part)
    here.silent("mount", "-o", "remount,ro", part)  # the same file system
    here.run("touch", where / "made", status=1)
    here.silent("mount", "-o", "remount,rw", part)
    here.silent("umount", "-c", part)
    here.silent("mount", "-o", "remount,bind,ro", where)  # the mount alone, without our helper
    assert modes(here, where) == ["ro"] * 3


def test_a_read_only_mount_does_not_become_writable(here: System, image: Path, where: Path) -> None:
    here.silent("mount", "-t", "unionmount", image, where)
    told = here.run("mount", "-o", "remount,rw", where, status=32).stderr
    assert "no place for changes" in told
    here.silent("mount", "-o", "remount,ro", where)
    assert motd(here, where) == "hello\n"
    told = here.run(
        "/sbin/mount.unionmount", "x", where.parent, "-o", "remount,ro", status=32
    ).stderr
    assert "no image is mounted there" in told


@pytest.mark.needs("ordinary-user")
def test_users_get_no_set_user_id_programs(here: System, image: Path, where: Path) -> None:
    of_root = dict(here.environment)
    here.give(where)
    for option in ("allow_suid", "allow_dev"):
        line = f"{image} {where} unionmount users,noauto,suid,dev,{option} 0 0\n"
        here.fstab.write_text(line, encoding="ascii")
        assert "only root" in here.run("mount", where, as_user=BECOME, status=32).stderr
    here.fstab.write_text(f"{image} {where} unionmount users,noauto,suid,dev 0 0\n")
    here.silent("mount", where, as_user=BECOME)
    assert {"nosuid", "nodev"} <= set(here.mounted(where)["VFS-OPTIONS"].split(","))
    here.silent("umount", where, as_user=BECOME)
    here.environment = of_root


@pytest.mark.needs("ordinary-user")
def test_a_line_for_users(here: System, image: Path, where: Path) -> None:
    of_root = dict(here.environment)
    here.give(where)
    line = f"{image} {where} unionmount users,noauto,ephemeral,exec 0 0\n"
    here.fstab.write_text(line, encoding="ascii")
    user = BECOME
    here.silent("mount", where, as_user=user)
    assert here.mounted(where)["SOURCE"] == str(image)
    here.run("touch", where / "made", as_user=user)
    own, here.environment = here.environment, of_root
    here.silent("mount", "-o", "remount,ro", where)  # by root, who has no record of it
    here.run("touch", where / "more", as_user=user, status=1)
    assert "only the user" in here.run("mount", "-o", "remount,rw", where, status=32).stderr
    here.environment = own
    here.silent("umount", where, as_user=user)
    assert not here.mounted(where)
    here.environment = of_root
