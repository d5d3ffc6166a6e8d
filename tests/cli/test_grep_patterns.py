"""``grep`` with generated expressions and lines: against GNU grep on the same files."""

# ruff: noqa: RUF001

from __future__ import annotations

import io
import os
import random
import subprocess
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from support.archives import Layer, docker_archive
from support.effort import amount

from unionmount.cli import main

pytestmark = pytest.mark.needs("grep")

_ATOMS = ["a", "b", "A", "k", "S", "é", "É", "σ", "_", "-", " ", "1", ".", "[ab]", "[^a]", "[a-k]"]
_ATOMS += ["[[:alpha:]]", "[^[:space:]]", "[[:upper:]1]", "[éa]", "[^é]", "[a-é]", "[]a]", "[^]a]"]
_ATOMS += ["\\w", "\\W", "\\s", "\\S", "\\.", "\\*", "[[=a=]]", "[[.-.]]", "[a-]", "ab", "ba_"]
_ATOMS += ["[\\w]", "[[:digit:]k]", "}", "\\-"]
_ANCHORS = ["^", "$", "\\b", "\\B", "\\<", "\\>", "\\`", "\\'"]
_BASIC = {"repeat": ["*", "\\+", "\\?", "\\{2\\}", "\\{1,\\}", "\\{,2\\}", "\\{0,3\\}"]}
_EXTENDED = {"repeat": ["*", "+", "?", "{2}", "{1,}", "{,2}", "{0,3}"]}
_GROUPS = {"-G": ("\\(", "\\|", "\\)"), "-E": ("(", "|", ")")}


def expressions(syntax: str) -> st.SearchStrategy[str]:
    """Expressions of a syntax, most of which are valid."""
    repeats = (_BASIC if syntax == "-G" else _EXTENDED)["repeat"]
    opened, bar, closed = _GROUPS[syntax]
    atom = st.sampled_from(_ATOMS)

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.builds(lambda a, b: a + b, inner, inner),
            st.builds(lambda a, r: a + r, atom, st.sampled_from(repeats)),
            st.builds(lambda a, r: opened + a + closed + r, inner, st.sampled_from(["", *repeats])),
            st.builds(lambda a, b: opened + a + bar + b + closed, inner, inner),
            st.builds(lambda a, b: a + bar + b, inner, inner),
            st.builds(lambda a, b: opened + a + closed + b + "\\1", inner, inner),
        )

    return st.recursive(atom | atom | st.sampled_from(_ANCHORS), larger, max_leaves=6)


_TEXTS = st.text(alphabet="abAkKSsſéÉσΣ_- 1.*", max_size=5)
_LINES = [
    b"",
    b"a",
    b"ab",
    b"aab",
    b"ab ba_",
    b"A-k",
    b"_a_",
    b"k\xe2\x84\xaaK",
    b"s\xc5\xbfS",
    b"1a1a",
]


def _line(rng: random.Random, bad: bool) -> bytes:
    pieces = [b"a", b"b", b"A", b"k", b"S", "é".encode(), "É".encode(), "σ".encode(), "ς".encode()]
    pieces += [b"_", b"-", b" ", b"1", b".", b"*", b"ab", b"ba_", b"\t", b"\r", "\u212a".encode()]
    pieces += [b"{", b"}", b"w", b"["] + ([b"\xff", b"\xc3", b"\xa9", b"\xe2\x84"] if bad else [])
    return b"".join(rng.choice(pieces) for _ in range(rng.randrange(9)))


def contents() -> dict[str, bytes]:
    rng = random.Random(17)
    good = [*_LINES, *(_line(rng, bad=False) for _ in range(400))]
    bad = [_line(rng, bad=True) for _ in range(150)]
    return {
        "good": b"\n".join(good) + b"\n",
        "good-no-end": b"\n".join(good[::-1]),
        "bad": b"\n".join(bad),
        "binary": b"\0\n".join(bad[:50]) + b"\n".join(good[:50]),
        "nul": b"\0".join(good[:150]) + b"a\nb\0",
        "crlf": b"\r\n".join(good[:30]),
        "one": b"".join(good[:200]).replace(b"\r", b"") + b"\n",
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An image, and a directory with the same files."""
    where = tmp_path_factory.mktemp("files")
    layer = Layer()
    for name, content in contents().items():
        layer.file(name, content)
        (where / name).write_bytes(content)
    return docker_archive(tmp_path_factory.mktemp("image") / "image.tar", [layer]), where


Result = tuple[int, list[bytes], list[str]]


def ours(source: Path, words: Sequence[str]) -> Result:
    out, told = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with redirect_stdout(out), redirect_stderr(told):
        status = main(["grep", *words, str(source), *(f"/{name}" for name in sorted(contents()))])
    out.flush()
    data: bytes = out.buffer.getvalue()
    return _result(status, data, told.getvalue(), "unionmount: ")


def theirs(where: Path, words: Sequence[str]) -> Result:
    done = subprocess.run(
        ["grep", "-r", *words, *(f"{where}/{name}" for name in sorted(contents()))],
        capture_output=True,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        timeout=60,
    )
    top = os.fsencode(where)
    told = done.stderr.replace(top, b"").decode()
    return _result(done.returncode, done.stdout.replace(top, b""), told, "grep: ")


def _result(status: int, output: bytes, told: str, program: str) -> Result:
    """A result; a usage error is one, whatever it says."""
    if status == 2:
        return status, [], []
    lines = [line.removeprefix(program) for line in told.splitlines()]
    return status, output.splitlines(), [one for one in lines if not one.startswith("warning: ")]


def compare(pair: tuple[Path, Path], words: Sequence[str]) -> None:
    wanted, found = theirs(pair[1], words), ours(pair[0], words)
    if wanted != found:
        for name, left, right in zip(("status", "output", "told"), wanted, found, strict=True):
            if left != right and isinstance(left, list) and isinstance(right, list):
                note(f"{name}: only grep: {[one for one in left if one not in right][:5]}")
                note(f"{name}: only ours: {[one for one in right if one not in left][:5]}")
    assert wanted == found, words


_OPTIONS = [
    "-n",
    "-o",
    "-c",
    "-v",
    "-i",
    "-w",
    "-x",
    "-a",
    "-l",
    "-b",
    "-z",
    "-C1",
    "--color=always",
]
options = st.lists(st.sampled_from(_OPTIONS), max_size=3, unique=True)
_TAME = settings(
    max_examples=amount(250, 5000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@given(words=options, pattern=expressions("-G"))
@_TAME
def test_basic_expressions(pair: tuple[Path, Path], words: list[str], pattern: str) -> None:
    compare(pair, [*words, "-e", pattern])


@given(words=options, pattern=expressions("-E"))
@_TAME
def test_extended_expressions(pair: tuple[Path, Path], words: list[str], pattern: str) -> None:
    compare(pair, ["-E", *words, "-e", pattern])


@given(words=options, patterns=st.lists(_TEXTS, min_size=1, max_size=4))
@_TAME
def test_fixed_strings(pair: tuple[Path, Path], words: list[str], patterns: list[str]) -> None:
    compare(pair, ["-F", *words, *(word for one in patterns for word in ("-e", one))])


@given(words=options, patterns=st.lists(expressions("-E"), min_size=2, max_size=4))
@_TAME
def test_several_expressions(
    pair: tuple[Path, Path], words: list[str], patterns: list[str]
) -> None:
    compare(pair, ["-E", *words, *(word for one in patterns for word in ("-e", one))])
