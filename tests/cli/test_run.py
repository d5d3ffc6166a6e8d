"""``run``: programs of an image in a real runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer
from support.effort import amount
from support.mounting import COMMAND
from support.running import RUNTIMES, Runner, program_image, running
from support.users import NOBODY, call_as

_SECONDS = 30.0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("fuse", "root", "busybox", *RUNTIMES),
]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The command line, with a store of this file."""
    with running(Runner(tmp_path_factory.mktemp("run"))) as made:
        yield made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that names no user and no entrypoint."""
    return program_image(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with all execution parameters."""
    return program_image(
        tmp_path_factory.mktemp("service") / "service.tar",
        Layer().file("etc/shadow", b"root:*::\n", mode=0o600).directory("data", owner=(7, 7)),
        Entrypoint=["/bin/sh", "-c"],
        Cmd=["id; pwd; echo $A $B $HOME"],
        User="app",
        WorkingDir="/srv/x",
        Env=["A=1", "B=x y", "PATH=/bin"],
        Volumes={"/data": {}},
    )


runtimes = pytest.mark.parametrize("runtime", RUNTIMES)

# ---- exit status and streams ---------------------------------------------------------------------


@runtimes
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "exit 255"), 255),
        (("nosuch",), 127),
        (("/bin/nosuch",), 127),
        (("/etc/passwd",), 126),
        (("/etc",), 126),
        (("/etc/passwd/x",), 126),
    ],
)
def test_exit_status(
    line: Runner, image: Path, runtime: str, words: tuple[str, ...], status: int
) -> None:
    done = line.run("run", "--rm", "--runtime", runtime, image, *words, status=status)
    assert done.stdout == ""
    assert done.stderr.count("\n") == (1 if status in (126, 127) else 0)
    assert not line.left()


@runtimes
def test_streams_are_apart(line: Runner, image: Path, runtime: str) -> None:
    script = "echo out; echo err >&2"
    done = line.run("run", "--rm", "--runtime", runtime, image, "sh", "-c", script)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@runtimes
def test_a_megabyte_each_way_at_once(line: Runner, image: Path, runtime: str) -> None:
    data = os.urandom(1 << 20) * 4
    script = "tee /dev/stderr"
    done = line.call(
        "run", "--rm", "-i", "--runtime", runtime, image, "sh", "-c", script, data=data
    )
    assert done.returncode == 0
    assert (done.stdout, done.stderr) == (data, data)


def test_input_is_empty_without_interactive(line: Runner, image: Path) -> None:
    done = line.call("run", "--rm", image, "cat", data=b"not for it")
    assert (done.returncode, done.stdout) == (0, b"")


def test_input_that_nobody_reads(line: Runner, image: Path) -> None:
    done = line.call("run", "--rm", "-i", image, "true", data=bytes(4 << 20))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_input_that_does_not_end(line: Runner, image: Path) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe, open(writer, "wb", buffering=0) as end:
        end.write(b"first\n")
        done = line.run("run", "--rm", "-i", image, "head", "-n1", stdin=pipe)
    assert done.stdout == "first\n"


def test_output_that_nobody_reads(line: Runner, image: Path) -> None:
    client = line.start("run", "--rm", image, "yes", stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.read(4) == b"y\ny\n"
    client.stdout.close()
    assert client.wait(_SECONDS) != 0  # as with `yes | head`
    names = line.run("ps", "-q").stdout.split()
    line.run("rm", "-f", *names)


# ---- identity, environment, place ----------------------------------------------------------------

IDS = "id -u; id -g; id -G; pwd; echo $HOME"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], "1000 1001 1001,2000 /srv/x /home/app"),
        (["-u", "0"], "0 0 0,2000 /srv/x /root"),
        (["--user", "app:extra", "-w", "/tmp/new"], "1000 2000 2000 /tmp/new /home/app"),
        (["-u", "4242:77", "-w", "relative"], "4242 77 77 /relative /"),
        (["-u", "1000", "-e", "HOME=/h"], "1000 1001 1001,2000 /srv/x /h"),
    ],
)
def test_users_and_directories(line: Runner, service: Path, options: list[str], shown: str) -> None:
    found = line.output("run", "--rm", *options, service, IDS).split("\n")[:-1]
    found[2] = ",".join(sorted(found[2].split(), key=int))
    assert " ".join(found) == shown


def test_variables(line: Runner, image: Path, service: Path, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# not this\nFROM_FILE=a b=c\n\n  B=file\nFROM_HERE\nNOT_HERE\n")
    line.environment["FROM_HERE"] = "here"
    options = [
        "--env-file",
        str(file),
        "-e",
        "C=",
        "-e",
        "A=2",
        "-e",
        "FROM_HERE",
        "-e",
        "NOT_HERE",
    ]
    found = line.output("run", "--rm", *options, "--hostname", "box", service, "env | sort")
    assert found.splitlines() == [
        *("A=2", "B=file", "C=", "FROM_FILE=a b=c", "FROM_HERE=here", "HOME=/home/app"),
        *("HOSTNAME=box", "PATH=/bin", "PWD=/srv/x", "SHLVL=1", "TERM=xterm", "container=oci"),
    ]


def test_entrypoints(line: Runner, service: Path) -> None:
    for option, words, shown in (
        ("echo", ["a"], "a\n"),
        ('["echo", "a", "b"]', ["c"], "a b c\n"),
        ("", ["echo", "x"], "x\n"),
    ):
        assert line.output("run", "--rm", "--entrypoint", option, service, *words) == shown
    message = line.error("run", "--rm", "--entrypoint", "", service, status=125)
    assert "names no program to run; give a COMMAND" in message


@runtimes
def test_isolation(line: Runner, image: Path, runtime: str) -> None:
    script = """
    hostname; cat /etc/hostname; grep -c box /etc/hosts; ls /sys/class/net
    grep -E 'Cap(Eff|Amb)|Seccomp:|NoNewPrivs' /proc/self/status
    echo x >/proc/sys/kernel/hostname; echo x >/sys/kernel/mm/ksm/run; cat /proc/kcore | wc -c
    echo $$; mount -t tmpfs none /root; ls /dev
    """
    options = ["--runtime", runtime, "--network", "none", "--hostname", "box"]
    found = line.run(
        "run", "--rm", *options, image, "sh", "-c", f"exec 2>&1; {script}"
    ).stdout.splitlines()
    assert found[:4] == ["box", "box", "1", "lo"]
    status = dict(one.split(":\t") for one in found[4:8])
    assert status["CapEff"] == "00000000800405fb"  # those that podman gives
    assert status["Seccomp"] == "2"
    rest = "\n".join(found[8:])
    assert rest.count("Read-only file system") == 2
    assert "permission denied" in rest  # of the mount
    assert {"0", "1"} <= set(found)  # nothing of kcore; and it is process 1
    assert "tty" in found
    assert "fuse" not in found


def test_privileged(line: Runner, image: Path) -> None:
    script = """
    mount -t tmpfs none /root && hostname other && hostname
    grep Seccomp: /proc/1/status; ls /dev/fuse; id -u
    """
    done = line.output("run", "--rm", "--privileged", image, "sh", "-c", script)
    assert done.split() == ["other", "Seccomp:", "0", "/dev/fuse", "0"]
    assert os.uname().nodename != "other"


def test_capabilities_of_other_users(line: Runner, image: Path) -> None:
    script = "grep -E Cap[EPBA] /proc/self/status"
    run = ("run", "--rm", "-u", "app")
    plain = line.output(*run, image, "sh", "-c", script)
    added = line.output(*run, "--cap-add=NET_RAW", image, "sh", "-c", script)
    dropped = line.output(*run, "--cap-drop=ALL", image, "sh", "-c", script)
    assert [one.split("\t")[1].lstrip("0") for one in plain.splitlines()] == [
        *("", "", "800405fb", ""),
    ]
    assert [one.split("\t")[1].lstrip("0") for one in added.splitlines()] == [
        *("2000", "2000", "800425fb", "2000"),
    ]
    assert [one.split("\t")[1].lstrip("0") for one in dropped.splitlines()] == ["", "", "", ""]


# ---- mounts --------------------------------------------------------------------------------------


@runtimes
def test_mounts(line: Runner, image: Path, runtime: str, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_text("of the host\n")
    script = """
    cat /one/file /deep/missing/two /etc/motd; echo new >/one/new; touch /ro/x; touch /etc/motd
    stat -f -c %T /scratch /small; stat -c %a /small /mnt/open /mnt; touch /scratch/x && ls /scratch
    """
    options = [
        *("-v", f"{tmp_path}/dir:/one", "-v", f"{tmp_path}/dir/file:/deep/missing/two"),
        *("-v", f"{tmp_path}/dir:/ro:ro", "--tmpfs", "/scratch"),
        *("--mount", f"type=bind,src={tmp_path}/dir/file,dst=/etc/motd,readonly"),
        *("--mount", "type=tmpfs,target=/small,tmpfs-size=4096,tmpfs-mode=0700"),
        *("--tmpfs", "/mnt/open:size=1m"),
    ]
    run = ("run", "--runtime", runtime, "--name", f"mounts-{runtime}")
    done = line.run(*run, *options, image, "sh", "-c", script)
    assert done.stdout.splitlines() == [
        *["of the host"] * 3,
        "tmpfs",
        "tmpfs",
        "700",
        "1777",
        "755",
        "x",
    ]
    assert done.stderr.count("Read-only file system") == 2
    assert (tmp_path / "dir/new").read_text() == "new\n"
    assert line.output("diff", f"mounts-{runtime}") == ""


def test_a_mount_of_a_path_with_comma_and_colon(line: Runner, image: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a,b:c"
    odd.mkdir()
    (odd / "file").write_text("found\n")
    mount = f'type=bind,"src={odd}",dst=/mnt'
    assert line.output("run", "--rm", "--mount", mount, image, "cat", "/mnt/file") == "found\n"


def test_directories_of_volumes(line: Runner, tmp_path: Path) -> None:
    """Those that the image lacks are there, as in Docker, and are no changes."""
    layer = Layer().directory("data", mode=0o700, owner=(7, 7))
    paths = ("/data", "/var/lib/new/", "relative", "/tmp/../x", "/")
    volumes: dict[str, object] = {path: {} for path in paths}
    image = program_image(tmp_path / "volumes.tar", layer, Volumes=volumes)
    script = "stat -c '%n %u %a' /data /var/lib/new /relative /x; echo x >/var/lib/new/file"
    shown = line.output("run", "--name", "volumes", image, "sh", "-c", script)
    assert shown.splitlines() == [
        *("/data 7 700", "/var/lib/new 0 755", "/relative 0 755", "/x 0 755"),
    ]
    changes = ["A /var", "A /var/lib", "A /var/lib/new", "A /var/lib/new/file"]
    assert line.output("diff", "volumes").splitlines() == changes
    line.run("rm", "volumes")


@runtimes
def test_read_only(line: Runner, image: Path, runtime: str) -> None:
    script = "touch /x /etc/hosts; echo y >/tmp/y; cat /tmp/y"
    options = ["--runtime", runtime, "--read-only", "--tmpfs", "/tmp"]
    done = line.run("run", "--rm", *options, image, "sh", "-c", script)
    assert done.stdout == "y\n"
    assert done.stderr.count("Read-only file system") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-v", "volume:/x"], "there are no named volumes"),
        (["-v", "/nosuch:/x"], "No such file or directory"),
        (["-v", "/tmp:/x:z"], "would relabel"),
        (["-v", "/tmp:/"], "not an absolute path below /"),
        (["-v", "/tmp:x"], "not an absolute path"),
        (["-v", "/tmp:/x", "--tmpfs", "/x/"], "two mounts at /x"),
        (["--mount", "type=volume,target=/x"], "volume"),
        (["--mount", "type=bind,source=/tmp,target=/x,nosuch=1"], "'nosuch' is not offered"),
        (["--cap-add", "NOSUCH"], "unknown capability 'NOSUCH'"),
        (["--hostname", "a b"], "is not a host name"),
        (["-e", "=x"], "not NAME=VALUE"),
        (["--env-file", "/nosuch"], "/nosuch"),
        (["-u", "nosuch"], "no user 'nosuch'"),
        (["-u", "0:nosuch"], "no group 'nosuch'"),
        (["-u", "99999999999"], "not between"),
        (["-t"], "not a terminal"),
        (["--network", "bridge"], "bridge"),
        (["-v", "/a:b:/x"], "a path with a colon needs --mount"),
        (["-v", "/tmp:/x:/y"], "a path with a colon needs --mount"),
        (["--mount", 'type=bind,"src=/x'], "write a field with a comma as"),
        (["-p", "80:80"], "'-p' is not offered: the network is the host's"),
        (["--publish=80:80"], "'--publish' is not offered: the network is the host's"),
        (["--net", "host"], "'--net' is not offered: write --network host"),
        (["--gpus", "all"], "'--gpus' is not offered: --privileged gives"),
        (["--sysctl", "a=b"], "'--sysctl' is not offered"),
        (["--nonsense"], "No such option '--nonsense'"),
        (["--runtime", "nosuch"], "runtime 'nosuch' was not found"),
        (["--detach-keys", "ctrl-"], "--detach-keys"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(
    line: Runner, image: Path, options: list[str], message: str
) -> None:
    before = line.run("ps", "-aq").stdout
    done = line.run("run", *options, image, "true", status=125)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert message in done.stderr
    assert line.run("ps", "-aq").stdout == before
    assert not line.left()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("exec", "--detach-keys", "a"), "-d leaves it running from the start"),
        (("exec", "--privileged"), "'unionmount run --privileged' gave its container"),
        (("exec", "-l"), "write the name of the container"),
        (("attach", "--latest"), "write the name of the container"),
    ],
    ids=str,
)
def test_what_engines_offer_for_a_running_container(
    line: Runner, words: tuple[str, ...], message: str
) -> None:
    done = line.run(*words, "web", "true", status=125 if words[0] == "exec" else 2)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert f"'{words[1]}' is not offered: " in done.stderr
    assert message in done.stderr


def test_a_source_in_a_directory_that_is_gone(line: Runner, image: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    words = [*COMMAND, "run", "--rm", "-v", ".:/x", str(image), "true"]
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, str(tmp_path / "gone"), *words],
        env=line.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 125
    assert "--volume .:/x: .: No such file or directory" in done.stderr


def test_an_image_that_is_not_there(line: Runner) -> None:
    assert "nosuch.tar" in line.error("run", "./nosuch.tar", status=125)


# ---- the changes ---------------------------------------------------------------------------------


@runtimes
def test_nothing_of_the_runtime_is_a_change(line: Runner, image: Path, runtime: str) -> None:
    name = f"clean-{runtime}"
    script = """
    echo x >>/etc/hosts; echo x >/etc/resolv.conf; rm -f /etc/hostname; chmod 777 /etc/hosts
    touch /dev/x; mkdir /dev/shm/x; touch /made; chmod 700 /etc/group; rm /bin/whoami
    """
    line.run("run", "--runtime", runtime, "--name", name, "-w", "/work", image, "sh", "-c", script)
    expected = ["C /bin", "D /bin/whoami", "C /etc", "C /etc/group", "A /made"]
    shown = line.output("diff", name).splitlines()
    assert [one for one in shown if one != "C /etc"] == [one for one in expected if one != "C /etc"]
    line.run("commit", name, f"clean:{runtime}")
    files = line.output("find", f"clean:{runtime}").splitlines()
    brought = ("proc", "dev", "sys", "work", "etc/hosts", "etc/resolv.conf", "etc/hostname")
    assert "/made" in files
    assert not {f"/{one}" for one in brought} & set(files)
    # and again, with the changes of before
    again = ("run", "--runtime", runtime, name, "ls", "-d", "/made", "/work", "/bin/whoami")
    assert line.run(*again, status=1).stdout == "/made\n"


def test_a_container_can_be_looked_at_while_it_runs(line: Runner, image: Path) -> None:
    name = line.output("run", "-d", image, "sh", "-c", "echo 1 >/x; echo ready; sleep 1000").strip()
    line.await_log(name, b"ready\n")
    assert line.output("diff", name) == "A /x\n"
    assert line.output("cat", f"{name}:/x") == "1\n"
    (row,) = json.loads(line.output("ps", "--format", "json"))
    assert (row["container"], row["status"]) == (name, "running")
    assert "running" in line.error("run", name, "true", status=125)
    assert "running" in line.error("rm", name)
    line.run("rm", "-f", name)
    assert not line.left()


def test_changes_of_deleted_mount_points(line: Runner, image: Path, tmp_path: Path) -> None:
    """A container whose /etc is gone gets no files there."""
    where = tmp_path / "mnt"
    line.run("mount", "--name", "bare", "--mkdir", image, where, "--", "rm", "-rf", where / "etc")
    assert line.output("diff", "bare").splitlines()[0] == "D /etc"
    assert line.output("run", "bare", "sh", "-c", "ls -d /etc /proc 2>/dev/null; true") == "/proc\n"
    assert line.output("diff", "bare").splitlines() == ["D /etc"]


def test_other_users_of_the_host_do_not_reach_it(line: Runner, image: Path, tmp_path: Path) -> None:
    """The mount has set-user-ID programs of a stranger, which have power in the container only."""
    for above in (line.runtime_directory, *line.runtime_directory.parents):
        if above.stat().st_mode & 0o001 == 0 and above != line.runtime_directory:
            above.chmod(above.stat().st_mode | 0o001)
    name = line.output("run", "-d", image, "sh", "-c", "echo up; sleep 1000").strip()
    (record,) = line.records()
    root = Path(record["mountpoint"])
    assert (root / "bin/busybox").exists()
    with pytest.raises(PermissionError):
        call_as(NOBODY, lambda: os.stat(root / "bin/busybox"))
    for place in (line.live(name), line.store / "containers" / name):
        with pytest.raises(PermissionError):
            call_as(NOBODY, lambda: os.listdir(place))  # noqa: B023
    with pytest.raises(PermissionError):  # nor its monitor
        call_as(NOBODY, lambda: os.stat(line.live(name) / "socket"))
    line.run("rm", "-f", name)


def test_a_mount_point_that_is_written_from_outside(
    line: Runner, image: Path, tmp_path: Path
) -> None:
    """It becomes a change, whose number in a later run is that of no other file."""
    (tmp_path / "file").touch()
    line.run("run", "-d", "--name", "outside", image, "sleep", "1000")
    (record,) = [one for one in line.records() if one["container"] == "outside"]
    hosts = Path(record["mountpoint"]) / "etc/hosts"
    number = hosts.stat().st_ino
    hosts.write_text("outside\n")
    subprocess.run(["sync", "-f", hosts], check=True)
    assert hosts.stat().st_ino == number
    line.run("kill", "outside")
    line.call("wait", "outside")
    assert "A /etc/hosts" in line.output("diff", "outside").splitlines()
    more = [word for n in range(30) for word in ("-v", f"{tmp_path}/file:/a{n}")]
    line.run("run", "-d", *more, "outside", "sleep", "1000")
    (record,) = [one for one in line.records() if one["container"] == "outside"]
    root = Path(record["mountpoint"])
    assert (root / "etc/hosts").read_text() == "outside\n"
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 30
    assert len({path.stat().st_ino for path in files}) == len(files)
    assert number in {path.stat().st_ino for path in files if path != root / "etc/hosts"}
    line.run("rm", "-f", "outside")


@runtimes
def test_devices_of_an_image_are_closed(line: Runner, tmp_path: Path, runtime: str) -> None:
    """Neither the mount nor the group of control of the container lets them be opened."""
    layer = Layer().add("device", tarfile.CHRTYPE, device=(10, 229), mode=0o666)
    image = program_image(tmp_path / "devices.tar", layer)
    with open("/dev/fuse", "rb"):
        pass  # here it can be opened
    run = ("run", "--rm", "--runtime", runtime, image, "cat", "/device")
    done = line.run(*run, status=1)
    assert done.stderr.endswith((": Permission denied\n", ": Operation not permitted\n"))


@pytest.mark.parametrize("name", ["runc", "some-runtime"])
def test_labels_for_runtimes_known_and_unknown(line: Runner, tmp_path: Path, name: str) -> None:
    program = shutil.which("runc")
    assert program is not None
    (tmp_path / name).symlink_to(program)
    labels = {"maintainer": "me", "org.systemd.property.X": "'x'", "bundle": "/etc"}
    image = program_image(tmp_path / "image.tar", Labels=labels)
    words = ("--rm", "-d", "--runtime", tmp_path / name, image, "sleep", "1000")
    container = line.output("run", *words).strip()
    config = json.loads((line.live(container) / "bundle/config.json").read_text())
    found = {key for key in config["annotations"] if not key.startswith("org.opencontainers.image")}
    assert found == ({"maintainer"} if name == "runc" else set())
    line.run("kill", container)
    line.call("wait", container)


def test_fifty_at_once_leave_nothing(line: Runner, image: Path) -> None:
    count = amount(20, 50)
    running = [
        line.start(
            "run", "--rm", image, "sh", "-c", f"echo {n} >/n; cat /n", stdout=subprocess.PIPE
        )
        for n in range(count)
    ]
    for number, one in enumerate(running):
        assert one.communicate(timeout=120)[0] == b"%d\n" % number
        assert one.returncode == 0
    assert not line.left()
    assert line.run("ps", "-q").stdout == ""
