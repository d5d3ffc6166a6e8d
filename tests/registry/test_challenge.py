"""``WWW-Authenticate``: what registries really send, and what must not be guessed at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionmount.errors import RegistryError
from unionmount.registry.challenge import Challenge, parse_challenges

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"'


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([""], []),
        (["Basic"], [("basic", {})]),
        (['Basic realm="Registry Realm"'], [("basic", {"realm": "Registry Realm"})]),
        (
            [f'{HUB},scope="repository:library/nginx:pull",error="insufficient_scope"'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/nginx:pull",
                        "error": "insufficient_scope",
                    },
                )
            ],
        ),
        (
            ['Bearer REALM = "a" , service=b , Basic realm="c", , Negotiate'],
            [
                ("bearer", {"realm": "a", "service": "b"}),
                ("basic", {"realm": "c"}),
                ("negotiate", {}),
            ],
        ),
        (["Negotiate abc==", 'Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        ([r'Bearer realm="a\"b\\c,d"'], [("bearer", {"realm": 'a"b\\c,d'})]),
        (
            ['Bearer realm="a",scope="repository:b:pull,push"'],
            [("bearer", {"realm": "a", "scope": "repository:b:pull,push"})],
        ),
    ],
)
def test_challenges(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = parse_challenges(values, "registry")
    assert found == [Challenge(scheme, parameters) for scheme, parameters in expected]


@pytest.mark.parametrize(
    "value",
    [
        'Bearer realm="a',
        'Bearer realm="a"b',
        'Bearer realm="a",realm="b"',
        "Bearer realm=a b=c",
        'Bearer "a"',
        "=",
        'Bearer realm="a\nb"',
        'Bearer realm="' + "a" * 20_000 + '"',
    ],
)
def test_malformed_challenges(value: str) -> None:
    with pytest.raises(RegistryError, match=r"^registry: WWW-Authenticate"):
        parse_challenges([value], "registry")


@given(st.lists(st.text(alphabet='Bearer ="\\,\t realmé\x00', max_size=60), max_size=3))
def test_anything_is_read_or_refused(values: list[str]) -> None:
    try:
        found = parse_challenges(values, "x")
    except RegistryError:
        return
    assert all(one.scheme == one.scheme.lower() for one in found)
