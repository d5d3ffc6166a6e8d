"""The options of ``unionmount overlay``, read as overlayfs reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionmount.cli.commands.overlay import OverlayOptions, parse_overlay
from unionmount.errors import MountError, UnionmountError


def lower(text: str) -> tuple[str, ...]:
    return parse_overlay([text]).lower


def test_what_a_container_engine_says() -> None:
    text = "lowerdir=/l/A:/l/B:/l/C,upperdir=/d/diff,workdir=/d/work,nodev,volatile,userxattr"
    assert parse_overlay([text]) == OverlayOptions(
        ("/l/A", "/l/B", "/l/C"), "/d/diff", "/d/work", True, True, ("nodev",), whole=True
    )


def test_several_options_are_one() -> None:
    assert parse_overlay(["lowerdir=a", "upperdir=u,,", "workdir=w"]) == OverlayOptions(
        ("a",), "u", "w", whole=True
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
        (r"lowerdir+=a\:b,lowerdir+=a\,b", (r"a\:b", r"a\,b")),
        ("lowerdir=a:b,lowerdir=c", ("c",)),
        ("lowerdir+=a,lowerdir=b", ("b",)),
        ("lowerdir=a,lowerdir=,lowerdir+=b", ("b",)),
        (r"lowerdir=a\072b", ("a072b",)),
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
    first = escaped(names[0])
    wanted = parse_overlay([f"lowerdir=a,upperdir={first},workdir={first}"])
    assert (wanted.upper, wanted.work) == (names[0], names[0])
    as_they_stand = [name for name in names if "," not in name and not name.endswith("\\")]
    if as_they_stand:
        assert parse_overlay([f"lowerdir+={one}" for one in as_they_stand]).lower == tuple(
            as_they_stand
        )


def test_what_is_not_known_is_refused_and_named() -> None:
    with pytest.raises(MountError, match=r"unknown mount option x,y, metacopy, volatile=1, lowerd"):
        parse_overlay([r"lowerdir=a,ro,index=off,x\,y,metacopy,volatile=1,lowerdir"])
    with pytest.raises(MountError, match=r"plugins=x is refused: there are no plugins"):
        parse_overlay(["lowerdir=a,plugins=x"])


def test_a_work_directory_without_an_upper_is_of_no_use() -> None:
    options = parse_overlay(["lowerdir=a,workdir=w"])
    assert (options.work, options.useless) == ("", ("workdir=w",))


def test_what_goes_without_saying() -> None:
    assert parse_overlay(["lowerdir=a,index=on"]).lower == ("a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lowerdir is missing"),
        ("upperdir=u,workdir=w", "lowerdir is missing"),
        ("lowerdir=", "lowerdir is missing"),
        ("lowerdir=a,lowerdir+=b", r"lowerdir\+ cannot follow lowerdir"),
        ("lowerdir+=a,datadir+=b", r"datadir\+=b is refused"),
        ("lowerdir=a,userxattr,redirect_dir=off", "leave one of the two out"),
        ("lowerdir=a,metacopy=on,redirect_dir=nofollow", "leave one of the two out"),
        ("lowerdir=a,upperdir=u,workdir=w,metacopy=on,redirect_dir=follow", "leave one"),
        (",".join(["lowerdir+=a"] * 501), "at most 500 are possible"),
        ("lowerdir=a::b", "empty"),
        ("lowerdir=a:", "empty"),
        ("lowerdir+=", "empty"),
        ("lowerdir=a,upperdir=u", "upperdir needs a workdir"),
    ],
)
def test_what_makes_no_sense(text: str, message: str) -> None:
    with pytest.raises(UnionmountError, match=message):
        parse_overlay([text])
