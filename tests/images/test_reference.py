"""Names, digests, and what a message may show of them."""

from __future__ import annotations

import pytest

from unionmount.errors import InvalidReference
from unionmount.images.reference import Digest, Reference
from unionmount.system.text import printable

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("nginx", "docker.io/library/nginx", "nginx"),
        ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
        ("docker.io/nginx", "docker.io/library/nginx", "nginx"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx", "nginx"),
        ("team/app:v1", "docker.io/team/app:v1", "team/app:v1"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("example.org/a/b__c/d-e", "example.org/a/b__c/d-e", "example.org/a/b__c/d-e"),
        ("[::1]:80/app", "[::1]:80/app", "[::1]:80/app"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx:1@{DIGEST}", f"nginx:1@{DIGEST}"),
    ],
)
def test_names_are_completed_and_shortened(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert reference.familiar == familiar
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(familiar) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        "A",
        "a//b",
        "/a",
        "a/",
        "../a",
        "a..b",
        "a:b:c",
        "a b",
        "a\n",
        "a:1\n",
        "a:" + "x" * 129,
        "x" * 256,
        "a@sha256:12",
        "a@" + DIGEST.upper(),
        "a@",
        "example.org:port/a",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.parse(text)


def test_default_tag_only_without_tag_and_digest() -> None:
    assert Reference.parse("a").with_default_tag().tag == "latest"
    assert Reference.parse("a:1").with_default_tag().tag == "1"
    assert Reference.parse(f"a@{DIGEST}").with_default_tag().tag is None


def test_digest_round_trip() -> None:
    digest = Digest.of(b"abc")
    assert str(digest) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Digest.parse(str(digest)) == digest
    assert digest.short == "ba7816bf8f01"
    assert Digest.parse(str(Digest.of(b"abc", "sha512"))).hasher().name == "sha512"


@pytest.mark.parametrize(
    "text",
    ["", "sha256", "sha256:", "md5:" + "0" * 32, DIGEST[:-1], DIGEST + "0", DIGEST + "\n",
     "sha256:" + "g" * 64, "sha256:../../" + "0" * 58],
)  # fmt: skip
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference, match="not a digest"):
        Digest.parse(text)


def test_messages_hold_no_control_characters() -> None:
    assert printable("a\x1b[31m\n\u202e") == "a\\x1b[31m\\n\\u202e"
    assert printable(b"\xff\xc3\xa4") == "\\xffä"
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("\x1b]0;title\x07")
    assert str(caught.value).isprintable()
