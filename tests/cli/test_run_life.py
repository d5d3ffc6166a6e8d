"""The life of a container: detached, stopped, killed, attached, logged, entered, cleaned up."""

from __future__ import annotations

import copy
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.effort import amount
from support.mounting import COMMAND, Process, is_mounted
from support.running import RUNTIMES, Runner, program_image, running
from support.terminal import Terminal

_SECONDS = 30.0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("fuse", "root", "busybox", *RUNTIMES),
]
runtimes = pytest.mark.parametrize("runtime", RUNTIMES)
# It ends by SIGINT, with a word; other signals are named.
LOOP = """
trap 'echo bye; exit 9' INT
trap 'echo real-time' 37 63
for one in USR1 USR2 TERM HUP; do trap "echo got $one" $one; done
echo up; while :; do sleep 0.05; done
"""


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Runner]:
    with running(Runner(tmp_path / "life")) as made:
        yield made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that is stopped by SIGINT."""
    path = tmp_path_factory.mktemp("image") / "image.tar"
    return program_image(path, StopSignal="SIGINT", User="app", Env=["A=b"])


@pytest.fixture
def terminal(line: Runner) -> Iterator[Callable[..., Terminal]]:
    """A function that runs a subcommand on a terminal of 24 rows and 100 columns."""
    started: list[Terminal] = []

    def start(*words: str | Path) -> Terminal:
        made = Terminal([*COMMAND, *map(str, words)], line.environment)
        started.append(made)
        return made

    yield start
    for one in started:
        one.close()


def detached(line: Runner, *words: str | Path, ready: bytes = b"up\n") -> str:
    """Start a container in the background; return its name once it has said that it is ready."""
    name = line.output("run", "-d", *words).strip()
    line.await_log(name, ready)
    return name


def state(line: Runner, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((line.live(name) / "state.json").read_text())
    return found


def status(line: Runner, name: str) -> str:
    (row,) = [one for one in all_rows(line) if one["container"] == name]
    return str(row["status"])


def all_rows(line: Runner) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(line.run("ps", "-a", "--format", "json").stdout)
    return rows


# ---- detached ------------------------------------------------------------------------------------


@runtimes
def test_a_detached_container(line: Runner, image: Path, runtime: str) -> None:
    name = detached(line, "--runtime", runtime, image, "sh", "-c", LOOP)
    assert status(line, name) == "running"
    started = time.monotonic()
    assert line.output("stop", name) == f"{name}\n"
    assert time.monotonic() - started < 8  # not by SIGKILL
    assert line.output("wait", name) == "9\n"
    assert line.output("logs", name) == "up\nbye\n"
    assert re.fullmatch(r"exited.*9.*", status(line, name))
    assert line.left() == []
    line.run("rm", name)


@runtimes
def test_stop_kills_after_a_time(line: Runner, image: Path, runtime: str) -> None:
    script = "trap '' INT TERM; echo up; while :; do sleep 0.05; done"
    name = detached(line, "--runtime", runtime, image, "sh", "-c", script)
    line.run("stop", "-t", "1", name)
    assert line.output("wait", name) == "137\n"
    assert "is not running" in line.error("stop", name)
    line.run("rm", name)


@runtimes
def test_signals_and_wait(line: Runner, image: Path, runtime: str) -> None:
    name = detached(line, "--runtime", runtime, image, "sh", "-c", LOOP)
    for number, word in ((signal.SIGUSR1, "USR1"), (signal.SIGTERM, "TERM")):
        assert line.output("kill", "-s", word, name) == f"{name}\n"
        line.await_log(name, b"got %s\n" % word.encode())
        line.run("kill", "-s", str(number.value), name)
    for word in ("SIGRTMIN+3", "rtmax-1"):
        line.run("kill", "-s", word, name)
    assert "is not a signal" in line.run("kill", "-s", "NOSUCH", name, status=2).stderr
    waiting = line.start("wait", name, stdout=subprocess.PIPE)
    attached = line.start("attach", "--no-stdin", name, stdout=subprocess.PIPE)
    assert attached.stdout is not None
    while not select.select([attached.stdout], [], [], 0.1)[0]:
        line.run("kill", "-s", "USR1", name)
    line.run("kill", name)
    assert waiting.communicate(timeout=_SECONDS)[0] == b"137\n"
    attached.communicate(timeout=_SECONDS)
    assert attached.returncode == 137
    line.run("rm", name)


def test_a_detached_container_that_removes_itself(line: Runner, image: Path) -> None:
    name = line.output("run", "-d", "--rm", image, "true").strip()
    line.call("wait", name)
    wait_until(lambda: not any(row["container"] == name for row in all_rows(line)))
    assert line.left() == []


def test_a_detached_container_that_cannot_start(line: Runner, image: Path) -> None:
    done = line.run("run", "-d", image, "/nosuch", status=127)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert all_rows(line) == []
    assert line.left() == []


def test_commands_on_a_container_that_does_not_run(line: Runner, image: Path) -> None:
    line.run("run", "--name", "ended", image, "true")
    for words in (["stop"], ["kill"], ["attach"], ["exec"]):
        more = ["true"] if words == ["exec"] else []
        status = 125 if more else 1
        assert "is not running" in line.error(*words, "ended", *more, status=status)
    for words in (["stop"], ["kill"], ["attach"], ["wait"], ["logs"], ["start"]):
        status = 125 if words == ["start"] else 1
        assert "nosuch" in line.error(*words, "nosuch", status=status)
    line.run("rm", "ended")


def test_input_of_a_detached_container_is_for_whoever_attaches(line: Runner, image: Path) -> None:
    script = "echo up; read x; echo [$x]; exit 5"
    started = line.call("run", "-d", "-i", "--name", "later", image, "sh", "-c", script, data=b"no")
    assert started.stdout == b"later\n"
    line.await_log("later", b"up\n")
    done = line.call("attach", "later", data=b"typed\n")
    assert (done.stdout, done.returncode) == (b"[typed]\n", 5)
    line.run("rm", "later")


# ---- start again ---------------------------------------------------------------------------------


@runtimes
def test_start_again_with_the_same_options(line: Runner, image: Path, runtime: str) -> None:
    script = "echo $A $B; cat /data/x; id -u; echo again >>/tmp/x; wc -l </tmp/x; exit 4"
    options = ["-e", "B=c", "-u", "0", "--tmpfs", "/data", "--name", "again", "--hostname", "box"]
    run: list[str | Path] = ["run", "--runtime", runtime, *options, image]
    first = line.run(*run, "sh", "-c", f"mkdir -p /tmp; {script}", status=4)
    second = line.run("start", "-a", "again", status=4)
    assert (first.stdout, second.stdout) == ("b c\n0\n1\n", "b c\n0\n2\n")
    assert line.output("start", "again") == "again\n"
    assert line.output("wait", "again") == "4\n"
    assert line.run("logs", "again").stdout == "b c\n0\n3\n"  # of the last run
    assert line.output("diff", "again").splitlines() == ["A /tmp", "A /tmp/x"]
    line.run("rm", "again")


def test_start_of_a_container_that_runs(line: Runner, image: Path, tmp_path: Path) -> None:
    name = detached(line, image, "sh", "-c", LOOP)
    before = state(line, name)
    assert line.output("start", name) == f"{name}\n"
    assert state(line, name) == before
    assert "is running" in line.error("start", "-a", name, status=125)
    other = ("--root", tmp_path / "other")
    line.run("run", *other, "--rm", "--name", name, image, "true")  # one of the same name
    line.run("mount", *other, "--mkdir", "--name", name, image, tmp_path / "mnt", "--", "true")
    assert "never run" in line.error("start", *other, name, status=125)
    line.run("rm", *other, name)
    line.run("rm", "-f", name)


# ---- logs ----------------------------------------------------------------------------------------


def test_logs(line: Runner, image: Path) -> None:
    script = r"echo one; echo two >&2; sleep 0.1; printf 'three\377\nlast'"
    line.call("run", "--name", "log", image, "sh", "-c", script)
    done = line.call("logs", "log")
    assert (done.stdout, done.stderr) == (b"one\nthree\xff\nlast", b"two\n")
    assert line.call("logs", "-n", "1", "log").stdout == b"last"
    assert re.fullmatch(rb"\d{4}-\S+ one\n", line.call("logs", "-t", "log").stdout[:37] or b"")
    line.run("rm", "log")


def test_logs_that_are_followed(line: Runner, image: Path) -> None:
    script = "trap 'echo bye >&2; exit 3' TERM; echo up; while read x; do echo $x; done; sleep 1000"
    name = detached(line, image, "sh", "-c", f"{script} & wait")
    follower = line.start("logs", "-f", "-n", "1", name, stdout=subprocess.PIPE, stderr=-1)
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"up\n"
    line.run("exec", name, "sh", "-c", "echo more >/proc/1/fd/1")
    assert follower.stdout.readline() == b"more\n"
    assert follower.poll() is None
    line.run("stop", "-t", "1", name)
    out, _ = follower.communicate(timeout=_SECONDS)
    assert (out, follower.returncode) == (b"", 0)
    # of one that has ended, everything is printed
    assert line.run("logs", "--follow", name).stdout == "up\nmore\n"
    line.run("rm", name)


def test_times_of_logs(line: Runner, image: Path) -> None:
    line.run("run", "--name", "times", image, "sh", "-c", "echo one; echo two")
    log = line.store / "containers/times/log.json"
    old, new = (json.loads(row) for row in log.read_text().splitlines())
    old["time"], new["time"] = "2020-01-02T03:04:05+00:00", "2020-01-02T05:00:00.5Z"
    log.write_text(f"{json.dumps(old)}\n{json.dumps(new)}\n")

    def printed(*options: str) -> list[str]:
        return line.output("logs", *options, "times").split()

    assert printed("--since", "2020-01-02T04:00:00Z") == ["two"]
    assert printed("--until", "2020-01-02T04:00:00Z") == ["one"]
    assert printed("--since", "1577934245", "--until", "1577941200.5") == ["one", "two"]
    assert printed("--since", "1577934245.1", "--until", "1577941200") == []
    assert printed("--until", "2020-01-02T05:04:05+02:00", "--tail", "all") == ["one"]
    assert printed("--since", "1h30m5.5s") == []
    assert printed("--until", "10m", "--tail", "1") == ["two"]
    for option, value in (("--since", "soon"), ("--until", ""), ("--since", "9" * 12)):
        told = line.error("logs", option, value, "times", status=2)
        assert f"{option} {value}: write an age such as 10m" in told
    assert "--tail x: write a number" in line.error("logs", "--tail", "x", "times", status=2)
    line.run("rm", "times")


# ---- exec ----------------------------------------------------------------------------------------


@runtimes
def test_exec(line: Runner, image: Path, runtime: str) -> None:
    name = detached(line, "--runtime", runtime, image, "sh", "-c", LOOP)
    script = "id -u; id -g; pwd; echo $A $B $HOME; exit 6"
    done = line.run("exec", name, "sh", "-c", script, status=6)
    assert done.stdout.split() == ["1000", "1001", "/", "b", "/home/app"]
    options = ["-u", "root:extra", "-w", "/etc", "-e", "B=c"]
    done = line.run("exec", *options, name, "sh", "-c", script, status=6)
    assert done.stdout.split() == ["0", "2000", "/etc", "b", "c", "/root"]
    data = os.urandom(1 << 20)
    assert line.call("exec", "-i", name, "cat", data=data).stdout == data
    assert line.call("exec", name, "cat", data=data).stdout == b""
    for program, expected in (("nosuch", 127), ("/etc/passwd", 126)):
        done = line.run("exec", name, program, status=expected)
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "no user 'nosuch'" in line.error("exec", "-u", "nosuch", name, "true", status=125)
    assert line.run("exec", name, "sh", "-c", "kill -9 $$", status=137).stdout == ""
    line.run("exec", "-d", "-u", "0", name, "touch", "/done")
    wait_until(lambda: line.output("diff", name) == "A /done\n")
    line.run("rm", "-f", name)


def test_home_of_other_users(line: Runner, image: Path) -> None:
    """HOME is what exec says, or the options of the container, and else follows from the user."""
    plain = detached(line, image, "sh", "-c", LOOP)
    own = detached(line, "-e", "HOME=/own", image, "sh", "-c", LOOP)
    home = ("sh", "-c", "echo $HOME")
    assert line.output("exec", "-u", "root", plain, *home) == "/root\n"
    assert line.output("exec", "-u", "root", "-e", "HOME=/h", plain, *home) == "/h\n"
    assert line.output("exec", "-u", "root", own, *home) == "/own\n"
    assert line.output("exec", "-u", "root", "-e", "HOME=/h", own, *home) == "/h\n"
    line.run("rm", "-f", plain, own)


@pytest.mark.needs("root")
@runtimes
def test_exec_leaves_the_devices_of_the_host_alone(line: Runner, image: Path, runtime: str) -> None:
    def owner() -> tuple[int, int]:
        status = Path("/dev/null").stat()
        return status.st_uid, status.st_gid

    before = owner()
    name = detached(line, "--runtime", runtime, image, "sh", "-c", LOOP)
    words = ("exec", "-u", "app", name, "sh", "-c", "echo out; echo err >&2; exit 3")
    for options in (words, ("exec", "-i", *words[1:]), ("exec", "-d", *words[1:])):
        null = subprocess.DEVNULL
        with line.start(*options, stdin=null, stdout=null, stderr=null) as process:
            assert process.wait() == (0 if "-d" in options else 3)
        assert owner() == before
    line.run("rm", "-f", name)


@pytest.mark.needs("root")
@runtimes
def test_files_for_standard_streams_keep_their_owner(
    line: Runner, image: Path, runtime: str, tmp_path: Path
) -> None:
    name = detached(line, "--runtime", runtime, image, "sh", "-c", LOOP)
    given, printed, said = tmp_path / "given", tmp_path / "printed", tmp_path / "said"
    data = b"0123456789" * 1_000_000
    given.write_bytes(data)
    words = ("-u", "app", name, "sh", "-c", "id -u >&2; cat")
    for options, wanted in ((("-i",), (data, b"1000\n")), (("-d",), (b"", b""))):
        with given.open("rb") as stdin, printed.open("wb") as out, said.open("wb") as err:
            started = line.start("exec", *options, *words, stdin=stdin, stdout=out, stderr=err)
            assert started.wait() == 0
        assert {one.stat().st_uid for one in (given, printed, said)} == {0}
        assert (printed.read_bytes(), said.read_bytes()) == wanted
    line.run("rm", "-f", name)


def test_output_that_cannot_be_written(line: Runner, image: Path) -> None:
    name = detached(line, image, "sh", "-c", LOOP)
    with Path("/dev/full").open("wb") as full:
        words = ("exec", name, "echo", "x")
        with line.start(*words, stdout=full, stderr=subprocess.PIPE) as process:
            assert process.communicate()[1].endswith(b"written: No space left on device\n")
            assert process.returncode == 125
    line.run("rm", "-f", name)


def test_streams_end_with_a_detached_exec(line: Runner, image: Path) -> None:
    name = detached(line, image, "sh", "-c", LOOP)
    assert line.output("exec", "-d", name, "sh", "-c", f"touch /begun; {LOOP}") == ""
    line.run("rm", "-f", name)


@runtimes
def test_exec_with_a_terminal(
    line: Runner, image: Path, runtime: str, terminal: Callable[..., Terminal]
) -> None:
    name = detached(line, "--runtime", runtime, image, "sh", "-c", LOOP)
    # crun sets the size when the program runs already; until then busybox's stty shows nothing.
    size = "until size=$(stty size 2>&1) && [ '24 100' = \"$size\" ]; do :; done; echo $size"
    script = f"tty; {'stty size' if runtime == 'runc' else size}; cat; exit 5"
    one = terminal("exec", "-it", name, "sh", "-c", script)
    assert b"/dev/pts/" in one.read_to(b"24 100")
    one.type("typed\n")
    one.read_to(b"typed\r\ntyped\r\n")
    one.type("\x04")
    assert one.wait() == 5
    line.run("rm", "-f", name)


@runtimes
def test_the_last_words_on_a_terminal(
    line: Runner, image: Path, runtime: str, terminal: Callable[..., Terminal]
) -> None:
    """A program that ends at once has the status and the output that it had."""
    name = detached(line, "--runtime", runtime, image, "sh", "-c", LOOP)
    for number in range(amount(8, 40)):
        code = (0, 1, 4, 255)[number % 4]
        one = terminal("exec", "-it", name, "sh", "-c", f"echo last words; exit {code}")
        assert one.wait() == code
        # runc may be a moment late to make our terminal raw, which then adds a \r of its own.
        assert one.shown.replace(b"\r\r", b"\r") == b"last words\r\n"
    for program, expected in (("nosuch", 127), ("/etc/passwd", 126)):
        assert terminal("exec", "-it", name, program).wait() == expected
    line.run("rm", "-f", name)


@runtimes
def test_the_longest_name(
    line: Runner,
    image: Path,
    tmp_path: Path,
    runtime: str,
    terminal: Callable[..., Terminal],
) -> None:
    """Sockets of monitor and runtime are reached, however long their paths are."""
    name = "n" * 64
    line.runtime_directory = tmp_path / ("d" * 200)
    line.environment["UNIONMOUNT_RUNTIME_DIR"] = str(line.runtime_directory)
    detached(line, "--name", name, "--runtime", runtime, image, "sh", "-c", LOOP)
    assert line.output("exec", name, "echo", "x") == "x\n"
    one = terminal("exec", "-it", name, "sh", "-c", "tty; exit 4")
    one.read_to(b"/dev/pts/")
    assert one.wait() == 4
    line.run("rm", "-f", name)
    two = terminal("run", "-it", "--rm", "--name", name, "--runtime", runtime, image, "tty")
    two.read_to(b"/dev/")
    assert two.wait() == 0
    assert line.left() == []


def test_command_and_state_are_shown(line: Runner, image: Path) -> None:
    assert "COMMAND" not in line.output("ps", "-a")
    name = detached(line, image, "sh", "-c", LOOP)
    header, row = line.output("ps").splitlines()
    assert header.endswith("STATUS    COMMAND")
    assert "running   sh -c " in row
    (listed,) = json.loads(line.output("ps", "--format", "json"))
    assert listed["command"].startswith("sh -c ")

    def state() -> Any:
        return json.loads(line.output("inspect", "--format", "{{json .State}}", name))

    found = state()
    assert (found["Status"], found["Running"], found["ExitCode"]) == ("running", True, 0)
    assert found["Command"] == listed["command"]
    assert b"trap" in Path(f"/proc/{found['Pid']}/cmdline").read_bytes()
    line.run("kill", name)
    assert line.output("wait", name) == "137\n"
    found = state()
    assert (found["Status"], found["Running"], found["ExitCode"]) == ("exited", False, 137)
    assert (found["Pid"], found["FinishedAt"] > found["StartedAt"]) == (0, True)
    assert "exited (137)   sh -c " in line.output("ps", "-a")
    line.run("rm", name)


# ---- terminals -----------------------------------------------------------------------------------


@runtimes
def test_a_terminal(
    line: Runner, image: Path, runtime: str, terminal: Callable[..., Terminal]
) -> None:
    script = """
    trap 'echo WINCH' WINCH; trap 'echo INT' INT; tty; stty size; echo ready
    while :; do if read x; then echo "[$x]"; [ "$x" = size ] && stty size; fi; done
    """
    one = terminal("run", "-it", "--name", "tty", "--runtime", runtime, image, "sh", "-c", script)
    assert b"/dev/" in one.read_to(b"24 100\r\nready")
    one.type("word\n")
    one.read_to(b"[word]")
    one.resize(33, 77)
    one.read_to(b"WINCH")
    one.type("size\n")
    one.read_to(b"33 77")
    one.type("\x03")
    one.read_to(b"INT")
    one.type("\x10\x11")  # the keys to detach
    assert one.wait() == 0
    assert status(line, "tty") == "running"
    two = terminal("attach", "tty")
    two.type("\x10more\n")  # the beginning of the keys alone is passed on
    two.read_to(b"more]")
    line.run("kill", "tty")
    assert two.wait() == 137
    line.run("rm", "tty")


def test_other_keys_to_detach(line: Runner, image: Path, terminal: Callable[..., Terminal]) -> None:
    words = (
        "run",
        "-it",
        "--name",
        "keys",
        "--detach-keys",
        "a,ctrl-b",
        image,
        "sh",
        "-c",
        "echo ready; cat",
    )
    one = terminal(*words)
    one.read_to(b"ready")
    one.type("ax\n")
    one.read_to(b"ax\r\nax")
    one.type("a\x02")
    assert one.wait() == 0
    line.run("rm", "-f", "keys")


def test_the_terminal_is_as_before(
    line: Runner, image: Path, terminal: Callable[..., Terminal]
) -> None:
    words = [*COMMAND, "run", "--rm", "-it", str(image), "true"]
    shell = ["sh", "-c", 'before=$(stty -g); "$@"; [ "$before" = "$(stty -g)" ] && echo same', "sh"]
    one = Terminal([*shell, *words], line.environment)
    try:
        one.read_to(b"same")
        assert one.wait() == 0
        assert one.shown.count(b"same") == 1
    finally:
        one.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_client_that_is_killed_leaves_the_terminal_as_before(
    line: Runner, image: Path, number: signal.Signals
) -> None:
    words = [*COMMAND, "run", "-it", "--name", "left", str(image), "sh", "-c", "echo up; cat"]
    script = 'before=$(stty -g); "$@"; echo status $?; [ "$before" = "$(stty -g)" ] && echo same'
    one = Terminal(["sh", "-c", script, "sh", *words], line.environment)
    try:
        one.read_to(b"up")
        client = Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()
        os.kill(int(client[0]), number)
        assert f"status {128 + number}".encode() in one.read_to(b"same")
        assert one.wait() == 0
    finally:
        one.close()
    assert status(line, "left") == "running"
    line.run("rm", "-f", "left")


# ---- signals to the client -----------------------------------------------------------------------


@runtimes
def test_signals_are_passed_on(line: Runner, image: Path, runtime: str) -> None:
    words = ("run", "--rm", "--runtime", runtime, image, "sh", "-c", LOOP)
    client = line.start(*words, stdout=subprocess.PIPE)
    assert client.stdout is not None
    for number, text in (
        (None, b"up\n"),
        (signal.SIGTERM, b"got TERM\n"),
        (signal.SIGHUP, b"got HUP\n"),
        (signal.SIGUSR1, b"got USR1\n"),
        (signal.SIGINT, b"bye\n"),
    ):
        if number is not None:
            client.send_signal(number)
        assert client.stdout.readline() == text
    assert client.wait(_SECONDS) == 9
    client.stdout.close()
    assert line.left() == []


# ---- sudden ends ---------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


@runtimes
def test_the_client_is_killed(line: Runner, image: Path, runtime: str) -> None:
    words = ("run", "--name", "orphan", "--runtime", runtime, image, "sh", "-c", LOOP)
    client = line.start(*words, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.kill()
    client.communicate()
    assert status(line, "orphan") == "running"  # as with docker
    line.run("stop", "orphan")
    assert line.output("wait", "orphan") == "9\n"
    line.run("rm", "orphan")


@runtimes
@pytest.mark.parametrize("victim", ["monitor", "daemon", "program"])
def test_a_process_is_killed(line: Runner, image: Path, runtime: str, victim: str) -> None:
    name = detached(line, "--runtime", runtime, image, "sh", "-c", f"echo x >/tmp/x; {LOOP}")
    found = state(line, name)
    (mount,) = [one for one in line.records() if one["container"] == name]
    program, monitor = Process(found["pid"]), Process(found["monitor"])
    daemon = Process(mount["pid"])
    numbers = {"monitor": found["monitor"], "daemon": mount["pid"], "program": found["pid"]}
    os.kill(numbers[victim], signal.SIGKILL)
    if victim == "monitor":
        monitor.wait()
        assert status(line, name) == "exited"  # the first command cleans up
        assert "without an exit status" in line.error("wait", name)
    else:
        assert line.output("wait", name) == "137\n"
    program.wait()
    daemon.wait()
    wait_until(lambda: line.left() == [])
    assert not is_mounted(Path(mount["mountpoint"]))
    again = line.run("run", name, "true")  # it can run again
    assert again.stdout == ""
    line.run("rm", name)


@pytest.fixture
def small(line: Runner, tmp_path: Path) -> Iterator[Path]:
    """A store on a small disk, with an image in it already."""
    top = tmp_path / "small"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", top], check=True)
    yield top / "store"
    subprocess.run(["umount", "--lazy", top], check=True)  # a monitor is about to end


def test_a_disk_that_is_full(line: Runner, image: Path, small: Path) -> None:
    """Neither the log nor the program's own files end the container, nor hide its status."""
    root = ("--root", small)
    script = "yes | head -c 500000; echo end >&2; exit 6"
    done = line.run("run", *root, "--name", "log", image, "sh", "-c", script, status=6)
    assert (len(done.stdout), done.stderr) == (500_000, "end\n")
    logged = line.run("logs", *root, "log").stdout
    assert 0 < len(logged) < 500_000
    assert set(logged.split("\n")) == {"y", ""}
    line.run("rm", *root, "log")
    script = "dd if=/dev/zero of=/x bs=1M count=20 2>/dev/null; echo $?; rm /x; echo y >/y; cat /y"
    assert line.output("run", *root, "--rm", "-u", "0", image, "sh", "-c", script) == "1\ny\n"
    assert line.left() == []


@pytest.mark.alone  # it keeps the mounts of others in use as well
def test_a_copy_of_the_mount_elsewhere_does_not_keep_it(line: Runner, image: Path) -> None:
    name = detached(line, "-u", "0", image, "sh", "-c", f"echo x >/x; {LOOP}")
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", "echo; cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        line.run("kill", name)
        started = time.monotonic()
        line.run("wait", name)
        wait_until(lambda: line.left() == [])
        assert time.monotonic() - started < 8
        other.communicate()
    assert line.output("diff", name) == "A /x\n"
    line.run("rm", name)


# ---- two stores ----------------------------------------------------------------------------------


@runtimes
def test_two_stores_have_a_container_of_the_same_name(
    line: Runner, image: Path, tmp_path: Path, runtime: str
) -> None:
    """All commands act on the container of their store, also while the other one does not run."""
    other = ("--root", tmp_path / "other")
    limit = ("-u", "0", "--pids-limit")
    for where, number in ((), "50"), (other, "60"):
        script = f"echo {number} >/n; {LOOP}"
        words = ("--runtime", runtime, "--name", "web", *limit, number, image, "sh", "-c", script)
        assert line.output("run", "-d", *where, *words) == "web\n"
    assert len(list(line.left())) == 6  # of run, oci and roots
    rows = json.loads(line.output("ps", "--format", "json"))
    assert {(row["root"], row["container"], row["status"]) for row in rows} == {
        (str(line.store), "web", "running"),
        (str(tmp_path / "other"), "web", "running"),
    }
    for where, number in ((), "50"), (other, "60"):
        read = "cat /n /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"
        shown = line.output("exec", *where, "web", "sh", "-c", read)
        assert shown.split() == [number, number]  # they have control groups of their own
        assert "'web' is running" in line.error("run", *where, "web", "true", status=125)
        assert "'web' is running" in line.error("rename", *where, "web", "new")
    line.run("kill", "-s", "USR1", *other, "web")
    Runner.await_log(_in(line, tmp_path / "other"), "web", b"got USR1\n")
    assert b"got USR1" not in line.call("logs", "web").stdout
    attached = line.start("attach", "--no-stdin", "web", stdout=subprocess.PIPE)
    line.run("stop", *other, "web")
    assert line.output("wait", *other, "web") == "9\n"
    assert "is not running" in line.error("kill", *other, "web")
    assert "is not running" in line.error("exec", *other, "web", "true", status=125)
    assert status(line, "web") == "running"
    line.run("rename", *other, "web", "new")
    line.run("rm", "-f", *other, "new")
    line.run("kill", "-s", "INT", "web")
    assert attached.communicate(timeout=_SECONDS)[0] == b"bye\n"
    assert attached.returncode == 9
    assert line.left() == []
    line.run("rm", "web")


def test_a_dead_monitor_of_another_store_is_cleaned_up_after(
    line: Runner, image: Path, tmp_path: Path
) -> None:
    other = ("--root", tmp_path / "other")
    for where in ((), other):
        line.run("run", "-d", *where, "--name", "web", image, "sh", "-c", LOOP)
    found = state(_in(line, tmp_path / "other"), "web")
    program = Process(found["pid"])
    os.kill(found["monitor"], signal.SIGKILL)
    assert line.output("exec", "web", "echo", "x") == "x\n"  # this command cleans up
    program.wait()
    wait_until(lambda: len(line.left()) == 3)
    line.run("rm", *other, "web")
    line.run("rm", "-f", "web")


def test_a_store_is_known_by_its_directory_not_by_its_path(
    line: Runner, image: Path, tmp_path: Path
) -> None:
    detached(line, "--name", "web", image, "sh", "-c", LOOP)
    (tmp_path / "link").symlink_to(line.store)
    assert line.output("exec", "--root", tmp_path / "link", "web", "echo", "x") == "x\n"
    assert "no container 'web'" in line.error("rm", "-f", "--root", tmp_path / "nosuch", "web")
    line.run("rm", "-f", "--root", tmp_path / "link", "web")
    assert line.left() == []


def _in(line: Runner, store: Path) -> Runner:
    """Return the same command line, which looks at another store."""
    other = copy.copy(line)
    other.store = store
    return other
