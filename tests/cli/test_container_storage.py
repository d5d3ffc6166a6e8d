"""``containers-storage:NAME``: images of podman's store, mounted where they are.

podman is the oracle: of the files (find and getfattr of ``podman image mount``), and of what it
refuses while an image is mounted here.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.container_storage import FIND, PodmanStore, podman_store, rootless_store
from support.mounting import COMMAND, Process, unmounting
from support.rootless import UID
from support.running import Runner, program_image

pytestmark = pytest.mark.needs("root", "fuse", "podman", "buildah")

IMAGE = "containers-storage:localhost/second"


@pytest.fixture(scope="module")
def store() -> Iterator[PodmanStore]:
    with podman_store() as made:
        made.build()
        yield made


@pytest.fixture
def line(store: PodmanStore, tmp_path: Path) -> Iterator[Runner]:
    made = Runner(tmp_path, environment=store.environment)
    with unmounting(made):
        yield made
        for record in made.records():  # ends also where a namespace of others has the mount, too
            if record["status"] == "live":
                made.run("umount", "--kill", record["id"])
    assert store.containers() == []


def found(place: Path) -> str:
    """Return what find and getfattr say of a directory."""
    done = subprocess.run(["bash", "-c", FIND], cwd=place, capture_output=True, check=True)
    return os.fsdecode(done.stdout).rstrip("\n")


def mounted(line: Runner, tmp_path: Path, *options: str, image: str = IMAGE) -> Path:
    place = tmp_path / "mnt"
    line.output("mount", "--mkdir", *options, image, place)
    return place


def test_files_are_those_of_podman(store: PodmanStore, line: Runner, tmp_path: Path) -> None:
    place = mounted(line, tmp_path, "--ro")
    ours, theirs = found(place).splitlines(), store.listed("localhost/second").splitlines()
    assert len(ours) > 20
    assert ours == theirs


@pytest.mark.parametrize("word", ["second", "localhost/second:latest", "ID", "@ID", "second@ID"])
def test_names_are_those_of_skopeo(store: PodmanStore, line: Runner, word: str) -> None:
    image = store.run("podman", "images", "-q", "--no-trunc", "localhost/second").strip()
    word = word.replace("ID", image.removeprefix("sha256:")[:12])
    shown = json.loads(line.output("inspect", f"containers-storage:{word}"))
    assert shown[0]["Id"] == image
    layers = json.loads(store.run("podman", "image", "inspect", "localhost/second"))
    assert shown[0]["RootFS"]["Layers"] == layers[0]["RootFS"]["Layers"]


def test_a_store_is_named(store: PodmanStore, line: Runner, tmp_path: Path) -> None:
    other = Runner(tmp_path / "other", environment={"CONTAINERS_STORAGE_CONF": os.devnull})
    with unmounting(other):
        word = f"containers-storage:[overlay@{store.top}/g+{store.top}/r]localhost/second"
        assert other.output("ls", word) == line.output("ls", IMAGE)
        place = tmp_path / "mnt"
        other.output("mount", "--ro", "--mkdir", word, place)
        assert len(store.containers()) == 1
        other.output("umount", place)
    assert store.containers() == []


def test_commands_read_it(store: PodmanStore, line: Runner, tmp_path: Path) -> None:
    place = mounted(line, tmp_path, "--ro")
    listed = line.output("find", IMAGE, "-printf", r"%p %y %m %U:%G\n")
    ours = {row for row in listed.splitlines() if not row.startswith("/ ")}
    script = r"find . -mindepth 1 -printf '/%P %y %m %U:%G\n'"
    theirs = subprocess.run(script, shell=True, cwd=place, capture_output=True, check=True)
    assert ours == set(os.fsdecode(theirs.stdout).splitlines())
    assert line.output("cat", f"{IMAGE}:/closed/secret") == "secret\n"
    assert line.output("grep", "-r", "above", IMAGE, "/opaque") == "/opaque/above:above\n"
    line.output("cp", f"{IMAGE}:/etc", tmp_path / "etc")
    assert (tmp_path / "etc/changed").read_text() == "new\n"
    changes = line.run("diff", "containers-storage:first", IMAGE, status=1).stdout.splitlines()
    assert {"D /gone", "C /etc/changed", "A /opaque/above", "D /opaque/below"} <= set(changes)


def test_what_it_is_made_of(store: PodmanStore, line: Runner) -> None:
    rows = json.loads(line.output("layers", "--format", "json", IMAGE))
    history = json.loads(store.run("podman", "image", "history", "--format", "json", "second"))
    assert [row["size"] for row in rows] == [
        row["size"] for row in reversed(history) if row["size"]
    ]
    for words in (
        ["layers", IMAGE, "1"],
        ["layers", IMAGE, "--top", "3"],
        ["which", IMAGE, "/etc/base"],
        ["find", "--all-layers", IMAGE],
        ["ls", "--all-layers", IMAGE],
        ["grep", "--all-layers", "x", IMAGE],
        ["mount", "--layers", IMAGE],
    ):
        assert f"unionmount load {IMAGE}" in line.error(*words, status=2)


def test_podman_keeps_what_is_mounted(store: PodmanStore, line: Runner, tmp_path: Path) -> None:
    place = mounted(line, tmp_path, "--ro")
    (hold,) = store.containers()
    assert line.record(place)["hold"] == f"buildah container {hold}"
    assert line.record(place)["source"] == IMAGE
    refused = store.call("podman", "rmi", "localhost/second")
    assert refused.returncode
    assert "in use by a container" in refused.stderr
    store.run("podman", "tag", "localhost/first", "localhost/keep")  # not for prune to take
    store.run("podman", "container", "prune", "-f")
    store.run("podman", "run", "--help")
    assert (place / "etc/changed").read_text() == "new\n"
    line.output("umount", place)
    assert store.containers() == []


def test_podman_holds_without_buildah(store: PodmanStore, line: Runner, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("podman", "crun", "runc", "fusermount3"):
        for directory in os.environ["PATH"].split(":"):
            if Path(directory, name).exists() and not (programs / name).exists():
                (programs / name).symlink_to(Path(directory, name))
    line.environment["PATH"] = str(programs)
    place = mounted(line, tmp_path, "--ro")
    assert line.record(place)["hold"].startswith("podman container ")
    assert store.call("podman", "rmi", "localhost/second").returncode
    line.output("umount", place)
    volume: dict[str, Any] = {"Volumes": {"/data": {}}}
    # podman makes a volume for each VOLUME of an image, also if its container never runs
    image = docker_archive(tmp_path / "a.tar", [Layer()], "volume:1", config=volume)
    store.run("podman", "load", "-q", "-i", str(image))
    place = mounted(line, tmp_path, "--ro", image="containers-storage:volume:1")
    assert len(store.run("podman", "volume", "ls", "-q").split()) == 1
    line.output("umount", place)
    assert store.run("podman", "volume", "ls", "-q") == ""
    store.run("podman", "rmi", "volume:1")


def test_without_a_tool_it_is_said(line: Runner, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    line.environment["PATH"] = str(tmp_path / "bin")
    place = tmp_path / "mnt"
    done = line.run("mount", "--ro", "--mkdir", IMAGE, place)
    assert done.stderr.count("\n") == 1
    assert "none of buildah, podman is installed" in done.stderr
    assert line.record(place)["hold"] == ""


@pytest.mark.parametrize("both", [False, True], ids=["daemon", "and-keeper"])
def test_a_killed_mount_lets_go(
    store: PodmanStore, line: Runner, tmp_path: Path, *, both: bool
) -> None:
    place = mounted(line, tmp_path, "--ro")
    pid = line.record(place)["pid"]
    (keeper,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    process, kept = Process(pid), Process(int(keeper))
    if both:
        os.kill(int(keeper), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    process.wait()
    kept.wait()
    assert len(store.containers()) == both
    line.output("umount", place)
    line.run("prune")
    assert store.containers() == []


@pytest.mark.parametrize("way", ["rmi", "rm"])
def test_forced_away(line: Runner, tmp_path: Path, way: str) -> None:
    with podman_store() as store:
        store.build()
        line.environment |= store.environment
        place = mounted(line, tmp_path, "--ro")
        record = line.record(place)
        before = sorted(os.listdir(place))
        store.run("podman", "image", "prune", "-af")
        assert "localhost/second" in store.run("podman", "images", "-n")
        assert (place / "closed/more").read_text() == "more\n"
        if way == "rmi":
            store.run("podman", "rmi", "-f", "localhost/second")
        else:
            for directory in (store.top / "g/overlay").glob("*/diff"):
                subprocess.run(["rm", "-rf", directory], check=True)
        for name in ("etc/changed", "links", "never-there", "closed/secret"):
            with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
                (place / name).read_bytes()
        assert "etc" in before
        assert line.record(place)["status"] == "live"
        log = Path(line.runtime_directory, "mounts", f"{record['id']}.log")
        (told,) = log.read_text().splitlines()
        assert IMAGE in told
        assert "was removed" in told
        line.run("umount", place)
        line.run("prune")
        assert store.containers() == []


def test_marks_of_an_image_lead_nowhere(line: Runner, tmp_path: Path) -> None:
    with podman_store() as store:
        store.build()
        line.environment |= store.environment
        for top in (store.top / "g/overlay").glob("*/diff"):
            for name in ("trusted.overlay.redirect", "user.overlay.redirect"):
                subprocess.run(["setfattr", "-n", name, "-v", "/closed", top / "etc"], check=True)
            for name in ("trusted.overlay.metacopy", "user.overlay.metacopy"):
                subprocess.run(["setfattr", "-n", name, "-v", "", top / "etc/base"], check=True)
        place = mounted(line, tmp_path, "--ro")
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.listdir(place / "etc")
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (place / "etc/base").read_bytes()
        line.output("umount", place)


def test_a_failed_mount_lets_go(store: PodmanStore, line: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line.error("mount", "--ro", IMAGE, tmp_path / "file")
    line.error("mount", "--upper", tmp_path / "file", IMAGE, status=1)
    assert store.containers() == []


def test_changes_are_kept(store: PodmanStore, line: Runner, tmp_path: Path) -> None:
    place = mounted(line, tmp_path, "--name", "work")
    before = store.listed("localhost/second")
    (place / "etc/changed").write_text("mine\n")
    (place / "opaque").rename(place / "moved")
    line.output("umount", place)
    assert "C /etc/changed" in line.output("diff", "work").splitlines()
    assert store.listed("localhost/second") == before
    line.output("mount", "work", place)
    assert len(store.containers()) == 1
    assert (place / "etc/changed").read_text() == "mine\n"
    assert (place / "moved/above").read_text() == "above\n"
    line.output("umount", place)
    assert line.output("check") == ""
    assert line.output("ls", "work:/moved") == "above\n"
    assert f"unionmount load {IMAGE}" in line.error("commit", "work", "made", status=2)
    line.output("load", IMAGE)
    line.run("commit", "work", "made")  # its layers are in the store now
    assert line.output("cat", "made:/etc/changed") == "mine\n"


def test_vfs_is_one_directory(line: Runner, tmp_path: Path) -> None:
    with podman_store("vfs") as store:
        store.build()
        line.environment |= store.environment
        place = mounted(line, tmp_path, "--ro")
        assert found(place) == store.listed("localhost/second")
        line.output("umount", place)
        assert store.containers() == []


@pytest.fixture(scope="module")
def rootless() -> Iterator[tuple[PodmanStore, Runner]]:
    """An ordinary user with a store, and podman's own process, whose namespace copies no mount."""
    with rootless_store() as (store, user):
        store.build()
        assert store.containers() == []
        yield store, user


@pytest.mark.needs("ordinary-user", "newuidmap")
class TestRootless:
    """The store of an ordinary user, whose files belong to subordinate IDs."""

    def test_owners_are_those_of_the_image(self, rootless: tuple[PodmanStore, Runner]) -> None:
        store, user = rootless
        theirs = store.listed("localhost/second")
        place = store.top / "home/mnt"
        user.output("mount", "--mkdir", "--ephemeral", IMAGE, place)
        ours = store.run("bash", "-c", f"cd {place}; {FIND}").rstrip("\n")
        assert "closed/secret f 600 33:44" in ours
        assert ours == theirs
        assert store.call("podman", "rmi", "localhost/second").returncode
        user.output("umount", place)
        assert store.containers() == []

    def test_commands_read_what_only_root_of_the_image_may(
        self, rootless: tuple[PodmanStore, Runner]
    ) -> None:
        _, user = rootless
        assert user.output("cat", f"{IMAGE}:/closed/secret") == "secret\n"
        listed = user.output("find", IMAGE, "-uid", "33", "-gid", "44")
        assert listed == "/closed\n/closed/secret\n"

    def test_changes_are_kept(self, rootless: tuple[PodmanStore, Runner]) -> None:
        store, user = rootless
        place = store.top / "home/work"
        user.output("mount", "--mkdir", "--name", "work", IMAGE, place)
        store.run("bash", "-c", f"cd {place}; echo more >> closed/secret; mv opaque moved")
        user.output("umount", place)
        assert store.containers() == []
        changes = user.output("diff", "work").splitlines()
        assert {"C /closed/secret", "D /opaque", "A /moved/above"} <= set(changes)
        user.output("mount", "work", place)
        assert store.run("cat", f"{place}/closed/secret") == "secret\nmore\n"
        shown = store.run("stat", "-c", "%u:%g %a", f"{place}/closed/secret")
        assert shown == "33:44 600\n"
        user.output("umount", place)

    def test_a_signal_unmounts(self, rootless: tuple[PodmanStore, Runner]) -> None:
        store, user = rootless
        place = store.top / "home/signal"
        user.output("mount", "--mkdir", "--ro", IMAGE, place)
        pid = user.record(place)["pid"]
        process = Process(pid)
        os.kill(pid, signal.SIGTERM)
        process.wait()
        assert user.records() == []
        assert store.containers() == []
        assert store.call("mountpoint", "-q", str(place)).returncode

    def test_without_its_keeper(self, rootless: tuple[PodmanStore, Runner]) -> None:
        """The daemon ends with one line in its log; what is left is cleared as after a crash."""
        store, user = rootless
        place = store.top / "home/alone"
        user.output("mount", "--mkdir", "--ro", IMAGE, place)
        record = user.record(place)
        (keeper,) = Path(f"/proc/{record['pid']}/task/{record['pid']}/children").read_text().split()
        waited = Process(int(keeper))
        os.kill(int(keeper), signal.SIGKILL)
        waited.wait()
        daemon = Process(record["pid"])
        os.kill(record["pid"], signal.SIGTERM)
        daemon.wait()
        log = (user.runtime_directory / f"mounts/{record['id']}.log").read_text()
        assert "the keeper of the mount has ended" in log
        assert "Traceback" not in log
        user.output("umount", place)
        user.run("mount", "--ro", IMAGE, place)  # releases the hold that was left
        user.output("umount", place)
        assert store.containers() == []

    def test_inside_of_podmans_namespace(self, rootless: tuple[PodmanStore, Runner]) -> None:
        _, user = rootless
        words = [*user.prefix, "podman", "unshare", *COMMAND, "cat", f"{IMAGE}:/closed/secret"]
        done = subprocess.run(
            words, env=user.environment, capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.stderr) == ("secret\n", "")

    @pytest.mark.parametrize("options", [[], ["-a"]], ids=["cp", "cp-a"])
    def test_copied_files_are_the_users(
        self, rootless: tuple[PodmanStore, Runner], options: list[str]
    ) -> None:
        store, user = rootless
        out = store.top / "home" / f"out{len(options)}"
        user.output("cp", *options, f"{IMAGE}:/closed", out)
        assert (out / "secret").read_text() == "secret\n"
        assert {path.stat().st_uid for path in (out, *out.iterdir())} == {UID}

    def test_root_leaves_nothing_in_it(
        self, rootless: tuple[PodmanStore, Runner], tmp_path: Path
    ) -> None:
        """A container that root makes would be recorded in files that the user cannot read."""
        store, _ = rootless
        words = ["podman", "info", "--format", "{{.Store.GraphDriverName}} {{.Store.GraphRoot}}"]
        driver, root = store.run(*words).split()
        line, place = Runner(tmp_path), tmp_path / "mnt"
        with unmounting(line):
            word = f"containers-storage:[{driver}@{root}]localhost/second"
            done = line.run("mount", "--ro", "--mkdir", word, place)
            assert "belongs to another user" in done.stderr
            assert done.stderr.count("\n") == 1
            assert (place / "etc/changed").read_text() == "new\n"
            line.output("umount", place)
        assert 0 not in {path.lstat().st_uid for path in Path(root).rglob("*")}
        assert store.containers() == []

    def test_containers_of_the_default_store(self, rootless: tuple[PodmanStore, Runner]) -> None:
        """In the namespace the user is root, but root's store is not meant."""
        store, user = rootless
        line = Runner(user.store.parent, prefix=user.prefix)
        line.environment = dict(user.environment)
        del line.environment["UNIONMOUNT_ROOT"]
        place = store.top / "home/default"
        line.output("mount", "--mkdir", "--name", "kept", IMAGE, place)
        line.output("umount", place)
        assert line.output("cat", "kept:/closed/secret") == "secret\n"
        line.output("rm", "kept")

    @pytest.mark.parametrize("named", [True, False], ids=["named", "default"])
    def test_it_is_loaded_into_the_users_store(
        self, rootless: tuple[PodmanStore, Runner], named: bool
    ) -> None:
        store, user = rootless
        own = dict(user.environment)
        if not named:
            del own["UNIONMOUNT_ROOT"]
        line = Runner(user.store.parent, prefix=user.prefix)
        line.environment = own
        line.output("load", IMAGE)
        image = store.run("podman", "images", "-q", "--no-trunc", "localhost/second").strip()
        assert line.output("images", "-q", "--no-trunc").strip() == image
        assert line.output("cat", "localhost/second:/closed/secret") == "secret\n"
        place = user.store if named else store.top / "home/DATA/unionmount"
        made = [place, *place.rglob("*")]
        assert place in {path.parents[3] for path in made if path.name == "layer.tar"}
        assert {path.lstat().st_uid for path in made} == {UID}

    def test_it_is_copied(self, rootless: tuple[PodmanStore, Runner]) -> None:
        store, user = rootless
        archive = store.top / "home/copy.tar"
        user.run("copy", IMAGE, f"oci-archive:{archive}")
        listed = user.output("find", archive, "-uid", "33", "-gid", "44")
        assert listed == "/closed\n/closed/secret\n"
        assert archive.stat().st_uid == UID

    @pytest.mark.needs("crun", "busybox")
    def test_a_program_runs(self, rootless: tuple[PodmanStore, Runner]) -> None:
        store, user = rootless
        store.run("podman", "load", "-q", "-i", str(program_image(store.top / "image.tar")))
        words = ["run", "--rm", "--runtime", "crun", "containers-storage:test", "cat", "/etc/group"]
        assert "extra:x:2000" in user.output(*words)
        assert store.containers() == []
