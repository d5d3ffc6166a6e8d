"""What a stranger wrote is read in time that grows as its length does.

Nothing is timed: the same work is done many times in a process that may use some seconds of
processor, and would need minutes if twice the input took four times as long.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from support.registry_clients import make_client, reference
from support.servers import Connection, RawServer

from unionmount.errors import RegistryError
from unionmount.registry.links import next_link

pytestmark = pytest.mark.slow

SECONDS = 20  # of processor: linear work takes a few
TIMES = 50

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]),) * 2)
del sys.argv[1]
"""

# Each is an expression of the length n; what it raises does not matter.
LINK = "from unionmount.registry.links import next_link"
CHALLENGE = "from unionmount.registry.challenge import parse_challenges"
RETRY = "from unionmount.registry.retry import retry_after"
URL = "from unionmount.registry.redaction import shown_url, shown_answer"
OUTGOING = "from unionmount.registry.http import Outgoing"
REFERENCE = (
    "from unionmount.images.reference import Reference, Digest;"
    "from unionmount.system.text import printable"
)
UPLOAD = "from unionmount.registry.blob_upload import _RANGE"
BLOB = "from unionmount.registry.blob_download import _CONTENT_RANGE, _LENGTH"
TAGS = "from unionmount.registry.versions import in_order"
ARCHIVE = "from unionmount.sources.archive import _digest_of, _ManifestItem, _names_by_config"
SOURCES = "from unionmount.sources import Entry, distinct"
COMMIT = "from unionmount.images.instructions import apply_instructions"
SELECT = (
    "from unionmount.cli.image_filters import matches;"
    "from unionmount.images.reference import Reference; "
    "name = Reference.parse('x/' + 'a' * 240)"
)
PARSERS = [
    (LINK, "next_link(['<x>;' * (n // 4)], 'x')"),
    (LINK, "next_link(['<x' * (n // 2)], 'x')"),
    (LINK, "next_link(['<x>' + '; rel=\"' * (n // 7)], 'x')"),
    (LINK, "next_link(['<x>;' + ' ' * n + 'next'], 'x')"),
    (LINK, "next_link(['<x>; rel=\"' + '\\\\\\\\' * (n // 2)], 'x')"),
    (LINK, "next_link(['<x>, ' * (n // 5)], 'x')"),
    (LINK, "next_link([',' * n], 'x')"),
    (LINK, "next_link(['<x>; rel=next' + ' ' * n + 'x'], 'x')"),
    (CHALLENGE, "parse_challenges(['a' + ' ' * n + 'b'], 'x')"),
    (CHALLENGE, "parse_challenges(['a ' * (n // 2)], 'x')"),
    (CHALLENGE, "parse_challenges(['Basic a=\"' + 'x' * n], 'x')"),
    (CHALLENGE, "parse_challenges(['Basic ' + 'a=b,' * (n // 4)], 'x')"),
    (CHALLENGE, "parse_challenges(['Basic ' + 'a=\"' * (n // 3)], 'x')"),
    (CHALLENGE, "parse_challenges(['Basic ' + '=' * n + '!'], 'x')"),
    (CHALLENGE, "parse_challenges(['Basic a' + '=' * n + '!'], 'x')"),
    (RETRY, "retry_after('9' * n)"),
    (RETRY, "retry_after('Mon, ' + '9' * 4000 + ' Jan 2020 00:00:00 GMT')"),
    (RETRY, "retry_after('Mon, ' * (n // 5))"),
    (RETRY, "retry_after('(' * n)"),
    (URL, "shown_url('https://x/?' + 'a=b&' * (n // 4))"),
    (URL, "shown_url('https://' + '@' * n)"),
    (URL, "shown_answer({'location': '%' * n})"),
    (OUTGOING, "Outgoing('GET', 'https://x/').redirected('../' * (n // 3), 307)"),
    (OUTGOING, "Outgoing('GET', 'https://x/').redirected('https://' + '\\u00e4' * n, 307)"),
    (OUTGOING, "Outgoing('GET', 'https://x/').redirected('https://' + 'a.' * (n // 2), 307)"),
    (OUTGOING, "Outgoing('GET', 'https://x/').redirected('https://x/' + '%' * n, 307)"),
    (REFERENCE, "Reference.parse('a' * n)"),
    (REFERENCE, "Reference.parse('a-' * (n // 2))"),
    (REFERENCE, "Reference.parse('a/' * (n // 2))"),
    (REFERENCE, "Reference.parse('a.' * 120 + '!/b')"),
    (REFERENCE, "Reference.parse('x/' + 'a__' * 80 + '!')"),
    (REFERENCE, "Digest.parse('sha256:' + '0' * n)"),
    (REFERENCE, "printable('\\n' * n)"),
    (UPLOAD, "_RANGE.fullmatch('bytes=0-' + '9' * n)"),
    (BLOB, "_CONTENT_RANGE.fullmatch('bytes ' + '9' * n)"),
    (TAGS, "in_order(['1.' * (n // 2)])"),
    (TAGS, "in_order(['1' * n + '-rc' * 9])"),
    (TAGS, "in_order(['a1' * (n // 2)])"),
    (ARCHIVE, "_digest_of('/' * n)"),
    (ARCHIVE, "_digest_of('0' * n)"),
    (ARCHIVE, "_digest_of('/blobs/sha256/' * (n // 14))"),
    (ARCHIVE, "_names_by_config([_ManifestItem('0' * 64, (i,), ()) for i in range(n // 4)])"),
    (SOURCES, "distinct([Entry(i, (i,), (), ('same',)) for i in range(n // 16)])"),
    (COMMIT, "apply_instructions({}, ['HEALTHCHECK --interval=' + '1' * n + ' CMD x'])"),
    (COMMIT, "apply_instructions({}, ['ENV a=' + '${a' * (n // 3)])"),
    (COMMIT, "apply_instructions({}, ['ENV a=' + '${a-' * (n // 4) + '}'])"),
    (COMMIT, "apply_instructions({}, ['CMD ' + '\\\\\\\\ ' * (n // 2)])"),
    (COMMIT, "apply_instructions({}, ['USER ' + '\"' * n])"),
    (COMMIT, "apply_instructions({}, ['STOPSIGNAL SIG' + 'A' * n + '+'])"),
    (SELECT, "matches(name, 'x/' + '*a' * 40 + 'b')"),
    (SELECT, "matches(name, 'x/' + '*' * 60 + 'b')"),
]


def limited(code: str, *arguments: str, seconds: int = SECONDS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED + code, str(seconds), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("setup", "expression"), PARSERS)
def test_parsers(setup: str, expression: str) -> None:
    done = limited(f"""
{setup}
n = 64 * 1024
for _ in range({TIMES}):
    try:
        {expression}
    except Exception:
        pass
""")
    assert done.returncode == 0, f"{expression}: {done.returncode} {done.stderr[-500:]}"


def test_the_limit_is_one() -> None:
    """A quadratic expression does not get through: a tenth of the limit would tell."""
    quadratic = f"""
import re
for _ in range({TIMES}):
    re.fullmatch("a *b? *", "a" + " " * 64 * 1024 + "!")
"""
    done = limited(quadratic, seconds=SECONDS // 10)
    assert done.returncode < 0


# ---- heads of answers, as they come over the wire

ASKING = """
import sys, trio
sys.path.insert(0, "tests")
from support.registry_clients import make_client, reference
from unionmount.errors import UnionmountError

async def main():
    async with make_client() as client:
        for _ in range(3):
            try:
                await client.tags(reference(sys.argv[1], "a", None))
            except UnionmountError as error:
                print(error)

trio.run(main)
"""
OK = b"HTTP/1.1 200 OK\r\n"
LARGE = 95_000  # what the library takes before a head is complete
HUGE = 900_000  # what comes in one read is not counted by it
HEADS = {
    "blanks": OK + b"X:" + b" " * LARGE + b"\0\r\n\r\n",
    "blanks at the end": OK + b"X: y" + b" " * LARGE + b"\0\r\n\r\n",
    "words": OK + b"X: " + b"y " * (LARGE // 2) + b"\0\r\n\r\n",
    "folded lines": OK + b"X: y" + b"\r\n  " * (LARGE // 4) + b"\0\r\n\r\n",
    "more blanks": OK + b"X:" + b" " * HUGE + b"\0\r\n\r\n",
    "many fields": OK + b"X: y\r\n" * (HUGE // 6) + b"\r\n",
    "one large field": OK + b"X: " + b"y" * HUGE + b"\r\n\r\n",
    "reason": b"HTTP/1.1 200 " + b" " * LARGE + b"\0\r\n\r\n",
    "chunk": OK
    + b"Transfer-Encoding: chunked\r\n\r\n1;"
    + b" " * LARGE
    + b"\n\0\r\nx\r\n0\r\n\r\n",
    "trailer": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX:" + b" " * LARGE + b"\0\r\n\r\n",
    "cookies": OK + b"".join(b"Set-Cookie: %b\r\n" % (b"a;" * 120) for _ in range(200)) + b"\r\n",
    "old cookies": OK + b"Set-Cookie2: " + b"a," * 30_000 + b"\r\n\r\n",
    "link": OK + b"Link: " + b"<x>;" * 14_000 + b"\r\nContent-Length: 11\r\n\r\n" + b'{"tags":[]}',
    "location": b"HTTP/1.1 307 -\r\nLocation: https://" + b"\xe4" * 60_000 + b"\r\n\r\n",
    "challenge": b"HTTP/1.1 401 -\r\nWWW-Authenticate: " + b"a " * 30_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str) -> None:
    def behave(connection: Connection) -> None:
        while head := connection.head():
            if head.startswith("GET /v2/ "):
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                connection.send(HEADS[name])
                return

    with RawServer(behave) as running:
        done = limited(ASKING, running.address)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.count("\n") == 3  # each is an error, of one line


async def test_fields_have_a_number_and_a_size() -> None:
    heads = [OK + b"X: y\r\n" * 300 + b"\r\n", OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n"]

    def behave(connection: Connection) -> None:
        while head := connection.head():
            if head.startswith("GET /v2/ "):
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                connection.send(heads.pop())
                return

    with RawServer(behave) as running:
        for text in ("1 header fields of 70001 bytes", "300 header fields of 600 bytes"):
            async with make_client() as client:
                with pytest.raises(RegistryError, match=text):
                    await client.tags(reference(running.address, "a", None))


# ---- what Link says

Wanted = str | None | type[RegistryError]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], None),
        ([""], None),
        (["<a>; rel=next"], "a"),
        (['<a>; rel="next"'], "a"),
        (['<a>;rel="next"'], "a"),
        (["<a> ; REL = NEXT ;"], "a"),
        (['<a>; rel="last next"'], "a"),
        (['<a>; rel="nextly"'], None),
        (['<a>; rel=prev, <b>; rel="next"'], "b"),
        (['<a>; rel=prev; rel="next"'], None),  # the first one counts
        (['<a>; rel="prev"', "<b>; rel=next"], "b"),
        (['<a,b;c>; title="x, <y>; rel=next"; rel="next"'], "a,b;c"),
        (['<a>; title="x\\", <y>; rel=next", <b>; rel=next'], "b"),
        (["<a>; title*=UTF-8''x; crossorigin; rel=next"], "a"),
        (["<a>; rel=preload; as=script; nopush"], None),
        (["<a>"], "a"),  # as other clients have it
        (["<a>; title=x"], "a"),
        (["<a>; rel=next, <a>; rel=next"], "a"),
        (["<a>; rel=next, <b>; rel=next"], RegistryError),
        (["<a; rel=next"], RegistryError),
        (["a; rel=next"], RegistryError),
        (["<a> rel=next"], RegistryError),
        (['<a>; rel="next'], RegistryError),
        (['<a>; rel="prev'], None),
        (['<a>; rel="prev', "<b>; rel=next"], "b"),
        (["<a>; =next"], RegistryError),
        (["<a>; rel=next x"], RegistryError),
        (['<a>; rel="next"x'], RegistryError),
        (["<a"], RegistryError),
        (["\0"], RegistryError),
    ],
)
def test_links(values: list[str], wanted: Wanted) -> None:
    if isinstance(wanted, type):
        with pytest.raises(wanted, match="x: Link "):
            next_link(values, "x")
    else:
        assert next_link(values, "x") == wanted


@pytest.mark.parametrize(
    "link", ["<?last=1>; rel=next", "<?last=1>", '<?last=1>;rel="prev next";title="a,b"']
)
async def test_no_list_is_cut(link: str) -> None:
    await _lists({"1": link}, lambda found: found == ["0", "1"])


async def test_a_list_that_can_not_be_followed_is_no_list() -> None:
    for links, text in (
        ({"1": "<?last=1; rel=next"}, "Link cannot be parsed, so the list may be incomplete"),
        ({"1": "<?last=1>; rel=next", "2": "<?last=1>; rel=next"}, "sends the same page again"),
        ({"1": "<?last=1>; rel=next, <?last=2>; rel=next"}, "names 2 next pages"),
    ):
        with pytest.raises(RegistryError, match=text):
            await _lists(links, lambda found: not found)


async def _lists(links: dict[str, str], fits: Callable[[list[str]], bool]) -> None:
    asked = 0

    def behave(connection: Connection) -> None:
        nonlocal asked
        while head := connection.head():
            body, link = b"", ""
            if not head.startswith("GET /v2/ "):
                body, asked = b'{"tags": ["%d"]}' % asked, asked + 1
                link = f"Link: {links[str(asked)]}\r\n" if str(asked) in links else ""
            length = f"Content-Length: {len(body)}\r\n"
            connection.send(OK + (link + length).encode() + b"\r\n" + body)

    with RawServer(behave) as running:
        async with make_client() as client:
            assert fits(await client.tags(reference(running.address, "a", None)))
