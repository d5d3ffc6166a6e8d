"""Wrong options, values and commands: each message names the nearest right word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive

from unionmount.cli import main, overlay
from unionmount.cli.command_table import COMMANDS
from unionmount.cli.other_words import _BY_KIND, _INSTEAD


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("UNIONMOUNT_ROOT", "UNIONMOUNT_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


MOUNT, OVERLAY = ("mount", "a.tar", "/mnt"), ("overlay", "/mnt")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        # options of a mount
        ((*MOUNT, "-o", "nodve"), "unknown mount option nodve; did you mean nodev?"),
        ((*MOUNT, "-o", "allow-other"), "did you mean allow_other?"),
        ((*MOUNT, "-o", "fsnam=x"), "did you mean fsname=?"),
        ((*MOUNT, "-o", "xattrs=layer"), "did you mean xattrs=layers?"),
        ((*MOUNT, "-o", "threads=many"), "threads=many is refused: give a number"),
        ((*MOUNT, "-o", "zzz"), "unknown mount option zzz; use one of _netdev, "),
        ((*MOUNT, "-o", "ro,name=web"), "-o name=web: on the command line, this is --name"),
        ((*MOUNT, "-o", "upper_open"), "this is --upper-open"),
        ((*OVERLAY, "-o", "lowrdir=/a"), "did you mean lowerdir=?"),
        ((*OVERLAY, "-o", "volatil"), "did you mean volatile?"),
        ((*OVERLAY, "-o", "index=onn"), "did you mean index=on?"),
        ((*OVERLAY, "-o", "max_thread=4"), "did you mean max_threads=?"),
        ((*OVERLAY, "-o", "redirect_dir=flow"), "'flow' is not one of on, off, follow, nofollow"),
        ((*OVERLAY, "-o", "redirect_dir=flow"), "; did you mean follow?"),
        # options, values and names of commands
        ((*MOUNT, "--plaform", "linux/amd64"), "'--plaform'; did you mean --platform? (see "),
        ((*MOUNT, "--pul=never"), "did you mean --pull?"),
        ((*MOUNT, "--pull=nver"), "did you mean never?"),
        ((*MOUNT, "--platform=linuxarm64"), "is not a platform; write OS/ARCH[/VARIANT]"),
        (("mount", "docker-archve:/a.tar", "/mnt"), "did you mean docker-archive?"),
        (("images", "--format", "jsn"), "did you mean json?"),
        (("images", "--filter", "befor=x"), "unknown filter 'befor'; did you mean before?"),
        (("images", "--filter", "zzz=x"), "unknown filter 'zzz'; use one of dangling, "),
        (("save", "--compress", "gzp", "x"), "did you mean gzip?"),
        (("moutn", "a.tar"), "No such command 'moutn'; did you mean mount? (see "),
        (("zzz",), "No such command 'zzz' (see "),
        (("--rot", "x", "ps"), "did you mean --root?"),
    ],
)
def test_the_nearest_word_is_named(
    store: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert main(words) in (1, 2)
    output, message = capsys.readouterr()
    assert told in message
    assert output == ""
    assert message.count("\n") == 1


def test_the_program_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert overlay(["--verson"]) == 2
    assert "did you mean --version?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("build", "-t", "x", "."), "No such command 'build': use buildah or 'podman build'"),
        (("compose", "up"), "use 'podman compose'"),
        (("image", "ls"), "No such command 'image': use 'unionmount images' (see "),
        (("container", "rm", "x"), "use 'unionmount rm' (see "),
        (("container", "inspect", "x"), "use 'unionmount inspect' (see "),
        (("image", "frobnicate"), "the commands stand alone"),
        (("buildx", "build", "."), "use buildah or 'podman build'"),
        (("list-tags", "docker://x/y"), "use 'unionmount tags'"),
    ],
)
def test_words_of_other_programs(
    store: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert main(words) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1


def test_what_is_named_instead_exists() -> None:
    named = [
        word for text in _INSTEAD.values() for word in re.findall(r"'unionmount ([a-z]+)", text)
    ]
    named += [word for words in _BY_KIND.values() for word in words.values()]
    assert len(named) > 20
    assert set(named) <= set(COMMANDS)
    assert not set(_INSTEAD) & set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("find",), "unionmount find"),
        (("--root", "x", "ps", "--frob"), "unionmount ps"),
        (("rm", "--nonsense"), "unionmount rm"),
    ],
)
def test_wrong_usage_points_to_the_command(
    store: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], command: str
) -> None:
    assert main(words) != 0
    assert capsys.readouterr().err.endswith(f" (see {command} --help)\n")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["help"], ["help", "mount"], ["help", "help"]):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert main([*words[1:], "--help"]) == 0
        assert capsys.readouterr().out == shown
    assert main(["help", "moutn"]) == 2
    assert "did you mean mount?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("save", "-o", "x.tar", "app.tar"), "but a file; bring it there with 'unionmount load"),
        (("push", "./app.tar"), "or send it elsewhere with 'unionmount copy ./app.tar TARGET'"),
        (("tag", "app.tar", "x:1"), "'unionmount load app.tar'"),
        (("cat", "ap.tar:/x"), "did you mean app.tar?"),
        (("ls", "./ap.tar"), "./ap.tar: no such file or directory; did you mean ./app.tar?"),
        (("load", "-i", "sub/oter.tar"), "did you mean sub/other.tar?"),
        (("load", "-i", "nowhere/other.tar"), "no such file or directory\n"),
        (("ls", "docker-archve:app.tar"), "did you mean docker-archive?"),
        (
            ("cat", "web:1:/x"),
            "no image 'web:1' in the store; 'unionmount pull web:1' fetches it",
        ),
        (("mount", "--pull", "never", "web", "m"), "no image 'web' in the store\n"),
    ],
)
def test_what_is_not_there(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(store)
    (store / "sub").mkdir()
    (store / "m").mkdir()
    docker_archive(store / "app.tar", [Layer().file("f", b"")], "example.org/app:1")
    (store / "sub/other.tar").write_bytes(b"")
    assert main(words) in (1, 2)
    output, message = capsys.readouterr()
    assert told in message
    assert output == ""
    assert message.count("\n") == 1
    if told == "'unionmount load app.tar'":  # the advice holds
        assert main(["load", "app.tar"]) == 0
        assert main(["tag", "example.org/ap:1", "x:1"]) == 1
        assert "did you mean example.org/app:1?" in capsys.readouterr().err
