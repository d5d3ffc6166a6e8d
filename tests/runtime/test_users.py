"""Users of an image: names, numbers, groups, and files that are damaged.

The table is that of runc's ``libcontainer/user`` (``user_test.go``, ``TestGetExecUser``) and of
``getpwnam(3)``; ``tests/runtime/test_podman_config.py`` asks podman itself.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionmount.errors import NotFoundError, UnionmountError, UsageError
from unionmount.runtime.users import MAX_FILE, User, find_user

PASSWD = b"""\
root:x:0:0:root user:/root:/bin/bash
adm:x:42:43:adm:/var/adm:/bin/false
111:x:222:333::/var/garbage
odd:x:111:112::/home/odd:
this is just some garbage data
::::::
neg:x:-1:5::/:
huge:x:4294967296:5::/:
"""
GROUP = b"""\
root:x:0:root
adm:x:43:
grp:x:1234:root,adm,user111
444:x:555:111
odd:x:444:
this is just some garbage data
more:x:2000:adm,,adm
bad:x:zz:adm
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", User(0, 0, (0, 1234), "/root")),
        ("root", User(0, 0, (0, 1234), "/root")),
        ("0", User(0, 0, (0, 1234), "/root")),
        ("adm", User(42, 43, (1234, 2000), "/var/adm")),
        ("42", User(42, 43, (1234, 2000), "/var/adm")),
        ("adm:", User(42, 43, (1234, 2000), "/var/adm")),
        ("adm:root", User(42, 0, (), "/var/adm")),
        ("adm:7", User(42, 7, (), "/var/adm")),
        (":grp", User(0, 1234, (), "/root")),
        ("111", User(222, 333, (555,), "/var/garbage")),  # a name that looks like a number
        ("0:444", User(0, 555, (), "/root")),  # likewise of a group
        ("222", User(222, 333, (555,), "/var/garbage")),
        ("9999", User(9999, 0, (), "/")),
        ("9999:8888", User(9999, 8888, (), "/")),
        ("2147483647", User(2147483647, 0, (), "/")),
    ],
)
def test_lookup(text: str, expected: User) -> None:
    assert find_user(text, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("nosuch", NotFoundError, "no user 'nosuch' in /etc/passwd"),
        ("root:nosuch", NotFoundError, "no group 'nosuch' in /etc/group"),
        ("-1", NotFoundError, "no user '-1'"),
        ("neg", NotFoundError, "no user 'neg'"),
        ("huge", NotFoundError, "no user 'huge'"),
        ("2147483648", UsageError, "not between 0 and 2147483647"),
        ("0:2147483648", UsageError, "not between"),
        ("1" * 40, UsageError, "not between"),
        ("²", NotFoundError, "no user"),
        ("a\x1b[31m", NotFoundError, r"no user 'a\\x1b"),
        ("root:grp:x", NotFoundError, "no group 'grp:x'"),
    ],
)
def test_errors(text: str, error: type[UnionmountError], message: str) -> None:
    with pytest.raises(error, match=message):
        find_user(text, PASSWD, GROUP)


def test_without_files_numbers_are_known() -> None:
    assert find_user("", b"", b"") == User(0, 0)
    assert find_user("5:6", b"", b"") == User(5, 6)
    with pytest.raises(NotFoundError):
        find_user("root", b"", b"")


def test_only_the_beginning_of_a_file_is_read() -> None:
    late = b"#\n" * (MAX_FILE // 2) + b"late:x:1:1::/:\n"
    with pytest.raises(NotFoundError):
        find_user("late", late, b"")


lines = st.binary(max_size=40) | st.sampled_from([b"a:x:1:2::/h:/s", b"g:x:3:a,b", b"a:x:1"])
files = st.lists(lines, max_size=8).map(b"\n".join)


@given(st.text(max_size=12), files, files)
def test_nothing_else_is_raised(text: str, passwd: bytes, group: bytes) -> None:
    try:
        found = find_user(text, passwd, group)
    except (NotFoundError, UsageError):
        return
    assert all(0 <= one < 2**31 for one in (found.uid, found.gid, *found.groups))
