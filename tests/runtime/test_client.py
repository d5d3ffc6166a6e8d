"""Keys that detach a client: how they are written, and how they are found in what is typed."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.effort import examples

from unionmount.errors import UsageError
from unionmount.runtime.client import DETACH_KEYS, parse_keys
from unionmount.runtime.protocol import Kind, MessageReader

_CLIENT = """
import socket, sys
from unionmount.runtime.channel import MonitorChannel
from unionmount.runtime.client import Client, Joining
with MonitorChannel(socket.socket(fileno=int(sys.argv[1]))) as channel:
    keys = bytes.fromhex(sys.argv[2])
    print(Client(channel, Joining(interactive=True, terminal=True, keys=keys)).run())
"""


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (DETACH_KEYS, b"\x10\x11"),
        ("", b""),
        ("a", b"a"),
        ("A,b,1", b"Ab1"),
        ("ctrl-a,ctrl-[", b"\x01\x1b"),
        ("ctrl-@,ctrl-_,ctrl-\\", b"\x00\x1f\x1c"),
        ("CTRL-Z", b"\x1a"),
    ],
)
def test_keys(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-ab", "ab", ",", "a,", "é", "ctrl-é", "ctrl-1"])
def test_keys_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--detach-keys"):
        parse_keys(text)


def typed_until_end(parts: list[bytes], keys: bytes) -> bytes:
    """Return what a client passes on of what is typed, until it detaches or its input ends."""
    master, slave = pty.openpty()
    ours, theirs = socket.socketpair()
    words = [sys.executable, "-c", _CLIENT, str(theirs.fileno()), keys.hex()]
    process = subprocess.Popen(
        words, stdin=slave, stdout=subprocess.PIPE, pass_fds=[theirs.fileno()]
    )
    theirs.close()
    os.close(slave)
    reader, received = MessageReader(), b""
    try:
        for message in read(ours, reader):
            if message[0] is Kind.WINDOW:  # it is ready
                for part in parts:
                    os.write(master, part)
                os.write(master, keys)
            elif message[0] is Kind.INPUT:
                received += message[1]
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
        ours.close()
        os.close(master)
    return received


def read(connection: socket.socket, reader: MessageReader) -> Iterator[tuple[Kind, bytes]]:
    connection.settimeout(20)
    while data := connection.recv(65536):
        yield from reader.feed(data)


pieces = st.lists(st.text("abc", min_size=1, max_size=4).map(str.encode))


@pytest.mark.slow
@settings(max_examples=examples(8, 200))
@given(pieces.filter(len), st.sampled_from([b"ab", b"aab", b"a", b"abab"]))
def test_all_before_the_keys_is_passed_on(parts: list[bytes], keys: bytes) -> None:
    everything = b"".join(parts) + keys
    assert typed_until_end(parts, keys) == everything.partition(keys)[0]
