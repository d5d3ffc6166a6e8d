"""``run`` by an ordinary user, with ranges of subordinate IDs and without."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import COMMAND
from support.rootless import COUNT, FIRST, UID
from support.running import RUNTIMES, Runner, program_image
from support.terminal import Terminal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs(
        *("fuse", "root", "ordinary-user", "busybox", "unshare", "nsenter", "newuidmap", *RUNTIMES)
    ),
]
runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


@pytest.fixture(scope="module")
def image(make_public_tmp: Callable[[], Path]) -> Path:
    """An image with files of several owners."""
    layer = Layer().directory("srv", mode=0o2755, owner=(1000, 1001))
    layer.file("srv/secret", b"of app\n", mode=0o600, owner=(1000, 1001))
    layer.file("srv/roots", b"of root\n", mode=0o600)
    path = program_image(make_public_tmp() / "image.tar", layer)
    path.chmod(0o644)
    return path


@runtimes
def test_many_users(many: Runner, image: Path, runtime: str) -> None:
    script = "id -u; id -g; cat /proc/self/uid_map; cat /srv/secret; cat /srv/roots; hostname -F x"
    run = ("run", "--rm", "--runtime", runtime)
    shown = many.run(*run, image, "sh", "-c", f"{script}; exit 7", status=7)
    assert shown.stdout.split("\n") == [
        *("0", "0", f"{'0':>10} {UID:>10} {'1':>10}", f"{'1':>10} {FIRST:>10} {COUNT:>10}"),
        *("of app", "of root", ""),
    ]
    shown = many.run(*run, "-u", "app", image, "sh", "-c", script, status=1)
    assert shown.stdout.splitlines()[:2] == ["1000", "1001"]
    assert shown.stdout.splitlines()[4:] == ["of app"]
    assert "Permission denied" in shown.stderr
    assert many.left() == []


@runtimes
def test_owners_are_right_outside(many: Runner, image: Path, runtime: str, tmp_path: Path) -> None:
    script = """
    mkdir /d; echo x >/d/f; chown 12:34 /d/f; chmod 4750 /d/f; chown 1000:1001 /d; chmod 2755 /d
    mkdir /s; ln -s x /s/link; ln -s y /s/owned; chown -h 12:34 /s/owned; mkfifo /s/fifo
    chown 7:8 /s/fifo; chown 5:6 /srv/roots; stat -c '%n %u:%g %a' /d /d/f /srv/roots
    """
    name = f"owners-{runtime}"
    shown = many.output("run", "--runtime", runtime, "--name", name, image, "sh", "-c", script)
    expected = ["/d 1000:1001 2755", "/d/f 12:34 4750", "/srv/roots 5:6 600"]
    assert shown.splitlines() == expected
    assert many.output("diff", name).splitlines() == [
        *("A /d", "A /d/f", "A /s", "A /s/fifo", "A /s/link", "A /s/owned"),
        *("C /srv", "C /srv/roots"),
    ]
    # on disk, everything belongs to the user, but for what has no attributes
    upper = many.store / "containers" / name / "upper"
    owners = {path.name: path.lstat().st_uid for path in upper.rglob("*")}
    assert owners.pop("owned") == FIRST + 11
    assert owners.pop("fifo") == FIRST + 6
    assert set(owners.values()) == {UID}
    exported = many.store.parent / f"{name}.tar"
    many.run("export", "-o", exported, name)
    with tarfile.open(exported) as tar:
        kept = {one.name.removeprefix("./"): (one.uid, one.gid) for one in tar}
    assert [kept[f"s/{one}"] for one in ("link", "owned", "fifo")] == [(0, 0), (12, 34), (7, 8)]
    assert [kept[one] for one in ("d", "d/f", "srv/roots")] == [(1000, 1001), (12, 34), (5, 6)]
    with tarfile.open(fileobj=io.BytesIO(many.call("cp", f"{name}:/s", "-").stdout)) as tar:
        kept = {one.name: (one.uid, one.gid) for one in tar}
    assert [kept[f"s/{one}"] for one in ("link", "owned", "fifo")] == [(0, 0), (12, 34), (7, 8)]
    many.run("commit", name, f"new:{runtime}")
    listed = many.output("ls", "-ln", f"new:{runtime}:/d").splitlines()
    assert [row.split()[:4] for row in listed if row.endswith(" f")] == [
        ["-rwsr-x---", "1", "12", "34"],
    ]
    listed = many.output("ls", "-ln", f"new:{runtime}:/s").splitlines()
    assert [row.split()[2:4] for row in listed if row[0] in "lp"] == [
        *(["7", "8"], ["0", "0"], ["12", "34"]),
    ]
    again = many.output(
        "run",
        "--rm",
        f"new:{runtime}",
        "stat",
        "-c",
        "%n %u:%g %a",
        *(line.split()[0] for line in expected),
    )
    assert again.splitlines() == expected
    # a second run of the container finds them, too
    more = many.output("run", "--runtime", runtime, name, "stat", "-c", "%u:%g", "/d/f")
    assert more == "12:34\n"
    many.run("rm", name)
    assert not upper.exists()


@runtimes
def test_one_user(one: Runner, image: Path, runtime: str) -> None:
    run = ("run", "--rm", "--runtime", runtime)
    done = one.run(*run, image, "sh", "-c", "id -u; cat /proc/self/uid_map; cat /srv/roots")
    assert done.stdout.split() == ["0", "0", str(UID), "1", "of", "root"]
    assert done.stderr.count("\n") == 1
    assert "/etc/subuid and /etc/subgid have no range" in done.stderr
    done = one.run(*run, "-u", "app", image, "true", status=125)
    assert "there is only root" in done.stderr.splitlines()[-1]
    assert one.left() == []


@runtimes
def test_the_life_without_root(many: Runner, image: Path, runtime: str) -> None:
    script = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    words = ("run", "-d", "--runtime", runtime, "--name", "live", image, "sh", "-c", script)
    assert many.output(*words) == "live\n"
    many.await_log("live", b"up\n")
    assert many.output("exec", "live", "id", "-u") == "0\n"
    assert many.output("exec", "-u", "app", "live", "id", "-u") == "1000\n"
    assert many.call("exec", "-i", "live", "cat", data=b"in").stdout == b"in"
    (row,) = json.loads(many.output("ps", "--format", "json"))
    assert (row["container"], row["status"]) == ("live", "running")
    many.run("exec", "live", "touch", "/x")
    assert many.output("diff", "live") == "A /x\n"
    many.run("stop", "live")
    assert many.output("wait", "live") == "9\n"
    assert many.output("logs", "live") == "up\nbye\n"
    many.run("rm", "live")
    assert many.left() == []


@runtimes
def test_a_terminal_without_root(many: Runner, image: Path, runtime: str) -> None:
    words = [*COMMAND, "run", "-it", "--rm", "--runtime", runtime, str(image)]
    program = ["sh", "-c", "tty; stty size; read x; echo [$x]; exit 3"]
    terminal = Terminal([*many.prefix, *words, *program], many.environment)
    try:
        terminal.read_to(b"24 100")
        terminal.type("word\n")
        terminal.read_to(b"[word]")
        assert terminal.wait() == 3
    finally:
        terminal.close()


@runtimes
def test_a_network_of_its_own(many: Runner, image: Path, runtime: str) -> None:
    options = ("--network", "none", "--hostname", "box", "--read-only", "--tmpfs", "/tmp")
    script = "ls /sys/class/net; hostname; touch /tmp/x && ls /tmp; touch /x"
    done = many.run(
        "run", "--rm", "--runtime", runtime, *options, image, "sh", "-c", script, status=1
    )
    assert done.stdout.split() == ["lo", "box", "x"]
    assert "Read-only" in done.stderr


@runtimes
def test_a_shell_with_tools_without_root(
    many: Runner, make_public_tmp: Callable[[], Path], runtime: str
) -> None:
    layer = Layer().directory("data", owner=(5, 6)).file("data/file", b"x\n", owner=(5, 6))
    bare = docker_archive(make_public_tmp() / "bare.tar", [layer])
    assert "no shell; --with-tools" in many.error("shell", "--rm", bare, status=125)
    script = (
        b"ls -ln /data | tail -n 1; id -u; echo y >/data/new; readlink /proc/self/exe; exit 4\n"
    )
    done = many.call("shell", "--rm", "--runtime", runtime, "--with-tools", bare, data=script)
    assert done.returncode == 4
    assert done.stdout.split()[2:4] == [b"5", b"6"]
    assert done.stdout.splitlines()[1:] == [b"0", b"/run/unionmount/busybox"]
    assert many.left() == []


@runtimes
def test_a_killed_monitor_without_root(many: Runner, image: Path, runtime: str) -> None:
    many.run("run", "-d", "--runtime", runtime, "--name", "k", image, "sleep", "1000")
    state = json.loads((many.live("k") / "state.json").read_text())
    pidfd = os.pidfd_open(state["pid"])
    subprocess.run(["kill", "-9", str(state["monitor"])], check=True)
    os.close(pidfd)
    assert "without an exit status" in many.error("wait", "k")
    assert not Path(f"/proc/{state['pid']}/exe").exists()
    assert many.left() == []
    many.run("rm", "k")


def test_the_host_is_not_reached(many: Runner, image: Path, tmp_path: Path) -> None:
    """Root of the container is the user: it gets to no file that the user does not get to."""
    secret = tmp_path / "secret"
    secret.write_text("of the host's root")
    secret.chmod(0o600)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and path != Path("/tmp") and path != Path("/"):
            path.chmod(0o755)
    done = many.run("run", "--rm", "-v", f"{secret}:/s", image, "cat", "/s", status=1)
    assert "Permission denied" in done.stderr
    done = many.run("run", "--rm", "--privileged", image, "sh", "-c", "hostname x", status=0)
    assert os.uname().nodename != "x"


@runtimes
def test_devices_of_a_privileged_container(many: Runner, image: Path, runtime: str) -> None:
    """They are there, and those that the user may not open are closed to root of the container."""
    closed = [
        path
        for path in map(Path, ("/dev/loop-control", "/dev/hwrng", "/dev/kvm", "/dev/vda"))
        if path.exists() and path.stat().st_mode & 0o006 == 0
    ]
    assert closed
    script = "head -c 2 /dev/zero | od -An -b; echo x >/dev/null; tty=$(ls /dev | grep -c ^tty)"
    script += "; echo $tty; " + "; ".join(f"ls {one}; true <{one} || true" for one in closed)
    run = ("run", "--rm", "--privileged", "--runtime", runtime)
    done = many.run(*run, image, "sh", "-c", script)
    assert done.stdout.splitlines() == [" 000 000", "1", *map(str, closed)]
    assert done.stderr.count("Permission denied") == len(closed)
    plain = many.run("run", "--rm", "--runtime", runtime, image, "ls", "/dev")
    assert not {path.name for path in closed} & set(plain.stdout.split())
