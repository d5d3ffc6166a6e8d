"""The options of ``unionmount overlay``, read as overlayfs reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionmount.cli.overlay import OverlayOptions, parse_overlay
from unionmount.errors import UsageError


def lower(text: str) -> tuple[str, ...]:
    return parse_overlay([text]).lower


def test_what_a_container_engine_says() -> None:
    text = "lowerdir=/l/A:/l/B:/l/C,upperdir=/d/diff,workdir=/d/work,nodev,volatile,userxattr"
    assert parse_overlay([text]) == OverlayOptions(
        ("/l/A", "/l/B", "/l/C"), "/d/diff", "/d/work", True, True, ("nodev",)
    )


def test_several_options_are_one() -> None:
    assert parse_overlay(["lowerdir=a", "upperdir=u,,", "workdir=w"]) == OverlayOptions(
        ("a",), "u", "w"
    )


@pytest.mark.parametrize(
    ("text", "directories"),
    [
        (r"lowerdir=a\:b:c", ("a:b", "c")),
        (r"lowerdir=a\\:b", ("a\\", "b")),
        (r"lowerdir=a\,b:c", ("a,b", "c")),
        (r"lowerdir=a\b", ("ab",)),
        ("lowerdir=a=b", ("a=b",)),
        ("lowerdir=a b\n", ("a b\n",)),
        ("lowerdir=a\\", ("a",)),
        ("lowerdir+=a:b,lowerdir+=c", ("a:b", "c")),
        ("lowerdir=a:b,lowerdir+=c", ("a", "b", "c")),
        ("lowerdir+=a,lowerdir=b", ("b",)),
        ("lowerdir=\udce9", ("\udce9",)),
    ],
)
def test_lower_directories(text: str, directories: tuple[str, ...]) -> None:
    assert lower(text) == directories


@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1), min_size=1))
def test_every_name_can_be_written(names: list[str]) -> None:
    def escaped(name: str) -> str:
        return "".join(f"\\{c}" if c in "\\:," else c for c in name)

    assert lower("lowerdir=" + ":".join(map(escaped, names))) == tuple(names)
    everywhere = [f"lowerdir+={escaped(name)}" for name in names]
    first = escaped(names[0])
    wanted = parse_overlay([*everywhere, f"upperdir={first},workdir={first}"])
    assert (wanted.lower, wanted.upper, wanted.work) == (tuple(names), names[0], names[0])


def test_what_is_not_known_is_left_out_and_named() -> None:
    text = r"lowerdir=a,redirect_dir=on,ro,index=off,x\,y,metacopy,volatile=1,lowerdir"
    options = parse_overlay([text])
    assert options.mount == ("ro",)
    assert options.ignored == (
        *("redirect_dir=on", "index=off", "x,y", "metacopy", "volatile=1", "lowerdir"),
    )
    assert not options.volatile


def test_a_work_directory_without_an_upper_is_of_no_use() -> None:
    options = parse_overlay(["lowerdir=a,workdir=w"])
    assert (options.work, options.ignored) == ("", ("workdir=w",))


def test_what_goes_without_saying() -> None:
    assert parse_overlay(["lowerdir=a,defaults"]) == OverlayOptions(("a",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lowerdir is missing"),
        ("upperdir=u,workdir=w", "lowerdir is missing"),
        ("lowerdir=", "empty"),
        ("lowerdir=a::b", "empty"),
        ("lowerdir=a:", "empty"),
        ("lowerdir+=", "empty"),
        ("lowerdir=a,upperdir=u", "upperdir needs a workdir"),
    ],
)
def test_what_makes_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_overlay([text])
