"""Command lines that are parsed without click: click is the oracle. And unionmount-overlay."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from unionmount.cli import main, overlay
from unionmount.cli.command_table import COMMANDS
from unionmount.cli.program import cli as group
from unionmount.cli.quick_parser import NotQuick, parse_command, parse_group
from unionmount.cli.settings import Settings
from unionmount.version import VERSION

PROGRAM = Path(sys.executable).with_name("unionmount-overlay")

UNDERSTOOD = (
    "mount image",
    "mount image where",
    "mount --ro image where",
    "mount image --ro where",
    "mount --pull never --name x image",
    "mount --pull=always --layer 3 image",
    "mount -o ro,dev -o suid image",
    "mount -oro image where",
    "mount -fo ro image",
    "mount --mkdir --over --with 1 image where",
    "mount --upper u --work w --upper-open --volatile image where",
    "mount --upper= image",
    "mount --root r --additional-store a --additional-store b image",
    "mount --creds a:b image",
    "mount - where",
    "mount --ro image where -- command -x -- y",
    "mount image -- --help",
    "overlay -o lowerdir=a:b,upperdir=u where",
    "overlay -olowerdir=a -f name where",
    "overlay where -o lowerdir=a -d -s",
    "overlay -fds -o x=y where",
    "overlay --debug where",
    "umount where",
    "umount -a --lazy",
    "umount a b c",
    "umount -a --kill",
    "umount -- -x",
)
NOT_UNDERSTOOD = (
    "mount",
    "mount a b c",
    "mount --no-such a",
    "mount --layer x a",
    "mount --layer -1 a",
    "mount --with 0 a",
    "mount -f -- -image",
    "mount -- image -- command",
    "mount --name -- image",
    "mount image --",
    "mount --pull sometimes a",
    "mount --tls-verify true a",
    "mount --platform linux/amd64/x/y a",
    "mount --ro=1 a",
    "mount -o",
    "mount --help",
    "mount '' where",
    "overlay",
    "overlay -x where",
)


def words_of(line: str) -> list[str]:
    return [word.strip("'") for word in line.split()]


def by_click(name: str, words: list[str], settings: Settings) -> dict[str, Any]:
    top = click.Context(group, obj=settings, **group.context_settings)
    command = group.get_command(top, name)
    assert command is not None
    return command.make_context(name, list(words), parent=top).params


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_it_is_parsed_as_by_click(line: str) -> None:
    name, *words = words_of(line)
    declared = importlib.import_module(f"unionmount.cli.commands.{COMMANDS[name][0]}").command
    ours, theirs = Settings(), Settings()
    assert parse_command(declared, words, ours)[1] == by_click(name, words, theirs)
    assert (ours.root, list(ours.additional)) == (theirs.root, list(theirs.additional))


@pytest.mark.parametrize("line", NOT_UNDERSTOOD)
def test_what_is_wrong_or_rare_is_left_to_click(line: str) -> None:
    name, *words = words_of(line)
    declared = importlib.import_module(f"unionmount.cli.commands.{COMMANDS[name][0]}").command
    with pytest.raises(NotQuick):
        parse_command(declared, words, Settings())


def test_options_before_the_command() -> None:
    settings = Settings()
    words = ["--root", "r", "--additional-store=a", "--debug", "--additional-store", "b", "ps"]
    assert parse_group(words, settings) == ["ps"]
    assert (settings.root, list(settings.additional), settings.debug) == ("r", ["a", "b"], True)
    for wrong in (["--root"], ["--debug=1"], ["--help"], ["-x", "ps"]):
        with pytest.raises(NotQuick):
            parse_group(wrong, Settings())


# ---- unionmount-overlay --------------------------------------------------------------------------


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "-V"):
        assert (main([option]), overlay([option])) == (0, 0)
        lines = [f"unionmount {VERSION}", f"unionmount-overlay: version {VERSION}"]
        assert capsys.readouterr().out.splitlines() == lines
        assert (main(["--debug", option]), overlay(["-f", option])) == (0, 0)  # by click
        assert capsys.readouterr().out.splitlines() == lines


def test_its_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("200", "60"):  # as it was written, and laid out by click
        monkeypatch.setenv("COLUMNS", columns)
        assert overlay(["--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("Usage: unionmount-overlay [OPTIONS] [SOURCE] MOUNTPOINT\n")
        assert "-V, --version" in shown


def test_its_errors_have_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert overlay(["--no-such", "x"]) == 2
    assert overlay(["-o", "lowerdir=/no/such", "/"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("unionmount-overlay: No such option")
    assert told[0].endswith("(see unionmount-overlay --help)")
    assert told[1].startswith("unionmount-overlay: ")


def test_the_program_starts_without_click() -> None:
    code = "import sys; from unionmount.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    for words in (["--help"], ["--version"], ["overlay", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], check=True, capture_output=True, text=True
        )
        loaded = done.stdout.splitlines()[-1].split()
        assert not {"click", "pathlib", "unionmount._core", "unionmount.api"} & set(loaded)


def test_the_helper_of_mount_starts_without_click(tmp_path: Path) -> None:
    code = "import sys; from unionmount.cli.mount_helper import main; status = main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(status, *sys.modules)", "/no/such.tar", tmp_path],
        check=True,
        capture_output=True,
        text=True,
    )
    status, *loaded = done.stdout.split()
    assert status == "32"
    assert "unionmount.cli.mount_sources" in loaded
    assert not {"click", "pyfuse3", "subprocess", "trio", "asyncio", "sniffio"} & set(loaded)
    assert not {"fsspec", "unionmount.api"} & set(loaded)


def test_the_program() -> None:
    done = subprocess.run([PROGRAM, "-V"], check=True, capture_output=True, text=True)
    assert done.stdout == f"unionmount-overlay: version {VERSION}\n"
    done = subprocess.run([PROGRAM], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.needs("fuse")
@pytest.mark.parametrize("debug", [["-d"], ["--debug"], ["-o", "debug"]], ids=str)
def test_debugging_serves_in_the_foreground(debug: list[str], public_tmp: Path) -> None:
    for name in ("lower", "mnt"):
        (public_tmp / name).mkdir()
    (public_tmp / "lower/file").write_text("x")
    where = public_tmp / "mnt"
    lower = f"lowerdir={public_tmp}/lower"
    command = [str(PROGRAM), "-s", *debug, "-o", lower, str(where)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not (where / "file").exists():
            assert process.poll() is None
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
