"""``grep``: against GNU grep on a mount of the image."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive

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
