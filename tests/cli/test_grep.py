"""``grep``: against GNU grep on a mount of the image."""

# ruff: noqa: RUF001

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine

from unionmount.cli import main

WORDS = "user=deploy\npassword=hunter2\nPassword again: hunter2 hunter22\n\npass word\n"
UTF8 = "Größe\nGRÖSSE\n\u212aelvin kelvin KELVIN\nſtop stop\nnaïve café\nεὐθύς Ευθυσ\nİi Iı\n"


def corpus() -> list[tuple[str, bytes]]:
    """Files of every kind that a search treats in its own way.

    Those with long lines are the last ones: from them on, GNU grep reads larger pieces, so that
    other lines of binary files are text.
    """
    numbered = b"".join(b"line %d of many\n" % number for number in range(20_000))
    long = b"x" * 300_000 + b"needle" + b"y" * 300_000
    return [
        ("etc/words", WORDS.encode()),
        ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/srv:/bin/false\n"),
        ("etc/utf8", UTF8.encode()),
        ("etc/no-end", b"first\nlast password"),
        ("etc/crlf", b"one\r\npassword\r\n\r\nthree\r\n"),
        ("etc/empty", b""),
        ("etc/newline", b"\n"),
        ("etc/newlines", b"\n\n\npassword\n\n\n"),
        ("bin/tool", b"\x7fELF\0\0\0password\0\0more password\n\0end"),
        ("bin/late", b"password\n" * 20 + b"a" * 200_000 + b"\npassword\n\0\npassword\n"),
        ("bin/just", b"p\n" * 49_152 + b"\0password\n"),
        ("bin/zeros", bytes(300_000) + b"password"),
        ("bad/latin1", b"caf\xe9 password\nplain password\n\xff\xfe\n"),
        ("bad/first", b"plain password\ncaf\xe9 password\nmore password\n"),
        ("bad/cut", "größe password".encode()[:3] + b"\npassword \xc3"),
        ("tall/numbered", numbered),
        ("tall/long", long + b"\n" + long),
        ("tall/longer", b"a" * 200_000 + b"\n" + b"b" * 99_000 + b"\nneedle\n"),
        ("src/a.c", b"int main(void)\n{\n\treturn 0; /* a.c */\n}\n"),
        ("src/b.h", b"#define PASSWORD 1\nextern int a_b, ab, a;\n"),
        ("src/.git/config", b"[core]\n\tpassword = no\n"),
        ("src/deep/er/c.c", b"a.c a-c abc aXc\n((a)) [b] {c} *d* +e ?f |g ^h $i \\j\n"),
        ("odd/with space", b"password\n"),
        ("odd/-dash", b"password\n"),
        ("odd/new\nline", b"password\n"),
        ("odd/caf\udce9", b"password\n"),
        ("odd/esc\x1b[1m", b"password\n"),
    ]


def layers() -> list[Layer]:
    base, top = Layer(), Layer()
    for name, content in corpus():
        base.file(name, content)
    base.hard_link("etc/words-again", "etc/words").symlink("etc/words-link", "words")
    base.symlink("link-to-etc", "etc").symlink("absent", "nowhere").file(
        "gone/secret", b"token=1\n"
    )
    base.add("dev/null", b"3", device=(1, 3), mode=0o666).add("dev/fifo", b"6", mode=0o600)
    top.file("etc/added", b"password of the top\n").file("gone/.wh.secret")
    return [base, top]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return docker_archive(tmp_path_factory.mktemp("image") / "image.tar", layers())


@pytest.fixture(scope="module")
def top(source: Path, module_mount: Callable[..., Path]) -> Path:
    return module_mount(source)


Result = tuple[int, bytes, list[str]]


def ours(*arguments: str | Path) -> Result:
    """Status, output and sorted messages of the command, run in this process."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    told = io.StringIO()
    with redirect_stdout(out), redirect_stderr(told):
        status = main(["grep", *map(str, arguments)])
    out.flush()
    found: bytes = out.buffer.getvalue()
    return status, found, _messages(told.getvalue(), "unionmount: ")


def theirs(
    top: Path, *arguments: str | bytes | Path, environment: dict[str, str] | None = None
) -> Result:
    """The same of GNU grep, with paths as they are in the image."""
    done = subprocess.run(
        ["grep", "-r", *arguments],
        capture_output=True,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"} | (environment or {}),
        timeout=60,
    )
    prefix = os.fsencode(top)
    told = done.stderr.replace(prefix, b"").decode("utf-8", "surrogateescape")
    return done.returncode, done.stdout.replace(prefix, b""), _messages(told, "grep: ")


def _messages(text: str, program: str) -> list[str]:
    escaped = text.encode("utf-8", "backslashreplace").decode()
    lines = [line.removeprefix(program) for line in escaped.splitlines()]
    return sorted(line for line in lines if not line.startswith("warning: "))


def compare(source: Path, top: Path, *words: str, path: str = "/") -> Result:
    """Assert that both print the same, and return it."""
    wanted = theirs(top, *words, f"{top}{path}")
    found = ours(*words, f"{source}:{path}")
    assert found == wanted, f"grep {' '.join(words)}"
    return found


# ---- options -------------------------------------------------------------------------------------

OPTIONS = [
    "",
    "-n",
    "-b",
    "-nb",
    "-bo",
    "-o",
    "-on",
    "-c",
    "-l",
    "-L",
    "-q",
    "-s",
    "-h",
    "-H",
    "-hn",
    "-i",
    "-v",
    "-vn",
    "-vc",
    "-vl",
    "-vo",
    "-w",
    "-x",
    "-xv",
    "-wo",
    "-a",
    "-ao",
    "-I",
    "-Ic",
    "-Il",
    "-z",
    "-zo",
    "-Z",
    "-lZ",
    "-cZ",
    "-m 1",
    "-m 2 -c",
    "-m 0",
    "-m 1 -A 2",
    "-m 1 -v",
    "-A 1",
    "-B 2",
    "-C 1 -n",
    "-1",
    "-10",
    "-3 -b",
    "-A 1 -h --no-group-separator",
    "-C 2 --group-separator=***",
    "-C 1 -v -m 3",
    "-C 1 -c",
    "-A 1 -o",
    "-T",
    "-nT",
    "-nbT",
    "-E",
    "-F",
    "-G",
    "-y",
    "-iow",
    "--color=always",
    "--color=always -n -C 1",
    "--color=always -o -b",
    "--color=always -v",
    "--color=always -l",
    "--color=always -c",
    "--color=never",
    "--binary-files=text",
    "--binary-files=without-match -C 1",
    "--include=*.c",
    "--include=*.[ch] --exclude=b.h",
    "--exclude=b.h --include=*.c",
    "--exclude=*",
    "--exclude-dir=.git",
    "--exclude-dir=.git/ --exclude-dir=d*",
    "--exclude=with* --exclude-dir=etc",
    "--include=nothing",
    "-lc",
    "-qL",
]


@pytest.mark.needs("fuse", "grep")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pattern", ["password", "a", "", "needle", "^$", "nowhere at all"])
def test_grep_prints_what_grep_prints(source: Path, top: Path, options: str, pattern: str) -> None:
    compare(source, top, *options.split(), "--", pattern)


@pytest.mark.needs("fuse", "grep")
@pytest.mark.parametrize(
    "path",
    ["/etc", "/etc/", "/etc/words", "/etc/words-link", "/link-to-etc", "/link-to-etc/", "/."],
)
@pytest.mark.parametrize("options", ["", "-n", "-c", "-l", "--exclude=word*", "--exclude-dir=etc"])
def test_grep_of_a_path(source: Path, top: Path, options: str, path: str) -> None:
    compare(source, top, *options.split(), "password", path=path)


# ---- expressions ---------------------------------------------------------------------------------


@pytest.mark.needs("fuse", "grep")
@pytest.mark.parametrize(
    "words",
    [
        ["-w", "pass*w*o*"],
        ["-w", "-e", "pass", "-e", "hunter2"],
        ["-E", "-w", "a.c|a|b"],
        ["-o", r"\bpass\w*"],
        ["-io", "[k-s]*"],
        ["-i", "größe"],
        ["-i", "k"],
        ["-i", "s"],
        ["-i", "ευθυσ"],
        ["-E", "x{3,5}y|pass{2}w"],
        ["-x", r"pass\(word\)\? .*"],
        ["-ao", "caf."],
        ["-e", "password", "-e", "root", "-n"],
        ["-F", "-e", "password", "-e", "ha", "-o"],
        ["-Fx", "-e", "password", "-e", "plain password"],
        ["-Fi", "PASSWORD"],
        ["-F", "a.c\n((a))"],
        ["a.c\nneedle\n^root"],
        ["-E", "p|^|$", "-o"],
        ["-z", "n.p", "-o"],
        ["-z", "-v", "password"],
        ["-E", "^.{20,30}$", "-c"],
        ["-E", "(needle|b)$", "-l"],
        [r"\$i", "-n"],
        ["-E", "{c} [*]d", "-n"],
        [r"\-c", "-n"],
        ["-e", "", "-c"],
        ["-v", "", "-c"],
        ["-vx", "", "-c"],
    ],
    ids=" ".join,
)
def test_expressions(source: Path, top: Path, words: list[str]) -> None:
    compare(source, top, *words)


@pytest.mark.needs("fuse", "grep")
def test_back_references(source: Path, top: Path) -> None:
    assert compare(source, top, "-E", r"([ps])\1", path="/etc")[0] == 0
    assert compare(source, top, r"\(a\).*\1", "-o", path="/src")[0] == 0


@pytest.mark.needs("fuse", "grep")
@pytest.mark.parametrize("name", ["patterns", "empty", "one-empty-line", "no-end"])
@pytest.mark.parametrize("options", ["-F", "-c", "-v", "-vc", "-L", "-x"])
def test_patterns_of_a_file(
    source: Path, top: Path, tmp_path: Path, name: str, options: str
) -> None:
    lines = {"patterns": "password\nroot\n", "empty": "", "one-empty-line": "\n", "no-end": "web"}
    file = tmp_path / name
    file.write_text(lines[name])
    compare(source, top, options, "-f", str(file))


@pytest.mark.needs("grep")
@pytest.mark.parametrize(
    "words",
    [
        ["["],
        [r"\("],
        [r"a\{1"],
        [r"a\{2,1\}"],
        ["[[:nothing:]]"],
        ["[:space:]"],
        ["[b-a]"],
        [r"\1"],
        ["x\\"],
        ["-E", "("],
        ["-E", "a{2,1}"],
        ["-E", "a{99999}"],
        ["-e", "a", "-e", "["],
    ],
    ids=" ".join,
)
def test_wrong_expressions(source: Path, words: list[str]) -> None:
    done = subprocess.run(
        ["grep", *words, "/dev/null"],
        capture_output=True,
        check=False,
        text=True,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    status, output, told = ours(*words, source)
    assert (status, output) == (2, b"")
    assert (done.returncode, told) == (2, [f"{done.stderr.strip()} (see unionmount grep --help)"])


@pytest.mark.needs("fuse", "grep")
def test_colours_as_the_environment_has_them(
    source: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for colors in ("mt=01;34:fn=:ln=1:se=0", "sl=1:cx=2:rv", "ne:ms=7", "bn=31:nonsense:fn=33"):
        monkeypatch.setenv("GREP_COLORS", colors)
        for words in (["-n"], ["-nC1"], ["-v"], ["-ob"], ["-vC1"]):
            compare(source, top, *words, "--color=always", "password", path="/etc")


# ---- expressions of Python -----------------------------------------------------------------------


@pytest.mark.needs("fuse", "grep")
@pytest.mark.parametrize("options", ["", "-o", "-n", "-c", "-v", "-l", "-C1", "-w", "-x", "-i"])
@pytest.mark.parametrize(
    "pattern", ["pass(?=word)", "(?<!plain )password", "^line 1?7 of", "p.*?s"]
)
def test_python_finds_what_perl_finds(source: Path, top: Path, options: str, pattern: str) -> None:
    for path in ("/etc", "/tall/numbered", "/src"):
        compare(source, top, "-P", *options.split(), pattern, path=path)


def test_expressions_of_python(source: Path) -> None:
    status, output, _ = ours("-Po", "(?P<all>na\\w+)", source, "/etc")
    assert (status, output) == (0, "/etc/utf8:naïve\n".encode())
    assert ours("-P", "-e", "^root", "-e", "web(?=:)", "-c", source, "/etc/passwd")[1] == b"2\n"
    status, _, told = ours("-P", "(", source)
    assert status == 2
    assert "the expression is not valid: missing )" in told[0]


# ---- images, layers, forms -----------------------------------------------------------------------


def test_several_images_are_named(source: Path, tmp_path: Path) -> None:
    other = docker_archive(tmp_path / "other.tar", [Layer().file("x", b"password\n")])
    status, output, _ = ours("-c", "password", other, f"{source}:/etc/words")
    assert status == 0
    assert output == f"{other}:/x:1\n{source}:/etc/words:1\n".encode()
    assert ours("-h", "password", other, f"{source}:/etc/words")[1].count(b"password") == 2


def test_a_token_that_a_later_layer_removed(cli: CommandLine, source: Path) -> None:
    assert ours("-r", "token=", source)[:2] == (1, b"")
    status, output, _ = ours("-rn", "token=", source, "--all-layers")
    assert status == 0
    found = re.fullmatch(rb"0:([0-9a-f]{12}):/gone/secret:1:token=1\n", output)
    assert found is not None
    layers_of = json.loads(cli.run("layers", source, "--format", "json").stdout)
    assert layers_of[0]["diff_id"].startswith(f"sha256:{found[1].decode()}")
    taken = cli.run("cat", "--layer", "0", f"{source}:/gone/secret").stdout
    assert taken == "token=1\n"
    assert ours("-l", "token=", source, "/gone", "--all-layers")[1].endswith(b":/gone/secret\n")
    assert ours("token=", "--layer", "0", source)[1] == b"/gone/secret:token=1\n"


@pytest.mark.needs("fuse", "grep")
@pytest.mark.parametrize("options", ["-n", "-c", "-L", "-z", "-C1"])
def test_each_layer_is_searched_as_grep_searches_it(
    cli: CommandLine, source: Path, tmp_path: Path, options: str
) -> None:
    where = tmp_path / "layers"
    where.mkdir()
    cli.run("mount", "--layers", source, where)
    try:
        wanted = theirs(where, options, "password", f"{where}/0", f"{where}/1")
    finally:
        cli.run("umount", where)
    status, output, told = ours(options, "password", source, "--all-layers")
    output = re.sub(rb"(?<![0-9a-f])([01]):[0-9a-f]{12}:/", rb"/\1/", output)
    assert (status, output) == wanted[:2]
    assert [re.sub(r"^([01]):[0-9a-f]{12}:/", r"/\1/", line) for line in told] == wanted[2]


def test_many_layers(tmp_path: Path) -> None:
    every = [Layer().file("same", b"token %d\n" % number) for number in range(128)]
    source = docker_archive(tmp_path / "image.tar", every)
    assert ours("token", source)[1] == b"/same:token 127\n"
    _, output, _ = ours("-h", "token", source, "--all-layers")
    assert output.splitlines() == [b"token %d" % number for number in range(128)]
    _, output, _ = ours("-c", "token", source, "/same", "--all-layers")
    assert [line.partition(b":")[0] for line in output.splitlines()] == [
        b"%d" % number for number in range(128)
    ]


def objects(*words: str | Path) -> list[dict[str, Any]]:
    status, output, _ = ours(*words)
    assert status == 0
    found: list[dict[str, Any]] = json.loads(output)
    return found


def test_json(source: Path) -> None:
    first, second = objects("--format", "json", "password", source, "/etc/no-end", "/etc/crlf")
    assert first == {
        "image": str(source),
        "path": "/etc/no-end",
        "line": 2,
        "offset": 6,
        "text": "last password",
        "selected": True,
    }
    assert second["text"] == "password\r"
    (match,) = objects("--format", "json", "-o", "h..ter2$", source, "/etc/words")
    assert (match["line"], match["offset"], match["text"]) == (2, 21, "hunter2")
    kinds = [one["selected"] for one in objects("--format", "json", "-C1", "last", source, "/etc")]
    assert kinds == [False, True]
    (binary,) = objects("--format", "json", "password", source, "/bin/tool")
    assert binary == {"image": str(source), "path": "/bin/tool", "binary": True}
    (count,) = objects("--format", "json", "-c", "o", source, "/etc/passwd")
    assert count == {"image": str(source), "path": "/etc/passwd", "count": 1}
    names = [one["path"] for one in objects("--format", "json", "-l", "root", source)]
    assert names == ["/etc/passwd"]
    (layer,) = objects("--format", "json", "token", source, "--all-layers")
    assert (layer["layer"], len(layer["diff_id"]), layer["path"]) == (0, 12, "/gone/secret")
    assert ours("--format", "json", "nowhere at all", source)[:2] == (1, b"[]\n")
    lines = ours("--format", "jsonl", "password", source, "/etc")[1].splitlines()
    assert all("text" in json.loads(line) for line in lines)
    assert ours("--format", "json", "-q", "password", source)[:2] == (0, b"")


# ---- trouble -------------------------------------------------------------------------------------


def test_the_exit_status(source: Path) -> None:
    assert ours("password", source)[0] == 0
    assert ours("nowhere at all", source)[0] == 1
    assert ours("password", source, "/nowhere") == (
        2,
        b"",
        [f"{source}:/nowhere: No such file or directory"],
    )
    status, output, told = ours("password", source, "/nowhere", "/etc/no-end")
    assert (status, output, len(told)) == (2, b"/etc/no-end:last password\n", 1)
    assert ours("-s", "password", source, "/nowhere", "/etc/no-end")[2] == []
    assert ours("-q", "password", source, "/nowhere", "/etc/no-end")[0] == 0
    assert "is not a regular file" in ours("x", source, "/dev/null")[2][0]
    assert "no layer has this path" in ours("x", source, "/nowhere", "--all-layers")[2][0]
    assert ours("x", "./nowhere.tar")[0] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no pattern was given"),
        (["x"], "no image was given"),
        (["-E", "-F", "x", "image"], "only one of -G, -E, -F and -P"),
        (["-m", "many", "x", "image"], "-m takes a number"),
        (["--color=blue", "x", "image"], "--color takes always, never or auto"),
        (["-f", "/nowhere", "image"], "/nowhere: No such file"),
        (["--all-layers", "--layer", "1", "x", "image"], "choose all or one"),
        (["--format", "json", "-z", "x", "image"], "cannot be combined with -z"),
        (["-R", "x", "image"], "No such option"),
    ],
)
def test_what_grep_refuses(cli: CommandLine, words: list[str], message: str) -> None:
    assert message in cli.error("grep", *words, status=2)


def test_help_is_h_alone(cli: CommandLine) -> None:
    assert "--all-layers" in cli.run("grep", "-h").stdout


def test_a_damaged_archive(tmp_path: Path, cli: CommandLine) -> None:
    """What cannot be read is an error of its file; the others are searched."""
    layer = Layer().file("a", b"password\n").file("z", b"password\n" * 50_000)
    source = docker_archive(tmp_path / "image.tar", [layer])
    assert cli.run("grep", "-c", "password", source).stdout == "/a:1\n/z:50000\n"
    code = (
        "import os, sys; from unionmount.browse import open as opening;"
        "from unionmount.cli import main; real = opening.open_layers\n"
        "def shorter(*arguments):\n"
        "    image = real(*arguments); image.tree(); os.truncate(sys.argv[1], 100_000)\n"
        "    return image\n"
        "opening.open_layers = shorter; sys.exit(main(['grep', '-c', 'password', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source],
        capture_output=True,
        check=False,
        text=True,
        env=cli.environment,
    )
    assert done.returncode == 2
    assert done.stdout.startswith("/a:1\n")
    assert done.stderr == f"unionmount: {source}:/z: Input/output error\n"


def test_output_that_is_larger_than_what_is_kept(tmp_path: Path) -> None:
    lines = b"".join(b"line %d password\n" % number for number in range(400_000))
    layer = Layer().file("a", b"password\n").file("big", lines).file("z", b"password\n")
    source = docker_archive(tmp_path / "image.tar", [layer])
    assert ours("-h", "password", source)[1] == b"password\n" + lines + b"password\n"
    output = ours("-hA1", "password", source)[1]
    assert output == b"password\n--\n" + lines + b"--\npassword\n"


def test_a_reader_that_has_seen_enough(source: Path) -> None:
    script = f'{" ".join(COMMAND)} grep "" "$1" /tall/long | head -c 5; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script, "bash", source], capture_output=True, check=True)
    assert done.stdout == b"xxxxx141\n"
    assert done.stderr == b""


def test_an_interrupt_ends_the_search(tmp_path: Path) -> None:
    """One line of the last file takes hours; SIGINT comes when the lines before are there."""
    layer = Layer().file("a", b"aa\n" * 100_000).file("b", b"a" * 3000 + b"\n")
    source = docker_archive(tmp_path / "image.tar", [layer])
    slow = r"^(a*)(a*)(a*)(a*)\2\4\1\3b$"
    process = subprocess.Popen(
        [*COMMAND, "grep", "-E", "-e", slow, "-e", "^aa$", source, "/a", "/b"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(1000).startswith(b"/a:aa\n")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, b"")


def test_an_interrupt_ends_the_matches_of_one_line(tmp_path: Path) -> None:
    """Each match of the last line takes a look at all of it; SIGINT comes when it is searched."""
    short = 1_900_000  # enough for a stream
    lines = b"aa\n" * short + b"a" * (1 << 20) + b"\n"
    source = docker_archive(tmp_path / "image.tar", [Layer().file("a", lines)])
    for words in (["-o", "aa.*c\\|aa"], ["-ow", "aa\\|a*q"]):
        process = subprocess.Popen(
            [*COMMAND, "grep", *words, source, "/a"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        read = process.stdout.read(short * 3 - (512 << 10))  # but for what waits for a full piece
        assert read.startswith(b"aa\n")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        assert (process.returncode, told) == (130, b"")


def test_a_line_that_is_too_much_for_an_expression(tmp_path: Path) -> None:
    """It is an error of its file: the C library has no memory for all of it."""
    long = b"a" * (64 << 20) + b"zaz\n"
    source = docker_archive(tmp_path / "image.tar", [Layer().file("a", long).file("b", b"zz\n")])
    limited = ["prlimit", f"--as={640 << 20}", *COMMAND, "grep", r"^.*\(z\)\1", str(source)]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "/b:zz\n")
    assert done.stderr == f"unionmount: {source}:/a: memory exhausted\n"


SLOW = ["-E", "-e", r"^(a*)(a*)(a*)(a*)\2\4\1\3b$", "-e", "^xx$"]


@pytest.fixture
def slow_end(tmp_path: Path) -> Path:
    """An image with a file that fills a batch, and one with a line that takes hours."""
    first = b"xx\n" * 50_000 + (b"y" * 9999 + b"\n") * 900
    layer = Layer().file("a", first).file("b", b"a" * 3000 + b"\n")
    return docker_archive(tmp_path / "image.tar", [layer])


def test_a_quiet_search_does_not_wait_for_other_files(slow_end: Path) -> None:
    words = [*COMMAND, "grep", "-q", *SLOW, str(slow_end)]
    done = subprocess.run(words, capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_closed_pipe_ends_the_search_of_other_files(slow_end: Path) -> None:
    process = subprocess.Popen([*COMMAND, "grep", *SLOW, slow_end], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"/"
    process.stdout.close()
    assert process.wait(timeout=20) == 141


@pytest.mark.needs("fuse", "grep")
def test_a_container_is_searched_with_its_changes(tmp_path: Path, source: Path) -> None:
    own = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})
    where = tmp_path / "box"
    where.mkdir()
    own.run("mount", "--name", "box", source, where)
    try:
        (where / "etc/words").write_text("the new password\n")
        (where / "etc/crlf").unlink()
        (where / "new").mkdir()
        (where / "new/file").write_text("password\n" * 3)
        wanted = theirs(where, "-n", "password", f"{where}/etc", f"{where}/new")
        found = own.run("grep", "-n", "password", "box", "/etc", "/new").stdout
        assert sorted(found.splitlines()) == sorted(wanted[1].decode().splitlines())
        assert "/new/file:3:password" in found
        removed = own.run("grep", "password", "box", "/etc/crlf", "--all-layers").stdout
        assert removed.endswith(":/etc/crlf:password\n")
    finally:
        own.run("umount", where)
