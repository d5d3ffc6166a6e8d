"""``share``: others read the images of a store, and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine, own_places
from support.users import NOBODY, become_nobody

from unionmount.store.sharing import Readers, Sharing

pytestmark = pytest.mark.needs("root")

_GROUP = 54321  # of no user


def _image(path: Path, name: str) -> Path:
    layers = [Layer().file(f"{name}-file", os.urandom(5000)), Layer().file("top", b"top")]
    return docker_archive(path, layers, f"example.org/{name}:1")


@pytest.fixture
def owner(public_tmp: Path) -> CommandLine:
    """Root's command line, whose store others can get to."""
    top = public_tmp / "owner"
    top.mkdir(mode=0o755)
    return CommandLine((), own_places(top))


class Reader(CommandLine):
    """An ordinary user, in a group if it is asked for, who reads that store."""

    def __init__(self, public_tmp: Path, group: int | None = None) -> None:
        home = public_tmp / f"home-{group}"
        home.mkdir()
        home.chmod(0o777)
        words = become_nobody()
        assert "--clear-groups" in words
        if group is not None:
            words = tuple(f"--groups={group}" if one == "--clear-groups" else one for one in words)
        shared = {"UNIONMOUNT_ADDITIONAL_STORES": str(public_tmp / "owner/store")}
        super().__init__(words, own_places(home) | {"HOME": str(home)} | shared)
        # A user who may read everything (see become_nobody) would prove nothing.
        self.reads_all = any("dac_read_search" in one for one in words)


def _modes(store: Path) -> dict[str, str]:
    found = {}
    for directory, names, files in os.walk(store):
        for name in [*names, *files]:
            path = Path(directory, name)
            status = path.lstat()
            kind = stat.filemode(status.st_mode)
            found[str(path.relative_to(store))] = f"{kind} {status.st_gid}"
    return found


def test_a_group_reads_what_is_there_and_what_comes(owner: CommandLine, public_tmp: Path) -> None:
    store = public_tmp / "owner/store"
    owner.run("load", _image(public_tmp / "a.tar", "a"))
    assert owner.run("share").stdout == f"{store}: not shared\n"
    shown = owner.run("share", "--group", str(_GROUP))
    assert (shown.stdout, shown.stderr) == (f"{store}: shared with group {_GROUP}\n", "")
    owner.run("load", _image(public_tmp / "b.tar", "b"))
    owner.run("tag", "example.org/b:1", "example.org/c:1")
    member = Reader(public_tmp, _GROUP)
    for name, file in (("a", "a-file"), ("b", "b-file"), ("c", "top")):
        assert file in member.run("ls", f"example.org/{name}:1").stdout
    assert member.run("check", "example.org/b:1").stdout == ""
    for path, mode in _modes(store).items():
        top = path.partition("/")[0]
        is_shared = top in ("layers", "blobs", "images.json", "version", "shared")
        group = mode[4:7]
        assert mode[7:10] == "---", path
        assert group == (("r-x" if mode[0] == "d" else "r--") if is_shared else "---"), path
        assert mode.endswith(f" {_GROUP}") == is_shared, path
    other = Reader(public_tmp)
    if not other.reads_all:
        assert "Permission denied" in other.error("images")


def test_everybody_and_nobody(owner: CommandLine, public_tmp: Path) -> None:
    store = public_tmp / "owner/store"
    owner.run("load", _image(public_tmp / "a.tar", "a"))
    before = _modes(store)
    assert owner.run("share", "--everybody").stdout == f"{store}: shared with everybody\n"
    reader = Reader(public_tmp)
    assert "a-file" in reader.run("ls", "example.org/a:1").stdout
    assert owner.run("share", "--off").stdout == f"{store}: not shared\n"
    assert _modes(store) == before
    if not reader.reads_all:
        assert "Permission denied" in reader.error("images")


@pytest.mark.needs("fuse")
def test_containers_stay_private(owner: CommandLine, public_tmp: Path) -> None:
    where = public_tmp / "mnt"
    where.mkdir()
    owner.run("load", _image(public_tmp / "a.tar", "a"))
    owner.run("share", "--everybody")
    owner.run("mount", "--name", "work", "example.org/a:1", where)
    (where / "secret").write_text("mine")
    owner.run("umount", where)
    owner.run("commit", "work", "example.org/made:1")
    reader = Reader(public_tmp)
    assert "secret" in reader.run("ls", "example.org/made:1").stdout
    containers = public_tmp / "owner/store/containers"
    assert stat.filemode(containers.stat().st_mode) == "drwx------"
    # The store is not less private for mounts, which refuse uppers that others can reach.
    owner.run("mount", "work", where)
    owner.run("umount", where)


def test_an_index_that_is_made_again_is_shared(owner: CommandLine, public_tmp: Path) -> None:
    store = public_tmp / "owner/store"
    owner.run("load", _image(public_tmp / "a.tar", "a"))
    owner.run("share", "--everybody")
    for path in store.glob("layers/*/*/layer.idx"):
        path.unlink()
    owner.run("ls", "example.org/a:1")
    indexes = list(store.glob("layers/*/*/layer.idx"))
    assert len(indexes) == 2
    assert {stat.filemode(path.stat().st_mode) for path in indexes} == {"-rw-r--r--"}


def test_what_is_wrong_is_said(owner: CommandLine, public_tmp: Path) -> None:
    owner.run("load", _image(public_tmp / "a.tar", "a"))
    assert "no group 'nosuch'" in owner.error("share", "--group", "nosuch", status=2)
    assert "choose one of" in owner.error("share", "--everybody", "--off", status=2)
    (public_tmp / "owner").chmod(0o700)
    told = owner.run("share", "--everybody").stderr
    assert f"they cannot enter {public_tmp}/owner yet; 'chmod a+x'" in told
    (public_tmp / "owner/store/shared").write_text("nonsense")
    assert "use 'unionmount share' again" in owner.error("load", _image(public_tmp / "b.tar", "b"))
    owner.run("share", "--off")


def test_a_group_that_is_not_the_users(public_tmp: Path) -> None:
    user = Reader(public_tmp)
    user.environment.pop("UNIONMOUNT_ADDITIONAL_STORES")
    assert user.run("images").returncode == 0
    error = user.error("share", "--group", str(_GROUP))
    assert "Operation not permitted" in error
    assert user.run("share").stdout.endswith(": not shared\n")
    assert user.run("share", "--group", str(NOBODY)).returncode == 0


def test_data_that_comes_while_sharing_ends(public_tmp: Path) -> None:
    """What was opened before, and appears after ``share --off``, is closed again."""
    sharing = Sharing(public_tmp)
    (public_tmp / "layers").mkdir()
    (public_tmp / "blobs").mkdir()
    new = public_tmp / "file"
    new.write_bytes(b"")
    sharing.share(Readers())
    before = sharing.open_up(new)
    assert stat.filemode(new.stat().st_mode) == "-rw-r--r--"
    sharing.end()
    appeared = new.rename(public_tmp / "blobs/file")
    sharing.settle(appeared, before)
    assert stat.filemode(appeared.stat().st_mode) == "-rw-------"
    sharing.share(Readers())
    sharing.settle(appeared, None)
    assert stat.filemode(appeared.stat().st_mode) == "-rw-r--r--"
