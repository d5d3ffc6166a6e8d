"""Messages between monitor and client: any split of the bytes, damaged streams, full sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionmount.runtime.channel import MAX_WAITING, MonitorChannel
from unionmount.runtime.protocol import (
    MAX_BODY,
    DamagedStream,
    Kind,
    Message,
    MessageReader,
    encode,
    encode_number,
    encode_window,
    number_of,
    window_of,
)

messages = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=300)), max_size=20)


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    begin = 0
    for cut in sorted(one % (len(data) + 1) for one in cuts):
        yield data[begin:cut]
        begin = cut
    yield data[begin:]


@given(messages, st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_of_the_bytes(sent: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    data = b"".join(encode(kind, body) for kind, body in sent)
    reader = MessageReader()
    received = [message for part in split(data, cuts) for message in reader.feed(part)]
    assert received == [Message(kind, body) for kind, body in sent]


@pytest.mark.parametrize("size", [0, 1, MAX_BODY - 1, MAX_BODY, MAX_BODY + 1, 3 * MAX_BODY + 7])
def test_long_bodies_are_several_messages(size: int) -> None:
    body = os.urandom(size)
    received = list(MessageReader().feed(encode(Kind.OUTPUT, body)))
    assert b"".join(one.body for one in received) == body
    assert all(one.kind is Kind.OUTPUT and len(one.body) <= MAX_BODY for one in received)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_damaged_streams_are_refused(data: bytes, cuts: list[int]) -> None:
    reader = MessageReader()
    try:
        received = [one for part in split(data, cuts) for one in reader.feed(part)]
    except DamagedStream:
        return
    assert (
        b"".join(encode(*one) for one in received) == data[: sum(5 + len(m.body) for m in received)]
    )


def test_a_length_that_nobody_sends() -> None:
    with pytest.raises(DamagedStream):
        list(MessageReader().feed(b"o\xff\xff\xff\xff"))
    with pytest.raises(DamagedStream):
        list(MessageReader().feed(b"?\x00\x00\x00\x00"))


@given(st.integers(0, 999_999), st.binary(max_size=50))
def test_numbers(number: int, text: bytes) -> None:
    (message,) = MessageReader().feed(encode_number(Kind.FAILED, number, text))
    assert number_of(message.body) == (number, text)


@pytest.mark.parametrize("body", [b"", b" x", b"-1 ", b"1234567 ", b"1x ", "²".encode()])
def test_bodies_without_a_number(body: bytes) -> None:
    with pytest.raises(DamagedStream):
        number_of(body)


def test_sizes_of_windows() -> None:
    (message,) = MessageReader().feed(encode_window(24, 1 << 20))
    assert window_of(message.body) == (24, 0xFFFF)
    for body in (b"", b"123", b"12345"):
        with pytest.raises(DamagedStream):
            window_of(body)


# ---- channels ------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[MonitorChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with MonitorChannel(ours) as channel, theirs:
        yield channel, theirs


def test_a_channel_never_blocks(pair: tuple[MonitorChannel, socket.socket]) -> None:
    channel, other = pair
    data = encode(Kind.OUTPUT, bytes(3 * MAX_WAITING))
    channel.send(data)
    assert (channel.has_waiting, channel.is_full) == (True, True)
    received = bytearray()
    while len(received) < len(data):
        received += other.recv(1 << 20)
        channel.flush()
    assert received == data
    assert list(channel.receive()) == []
    assert (channel.has_waiting, channel.ended) == (False, False)


def test_the_other_side_ends(pair: tuple[MonitorChannel, socket.socket]) -> None:
    channel, other = pair
    other.sendall(encode(Kind.INPUT, b"last"))
    other.close()
    assert list(channel.receive()) == [Message(Kind.INPUT, b"last")]
    assert list(channel.receive()) == []
    assert channel.ended
    channel.send(b"to nobody")  # nothing happens
    channel.flush()


def test_nonsense_ends_a_channel(pair: tuple[MonitorChannel, socket.socket]) -> None:
    channel, other = pair
    other.sendall(encode(Kind.INPUT, b"good") + b"nonsense")
    assert list(channel.receive()) == [Message(Kind.INPUT, b"good")]
    assert channel.ended
