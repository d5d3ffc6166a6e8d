"""``unionmount find`` against GNU find, which runs inside a mount of the same image.

The image contains find and its libraries, so that paths, users and absolute symlinks mean the same
to both.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.archives import Layer, docker_archive
from support.effort import amount
from support.mounting import COMMAND, CommandLine

from unionmount.cli import main

pytestmark = pytest.mark.needs("fuse", "root", "find")

PASSWD = b"root:x:0:0::/:/bin/sh\nweb:x:1000:7::/:\na-long-user-name:x:5:7::/:\nx:y:z\n"
GROUP = b"root:x:0:\nmail:x:7:web\n"
ZONE = "EST5EDT,M3.2.0,M11.1.0"  # without a file of the zone
NOW = int(time.time())
AGES = (0, 59, 61, 3600, 86_399, 86_401, 172_799, 180_000, 864_000, 40_000_000)


def find_and_libraries() -> Layer:
    """A layer with GNU find, and the locale that tests run in."""
    layer = Layer()
    program = shutil.which("find")
    assert program is not None
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"(/\S+) \(0x", told):
        layer.file(name[1:], Path(name).read_bytes(), mode=0o755)
    for file in Path("/usr/lib/locale/C.utf8").rglob("*"):
        if file.is_file():
            layer.file(str(file)[1:], file.read_bytes())
    return layer.file(".find", Path(program).read_bytes(), mode=0o755)


def layers() -> list[Layer]:
    base = Layer().directory("etc").file("etc/passwd", PASSWD).file("etc/group", GROUP)
    base.file("etc/motd", b"hello\n").file("etc/.hidden", b"h").symlink("etc/out", "../../etc/motd")
    base.symlink("etc/round", "round").symlink("etc/absent", "nowhere").symlink("etc/far", "/dev")
    base.symlink("etc/through", "motd/x").symlink("etc/away", "/home/tool")
    base.directory("empty").directory("home", owner=(1000, 7))
    base.file("home/tool", b"#!", mode=0o4755, owner=(1000, 7))
    base.file("home/five", b"5", mode=0o600, owner=(5, 1234567)).file("home/no", owner=(99999, 8))
    base.directory("tmp", mode=0o1777).directory("srv", mode=0o2750, owner=(5, 6))
    base.file("big", bytes(range(256)) * 8000).file("gone").symlink("to-etc", "etc")
    base.symlink("absolute", "/etc").hard_link("tool", "home/tool").hard_link("srv/x", "home/tool")
    for mode in (0, 0o111, 0o222, 0o444, 0o640, 0o755, 0o2755, 0o6000, 0o7777, 0o1644):
        base.file(f"modes/f{mode:04o}", mode=mode)
        base.directory(f"modes/d{mode:04o}", mode=mode)
    for age in AGES:
        base.file(f"times/{age}", b"t", mtime_ns=(NOW - age) * 10**9 + 123_456_789)
    base.file("times/old", mtime_ns=-(10**9)).file("times/late", mtime_ns=2**33 * 10**9)
    for size in (0, 1, 511, 512, 513, 1023, 1024, 1025, 10241, 1048576, 1048577):
        base.file(f"sizes/{size}", bytes(size))
    base.add("dev/null", b"3", device=(1, 3), mode=0o666).add("dev/sda", b"4", device=(8, 255))
    base.add("dev/wide", b"4", device=(1000, 70000)).add("dev/fifo", b"6", mode=0o600)
    for name in ("with space", "caf\udce9", "käse", "esc\x1b[1m", "new\nline", "-dash", "*star",
                 "UPPER", "back\\slash", 'quo"te', "tab\tbed", "a.c", "ab.c", "a+c"):  # fmt: skip
        base.file(f"odd/{name}")
    base.symlink("odd/link", "to\nno where")
    base.file("attributed", xattrs={"user.note": b"x", "security.capability": bytes(20)})
    top = Layer().file(".wh.gone").file("etc/new", b"new\n").file("sizes/.wh.1")
    deep = Layer().file("deep/a/b/c/d/e", b"e").file("etc/motd", b"changed\n")
    deep.directory("home").file("home/.wh..wh..opq").file("home/again")
    return [find_and_libraries(), base, top, deep]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return docker_archive(tmp_path_factory.mktemp("image") / "image.tar", layers()[:3])


@pytest.fixture(scope="module")
def top(source: Path, module_mount: Callable[..., Path]) -> Path:
    return module_mount(source)


@pytest.fixture(scope="module", autouse=True)
def _time_zone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", ZONE)
        time.tzset()
        yield
    time.tzset()


@dataclass(frozen=True)
class Told:
    """What a program printed, and its exit status."""

    out: bytes
    error: str
    status: int


def theirs(top: Path, *words: str, locale: str = "C.UTF-8") -> Told:
    """What GNU find says, with the mount as its root directory."""
    done = subprocess.run(
        ["find", *map(os.fsencode, words)],
        executable="/.find",
        capture_output=True,
        env={"LC_ALL": locale, "TZ": ZONE},
        timeout=60,
        check=False,
        preexec_fn=lambda: os.chroot(top),
        cwd=top,
    )
    return Told(done.stdout, done.stderr.decode(errors="surrogateescape"), done.returncode)


def ours(*words: str | Path) -> Told:
    """What the command says, run in this process."""
    out, error = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        status = main(["find", *map(str, words)])
    out.flush()
    raw: bytes = out.buffer.getvalue()
    return Told(raw, error.getvalue().replace("unionmount: find: ", "find: "), status)


def check(source: Path, top: Path, paths: list[str], words: list[str]) -> None:
    """Compare the whole output, in its order."""
    wanted = theirs(top, *paths, *words)
    found = ours(source, *paths, *words)
    assert found.out == wanted.out, words
    if "-xtype" not in words or len(words) == 2:  # find may not come to the links that go round
        assert found.status == wanted.status, (words, wanted.error, found.error)


# ---- expressions ---------------------------------------------------------------------------------

LINES = [
    "",
    "-maxdepth 0",
    "-mindepth 2 -maxdepth 3",
    "-mindepth 1",
    "-depth",
    "-depth -mindepth 2 -maxdepth 2",
    "-d -type d",
    "-name '*o*'",
    "-name etc",
    "-name /",
    "-name ''",
    "-name '*'",
    "-name '*.c'",
    "-name 'a*'",
    "-name '**'",
    "-name '[!a-m]*'",
    "-name '.*'",
    "-name '\\*star'",
    "-name 'caf?'",
    "-name 'k?se'",
    "-name 'k??se'",
    "-iname upper",
    "-iname 'KÄSE'",
    "-name '[[:upper:]]*'",
    "-path '*/etc/*'",
    "-wholename /etc/motd",
    "-ipath '*/ETC/*'",
    "-iwholename '/ETC'",
    "-regex '.*/a.c'",
    "-regex '/odd/a+c'",
    "-regextype posix-extended -regex '/odd/a+b?.c'",
    "-regextype posix-basic -regex '/odd/a\\+b\\?.c'",
    "-regextype egrep -regex '.*/(etc|dev)/[a-m]+'",
    "-regextype sed -regex '.*/\\(.\\).*\\1'",
    "-regex '.*\\(etc\\|dev\\).*'",
    "-regex '.*new.line'",
    "-regextype findutils-default -regex '.*new.line'",
    "-regextype posix-egrep -regex '.*new.line'",
    "-regex '.*k.se'",
    "-regex '.*caf.'",
    "-iregex '.*/UPPER'",
    "-iregex '.*/upper'",
    "-regextype posix-extended -regex '/etc' -o -regextype emacs -regex '/e.*d\\|x'",
    "-type f",
    "-type d,l",
    "-type c -o -type b",
    "-type p,s",
    "-xtype d",
    "-xtype l",
    "-type l -xtype f",
    "-xtype c,f",
    "-lname '*etc*'",
    "-ilname 'NOWHERE'",
    "-size 1",
    "-size 0",
    "-size -1",
    "-size +0",
    "-size -2",
    "-size +1k",
    "-size -1M",
    "-size 1M",
    "-size 2M",
    "-size 513c",
    "-size +100w",
    "-size -1G",
    "-size +99999999999G",
    "-perm 644",
    "-perm -4000",
    "-perm /6000",
    "-perm /0",
    "-perm -0",
    "-perm u=rw,go=r",
    "-perm -u+s",
    "-perm /u+s,g+s",
    "-perm -u=s",
    "-perm -g+w,o+w",
    "-perm a=x",
    "-perm -a+X",
    "-perm /a=X",
    "-perm -u=rwx,g=u-w",
    "-perm u=rwx,g=rx,o=g",
    "-perm -+t",
    "-perm =0755",
    "-perm o+t,a=rw",
    "-perm 02755",
    "-perm 00755",
    "-user web",
    "-user 5",
    "-user a-long-user-name",
    "-group mail",
    "-group 1234567",
    "-uid 1000",
    "-uid +4 -gid -7",
    "-nouser",
    "-nogroup",
    "! -nouser -nogroup",
    "-links +1 -type f",
    "-links 3",
    "-links -3 -type d",
    "-empty",
    "-samefile /tool",
    "-samefile /to-etc",
    "-newer /etc/motd",
    "! -newer /times/3600",
    "-anewer /times/3600",
    "-cnewer /times/3600",
    "-newerma /times/86401",
    "-newermt 2020-01-01",
    "-newermt @1600000000",
    "! -newerct '2021-01-01 10:00:00 +0100'",
    "-newerat 'yesterday'",
    "-newermt '3 days ago'",
    "-mtime 0",
    "-mtime -1",
    "-mtime +1",
    "-mtime 1",
    "-mtime -1.5",
    "-mtime +.5",
    "-daystart -mtime 0",
    "-daystart -mtime -2",
    "-daystart -mtime +1",
    "-mmin -60",
    "-mmin +61",
    "-daystart -mmin -600",
    "-amin -2",
    "-cmin +1000",
    "-atime +100",
    "-ctime -3",
    "-used 0",
    "-used -1",
    "-used +1",
    "-name etc -prune -o -print",
    "-type d -prune",
    "-path /etc -prune -o -type f -name m* -print",
    "-depth -name etc -prune -o -print",
    "-path /etc -prune , -name motd",
    "( -name motd -o -name new ) -type f",
    "! ( -type f -o -type l )",
    "-not -type d -a -name '*t*'",
    "! ! -type d",
    "-type f -print -name motd -print",
    "-print0",
    "-type f -print0 -o -name d -print",
    "-name motd , -name new",
    "-type f -print , -type d -print",
    "-true",
    "-false",
    "-false -o -true",
    "-false , -true",
    "-true -o -print",
    "-name sizes -quit",
    "-name sizes -print -quit",
    "-name motd -print -quit -o -print",
    "-xdev -noleaf -mount -ignore_readdir_race -nowarn",
    "-ls",
    "-type f -ls",
    "-path '/odd*' -ls",
    "-name 'a*' -ls -o -print",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_expressions(source: Path, top: Path, line: str) -> None:
    words = shlex.split(line)
    check(source, top, ["/"], words)
    check(source, top, ["/to-etc/", "/dev", "/odd/"], words)


@pytest.mark.parametrize("path", ["/to-etc", "/to-etc/", "/etc/", "//", "/etc/../etc", "/etc/motd"])
def test_starting_points(source: Path, top: Path, path: str) -> None:
    for line in ("", "-name etc", "-printf '%p %P %H %h %f %d\\n'", "-name motd -path '*/motd'"):
        check(source, top, [path], shlex.split(line))


def test_columns_grow_for_all_starting_points(source: Path, top: Path) -> None:
    check(source, top, ["/etc/motd", "/home", "/dev", "/etc/motd", "/dev/null"], ["-ls"])


def test_h_follows_starting_points(source: Path, top: Path) -> None:
    for option in ("-H", "-P", "-O3"):
        wanted = theirs(top, option, "/to-etc", "-type", "f")
        assert ours(option, source, "/to-etc", "-type", "f").out == wanted.out


FORMATS = [
    "%p|%f|%h|%P|%H|%d|%%|\\n",
    "%i %n %s %b %k %m %M %y %Y %l\\n",
    "%u %U %g %G %S\\n",
    "%a;%c;%t\\n",
    "[%5d][%-5d][%05d][%+d][%+05d][% d][%.3d][%8.3d]\\n",
    "[%6m][%-6m][%06m][%#m][%#7m][%.5m]\\n",
    "[%12p][%-12p][%.3p][%12.3p][%012p][%+p]\\n",
    "[%10s][%-10s][%010s][%.1s][%+s]\\n",
    "[%3u][%-12u][%.2u][%12g][%.3M][%15M][%5y][%-5l]\\n",
    "[%8S][%.2S][%-8S][%+S]\\n",
    "[%30t][%-40t][%.3t]\\n",
    "%T@ %A@ %C@ %T+ %TS %TT %TX\\n",
    "%TY-%Tm-%Td %TH:%TM %Tz %TZ %Ta %TA %Tb %TB %Tj %TU %Tw %TW %Ty\\n",
    "%Tc|%Tx|%TD|%TF|%Th|%Tk|%Tl|%Tp|%Tr|%TR|%Ts|%TI|%TG|%Tg|%TV|%Tu|%Te|%TC|%Tn|%Tt\\n",
    "[%12TY][%-12Td][%.1TH]\\n",
    "\\a\\b\\f\\n\\r\\t\\v\\\\\\101\\0|\\7x\\1234",
    "no newline",
    "%p\\0",
    "before\\cafter",
    "%p\\c%f\\n",
    "%q%p\\n",
    "\\q%p\\n",
    "%5q\\n",
    "käse %f\\n",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_printf(source: Path, top: Path, form: str) -> None:
    check(source, top, ["/"], ["-printf", form])
    check(source, top, ["/etc/", "/dev"], ["-printf", form])


@pytest.mark.parametrize("form", ["%D", "%F", "%Z", "%Bs"])
def test_directives_without_meaning_are_refused(source: Path, form: str) -> None:
    told = ours(source, "-printf", form)
    assert f"'{form[:2]}' is not supported: " in told.error
    assert told.status == 1


def test_own_directives(source: Path) -> None:
    told = ours(source, "/etc", "-name", "[mn]*", "-printf", "%{layer} %{state} %3{layer}|%p\\n")
    assert told.out == b"1 visible   1|/etc/motd\n2 visible   2|/etc/new\n"
    assert "unionmount has %{layer}, %{state}" in ours(source, "-printf", "%{other}").error


def test_xattr(source: Path) -> None:
    assert ours(source, "-xattr", "user.note").out == b"/attributed\n"
    assert ours(source, "-xattr", "security.*").out == b"/attributed\n"
    assert ours(source, "-xattr", "user").out == b""
    assert b"/attributed\n" not in ours(source, "!", "-xattr", "*").out


# ---- random expressions --------------------------------------------------------------------------

_numbers = st.builds(
    lambda sign, number: sign + str(number), st.sampled_from(["", "+", "-"]), st.integers(0, 2000)
)
_globs = st.lists(
    st.sampled_from(
        ["*", "?", "[a-m]", "[!e]", "e", "t", "c", "o", "a", ".", "/", "é", "\\*", " "]
    ),
    max_size=5,
).map("".join)
_regexes = st.lists(
    st.sampled_from(
        ["/", ".", ".*", "[a-m]", "e", "t", "c", "o", "a+", "\\.", "\\(o\\|e\\)", "x?"]
    ),
    min_size=1,
    max_size=6,
).map("".join)
_modes = st.one_of(
    st.integers(0, 0o7777).map(lambda mode: f"{mode:o}"),
    st.lists(
        st.builds(
            lambda who, what, bits: who + what + bits,
            st.sampled_from(["", "u", "g", "o", "a", "ug", "go"]),
            st.sampled_from("+-="),
            st.sampled_from(["", "r", "w", "x", "X", "s", "t", "rw", "rwx", "rs", "xt", "u", "o"]),
        ),
        min_size=1,
        max_size=3,
    ).map(",".join),
)
_types = st.lists(st.sampled_from("fdlbcp"), min_size=1, max_size=3, unique=True).map(",".join)
_paths = st.sampled_from(["/etc/motd", "/tool", "/times/3600", "/to-etc", "/big", "/srv"])
_primaries = st.one_of(
    st.sampled_from(
        [
            ["-empty"],
            ["-true"],
            ["-false"],
            ["-print"],
            ["-prune"],
            ["-nouser"],
            ["-nogroup"],
            ["-print0"],
            ["-depth"],
            ["-ls"],
            ["-daystart"],
            ["-name", "etc", "-prune"],
            ["-printf", "%f %s\\n"],
            ["-path", "/odd/*n*", "-quit"],
            ["-regextype", "posix-extended"],
            ["-regextype", "posix-basic"],
        ]
    ),
    st.builds(lambda word, text: [word, text], st.sampled_from(["-name", "-iname"]), _globs),
    st.builds(
        lambda word, text: [word, text], st.sampled_from(["-path", "-ipath", "-lname"]), _globs
    ),
    st.builds(lambda word, text: [word, text], st.sampled_from(["-regex", "-iregex"]), _regexes),
    st.builds(lambda word, text: [word, text], st.sampled_from(["-type", "-xtype"]), _types),
    st.builds(
        lambda number, unit: ["-size", number + unit],
        _numbers,
        st.sampled_from(["", "b", "c", "w", "k", "M"]),
    ),
    st.builds(lambda sign, mode: ["-perm", sign + mode], st.sampled_from(["", "-", "/"]), _modes),
    st.builds(
        lambda word, text: [word, text],
        st.sampled_from(["-uid", "-gid", "-links", "-mtime", "-mmin", "-atime", "-cmin", "-used"]),
        _numbers,
    ),
    st.builds(
        lambda word, path: [word, path],
        st.sampled_from(["-newer", "-anewer", "-newermc", "-samefile", "-cnewer"]),
        _paths,
    ),
    st.builds(
        lambda word, depth: [word, str(depth)],
        st.sampled_from(["-maxdepth", "-mindepth"]),
        st.integers(0, 4),
    ),
    st.sampled_from([["-user", "web"], ["-user", "5"], ["-group", "mail"], ["-inum", "+40"]]),
)
_expressions = st.recursive(
    _primaries,
    lambda inner: st.one_of(
        st.builds(lambda one: ["!", *one], inner),
        st.builds(lambda one: ["(", *one, ")"], inner),
        st.builds(
            lambda one, operator, other: [*one, *operator, *other],
            inner,
            st.sampled_from([[], ["-a"], ["-o"], ["-or"]]),
            inner,
        ),
        # GNU find swaps the sides of a comma if the left one costs more and neither does anything,
        # and so takes the value of the wrong one; hence -print
        st.builds(
            lambda one, other: ["(", *one, "-print", ",", *other, ")", "-printf", "%f\\n"],
            inner,
            inner,
        ),
    ),
    max_leaves=8,
)


@settings(
    max_examples=amount(150, 1500),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    _expressions,
    st.sampled_from([["/"], ["/etc", "/odd/"], ["/to-etc/"], ["/modes", "/"], ["/times"]]),
)
@example(["-name", "e*", "-prune", "-o", "!", "-path", "/etc", "-prune", ",", "-print"], ["/"])
@example(["(", "-true", ")", "-o", "-prune"], ["/"])
def test_random_expressions(source: Path, top: Path, words: list[str], paths: list[str]) -> None:
    check(source, top, paths, words)


# ---- errors --------------------------------------------------------------------------------------

WRONG = [
    "-name", "-foo", "-links x", "-type x", "-type", "-type f,f", "-type ,f", "-type f,",
    "-type fd", "-type ''", "-xtype ''", "-xtype y", "-size 1x", "-size k", "-size ''", "-size +",
    "-size 99999999999999999999", "-links 99999999999999999999", "-links 1k", "-uid x", "-perm foo",
    "-perm +644", "-perm 77777", "-perm ''", "-perm u", "-perm u+y", "-perm a=q", "-perm /",
    "-perm 8", "-perm u+s,", "-maxdepth x", "-maxdepth -1", "-mindepth ''", "-user nobodyx",
    "-user 12x", "-user ''", "-group ggx", "-group 1x", "-group ''", "-mtime x", "-mtime ''",
    "-mmin +", "-used x", "-newer /nowhere", "-newermt foo", "-newermt", "-newertm /etc",
    "-newerxx /etc", "-newermmm /etc", "-samefile /nowhere", "-regextype foo", "-regex 'a\\('",
    "-regextype posix-extended -regex '['", "-printf %", "-printf", "-printf '%('", "-name x )",
    "( -name x", "( )", "(", "!", "-name x -o", "-o -name x", "-a", "-name x -a -a -name y",
    "-not )", "( -not )", "( -name x -a )", "-name x y", "-true -a ! -o -true", "-quit x",
    "-name a , , -name b", "-print ( -name x ) )", "-ls , , -ls",
]  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_errors_are_those_of_find(source: Path, top: Path, line: str) -> None:
    words = shlex.split(line)
    wanted = theirs(top, "/", *words, locale="C")
    found = ours(source, *words)
    assert (found.status, found.out) == (wanted.status, wanted.out)
    assert found.error.splitlines()[0] == wanted.error.splitlines()[0]


@pytest.mark.parametrize(
    "line",
    ["-perm /0", "-printf '%q\\n'", "-printf '\\q'", "-printf '%T'", "-printf '\\'"],
)
def test_warnings_are_those_of_find(source: Path, top: Path, line: str) -> None:
    words = ["/etc/motd", *shlex.split(line)]
    wanted, found = theirs(top, *words, locale="C"), ours(source, *words)
    assert (found.status, found.out, found.error) == (wanted.status, wanted.out, wanted.error)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-exec rm {} ;", "'-exec' is not supported: mount the image and run find(1) there, or"),
        ("-execdir x", "pipe -print0 to 'xargs -0'"),
        ("-ok rm", "'-ok' is not supported"),
        ("-delete", "an image does not change; mount it with a container, and delete there"),
        ("-fprint x", "redirect the output: find … >FILE"),
        ("-fprintf x y", "find … -printf FORMAT >FILE"),
        ("-fls x", "find … -ls >FILE"),
        ("-readable", "the answer depends on a user; use -perm /444"),
        ("-writable", "use -perm /222"),
        ("-executable", "use -perm /111"),
        ("-fstype ext4", "an image is in no file system"),
        ("-follow", "symlinks are not followed"),
        ("-newerBm /etc", "a layer has no birth times"),
        ("! " * 200 + "-true", "nested too deeply"),
        ("-name " + "x" * 9 + " -printf %99999p", "wider than"),
    ],
)
def test_what_find_refuses(source: Path, line: str, message: str) -> None:
    told = ours(source, *line.split())
    assert message in told.error
    assert (told.status, told.out, told.error.count("\n")) == (1, b"", 1)


def test_a_path_that_is_not_there_ends_nothing(source: Path) -> None:
    told = ours(source, "/nowhere", "/etc/motd", "/etc/motd/x")
    assert (told.out, told.status) == (b"/etc/motd\n", 1)
    assert told.error.splitlines() == [
        f"unionmount: {source}:/nowhere: No such file or directory",
        f"unionmount: {source}:/etc/motd/x: Not a directory",
    ]


def test_l_is_refused(cli: CommandLine, source: Path) -> None:
    assert "-L is not supported" in cli.error("find", "-L", source, status=2)


# ---- operands ------------------------------------------------------------------------------------


def test_images_and_paths(source: Path, tmp_path: Path) -> None:
    other = docker_archive(tmp_path / "other.tar", [Layer().file("etc/only")])
    assert ours(source, "/etc/new", "/tool").out == b"/etc/new\n/tool\n"
    assert ours(f"{source}:/etc/new", "/tool").out == b"/etc/new\n/tool\n"
    assert ours(f"{source}:/tool", f"{other}:/etc").out == b"/tool\n/etc\n/etc/only\n"
    assert ours(source, "/tool", f"docker-archive:{other}", "/etc").out == (
        b"/tool\n/etc\n/etc/only\n"
    )
    told = ours(source, other)
    assert f"No such file or directory; write '{other}:/' for the archive" in told.error


def test_quit_ends_everything(source: Path) -> None:
    assert ours(source, "/etc/motd", "/tool", "-print", "-quit").out == b"/etc/motd\n"
    assert ours(f"{source}:/tool", f"{source}:/etc", "-quit").out == b""


def test_a_reader_who_has_seen_enough(source: Path) -> None:
    for more in ("", "-printf '%p %i %t\\n'", "-ls", "--format jsonl"):
        script = f'{" ".join(COMMAND)} find "$1" {more} | head -c 5; echo "${{PIPESTATUS[0]}}"'
        done = subprocess.run(
            ["bash", "-c", script, "bash", str(source)], capture_output=True, check=True
        )
        assert done.stdout[5:] in (b"141\n", b"0\n")  # 0: the pipe had room for all
        assert done.stderr == b""


# ---- JSON ----------------------------------------------------------------------------------------


def test_json(source: Path) -> None:
    told = ours(source, "/etc", "-name", "m*", "--format", "json")
    (motd,) = json.loads(told.out)
    assert motd == {
        "image": str(source),
        "path": "/etc/motd",
        "layer": 1,
        "type": "file",
        "mode": "0644",
        "links": 1,
        "inode": motd["inode"],
        "uid": 0,
        "gid": 0,
        "user": "root",
        "group": "root",
        "size": 6,
        "mtime_ns": 1_600_000_000_123_456_789,
        "target": None,
        "device": None,
    }
    lines = ours(source, "/dev", "/odd", "--format", "jsonl").out.splitlines()
    found = {one["path"]: one for one in map(json.loads, lines)}
    assert (found["/dev/sda"]["device"], found["/dev/sda"]["type"]) == ("8:255", "block device")
    assert found["/odd/link"]["target"] == "to\nno where"
    assert "/odd/caf\udce9" in found
    assert ours(source, "-false", "--format", "json").out == b"[]\n"
    refused = ours(source, "-ls", "--format", "json")
    assert "--format cannot be combined with -printf and -ls" in refused.error
    assert refused.status == 2


KINDS = {
    "file": stat.S_ISREG,
    "directory": stat.S_ISDIR,
    "symlink": stat.S_ISLNK,
    "fifo": stat.S_ISFIFO,
    "character device": stat.S_ISCHR,
    "block device": stat.S_ISBLK,
}


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_says_what_lstat_says(source: Path, top: Path, tmp_path: Path, form: str) -> None:
    image = tmp_path / 'a %s "b" %d.tar'
    image.symlink_to(source)
    out = ours(image, "--format", form).out.decode()
    found = json.loads(out) if form == "json" else list(map(json.loads, out.splitlines()))
    paths = os.fsdecode(theirs(top, "/", "-print0").out).split("\0")[:-1]
    assert [one["path"] for one in found] == paths
    for one in found:
        file = os.fsencode(f"{top}{one['path']}")
        there = os.lstat(file)
        assert (one["image"], int(one["mode"], 8)) == (str(image), stat.S_IMODE(there.st_mode))
        assert (one["inode"], one["links"]) == (there.st_ino, there.st_nlink)
        assert (one["uid"], one["gid"]) == (there.st_uid, there.st_gid)
        assert one["mtime_ns"] == there.st_mtime_ns
        assert one["size"] == (None if stat.S_ISDIR(there.st_mode) else there.st_size)
        assert KINDS[one["type"]](there.st_mode)
        is_link = stat.S_ISLNK(there.st_mode)
        assert one["target"] == (os.fsdecode(os.readlink(file)) if is_link else None)
        assert (one["device"] is not None) == bool(there.st_rdev)


# ---- layers by themselves ------------------------------------------------------------------------


def test_all_layers(tmp_path: Path) -> None:
    first = Layer().file("root/.ssh/id", b"secret").file("etc/motd", b"1").directory("a/b")
    first.file("a/b/c").file("plain").directory("kept")
    second = Layer().file("root/.ssh/.wh.id").file("etc/motd", b"2").file("a/.wh..wh..opq")
    second.file("a/new").file("kept/x")
    third = Layer().file(".wh.plain").file(".wh.a").file("a", b"now a file")
    source = docker_archive(tmp_path / "image.tar", [first, second, third])
    told = ours(source, "--all-layers", "!", "-name", "/", "!", "-name", "kept")
    lines = [line.split(b"\t") for line in told.out.splitlines()]
    assert [[part.decode() for part in line] for line in lines] == [
        ["0", "hidden by 2", "/a"],
        ["0", "hidden by 1", "/a/b"],
        ["0", "hidden by 1", "/a/b/c"],
        ["0", "mentioned", "/etc"],
        ["0", "hidden by 1", "/etc/motd"],
        ["0", "hidden by 2", "/plain"],
        ["0", "mentioned", "/root"],
        ["0", "mentioned", "/root/.ssh"],
        ["0", "hidden by 1", "/root/.ssh/id"],
        ["1", "hidden by 2", "/a"],
        ["1", "hidden by 2", "/a/new"],
        ["1", "mentioned", "/etc"],
        ["1", "visible", "/etc/motd"],
        ["1", "visible", "/kept/x"],
        ["1", "mentioned", "/root"],
        ["1", "mentioned", "/root/.ssh"],
        ["1", "whiteout", "/root/.ssh/id"],
        ["2", "visible", "/a"],
        ["2", "whiteout", "/plain"],
    ]
    assert ours(source, "--all-layers", "-type", "w", "-o", "-name", "id").out == (
        b"0\thidden by 1\t/root/.ssh/id\n1\twhiteout\t/root/.ssh/id\n2\twhiteout\t/plain\n"
    )
    assert ours(source, "--all-layers", "-type", "c").out == b""
    assert ours(source, "--all-layers", "--layer", "0", "-name", "id").out == (
        b"0\tvisible\t/root/.ssh/id\n"
    )
    own = ours(
        source, "/root", "--all-layers", "-name", "id", "-printf", "%{layer} %{state} %s %p\\n"
    )
    assert own.out == b"0 hidden by 1 6 /root/.ssh/id\n1 whiteout 0 /root/.ssh/id\n"
    objects = json.loads(ours(source, "--all-layers", "-name", "id", "--format", "json").out)
    assert [(one["layer"], one["type"], one["state"], one["hidden_by"]) for one in objects] == [
        (0, "file", "hidden", 1),
        (1, "whiteout", "whiteout", None),
    ]
    assert ours(source, "/kept", "--all-layers", "-print0").out == (
        b"0\tvisible\t/kept\0" + b"1\tmentioned\t/kept\0" + b"1\tvisible\t/kept/x\0"
    )
    assert "no layer has this path" in ours(source, "/nowhere", "--all-layers").error
    refused = ours(source, "--all-layers", "-samefile", "/etc/motd")
    assert "cannot be combined with --all-layers" in refused.error
    refused = ours(source, "--all-layers", "-printf", "%y %Y\\n")
    assert "'%Y' cannot be combined with --all-layers" in refused.error


def test_an_interrupt_prints_nothing(tmp_path: Path) -> None:
    layer = Layer()
    for number in range(5000):
        layer.file(f"{'a' * 200}{number}", b"")
    image = docker_archive(tmp_path / "many.tar", [layer])
    process = subprocess.Popen(
        [*COMMAND, "find", image, "-printf", "%p\\n"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(1) == b"/"  # the rest does not fit into the pipe
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (130, b"")


def test_layers_are_those_of_the_mount_of_layers(
    cli: CommandLine, source: Path, tmp_path: Path
) -> None:
    """Each layer has the files that a mount of its layers side by side shows."""
    where = tmp_path / "layers"
    where.mkdir()
    cli.run("mount", "--layers", source, where)
    try:
        words = ["-name", "*e*", "!", "-type", "c"]
        told = ours(source, "--all-layers", *words, "!", "-type", "w").out
        listed = subprocess.run(
            ["find", *[f"{layer}/" for layer in range(3)], *words],
            cwd=where, capture_output=True, check=True,
        ).stdout  # fmt: skip
    finally:
        cli.run("umount", where)
    shown = re.sub(rb"(?m)^(\d)\t[^\t]*\t", rb"\1", told)
    assert shown == listed


# ---- containers ----------------------------------------------------------------------------------


def test_containers(tmp_path: Path, source: Path) -> None:
    own = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})
    where = tmp_path / "box"
    where.mkdir()
    own.run("mount", "--name", "box", source, where)
    try:
        (where / "etc/new").unlink()
        (where / "home").rename(where / "house")
        (where / "etc/made").write_bytes(b"x" * 3000)
        (where / "house/deep").mkdir(mode=0o700)
        for number in range(200):
            (where / f"house/deep/{number:03}").touch()
        for line in (
            "-depth", "-newer /etc/made", "-newer /etc/motd -type f", "-size +2k -ls", "-empty",
            "-path /house -prune -o -printf '%p %s %m %l %y\\n'", "-user web", "-mmin -10",
            "( -name 0* -o -type l ) -printf '%f %l\\n'", "-name 1*",
        ):  # fmt: skip
            words = shlex.split(line)
            told = ours("--root", tmp_path / "root", "box", "/", *words)
            assert told.out == theirs(where, "/", *words).out, line
        objects = json.loads(own.run("find", "box:/etc/made", "--format", "json").stdout)
        assert (objects[0]["layer"], objects[0]["size"]) == (None, 3000)
        assert own.run("find", "box", "/etc/new", "--layer", "2").stdout == "/etc/new\n"
        assert own.run("find", "box", "--all-layers", "-name", "made").stdout == ""
    finally:
        own.run("umount", where)


# ---- many files ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_files_are_searched_in_pieces(tmp_path: Path) -> None:
    """More files than one piece of a search has, with a directory that is left in the middle."""
    layer = Layer()
    for directory in range(30):
        for number in range(400):
            layer.file(f"d{directory:02}/f{number:03}")
        layer.directory(f"d{directory:02}/sub{directory % 3}")
    source = docker_archive(tmp_path / "image.tar", [layer])
    every = ours(source).out.splitlines()
    assert len(every) == 1 + 30 * 402
    kept = ours(source, "-name", "d05", "-prune", "-o", "-printf", "%p\\n").out.splitlines()
    assert kept == [path for path in every if not path.startswith(b"/d05")]
    some = ours(source, "-mindepth", "1", "-prune", "-printf", "%p\\n").out.splitlines()
    assert some == [b"/d%02d" % number for number in range(30)]
    assert ours(source, "-path", "*f399", "-printf", "x").out == b"x" * 30


def test_ctrl_c_ends_a_search_quietly(source: Path) -> None:
    """The signal arrives while the output waits for its reader."""
    script = "import sys; from unionmount.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [str(source), "-printf", "%p " + "x" * 60000]
    process = subprocess.Popen(
        [sys.executable, "-c", script, "find", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(10)
    process.send_signal(2)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == b""
