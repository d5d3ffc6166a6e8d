"""Instructions of a Dockerfile, applied to the config of an image."""

from __future__ import annotations

from typing import Any

import pytest

from unionmount.errors import UsageError
from unionmount.images.instructions import apply_instructions

BASE = {
    "Env": ["PATH=/bin", "HOME=/root", "EMPTY="],
    "Cmd": ["old"],
    "Labels": {"a": "1"},
    "WorkingDir": "/srv",
    "ExposedPorts": {"1/tcp": {}},
}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
        ("cmd echo $HOME 'x'", {"Cmd": ["/bin/sh", "-c", "echo $HOME 'x'"]}),
        ("CMD ['no json']", {"Cmd": ["/bin/sh", "-c", "['no json']"]}),
        ("CMD []", {"Cmd": []}),
        ('ENTRYPOINT ["e"]', {"Entrypoint": ["e"], "Cmd": None}),
        ("ENTRYPOINT exec e", {"Entrypoint": ["/bin/sh", "-c", "exec e"], "Cmd": None}),
        ("ENTRYPOINT []", {"Entrypoint": None, "Cmd": None}),
        ("ENV A=b", {"Env": [*BASE["Env"], "A=b"]}),
        (
            "ENV HOME=/x A='b c' B=\"d e\"",
            {"Env": ["PATH=/bin", "HOME=/x", "EMPTY=", "A=b c", "B=d e"]},
        ),
        ("ENV A b  c", {"Env": [*BASE["Env"], "A=b  c"]}),
        ("ENV A=a\\ b", {"Env": [*BASE["Env"], "A=a b"]}),
        ("ENV PATH=/opt:$PATH", {"Env": ["PATH=/opt:/bin", "HOME=/root", "EMPTY="]}),
        ("ENV A=${HOME}x", {"Env": [*BASE["Env"], "A=/rootx"]}),
        ("ENV A=$NONE.", {"Env": [*BASE["Env"], "A=."]}),
        ("ENV A=${NONE:-$HOME}", {"Env": [*BASE["Env"], "A=/root"]}),
        ("ENV A=${EMPTY:-x}${EMPTY-y}", {"Env": [*BASE["Env"], "A=x"]}),
        ("ENV A=${HOME:+x}${EMPTY:+y}${EMPTY+z}", {"Env": [*BASE["Env"], "A=xz"]}),
        ("ENV A='$HOME' B=\\$HOME", {"Env": [*BASE["Env"], "A=$HOME", "B=$HOME"]}),
        ('ENV A="\\"$HOME\\" \\n"', {"Env": [*BASE["Env"], 'A="/root" \\n']}),
        ("ENV A=1 \\\n  B=2", {"Env": [*BASE["Env"], "A=1", "B=2"]}),
        ("ENV A=", {"Env": [*BASE["Env"], "A="]}),
        ("LABEL b=2 a=", {"Labels": {"a": "", "b": "2"}}),
        ('LABEL "a b"="c d"', {"Labels": {"a": "1", "a b": "c d"}}),
        (
            "EXPOSE 80 443/udp 8000-8001",
            {
                "ExposedPorts": {
                    "1/tcp": {},
                    "80/tcp": {},
                    "443/udp": {},
                    "8000/tcp": {},
                    "8001/tcp": {},
                }
            },
        ),
        ("USER 1000:1000", {"User": "1000:1000"}),
        ("USER $HOME", {"User": "/root"}),
        ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ('VOLUME ["/a b"]', {"Volumes": {"/a b": {}}}),
        ("WORKDIR /x/../y", {"WorkingDir": "/y"}),
        ("WORKDIR sub/", {"WorkingDir": "/srv/sub"}),
        ("WORKDIR //x", {"WorkingDir": "/x"}),
        ("STOPSIGNAL SIGRTMIN+3", {"StopSignal": "SIGRTMIN+3"}),
        ("STOPSIGNAL 9", {"StopSignal": "9"}),
        ("ONBUILD RUN a  b", {"OnBuild": ["RUN a  b"]}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            'HEALTHCHECK --interval=1m30s --timeout=1.5s --retries=3 CMD ["a"]',
            {
                "Healthcheck": {
                    "Test": ["CMD", "a"],
                    "Interval": 90 * 10**9,
                    "Timeout": 1_500_000_000,
                    "Retries": 3,
                }
            },
        ),
        ("HEALTHCHECK CMD a || b", {"Healthcheck": {"Test": ["CMD-SHELL", "a || b"]}}),
    ],
)
def test_one_instruction(line: str, expected: dict[str, Any]) -> None:
    found = apply_instructions(BASE, [line])
    wanted = BASE | expected
    assert {key: value for key, value in found.items() if value is not None} == {
        key: value for key, value in wanted.items() if value is not None
    }


def test_the_config_that_came_in_stays() -> None:
    before = repr(BASE)
    apply_instructions(BASE, ["ENV A=b", "LABEL c=d", "VOLUME /e", "EXPOSE 5", "ONBUILD RUN x"])
    assert repr(BASE) == before


def test_an_entrypoint_keeps_a_command_given_before() -> None:
    found = apply_instructions(BASE, ['CMD ["new"]', 'ENTRYPOINT ["e"]'])
    assert (found["Cmd"], found["Entrypoint"]) == (["new"], ["e"])


def test_later_instructions_see_earlier_ones() -> None:
    found = apply_instructions({}, ["ENV A=1", "ENV B=${A}2", "WORKDIR $B", "WORKDIR x"])
    assert found == {"Env": ["A=1", "B=12"], "WorkingDir": "/12/x"}


def test_the_shell_of_the_image_is_used() -> None:
    found = apply_instructions({"Shell": ["/bin/ash", "-ec"]}, ["CMD a"])
    assert found["Cmd"] == ["/bin/ash", "-ec", "a"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "RUN true",
        "FROM scratch",
        "CMD",
        "ENV A",
        "ENV =b",
        "ENV A='b",
        'ENV A="b',
        "ENV A=${",
        "ENV A=b\nB=c",
        "EXPOSE x",
        "EXPOSE 0",
        "EXPOSE 70000",
        "EXPOSE 9-8",
        "EXPOSE 80/icmp",
        "USER $NONE",
        "VOLUME []",
        "STOPSIGNAL a b",
        "ONBUILD FROM x",
        "ONBUILD ONBUILD RUN x",
        "HEALTHCHECK maybe",
        "HEALTHCHECK CMD",
        "HEALTHCHECK --interval=1 CMD a",
        "HEALTHCHECK --interval=1us CMD a",
        "HEALTHCHECK --retries=x CMD a",
        "HEALTHCHECK --other=1s CMD a",
    ],
)
def test_what_makes_no_sense_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        apply_instructions(BASE, [line])
