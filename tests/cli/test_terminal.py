"""What is there only on a terminal: bars, escapes, pages, words that a shell completes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.listed_images import WEB, DescribedImage, fill, put
from support.terminal import Terminal

from unionmount.cli import main
from unionmount.cli.command_table import COMMANDS
from unionmount.cli.progress import ProgressLine
from unionmount.images.reference import Digest
from unionmount.store.containers import ContainerImage, Containers
from unionmount.store.store import Store

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]


Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a program on a terminal."""
    running: list[Terminal] = []

    def run(*command: str, **environment: str) -> Terminal:
        base = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        base |= {"TERM": "xterm-256color", "LINES": "24", "COLUMNS": "100", "HOME": str(tmp_path)}
        terminal = Terminal(list(command), base | environment)
        running.append(terminal)
        return terminal

    yield run
    for terminal in running:
        terminal.close()


# ---- progress ------------------------------------------------------------------------------------

_SHOW = """
import sys, threading
from unionmount.cli import progress
progress._PERIOD = 0
line = progress.ProgressLine()
def read(name):
    for done in range(0, 101, 10):
        line(name, done * 1000, 100_000)
threads = [threading.Thread(target=read, args=(f"layer-{i}[red]\\x1b[5m",)) for i in range(3)]
for one in threads: one.start()
for one in threads: one.join()
line("unknown", 5, None)
line.clear()
line.clear()
print("rich" in sys.modules, threading.active_count())
"""


def test_bars_for_layers_that_are_read_at_once(start: Start) -> None:
    terminal = start(sys.executable, "-c", _SHOW)
    assert terminal.wait() == 0
    for number in range(3):
        assert f"layer-{number}[red]".encode() in terminal.shown
    assert b"\x1b[5m" not in terminal.shown
    assert b"True 1" in terminal.shown
    assert "━".encode() in terminal.shown
    assert b"\x1b[38" in terminal.shown  # colours
    assert terminal.shown.rstrip().endswith(b"True 1")


def test_bars_without_colours(start: Start) -> None:
    terminal = start(sys.executable, "-c", _SHOW, NO_COLOR="1")
    assert terminal.wait() == 0
    assert b"layer-0" in terminal.shown
    assert not re.search(rb"\x1b\[(3[0-9]|4[0-9]|9[0-9])[;m]", terminal.shown)


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}], ids=str)
def test_no_bars_on_a_dumb_terminal(start: Start, environment: dict[str, str]) -> None:
    terminal = start(sys.executable, "-c", _SHOW, **environment)
    assert terminal.wait() == 0
    assert terminal.shown.split() == [b"False", b"1"]


def test_no_bars_without_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", _SHOW], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False 1\n", "")


def test_a_command_shows_bars_and_removes_them(
    start: Start, unionmount: Path, sample: Path, tmp_path: Path
) -> None:
    terminal = start(str(unionmount), "--root", str(tmp_path / "s"), "load", "-i", str(sample))
    assert terminal.wait() == 0
    assert terminal.shown.replace(b"\r\n", b"\n").endswith(
        b"Loaded image: docker.io/unionmount/sample:1\n"
    )


def test_nothing_is_printed_from_another_thread_without_a_terminal(capsys: Capture) -> None:
    line = ProgressLine()
    thread = threading.Thread(target=line, args=("x", 1, 2))
    thread.start()
    thread.join()
    line.clear()
    assert capsys.readouterr().err == ""


# ---- escapes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = fill(tmp_path_factory.mktemp("terminal") / "store")
    hostile = {"config": {"Labels": {"x": "\x1b]0;owned\x07\x9b1mA\tB\n"}}}
    put(store, DescribedImage(WEB.layers, ("evil:1",), more=hostile))
    facts = ContainerImage("evil:1", "evil:1", Digest.parse(WEB.id), Digest.parse(WEB.id))
    Containers(store).create(facts, "shelf").close()
    return store


def test_templates_are_harmless_on_a_terminal_and_exact_elsewhere(
    start: Start, unionmount: Path, store: Store
) -> None:
    command = [str(unionmount), "--root", str(store.root), "inspect", "evil:1"]
    command += ["-f", "{{.Config.Labels.x}}"]
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    assert piped == "\x1b]0;owned\x07\x9b1mA\tB\n\n".encode()
    terminal = start(*command)
    assert terminal.wait() == 0
    assert terminal.shown.replace(b"\r\n", b"\n") == b"\\x1b]0;owned\\x07\\x9b1mA\tB\n\n"


# ---- completion ----------------------------------------------------------------------------------


@pytest.fixture
def words(unionmount: Path, store: Store, tmp_path: Path) -> Callable[[str], list[str]]:
    """A function that asks bash for what completes a line."""
    script = tmp_path / "script"
    script.write_text(
        subprocess.run(
            [str(unionmount), "completion", "bash"], capture_output=True, text=True, check=True
        ).stdout
        + "COMP_LINE=$1; COMP_POINT=${#1}; _unionmount_completion unionmount\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )

    def ask(line: str) -> list[str]:
        done = subprocess.run(
            ["bash", str(script), line],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env=os.environ
            | {
                "PATH": f"{unionmount.parent}:{os.environ['PATH']}",
                "UNIONMOUNT_ROOT": str(store.root),
            },
        )
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_commands_and_options_complete(words: Callable[[str], list[str]]) -> None:
    assert words("unionmount hist") == ["history"]
    assert words("unionmount history --no-t") == ["--no-trunc"]
    assert words("unionmount completion ") == ["bash", "zsh", "fish"]


def test_names_complete(words: Callable[[str], list[str]]) -> None:
    assert words("unionmount history ngi") == ["nginx:1.25", "nginx:latest"]
    assert words("unionmount history nginx:1") == ["1.25"]  # bash has the rest: it cuts at colons
    assert words("unionmount inspect nginx:latest ghcr.io/") == ["ghcr.io/a/b:2.0"]
    assert words("unionmount mount she") == ["shelf"]
    assert words("unionmount --root /nowhere/at/all rm s") == []
    assert not Path("/nowhere").exists()


_SHELLS = {
    "bash": (
        ["bash", "--norc", "-i"],
        "source <(unionmount completion bash)\n",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -Uz compinit && compinit -u -D; source <(unionmount completion zsh)\n",
    ),
    "fish": (
        ["fish", "--no-config", "--interactive"],
        "unionmount completion fish | source\n",
    ),
}


@pytest.mark.parametrize(
    "shell", [pytest.param(name, marks=pytest.mark.needs(name)) for name in _SHELLS]
)
def test_a_shell_completes_a_name(start: Start, unionmount: Path, store: Store, shell: str) -> None:
    command, setup = _SHELLS[shell]
    terminal = start(
        *command,
        PATH=f"{unionmount.parent}:{os.environ['PATH']}",
        UNIONMOUNT_ROOT=str(store.root),
        PS1="> ",
        TERM="xterm",
    )
    terminal.type(setup + "echo rea''dy\n")
    terminal.read(lambda shown: b"ready" in shown)
    terminal.type("unionmount history -q --no-trunc ghcr\t\n")
    wanted = b"<missing>\r\n"
    terminal.read(lambda shown: shown.count(b"sha256:") >= 1 or wanted in shown)
    assert re.search(rb"sha256:[0-9a-f]{64}", terminal.shown)


# ---- manual pages --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    assert main(["man", "-o", str(directory)]) == 0
    return directory


def test_every_command_has_a_page(pages: Path) -> None:
    names = {f"unionmount-{name}.1" for name in COMMANDS} | {"unionmount.1"}
    assert {path.name for path in pages.iterdir()} == names
    whole = (pages / "unionmount.1").read_text()
    assert all(f"unionmount\\-{name}" in whole for name in COMMANDS)


@pytest.mark.needs("mandoc")
def test_pages_have_no_faults(pages: Path) -> None:
    files = sorted(map(str, pages.iterdir()))
    done = subprocess.run(
        ["mandoc", "-Tlint", "-W", "style", *files], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.needs("mandoc")
def test_a_page_says_what_help_says(pages: Path) -> None:
    shown = subprocess.run(
        ["mandoc", "-Tascii", str(pages / "unionmount-images.1")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    plain = re.sub(r".\x08", "", shown)
    for wanted in ("--no-trunc", "NAME=VALUE", "List the images of the store", "EXIT STATUS"):
        assert wanted in plain
    assert "unionmount-images - list the images of the store\n" in plain


def test_pages_are_the_same_for_the_same_day(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert main(["man", "history"]) == 0
    assert capsys.readouterr().out.startswith(".TH UNIONMOUNT-HISTORY 1 1970-01-02 ")


def test_no_page_for_what_is_no_command(capsys: Capture) -> None:
    assert main(["man", "nonsense"]) == 2
    assert main(["man", "-o", "x", "mount"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.needs("man")
def test_a_terminal_shows_a_page(start: Start, unionmount: Path) -> None:
    terminal = start(str(unionmount), "man", "history", MANPAGER="cat", PAGER="cat")
    assert terminal.wait() == 0
    assert b"SYNOPSIS" in re.sub(rb".\x08", b"", terminal.shown)
    assert b".SH" not in terminal.shown
