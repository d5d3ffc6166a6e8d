"""Looking into images: against ls, find and cat on a mount of the image."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive, posix_acl
from support.compare import differences, snapshot
from support.mounting import COMMAND, CommandLine, is_mounted
from support.real_images import RealImage

from unionmount.cli import main

pytestmark = pytest.mark.needs("fuse")

PASSWD = b"root:x:0:0::/:/bin/sh\nbroken\nweb:x:1000:7::/:\nagain:x:1000:7::/:\nx:y:z\n"
GROUP = b"root:x:0:\nmail:x:7:web\n"
TIMES = {"nul": 0, "before": -(10**9), "late": 2**33 * 10**9, "now": 1_700_000_000_987_654_321}
EXECUTE = posix_acl((1, 7, -1 % 2**32), (2, 1, 1000), (4, 5, -1 % 2**32), (16, 5, -1 % 2**32),
                    (32, 5, -1 % 2**32))  # fmt: skip


def layers() -> list[Layer]:
    base = Layer().directory("etc").file("etc/passwd", PASSWD).file("etc/group", GROUP)
    base.file("etc/motd", b"hello\n").file("etc/.hidden", b"h")
    base.symlink("etc/out", "../../../etc/motd")
    base.symlink("etc/round", "round").symlink("etc/absent", "nowhere").directory("empty")
    base.directory("home", owner=(1000, 7)).file("home/tool", b"#!", mode=0o4755, owner=(1000, 7))
    base.directory("tmp", mode=0o1777).directory("srv", mode=0o2750, owner=(5, 6))
    base.file("big", bytes(range(256)) * 8000).file("gone").symlink("to-etc", "etc")
    base.symlink("absolute", "/etc")
    base.hard_link("tool", "home/tool").file("home/locked", b"", mode=0o6000)
    for name, mtime_ns in TIMES.items():
        base.file(f"times/{name}", name.encode(), mtime_ns=mtime_ns)
    for size in (0, 1, 511, 512, 513, 1023, 1024, 1025, 10239, 10240, 10241, 1048576, 1048577):
        base.file(f"sizes/{size}", bytes(size))
    base.add("dev/null", b"3", device=(1, 3), mode=0o666).add("dev/sda", b"4", device=(8, 255))
    base.add("dev/fifo", b"6", mode=0o600).directory("odd")
    for name in ("with space", "caf\udce9", "esc\x1b[1m", "new\nline", "-dash", "*star", "UPPER"):
        base.file(f"odd/{name}")
    top = Layer().file(".wh.gone").file("etc/new", b"new\n").file("sizes/.wh.1")
    return [base, top, Layer().file("deep/a/b/c/d/e", b"e").file("etc/motd", b"changed\n")]


def mounted_at(cli: CommandLine, where: Path, *arguments: str | Path) -> Path:
    where.mkdir(exist_ok=True)
    cli.run("mount", *arguments, where)
    return where


@contextmanager
def mounted(cli: CommandLine, where: Path, *arguments: str | Path) -> Iterator[Path]:
    try:
        yield mounted_at(cli, where, *arguments)
    finally:
        if is_mounted(where):
            cli.run("umount", where)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return docker_archive(
        tmp_path_factory.mktemp("image") / "image.tar",
        layers(),
        history=["ADD base", "RUN change", "COPY deep"],
    )


@pytest.fixture(scope="module")
def top(source: Path, module_mount: Callable[..., Path]) -> Path:
    return module_mount(source)


@pytest.fixture(scope="module")
def real_archive(real: RealImage, module_mount: Callable[..., Path]) -> tuple[Path, Path]:
    """The archive of a real image, and where it is mounted."""
    image = Path(str(real.sources()["docker-archive"]).partition(":")[2])
    return image, module_mount(image)


def ours(*arguments: str | Path, status: int = 0) -> bytes:
    """What the command prints, run in this process: it is asked for very often."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with redirect_stdout(out):
        assert main([*map(str, arguments)]) == status
    out.flush()
    found: bytes = out.buffer.getvalue()
    return found


@pytest.fixture(scope="module", autouse=True)
def _time_zone() -> Iterator[None]:
    """Times are those of a zone that has summer time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


def theirs(top: Path, *arguments: str | bytes) -> bytes:
    """What a program prints, with paths as they are in the image."""
    environment = os.environ | {"LC_ALL": "C", "QUOTING_STYLE": "literal"}
    done = subprocess.run(arguments, capture_output=True, check=True, env=environment, timeout=60)
    return done.stdout.replace(os.fsencode(top), b"")


# ---- ls ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    ["", "-1", "-a", "-A", "-n", "-na", "-nh", "-nR", "-R", "-aR", "-d", "-nd", "-i", "-ni", "-nA"],
)
@pytest.mark.parametrize(
    "path", ["/etc", "/home", "/dev", "/sizes", "/odd", "/tmp/", "/to-etc", "/to-etc/", "/empty"]
)
def test_ls_prints_what_ls_prints(source: Path, top: Path, options: str, path: str) -> None:
    words = [options] if options else []
    wanted = theirs(top, "ls", *words, "--time-style=long-iso", f"{top}{path}")
    assert ours("ls", *words, f"{source}:{path}") == wanted


def test_ls_of_the_whole_image(source: Path, top: Path) -> None:
    wanted = theirs(top, "ls", "-nR", "--time-style=long-iso", f"{top}/")
    assert ours("ls", "-nR", source) == wanted


def test_ls_of_a_real_image(real_archive: tuple[Path, Path]) -> None:
    source, top = real_archive
    wanted = theirs(top, "ls", "-nAR", "--time-style=long-iso", f"{top}/")
    assert len(wanted) > 100_000
    assert ours("ls", "-nAR", source) == wanted


def test_ls_of_one_file(source: Path, top: Path) -> None:
    for path in ("/etc/motd", "/dev/null", "/etc/out", "/etc/absent"):
        wanted = theirs(top, "ls", "-n", "--time-style=long-iso", f"{top}{path}")
        assert ours("ls", "-n", f"{source}:{path}") == wanted


def test_ls_knows_the_names_of_the_image(source: Path) -> None:
    lines = ours("ls", "-l", f"{source}:/home", f"{source}:/srv").decode().splitlines()
    assert lines[0] == f"{source}:/home:"
    assert lines[3].split()[:5] == ["-rwsr-xr-x", "2", "web", "mail", "2"]
    assert lines[5:7] == [f"{source}:/srv:", "total 0"]
    (srv,) = ours("ls", "-ld", f"{source}:/srv").decode().splitlines()
    assert srv.split()[:4] == ["drwxr-s---", "2", "5", "6"]


def test_ls_without_an_account_file_prints_numbers(tmp_path: Path) -> None:
    source = docker_archive(
        tmp_path / "i.tar", [Layer().symlink("etc/passwd", "passwd").file("f", owner=(7, 8))]
    )
    (line,) = ours("ls", "-l", f"{source}:/f").decode().splitlines()
    assert line.split()[2:4] == ["7", "8"]


def test_ls_marks_acls(tmp_path: Path) -> None:
    key = "SCHILY.xattr.system.posix_acl_access"
    layer = Layer().file("f", pax={key: EXECUTE.decode("utf-8", "surrogateescape")}).file("plain")
    lines = ours("ls", "-l", docker_archive(tmp_path / "i.tar", [layer])).decode().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["-rw-r--r--+", "-rw-r--r--"]
    assert lines[2].startswith("-rw-r--r--  1 ")


def test_ls_as_of_a_layer(source: Path) -> None:
    assert b"gone" in ours("ls", "--layer", "0", source).split()
    assert b"gone" not in ours("ls", "--layer", "1", source).split()
    assert b"deep" not in ours("ls", "--layer", "1", source).split()


def test_ls_of_paths(source: Path, top: Path) -> None:
    wanted = ours("ls", "-n", f"{source}:/home", f"{source}:/sizes")
    assert ours("ls", "-n", source, "/home", "/sizes") == wanted
    assert f"{source}:/sizes:\n".encode() in wanted
    assert ours("ls", "-n", source, "/etc/") == ours("ls", "-n", f"{source}:/etc/")


def test_ls_in_json(source: Path) -> None:
    found = json.loads(ours("ls", source, "/home", "--format", "json"))
    assert [(one["path"], one["mode"], one["user"]) for one in found] == [
        ("/home/locked", "6000", "root"),
        ("/home/tool", "4755", "web"),
    ]
    lines = ours("ls", "-A", source, "/etc", "/dev/null", "--format", "jsonl").splitlines()
    paths = [json.loads(line)["path"] for line in lines]
    assert "/etc/.hidden" in paths
    assert paths[-1] == "/dev/null"
    tree = json.loads(ours("ls", "-R", source, "/deep", "--format", "json"))
    assert [one["path"] for one in tree] == [
        f"/deep/{'/'.join('abcde'[:depth])}" for depth in range(1, 6)
    ]
    assert json.loads(ours("ls", source, "/empty", "--format", "json")) == []
    (itself,) = json.loads(ours("ls", "-d", source, "/empty", "--format", "json"))
    assert itself["type"] == "directory"


def test_ls_of_all_layers(source: Path) -> None:
    listed = ours("ls", "--all-layers", source, "/sizes")
    first, second = listed.decode().split("\n\n")
    assert first.startswith("layer 0:\n0\n1\n1023\n")
    assert second == "layer 1:\n1%\n"
    long = ours("ls", "-l", "--all-layers", source, "/gone").decode().splitlines()
    assert [line[:10] for line in long] == ["layer 0:", "-rw-r--r--", "", "layer 1:", "w---------"]
    assert long[-1].endswith(" /gone%")
    found = json.loads(ours("ls", "--all-layers", source, "/etc", "--format", "json"))
    motd = [one for one in found if one["path"] == "/etc/motd"]
    assert [(one["layer"], one["state"], one["hidden_by"]) for one in motd] == [
        (0, "hidden", 2),
        (2, "visible", None),
    ]


@contextmanager
def terminal(columns: int) -> Iterator[tuple[int, int]]:
    ours_end, theirs_end = pty.openpty()
    subprocess.run(
        ["stty", "cols", str(columns), "rows", "40", "-opost"], stdin=theirs_end, check=True
    )
    try:
        yield ours_end, theirs_end
    finally:
        os.close(ours_end)


def on_a_terminal(*arguments: str | Path, columns: int = 80, **more: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    environment |= {"TERM": "xterm-256color", **more}
    with terminal(columns) as (ours_end, theirs_end):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=theirs_end,
            env=environment,
        )
        os.close(theirs_end)
        shown = b""
        try:
            while piece := os.read(ours_end, 65536):
                shown += piece
        except OSError:  # EIO: the other end is closed
            pass
        assert process.wait() == 0
    return shown.decode()


@pytest.mark.parametrize("columns", [20, 80])
def test_ls_prints_columns_on_a_terminal(source: Path, top: Path, columns: int) -> None:
    width = ["ls", "-C", "-T0", f"--width={columns}"]
    for path in ("/sizes", "/empty"):
        wanted = theirs(top, *width, f"{top}{path}").decode()
        shown = on_a_terminal("ls", f"{source}:{path}", columns=columns)
        assert shown.splitlines() == [line.rstrip() for line in wanted.splitlines()]


def test_names_are_escaped_on_a_terminal_only(source: Path) -> None:
    shown = on_a_terminal("ls", "-1", f"{source}:/odd").splitlines()
    assert {"caf\\xe9", "esc\\x1b[1m", "new\\nline"} <= set(shown)
    found = on_a_terminal("find", f"{source}:/odd", "-name", "esc*")
    assert found == "/odd/esc\\x1b[1m\n"
    assert b"/odd/esc\x1b[1m\n" in ours("find", f"{source}:/odd")


# ---- find ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ["-type f -size +100k", "-perm /6000", "-name *.so*"])
def test_find_in_a_real_image(real_archive: tuple[Path, Path], expression: str) -> None:
    source, top = real_archive
    wanted = theirs(top, "find", f"{top}/", *expression.split())
    assert wanted
    assert ours("find", source, *expression.split()) == wanted


def test_find_as_of_a_layer(source: Path) -> None:
    assert ours("find", source, "-name", "gone", "--layer", "0") == b"/gone\n"
    assert ours("find", source, "-name", "gone", "--layer", "1") == b""


# ---- cat -----------------------------------------------------------------------------------------


def test_cat(source: Path, top: Path) -> None:
    motd, big = f"{source}:/etc/motd", f"{source}:/big"
    assert ours("cat", motd) == b"changed\n"
    assert ours("cat", motd, big, motd) == b"changed\n" + (top / "big").read_bytes() + b"changed\n"
    assert ours("cat", "--layer", "1", motd) == b"hello\n"
    assert ours("cat", f"{source}:/sizes/0") == b""
    assert ours("cat", f"{source}:/tool") == b"#!"


def test_cat_of_paths(cli: CommandLine, source: Path) -> None:
    assert ours("cat", source, "/etc/motd", "/tool") == b"changed\n#!"
    assert ours("cat", f"{source}:/tool", "/etc/new") == b"#!new\n"
    assert "has no path; write IMAGE:/PATH or IMAGE /PATH" in cli.error("cat", source, status=2)


def test_cat_stays_in_the_image(source: Path) -> None:
    for path in ("/etc/out", "/absolute/out", "/../../etc/motd", "/to-etc/../etc/./motd"):
        assert ours("cat", f"{source}:{path}") == b"changed\n"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/etc", "is a directory"),
        ("/dev/null", "is not a regular file"),
        ("/dev/fifo", "is not a regular file"),
        ("/nowhere", "No such file"),
        ("/etc/absent", "No such file"),
        ("/etc/round", "Too many levels"),
        ("/etc/motd/x", "Not a directory"),
        ("/" + "n" * 256, "File name too long"),
    ],
)
def test_what_cat_refuses(cli: CommandLine, source: Path, path: str, message: str) -> None:
    error = cli.error("cat", f"{source}:{path}")
    assert message in error
    assert error.startswith(f"{source}:{path}: ")


def test_cat_to_who_has_seen_enough(source: Path) -> None:
    script = f'{" ".join(COMMAND)} cat "$1" | head -c 5; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", f"{source}:/big"], capture_output=True, check=True
    )
    assert done.stdout == bytes(range(5)) + b"141\n"
    assert done.stderr == b""


@pytest.mark.parametrize(
    "command", [["ls", "-lR"], ["find"], ["layers"], ["which"], ["diff"]], ids=" ".join
)
def test_no_mount_is_needed(source: Path, command: list[str]) -> None:
    code = (
        "import sys; from unionmount.cli import main; status = main(sys.argv[1:]); "
        "assert not {'pyfuse3', 'trio'} & set(sys.modules); sys.exit(status)"
    )
    more = {"which": ["/etc"], "diff": [str(source)]}.get(command[0], [])
    words = [sys.executable, "-c", code, *command, str(source), *more]
    subprocess.run(words, check=True, capture_output=True)


# ---- containers ----------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path, source: Path) -> Iterator[tuple[CommandLine, Path]]:
    own = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})
    with mounted(own, tmp_path / "box", "--name", "box", source) as where:
        (where / "etc/motd").write_text("mine\n")
        (where / "etc/new").unlink()
        (where / "home").rename(where / "house")
        yield own, where


def test_a_container_is_seen_with_its_changes(box: tuple[CommandLine, Path]) -> None:
    own, where = box
    for _ in range(2):  # mounted, and not
        assert own.run("cat", "box:/etc/motd").stdout == "mine\n"
        assert own.run("ls", "container:box:/house").stdout == "locked\ntool\n"
        assert own.run("find", "box:/etc", "-name", "new").stdout == ""
        assert own.run("cat", "--layer", "2", "box:/etc/motd").stdout == "changed\n"
        if is_mounted(where):
            own.run("umount", where)


def test_a_container_and_its_image_are_compared(
    box: tuple[CommandLine, Path], source: Path
) -> None:
    own, _ = box
    told = own.run("diff", source, "box", status=1).stdout.splitlines()
    made = ["A /house", "A /house/locked", "A /house/tool"]
    assert [one for one in told if one[0] != "C"] == ["D /etc/new", "D /home", *made]
    assert "C /etc/motd" in told
    back = own.run("diff", "box", source, "--format", "jsonl", status=1).stdout.splitlines()
    kinds = {one["path"]: one["kind"] for one in map(json.loads, back)}
    assert (kinds["/etc/new"], kinds["/house"], kinds["/home/tool"]) == ("A", "D", "A")
    assert own.run("diff", "box", "box").stdout == ""


# ---- diff of images ------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base = Layer().directory("etc").file("etc/motd", b"hello\n").file("old/x", b"x" * 1000)
    base.file("same", b"same")
    first = docker_archive(tmp_path / "first.tar", [base])
    base = Layer().file("same", b"same").directory("etc").file("etc/motd", b"other\n", mode=0o600)
    return first, docker_archive(tmp_path / "second.tar", [base, Layer().file("new", b"12345")])


def test_diff_of_images(cli: CommandLine, pair: tuple[Path, Path]) -> None:
    told = cli.run("diff", *pair, status=1).stdout.splitlines()
    assert told == ["C /etc", "C /etc/motd", "A /new", "D /old"]
    told = cli.run("diff", "--stat", *pair, status=1).stdout.splitlines()
    assert told == ["C /etc", "C /etc/motd  6B -> 6B", "A /new  5B", "D /old",
                    "1 added, 2 changed, 1 deleted; -995B in files"]  # fmt: skip
    found = json.loads(cli.run("diff", "--format", "json", *pair, status=1).stdout)
    motd = found[1]
    assert (motd["changes"], motd["before"]["mode"], motd["after"]["mode"]) == (
        ["content", "mode"],
        "0644",
        "0600",
    )
    assert (found[2]["before"], found[3]["after"]) == (None, None)


def test_diff_of_the_same(cli: CommandLine, pair: tuple[Path, Path]) -> None:
    assert cli.run("diff", pair[0], pair[0]).stdout == ""
    assert cli.run("diff", "--format", "json", pair[0], pair[0]).stdout == "[]\n"
    assert cli.run("diff", "scratch", "scratch").stdout == ""


def test_trouble_has_a_status_of_its_own(cli: CommandLine, pair: tuple[Path, Path]) -> None:
    assert "nowhere" in cli.error("diff", pair[0], "./nowhere.tar", status=2)


# ---- layers and which ----------------------------------------------------------------------------


def test_layers_tells_what_is_wasted(cli: CommandLine, source: Path) -> None:
    header, first, *_, last = cli.run("layers", source).stdout.splitlines()
    assert header.endswith("   WASTED   CREATED BY")
    assert first.split()[-3:] == ["7B", "ADD", "base"]
    assert last.startswith("Efficiency 99.")
    rows = json.loads(cli.run("layers", source, "--format", "json").stdout)
    assert [row["wasted"] for row in rows] == [7, 0, 0]
    assert [row["created_by"] for row in rows] == ["ADD base", "RUN change", "COPY deep"]
    assert rows[1]["deleted"] == 2
    lines = cli.run("layers", source, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_layers_draws_bars_on_a_terminal(source: Path) -> None:
    shown = on_a_terminal("layers", source, columns=100)
    assert "█" in shown
    assert "\x1b[32m" in shown
    plain = on_a_terminal("layers", source, columns=100, NO_COLOR="1")
    assert "█" in plain
    assert "\x1b[32m" not in plain


def test_one_layer_in_json(cli: CommandLine, source: Path) -> None:
    lines = cli.run("layers", source, "1", "--format", "jsonl").stdout.splitlines()
    assert json.loads(lines[0]) == {
        "kind": "A",
        "path": "/etc/new",
        "type": "file",
        "mode": "0644",
        "size": 4,
    }
    assert {"kind": "D", "path": "/gone", "type": None, "mode": None, "size": None} in map(
        json.loads, lines
    )


def test_which(cli: CommandLine, source: Path) -> None:
    header, newest, oldest = cli.run("which", source, "/to-etc/motd").stdout.splitlines()
    assert header.startswith("LAYER   DIFF ID")
    assert newest.split()[0] == "2"
    assert "visible; hides 0" in newest
    assert "hidden by 2" in oldest
    assert oldest.endswith("ADD base")
    found = json.loads(cli.run("which", source, "/gone", "--format", "json").stdout)
    assert [(one["layer"], one["action"], one["hides"]) for one in found] == [
        (1, "deleted", [0]),
        (0, "added", []),
    ]
    assert "no layer has this path" in cli.error("which", source, "/nowhere")
    told = cli.run("which", source, "/gone").stdout
    assert cli.run("which", f"{source}:/gone").stdout == told
    assert cli.run("which", source, "gone").stdout == told
    assert "one image and one path" in cli.error("which", source, status=2)
    assert "one image and one path" in cli.error("which", source, "/a", "/b", status=2)


# ---- mounts of layers ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1])
def test_the_image_as_of_a_layer(
    cli: CommandLine, source: Path, tmp_path: Path, layer: int
) -> None:
    shorter = docker_archive(tmp_path / "shorter.tar", layers()[: layer + 1])
    with (
        mounted(cli, tmp_path / "a", "--layer", str(layer), source) as shown,
        mounted(cli, tmp_path / "b", "--ro", shorter) as wanted,
    ):
        assert differences(snapshot(wanted), snapshot(shown)) == []
        assert cli.record(shown)["mode"] == "ro"


def test_there_is_no_such_layer(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    assert "there is no layer 3; the image has 3 layers" in cli.error(
        "mount", "--layer", "3", source
    )
    assert "there is no layer 9" in cli.error("ls", "--layer", "9", source)


def test_a_container_as_of_a_layer(box: tuple[CommandLine, Path], tmp_path: Path) -> None:
    own, _ = box  # it is in use, which does not matter: its changes are not asked for
    with mounted(own, tmp_path / "a", "--layer", "0", "box") as shown:
        assert (shown / "etc/motd").read_text() == "hello\n"


def test_layers_beside_each_other(cli: CommandLine, source: Path, tmp_path: Path) -> None:
    with mounted(cli, tmp_path / "a", "--layers", source) as shown:
        assert sorted(os.listdir(shown)) == ["0", "1", "2"]
        assert (shown / "0/etc/motd").read_text() == "hello\n"
        assert (shown / "2/etc/motd").read_text() == "changed\n"
        whiteout = (shown / "1/gone").stat()
        assert (whiteout.st_mode, whiteout.st_rdev) == (0o020000, 0)
        assert sorted(os.listdir(shown / "1")) == ["etc", "gone", "sizes"]
        assert os.getxattr(shown / "1/etc", "user.unionmount.layer_index") == b"1"
        with pytest.raises(OSError, match="Read-only"):
            (shown / "0/x").touch()


@pytest.mark.needs("overlayfs")
def test_overlayfs_makes_the_image_of_its_layers(
    cli: CommandLine, source: Path, top: Path, tmp_path: Path
) -> None:
    """The layers as they are shown are those of overlayfs: it unites them to the same image."""
    united = tmp_path / "united"
    united.mkdir()
    with mounted(cli, tmp_path / "a", "--layers", source) as shown:
        lower = ":".join(f"{shown}/{number}" for number in (2, 1, 0))
        options = f"ro,userxattr,lowerdir={lower}"
        subprocess.run(["mount", "-t", "overlay", "none", "-o", options, united], check=True)
        try:
            found = snapshot(united)
        finally:
            subprocess.run(["umount", united], check=True)
    known = ("nlink", "names")  # overlayfs counts those of a layer

    def excuse(path: bytes, field: str, wanted: object, is_now: object) -> bool:
        # of a directory that a layer only mentions, overlayfs takes what stands for its metadata
        implied = path in (b"", b"etc", b"sizes", b"deep", b"deep/a", b"deep/a/b", b"deep/a/b/c")
        return field in known or (implied and field in ("mtime_ns", "mode"))

    assert differences(snapshot(top), found, excuse) == []
