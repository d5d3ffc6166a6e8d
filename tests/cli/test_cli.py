"""The command line without mounting: how it fails, how it prints, and that it starts quickly."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archives import Layer, docker_archive

from unionmount.cli import main
from unionmount.cli.command_table import COMMANDS
from unionmount.cli.output import (
    ListRow,
    age_of,
    aligned,
    display_width,
    human_age,
    human_size,
    print_table,
    shortened,
)
from unionmount.errors import MountError, UsageError
from unionmount.mounting.options import MountOptions, parse_options

Capture = pytest.CaptureFixture[str]


def test_help_lists_every_command(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_short_helps_are_those_of_the_commands() -> None:
    for name, (module, text) in COMMANDS.items():
        command = importlib.import_module(f"unionmount.cli.commands.{module}").command.build()
        assert isinstance(command, click.Command)
        assert command.help
        assert text.endswith(".")
        assert name in {command.name, "unmount"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: Capture) -> None:
    assert main([name, "-h"]) == 0
    assert f"unionmount {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["mount"],
        ["mount", "--nonsense", "x"],
        ["mount", "--ro", "--name", "x", "y"],
        ["mount", "-o", "ro", "--ephemeral", "y"],
        ["mount", "--ro", "--volatile", "y"],
        ["mount", "--upper", "u", "--name", "x", "y"],
        ["mount", "--upper", "u", "--ephemeral", "y"],
        ["mount", "--work", "w", "y"],
        ["mount", "--upper-open", "y"],
        ["mount", "--name", "a/b", "y"],
        ["mount", "--name", "scratch", "y"],
        ["overlay"],
        ["overlay", "x"],
        ["overlay", "-o", "lowerdir=a", "x", "y", "z"],
        ["overlay", "-o", "lowerdir=a,upperdir=b", "."],
        ["rm"],
        ["umount"],
        ["umount", "-a", "x"],
        ["layers", "x", "-1"],
        ["layers", "x", "--format", "xml"],
        ["mount", "--layers", "--layer", "1", "y"],
        ["mount", "--layer", "1", "--name", "x", "y"],
        ["mount", "--layers", "--upper", "u", "y"],
        ["mount", "--layer", "-1", "y"],
        ["ls"],
        ["ls", "-h", "-l"],
        ["find"],
        ["find", "-name", "x"],
        ["cat"],
        ["cat", "x"],
        ["which", "x"],
        ["diff", "--stat", "--format", "json", "x"],
        ["diff", "--platform", "linux/amd64", "x"],
        ["ps", "--format", "xml"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("unionmount: ")
    assert captured.err.count("\n") == 1
    assert "--help)" in captured.err


def test_without_arguments_there_is_help(capsys: Capture) -> None:
    main([])
    captured = capsys.readouterr()
    assert "Mount and change:" in captured.out + captured.err


def test_an_error_is_one_line(capsys: Capture, tmp_path: Path) -> None:
    status = main(["--root", str(tmp_path), "layers", "no-such\x1b[1m\nimage"])
    captured = capsys.readouterr()
    assert (status, captured.out) == (1, "")
    assert captured.err.startswith("unionmount: ")
    assert captured.err.count("\n") == 1
    assert "\x1b" not in captured.err


def test_debug_shows_where(capsys: Capture, tmp_path: Path) -> None:
    assert main(["--debug", "--root", str(tmp_path), "layers", "no-such-image"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_is_one_line_too(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("it\nhappens")

    monkeypatch.setattr("unionmount.mounting.records.MountTable.of_user", fail)
    assert main(["ps"]) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "internal error: ZeroDivisionError: it\\nhappens" in shown


def test_a_system_error_names_the_file(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("unionmount.mounting.records.MountTable.of_user", fail)
    assert main(["ps"]) == 1
    assert capsys.readouterr().err == "unionmount: /some/file: Permission denied\n"


def test_an_interrupt_has_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unionmount.mounting.records.MountTable.of_user", fail)
    assert main(["ps"]) == 130


@pytest.mark.parametrize("closed", [">&-", "<&- >&-"])
@pytest.mark.parametrize("command", ["--version", "--help", "version", "ls IMAGE", "export IMAGE"])
def test_a_closed_output_is_an_error(command: str, closed: str, tmp_path: Path) -> None:
    image = docker_archive(tmp_path / "image.tar", [Layer().file("name", b"")], "name:1")
    words = command.replace("IMAGE", str(image)).split()
    program = [sys.executable, "-m", "unionmount", *words]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *program],
        env=os.environ | {"UNIONMOUNT_ROOT": str(tmp_path / "store")},
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    message = "unionmount: standard output: Bad file descriptor\n"
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize("command", [["--help"], ["version"], ["ps", "--help"]], ids=" ".join)
def test_nothing_heavy_is_imported(command: list[str]) -> None:
    code = (
        "import sys; from unionmount.cli import main; main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], check=True, capture_output=True, text=True
    )
    heavy = {
        "pyfuse3",
        "trio",
        "asyncio",
        "sniffio",
        "fsspec",
        "unionmount.api",
        "unionmount._core",
        "rich",
        "unionmount.gotemplate",
        "subprocess",
        "ctypes",
        "hashlib.sha256",
    }
    assert not heavy & set(done.stderr.split())


@pytest.mark.alone
def test_help_is_quick() -> None:
    """Against a bare interpreter in the same moment, for the machine may be busy."""

    def best(*arguments: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        return min(times)

    bare = best("-c", "import click")
    assert best("-m", "unionmount", "--help") < 2 * bare + 0.05


# ---- options -----------------------------------------------------------------------------------


def test_mount_options() -> None:
    assert parse_options([]) == MountOptions()
    assert parse_options(["dev,suid", "noexec"]) == MountOptions(dev=True, suid=True, exec=False)
    assert parse_options(["dev,nodev", "ro,rw,,"]) == MountOptions()
    assert parse_options(["rw", "ro"]) == MountOptions(ro=True)
    assert parse_options(["xattrs=layers"]).list_layers
    assert parse_options(["threads=3", "nofastpath"]) == MountOptions(threads=3, fastpath=False)
    assert parse_options(["threads=9999", "nofastpath,fastpath"]) == MountOptions(threads=32)


def test_unknown_mount_options_are_named() -> None:
    with pytest.raises(MountError, match="one, two=3"):
        parse_options(["dev,one", "two=3"])
    with pytest.raises(MountError, match=r"strictatime is refused: .* use relatime"):
        parse_options(["strictatime"])


def test_options_of_mount() -> None:
    assert parse_options(["relatime,nodiratime"]) == MountOptions(atime=True, diratime=False)
    assert parse_options(["relatime,noatime,diratime"]) == MountOptions()
    assert parse_options(["suid,dev,exec,users"]) == MountOptions(exec=False)
    assert parse_options(["users,exec"]) == MountOptions()
    assert parse_options(["nosymfollow,fsname=a"]) == MountOptions(symfollow=False, fsname="a")
    assert parse_options(["defaults,nofail,x-systemd.automount,comment=c"]) == MountOptions()


def test_who_gets_in() -> None:
    default = MountOptions()
    assert default.for_others(root=True)
    assert not default.for_others(root=False)
    assert not parse_options(["noallow_other"]).for_others(root=True)
    assert parse_options(["allow_other"]).for_others(root=False)


# ---- printing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1234, "1.23kB"),
        (999_499, "999kB"),
        (999_500, "1MB"),
        (77_800_000, "77.8MB"),
        (2**63, "9.22EB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text


@given(st.integers(0, 2**64))
def test_sizes_are_short(size: int) -> None:
    assert len(human_size(size)) <= 6


# HumanDuration of docker's go-units, duration.go, at each of its limits.
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "Less than a second ago"),
        (0.9, "Less than a second ago"),
        (1, "1 second ago"),
        (2.5, "2 seconds ago"),
        (59.9, "59 seconds ago"),
        (60, "About a minute ago"),
        (119, "About a minute ago"),
        (120, "2 minutes ago"),
        (3599, "59 minutes ago"),
        (3600, "About an hour ago"),
        (5399, "About an hour ago"),
        (5400, "2 hours ago"),
        (3600 * 47.4, "47 hours ago"),
        (3600 * 47.5, "2 days ago"),
        (86400 * 13, "13 days ago"),
        (86400 * 14, "2 weeks ago"),
        (86400 * 59, "8 weeks ago"),
        (86400 * 60, "2 months ago"),
        (86400 * 200, "6 months ago"),
        (86400 * 729, "24 months ago"),
        (86400 * 730, "2 years ago"),
        (86400 * 3650, "10 years ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert human_age(seconds) == text


@pytest.mark.parametrize("text", ["", "yesterday", "9999", "0001-01-01T00:00:00Z\x1b"])
def test_ages_of_damaged_times(text: str) -> None:
    assert age_of(text) == "N/A"


def test_times_of_images_have_nanoseconds() -> None:
    assert age_of("2020-09-13T12:26:40.123456789Z").endswith("years ago")
    assert age_of("0001-01-01T00:00:00Z") == "N/A"  # what Go writes where there is no time
    assert age_of("1970-01-01T00:00:00Z").endswith("years ago")


def test_a_table_has_no_control_characters(capsys: Capture) -> None:
    print_table(("NAME", "B"), [("a\x1b[1m\n", "x"), ("long-name-here", "")])
    shown = capsys.readouterr().out
    assert shown == "NAME             B\na\\x1b[1m\\n       x\nlong-name-here\n"


def test_a_row_of_json() -> None:
    row = ListRow.of({"created_by": "x", "size": 5, "tags": ["a", "b"], "empty": True, "id": None})
    assert row.fields == {
        "CreatedBy": "x",
        "Size": "5",
        "Tags": "a,b",
        "Empty": "true",
        "Id": "",
    }


def test_wide_characters_are_aligned() -> None:
    rows = [["漢字", "x"], ["a\u0301b", "y"], ["abcd", "z"], ["\uff48\uff49", ""]]
    widths = []
    for line, row in zip(aligned(rows, 0), rows, strict=True):
        widths.append(display_width(line.removesuffix(row[-1])))
    assert widths == [7] * 4


# Ellipsis of the docker CLI, formatter/displayutils.go.
@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [
        ("short", 5, "short"),
        ("longer", 5, "long…"),
        ("漢字漢字", 8, "漢字漢字"),
        ("漢字漢字", 7, "漢字漢…"),
        ("漢字漢字", 6, "漢字…"),
        ("é" * 46, 45, "é" * 44 + "…"),
    ],
)
def test_long_texts_are_cut(text: str, width: int, cut: str) -> None:
    assert shortened(text, width) == cut


def test_errors_have_exit_codes() -> None:
    assert (MountError("x").exit_code, UsageError("x").exit_code) == (1, 2)
