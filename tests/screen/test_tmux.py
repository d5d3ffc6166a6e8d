"""The screen in a real terminal, tmux: what its cells hold, colours, sizes, signals, errors."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine, Process

pytestmark = [pytest.mark.slow, pytest.mark.needs("tmux")]

_PATIENCE = 20.0
HOSTILE = (
    "esc\x1b[31mred",
    "title\x1b]0;owned\x07",
    "new\nline",
    "return\rback",
    "bell\x07",
    "tab\tstop",
    "del\x7f",
    "c1\x9b31m",
    "caf\udce9",
    "\u202egnp.exe",
    "zero\u200dwidth",
    "\u0301start",
    "zalgo" + "\u0301" * 40,
    "wide\u6f22\u5b57",
    "emoji\U0001f600\ufe0f",
    "flag\U0001f1e9\U0001f1ea",
    "hangul\u1112\u1161\u11ab",
    "[bold]markup",
    "e\u0301 accent",
)


class Tmux:
    """A terminal in tmux that runs one program; keys are typed and cells are read."""

    def __init__(self, top: Path, columns: int, lines: int) -> None:
        self._socket = top / "tmux"
        self._environment = os.environ | {
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
            "PS1": "$ ",
        }
        self._size = "-x", str(columns), "-y", str(lines)

    def run(self, *words: str) -> str:
        """Run a command of tmux; return what it printed."""
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), "-f", "/dev/null", *words],
            capture_output=True,
            check=True,
            env=self._environment,
            timeout=_PATIENCE,
        )
        return done.stdout.decode()

    def start(self, *command: str, environment: str = "") -> None:
        """Run the program; the terminal stays when it ends, and shows its exit status."""
        quoted = " ".join(f"'{word}'" for word in command)
        line = f"{environment} {quoted}; echo status $?; cat"
        self.run("new-session", "-d", *self._size, "sh", "-c", line)

    def screen(self, *options: str) -> str:
        """The cells, with escape sequences for their colours if wanted (-e)."""
        return self.run("capture-pane", "-p", *options)

    def wait(self, enough: Callable[[str], bool]) -> str:
        """Wait until the screen shows enough. tmux tells of no changes, so it is asked again."""
        end = time.monotonic() + _PATIENCE
        while not enough(shown := self.screen()):
            assert time.monotonic() < end, shown
        return shown

    def ready(self) -> str:
        """Wait until the rows are there and keys go to them."""
        self.wait(lambda _: re.search(r"\x1b\[(\d+;)*7[;m]", self.screen("-e")) is not None)
        return self.wait(lambda shown: "? help" in shown and "listed" not in shown)

    def type(self, *pressed: str) -> None:
        """Press keys, by the names that tmux gives them."""
        self.run("send-keys", *pressed)

    def pid(self) -> int:
        """The process of the program."""
        shell = int(self.run("display-message", "-p", "#{pane_pid}"))
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text(encoding="ascii")
        return int(children.split()[0])


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Callable[..., Tmux]]:
    """A function that makes a terminal, which ends with the test."""
    made: list[Tmux] = []

    def make(columns: int = 100, lines: int = 30) -> Tmux:
        (top := tmp_path / f"tmux{len(made)}").mkdir()
        made.append(Tmux(top, columns, lines))
        return made[-1]

    yield make
    for one in made:
        one.run("kill-server")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    base = (
        Layer()
        .directory("names")
        .file("old", b"1")
        .file("same", b"2")
        .file("word", b"\x1b]0;x\x07")
    )
    for name in HOSTILE:
        base.file(f"names/{name}", b"x")
    base.symlink("link", "to\x1b[2J\nnowhere")
    top = Layer().file("old", b"changed").file("new", b"3").file(".wh.word")
    history = ["ADD base \x1b[2J\x1b]0;owned\x07", "RUN \u202etop"]
    return docker_archive(tmp_path / "image.tar", [base, top], history=history)


def browse(image: Path | str, *options: str) -> tuple[str, ...]:
    return (*COMMAND, "browse", *options, str(image))


def test_names_change_nothing_but_their_own_cells(tmux: Callable[..., Tmux], image: Path) -> None:
    terminal = tmux(100, 40)
    terminal.start(*browse(image))
    terminal.ready()
    terminal.type("Down", "Space")
    terminal.wait(lambda shown: "accent" in shown)
    for key in ("C-Space", "C-Space", "G", "g", "C-b", "C-b"):
        terminal.type(key)
    expected = (
        r"esc\x1b[31mred",
        r"title\x1b]0;owned\x07",
        r"new\nline",
        r"return\rback",
        r"c1\x9b31m",
        r"caf\xe9",
        r"\u202egnp.exe",
        r"zero\u200dwidth",
        r"\u0301start",
        r"emoji😀\ufe0f",
        "wide漢字",
        "[bold]markup",
        "e\u0301 accent",
        r"to\x1b[2J\nnowhere",
        r"\u202etop",
    )
    shown = terminal.wait(lambda shown: "drwx" in shown and all(one in shown for one in expected))
    # the bar between the panes is in one column, whatever is beside it
    bars = {_cells(line.partition("│")[0]) for line in shown.splitlines() if "│" in line}
    assert len(bars) == 1, shown
    assert terminal.run("display-message", "-p", "#{pane_title}").strip() != "owned"
    (row,) = [line for line in terminal.screen("-e").splitlines() if r"esc\x1b" in line]
    assert "\x1b[31m" not in row.partition("│")[2]  # the name is not red, as nothing changed it


def _cells(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(1 for character in text if unicodedata.combining(character))


def test_content_is_escaped_as_well(tmux: Callable[..., Tmux], image: Path) -> None:
    terminal = tmux()
    terminal.start(*browse(image))
    terminal.ready()
    terminal.type("G", "Enter")
    terminal.wait(lambda shown: r"\x1b]0;x\x07" in shown)
    assert terminal.run("display-message", "-p", "#{pane_title}").strip() != "x"


@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
def test_small_terminals_and_other_sizes(
    tmux: Callable[..., Tmux], image: Path, size: tuple[int, int]
) -> None:
    terminal = tmux(*size)
    terminal.start(*browse(image))
    terminal.ready()
    for width, height in ((100, 30), (30, 6), size):
        terminal.run("resize-window", "-x", str(width), "-y", str(height))
        shown = terminal.wait(lambda shown: "? help" in shown.splitlines()[-1])
        assert len(shown.splitlines()) == height
    terminal.type("?")
    terminal.wait(lambda shown: "Keys" in shown)
    terminal.type("Escape")
    terminal.wait(lambda shown: "? help" in shown)
    terminal.type("q")
    terminal.wait(lambda shown: "status 0" in shown)


def test_the_size_is_that_of_the_terminal(tmux: Callable[..., Tmux], image: Path) -> None:
    terminal = tmux(100, 30)
    terminal.start(*browse(image), environment="COLUMNS=60 LINES=10")
    terminal.ready()
    for width, height in ((100, 30), (90, 24)):
        terminal.run("resize-window", "-x", str(width), "-y", str(height))
        expected = height, width - 1
        terminal.wait(lambda shown, expected=expected: _size_of(shown) == expected)  # type: ignore[misc]


def _size_of(shown: str) -> tuple[int, int]:
    """Return the lines of a screen, and the columns of the last one, which is as wide as it."""
    lines = shown.splitlines()
    return len(lines), len(lines[-1])


def test_colours_and_none(tmux: Callable[..., Tmux], image: Path) -> None:
    coloured, plain = tmux(), tmux()
    coloured.start(*browse(image))
    plain.start(*browse(image), environment="NO_COLOR=1")
    for terminal in (coloured, plain):
        terminal.wait(lambda shown: " D " in shown and " A " in shown and " C " in shown)
    sequences = re.findall(r"\x1b\[([\d;]*)m", coloured.screen("-e"))
    used = {code for one in sequences for code in one.split(";")}
    assert {"31", "32", "33"} <= used  # removed, added, changed
    for one in re.findall(r"\x1b\[([\d;]*)m", plain.screen("-e")):
        assert not {code for code in one.split(";") if code} & {
            str(number) for number in (*range(30, 39), *range(40, 49), *range(90, 108))
        }, one


def test_the_terminal_is_as_before_afterwards(tmux: Callable[..., Tmux], image: Path) -> None:
    terminal = tmux()
    terminal.start(*browse(image))
    terminal.ready()
    assert terminal.run("display-message", "-p", "#{alternate_on}").strip() == "1"
    terminal.type("/", "a", "C-c")
    terminal.wait(lambda shown: "status 0" in shown)
    assert terminal.run("display-message", "-p", "#{alternate_on}").strip() == "0"
    assert terminal.run("display-message", "-p", "#{mouse_any_flag}").strip() == "0"


def test_it_can_be_stopped_and_continued(tmux: Callable[..., Tmux], image: Path) -> None:
    terminal = tmux()
    terminal.run("new-session", "-d", "-x", "100", "-y", "30", "sh", "-i")
    terminal.type("-l", " ".join(browse(image)))
    terminal.type("Enter")
    terminal.ready()
    terminal.type("C-z")
    terminal.wait(lambda shown: "topped" in shown and shown.rstrip()[-1] in "#$")
    terminal.type("fg", "Enter")
    terminal.wait(lambda shown: "▸ names/" in shown and "? help" in shown)
    terminal.type("Down", "q")
    terminal.wait(lambda shown: "? help" not in shown)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_and_restore_the_terminal(
    tmux: Callable[..., Tmux], image: Path, number: signal.Signals
) -> None:
    terminal = tmux()
    terminal.start(*browse(image))
    terminal.ready()
    os.kill(terminal.pid(), number)
    terminal.wait(lambda shown: f"status {128 + number}" in shown)
    assert terminal.run("display-message", "-p", "#{alternate_on}").strip() == "0"


def test_it_ends_with_its_terminal(tmux: Callable[..., Tmux], image: Path) -> None:
    terminal = tmux()
    terminal.start(*browse(image))
    terminal.ready()
    program = Process(terminal.pid())
    terminal.run("kill-session")
    program.wait()
    terminal.run("new-session", "-d")


def test_an_error_is_one_line(tmux: Callable[..., Tmux], tmp_path: Path) -> None:
    terminal = tmux()
    terminal.start(*browse(tmp_path / "absent.tar"))
    shown = terminal.wait(lambda shown: "status 1" in shown)
    assert shown.startswith("unionmount: ")
    assert "Traceback" not in shown


@pytest.mark.needs("fuse")
def test_a_container_and_its_mount_have_the_changes_on_top(
    tmux: Callable[..., Tmux], image: Path, cli: CommandLine, tmp_path: Path
) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    cli.run("mount", "--name", "looked-at", image, where)
    (where / "made").write_bytes(b"12345")
    (where / "same").unlink()
    record = cli.record(where)
    for word in ("looked-at", record["id"]):
        terminal = tmux()
        terminal.start(*browse(word))
        shown = terminal.wait(lambda shown: " D " in shown and " A " in shown)
        assert "up" in shown.splitlines()[1]
        states = dict(re.findall(r"│ ([ACD]) .*\s(\S+)$", shown, re.MULTILINE))
        assert {name: state for state, name in states.items()} == {"made": "A", "same": "D"}
        terminal.type("q")
        terminal.wait(lambda shown: "status 0" in shown)
    cli.run("umount", where)


def test_a_layer_can_be_chosen(tmux: Callable[..., Tmux], image: Path) -> None:
    terminal = tmux()
    terminal.start(*browse(image, "--layer", "0", "--platform", "linux/amd64"))
    shown = terminal.wait(lambda shown: "word" in shown)
    assert "new" not in re.findall(r"(\S+)$", shown, re.MULTILINE)


# ---- no terminal ---------------------------------------------------------------------------------


def test_it_needs_a_terminal(cli: CommandLine, image: Path) -> None:
    assert "needs a terminal" in cli.error("browse", image, status=2)


@contextmanager
def terminal_of(stream: str) -> Iterator[dict[str, int]]:
    """Streams of which all but one are terminals."""
    ours, theirs = pty.openpty()
    read, write = os.pipe()
    try:
        yield dict.fromkeys(("stdin", "stdout", "stderr"), theirs) | {
            stream: read if stream == "stdin" else write
        }
    finally:
        for fd in (ours, theirs, read, write):
            os.close(fd)


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_each_stream_has_to_be_one(image: Path, stream: str) -> None:
    with terminal_of(stream) as streams:
        done = subprocess.run(browse(image), check=False, timeout=60, **streams)  # type: ignore[call-overload]
    assert done.returncode == 2


def test_without_textual_it_says_what_to_install(image: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: (\n"
        "    None if name == 'textual' else found(name, *more))\n"
        "from unionmount.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [COMMAND[0], "-c", code, "browse", str(image)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm"},
            check=False,
            timeout=60,
        )
        shown = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert shown.startswith(b"unionmount: browse needs the package textual")
    assert shown.count(b"\n") == 1
